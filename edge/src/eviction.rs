//! Whether the key directory deletes entries by itself when its memory is full ([`Retention`]): told in the log, in metrics
//! and on pages.

use std::future::Future;

use keychain::directory::{Directory, Retention};
use tokio::sync::watch;

use crate::updates::Subscription;

/// What the directory does when its memory is full, as far as it was asked. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Outlook(watch::Receiver<Option<Retention>>);

impl Outlook {
    /// Asks the server at each connection, and whenever everything is read again: its configuration can be changed while
    /// it runs. To be polled as long as the answer matters.
    pub(crate) fn watch(
        directory: Directory,
        updates: Subscription,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (to, answer) = watch::channel(None);
        (Self(answer), ask(directory, updates, to))
    }

    /// The line about it for `/readyz`.
    pub fn detail(&self) -> (String, String) {
        let text = self.0.borrow().map_or_else(|| "not asked yet".to_owned(), |answer| answer.to_string());
        ("directory_eviction".to_owned(), text)
    }
}

async fn ask(directory: Directory, mut updates: Subscription, to: watch::Sender<Option<Retention>>) {
    loop {
        if !updates.next().await.is_everything() {
            continue;
        }
        // A server that does not answer is told of elsewhere.
        if let Ok(answer) = directory.retention().await
            && to.send_replace(Some(answer)) != Some(answer)
        {
            tell(answer);
        }
    }
}

fn tell(answer: Retention) {
    let gauge = |holds: bool| if holds { 1.0 } else { 0.0 };
    metrics::gauge!("verifier_directory_evicts").set(gauge(matches!(answer, Retention::Evicts(_))));
    metrics::gauge!("verifier_directory_eviction_unsaid").set(gauge(answer == Retention::Unsaid));
    match answer {
        Retention::Keeps => tracing::info!("the key directory deletes no entries by itself"),
        Retention::Evicts(_) | Retention::Unsaid => {
            tracing::warn!(eviction = %answer, "the key directory may delete entries by itself");
        }
    }
}
