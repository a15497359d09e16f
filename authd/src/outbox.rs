//! Tells the directory whom to deny (`PROTOCOL.md#directory-revoked`): the copy for public app servers, and the first
//! word of an authd that does not write the denial feed ([`crate::feed`]).
//!
//! The store wrote what is to be told in the transaction that decided it; this task carries it over, in
//! order, and notes what arrived. At start, and whenever the directory may have forgotten, it tells again
//! all that still has effect: saying it twice does no harm.

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use edge::updates::Subscription;
use keychain::Digest;
use keychain::directory;

use crate::record::BanEnd;
use crate::service::Service;
use crate::store::{Backlog, Fault, Pending};

/// How often the task looks by itself: another instance may have died with entries unsent.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// How often a denial that changes while it is told is told again at once.
const SETTLE_MAX: usize = 5;

/// Why entries were not told.
#[derive(Debug, thiserror::Error)]
pub enum Untold {
    /// The directory did not take one.
    #[error("the directory did not take a revocation")]
    Directory(#[from] directory::Error),
    /// Others kept changing one while it was told.
    #[error("a denial kept changing while it was told")]
    Changing,
    /// The store did not give or mark them.
    #[error("the outbox cannot be read")]
    Store(#[from] Fault),
}

/// Carries revocations to the directory, for as long as it is polled.
pub async fn run(service: Arc<Service>, mut updates: Subscription) {
    let (mut backlog, mut waits) = (Backlog::All, false);
    loop {
        match tell(&service, backlog).await {
            Ok(()) => {
                backlog = Backlog::Unsent;
                if std::mem::take(&mut waits) {
                    tracing::info!("all revocations were told");
                }
            }
            Err(error) if !waits => {
                waits = true;
                tracing::warn!(error = &error as &dyn Error, "revocations are waiting; trying again");
            }
            Err(_still) => {}
        }
        note(&service).await;
        tokio::select! {
            () = service.revoked.notified() => {}
            () = tokio::time::sleep(LOOK_AGAIN) => {}
            () = forgotten(&mut updates) => backlog = Backlog::All,
        }
    }
}

/// Waits until the directory may have forgotten what it was told.
async fn forgotten(updates: &mut Subscription) {
    while !updates.next().await.everything {}
}

/// Counts what waits.
async fn note(service: &Service) {
    if let Ok(unsent) = service.store.count_unsent(service.now()).await {
        metrics::gauge!("authd_outbox_pending").set(u32::try_from(unsent).unwrap_or(u32::MAX));
    }
}

/// Tells the directory one backlog, page by page. What was declared meanwhile goes before the next page.
async fn tell(service: &Service, backlog: Backlog) -> Result<(), Untold> {
    let mut after = 0;
    loop {
        if backlog == Backlog::All {
            let mut unsent = 0;
            while let Some(last) = tell_page(service, Backlog::Unsent, unsent).await? {
                unsent = last;
            }
        }
        match tell_page(service, backlog, after).await? {
            Some(last) => after = last,
            None => return Ok(()),
        }
    }
}

/// Tells the entries after the place `after`; the last one's place, if there are any.
async fn tell_page(service: &Service, backlog: Backlog, after: i64) -> Result<Option<i64>, Untold> {
    let (store, directory, now) = (&service.store, &service.directory, service.now());
    let page = store.pending(backlog, after, now).await?;
    let Some(last) = page.ids.last() else { return Ok(None) };
    let denied = page.entries.iter().filter(|entry| !entry.lifted);
    let left = |entry: &Pending| (entry.subject, entry.expires_at.map(|end| end.since(now)));
    let denied: Vec<_> =
        denied.map(left).filter(|(_, left)| left.is_none_or(|left| !left.is_zero())).collect();
    directory.revoke_all(&denied).await?;
    let lifted: BTreeSet<Digest> =
        page.entries.iter().filter(|entry| entry.lifted).map(|entry| entry.subject).collect();
    for subject in lifted {
        settle(service, &subject).await?;
    }
    let kept = store.mark_sent(&page.ids, now).await?;
    // A denial that was taken back while it was told, and whose lift another authd told before it.
    for entry in page.entries.iter().filter(|entry| !entry.lifted && !kept.contains(&entry.id)) {
        settle(service, &entry.subject).await?;
    }
    Ok(Some(*last))
}

/// Makes the directory say of a subject, of which a denial was taken back, what the store says of it. Another
/// authd may decide and tell meanwhile, in any order: the store is asked again after each write, so that
/// whichever writes last wrote what the store says last.
async fn settle(service: &Service, subject: &Digest) -> Result<(), Untold> {
    let (store, directory) = (&service.store, &service.directory);
    let mut wanted = store.denial(subject, service.now()).await?;
    for _ in 0..SETTLE_MAX {
        match wanted.map(BanEnd::time) {
            None => directory.lift(subject).await?,
            Some(end) => {
                directory.deny_exactly(subject, end.map(|end| end.since(service.now()))).await?;
            }
        }
        let told = wanted;
        wanted = store.denial(subject, service.now()).await?;
        if wanted == told {
            return Ok(());
        }
    }
    Err(Untold::Changing)
}
