//! Whether the key directory deletes entries by itself when its memory is full. It must not: a denial that was evicted is
//! gone for every verifier that starts later, and for public peers at once.

use std::future::Future;

use keychain::directory::{Directory, Eviction, Server};
use tokio::sync::watch;

use crate::updates::Subscription;

/// What the server said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Answer {
    Evicts(&'static str),
    Keeps,
    #[default]
    NotAsked,
    /// This service may not ask (`INFO`), or the answer says nothing of it.
    Unsaid,
}

impl From<Option<Server>> for Answer {
    fn from(server: Option<Server>) -> Self {
        match server.and_then(|server| server.eviction) {
            Some(Eviction::By(policy)) => Self::Evicts(policy),
            Some(Eviction::Never) => Self::Keeps,
            None => Self::Unsaid,
        }
    }
}

/// What the directory does when its memory is full, as far as it says. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Outlook(watch::Receiver<Answer>);

impl Outlook {
    /// Asks the server at each connection, and whenever everything is read again: its configuration can be changed while
    /// it runs. To be polled as long as the answer matters.
    pub(crate) fn watch(
        directory: Directory,
        updates: Subscription,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (to, answer) = watch::channel(Answer::default());
        (Self(answer), ask(directory, updates, to))
    }

    /// The line about it for `/readyz`.
    pub fn detail(&self) -> (String, String) {
        let text = match *self.0.borrow() {
            Answer::Evicts(policy) => format!(
                "{policy}: with its memory full it deletes entries, denials among them; set maxmemory-policy noeviction"
            ),
            Answer::Keeps => "noeviction".to_owned(),
            Answer::NotAsked => "not asked yet".to_owned(),
            Answer::Unsaid => {
                "not known: this service may not ask (INFO), or the answer says nothing of it".to_owned()
            }
        };
        ("directory_eviction".to_owned(), text)
    }
}

async fn ask(directory: Directory, mut updates: Subscription, to: watch::Sender<Answer>) {
    loop {
        if !updates.next().await.is_everything() {
            continue;
        }
        // A server that does not answer is told of elsewhere.
        if let Ok(server) = directory.server().await {
            let answer = Answer::from(server);
            if to.send_replace(answer) != answer {
                tell(answer);
            }
        }
    }
}

fn tell(answer: Answer) {
    let gauge = |holds: bool| if holds { 1.0 } else { 0.0 };
    metrics::gauge!("verifier_directory_evicts").set(gauge(matches!(answer, Answer::Evicts(_))));
    metrics::gauge!("verifier_directory_eviction_unsaid").set(gauge(answer == Answer::Unsaid));
    match answer {
        Answer::Evicts(policy) => tracing::warn!(
            policy,
            "the key directory deletes entries when its memory is full, denials among them; set `maxmemory-policy \
             noeviction` in its configuration"
        ),
        Answer::Unsaid => tracing::warn!(
            "it cannot be read whether the key directory deletes entries when its memory is full; permit `INFO`, or see \
             that its `maxmemory-policy` is noeviction"
        ),
        Answer::Keeps | Answer::NotAsked => tracing::info!("the key directory deletes no entries by itself"),
    }
}
