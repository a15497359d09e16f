//! Tells the directory whom to deny (`PROTOCOL.md#directory-revoked`).
//!
//! The store wrote what is to be told in the transaction that decided it; this task carries it over, in
//! order, and notes what arrived. At start, and whenever the directory may have forgotten, it tells again
//! all that still has effect: saying it twice does no harm.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use edge::clock;
use edge::updates::Subscription;
use keychain::directory::{self, Directory};

use crate::service::Service;
use crate::store::{Backlog, Fault, Pending, Store};

/// How often the task looks by itself: another instance may have died with entries unsent.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// How often rows that have ended are removed.
const PRUNE: Duration = Duration::from_mins(10);

/// Why entries were not told.
#[derive(Debug, thiserror::Error)]
pub enum Untold {
    /// The directory did not take one.
    #[error("the directory did not take a revocation")]
    Directory(#[from] directory::Error),
    /// The store did not give or mark them.
    #[error("the outbox cannot be read")]
    Store(#[from] Fault),
}

/// Carries revocations to the directory and removes what has ended, for as long as it is polled.
pub async fn run(service: Arc<Service>, mut updates: Subscription) {
    let mut backlog = Backlog::All;
    let mut prune = tokio::time::interval(PRUNE);
    loop {
        match tell(&service.store, &service.directory, backlog).await {
            Ok(()) => backlog = Backlog::Unsent,
            Err(error) => tracing::warn!(error = &error as &dyn Error, "revocations are waiting"),
        }
        note(&service).await;
        tokio::select! {
            () = service.revoked.notified() => {}
            () = tokio::time::sleep(LOOK_AGAIN) => {}
            () = forgotten(&mut updates) => backlog = Backlog::All,
            _ = prune.tick() => {
                if let Err(fault) = service.store.prune(clock::now()).await {
                    tracing::warn!(error = &fault as &dyn Error, "ended rows were not removed");
                }
            }
        }
    }
}

/// Waits until the directory may have forgotten what it was told.
async fn forgotten(updates: &mut Subscription) {
    while !updates.next().await.everything {}
}

/// Counts what waits, and with that sees whether the store answers.
async fn note(service: &Service) {
    let unsent = service.store.count_unsent(clock::now()).await;
    service.store_answers.store(unsent.is_ok(), Ordering::Relaxed);
    if let Ok(unsent) = unsent {
        metrics::gauge!("authd_outbox_pending").set(u32::try_from(unsent).unwrap_or(u32::MAX));
    }
}

/// Tells the directory one backlog, page by page.
pub async fn tell(store: &Store, directory: &Directory, backlog: Backlog) -> Result<(), Untold> {
    let mut after = 0;
    loop {
        let now = clock::now();
        let page = store.pending(backlog, after, now).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.id;
        for entry in &page {
            tell_one(directory, entry).await?;
        }
        let ids: Vec<i64> = page.iter().map(|entry| entry.id).collect();
        store.mark_sent(&ids, now).await?;
    }
}

async fn tell_one(directory: &Directory, entry: &Pending) -> Result<(), directory::Error> {
    if entry.lifted {
        return directory.lift(&entry.subject).await;
    }
    let left = entry.expires_at.map(|end| end.since(clock::now()));
    match left {
        Some(left) if left.is_zero() => Ok(()),
        left => directory.revoke(&entry.subject, left).await,
    }
}
