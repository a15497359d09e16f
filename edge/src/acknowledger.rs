//! Tells operators which head this service has applied, and how much of the denial feed (`PROTOCOL.md#acknowledgement`).
//!
//! It writes when another head, a further part of the feed or an own key is in force and on disk, when the directory was
//! emptied, and at an interval. What is written is signed by a key that is live under the head that it names: with no such key nothing is written, and the reader sees
//! that this service lags. No request waits for any of it.

use std::time::Duration;

use keychain::Timestamp;
use keychain::acknowledgement::{Applied, Budget, BudgetEnd, Instance, NewAcknowledgement};
use keychain::directory::Directory;
use keychain::limits;
use keychain::statement::HeadPlace;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::health::{self, Dependencies, Ends, budget};
use crate::own_key::{Endorsed, OwnKey};
use crate::task::Task;
use crate::trust::{TrustFeed, TrustState};
use crate::updates::{Subscription, Updates};

/// How often it is written though nothing changed: a reader takes three times as long without one for silence.
const INTERVAL: Duration = Duration::from_secs(10);

/// Shortest pause between two writes: what changes within it is told at once.
const PAUSE: Duration = Duration::from_millis(50);

/// Pause after a directory that did not take it.
const RETRY: Duration = Duration::from_secs(1);

/// How long it stands: as long as any key can live that signed it, so that a reader sees since when a service is silent.
const TTL: Duration = limits::RESPONSE_KEY_LIFETIME;

/// What an acknowledger speaks for.
#[derive(Debug, Clone)]
pub struct Speaker {
    /// Which of several processes of the service this one is.
    pub instance: Instance,
    /// The version of the program.
    pub version: &'static str,
    /// Signs what is acknowledged.
    pub response: OwnKey,
    /// Signs tokens, where there is such a key.
    pub access: Option<OwnKey>,
    /// What ends the time for which it goes on by itself.
    pub ends: Ends,
    /// How much of the denial feed is in force, where it is followed.
    pub feed: Option<watch::Receiver<Option<Applied>>>,
}

/// Acknowledges in the background, as long as it is kept.
#[derive(Debug)]
pub struct Acknowledger {
    _task: Task,
}

impl Acknowledger {
    /// Begins to acknowledge what `feed` applies.
    pub fn start(speaker: Speaker, directory: Directory, updates: &Updates, feed: TrustFeed) -> Self {
        let dependencies = updates.dependencies().clone();
        Self { _task: Task::spawn(run(speaker, directory, dependencies, updates.subscribe(), feed)) }
    }
}

async fn run(
    speaker: Speaker,
    directory: Directory,
    dependencies: Dependencies,
    mut updates: Subscription,
    feed: TrustFeed,
) {
    let mut head = feed.kept_head();
    let mut response = speaker.response.changes();
    let mut access = speaker.access.as_ref().map_or_else(|| speaker.response.changes(), OwnKey::changes);
    // Never changes where no feed is followed.
    let (_still, none) = watch::channel(None);
    let mut applied = speaker.feed.clone().unwrap_or(none);
    let mut is_told = true;
    loop {
        head.mark_unchanged();
        applied.mark_unchanged();
        response.mark_unchanged();
        access.mark_unchanged();
        let begun = Instant::now();
        let mut wait = INTERVAL;
        let now = feed.now();
        let is_kept = *head.borrow();
        if let Some((service, text)) = is_kept.and_then(|head| speaker.compose(head, &feed.state(), now)) {
            match directory.acknowledge(&service, &speaker.instance, &text, TTL).await {
                Ok(()) => {
                    is_told = true;
                    dependencies.good(health::DIRECTORY_WRITES);
                    metrics::gauge!("verifier_acknowledged_timestamp_seconds").set(seconds(now));
                }
                Err(error) => {
                    wait = RETRY;
                    is_told = false;
                    dependencies.lost(health::DIRECTORY_WRITES, &error);
                }
            }
        }
        // A directory that refuses is not asked anew for every change.
        let soonest = begun + if is_told { PAUSE } else { RETRY };
        tokio::select! {
            Ok(()) = head.changed() => {}
            Ok(()) = response.changed() => {}
            Ok(()) = access.changed() => {}
            Ok(()) = applied.changed() => {}
            () = lost_everything(&mut updates) => {}
            () = tokio::time::sleep(wait) => {}
        }
        tokio::time::sleep_until(soonest).await;
    }
}

/// Waits until the directory may have lost what it was told.
async fn lost_everything(updates: &mut Subscription) {
    while !updates.next().await.everything {}
}

impl Speaker {
    /// The service and what it acknowledges; nothing without live keys.
    fn compose(&self, head: HeadPlace, trust: &TrustState, now: Timestamp) -> Option<(String, String)> {
        let response = self.response.usable_under(trust, now).ok()?;
        let access = self.access.as_ref().map(|key| key.usable_under(trust, now)).transpose().ok()?;
        let service = response.endorsement().service.clone()?;
        let keys: Vec<&Endorsed> = std::iter::once(&response).chain(&access).map(AsRef::as_ref).collect();
        let endorsements: Vec<_> = keys.iter().map(|key| key.endorsement()).collect();
        let new = NewAcknowledgement {
            service: &service,
            instance: &self.instance,
            head,
            feed: self.feed.as_ref().and_then(|applied| *applied.borrow()),
            issued_at: now,
            budget: self.budget(trust, &response, now),
            version: self.version,
            endorsements: &endorsements,
        };
        match new.sign(response.signing_key()) {
            Ok(text) => Some((service, text)),
            Err(refusal) => {
                tracing::error!(%refusal, "an acknowledgement could not be signed");
                None
            }
        }
    }

    /// Until when this service goes on with everything else down; if nothing ends it, as long as this is counted.
    fn budget(&self, trust: &TrustState, response: &Endorsed, now: Timestamp) -> Budget {
        match budget(&self.ends.list(trust), now) {
            Some(budget) => Budget { until: budget.until, ended_by: budget.limit.acknowledged() },
            None => {
                Budget { until: response.endorsement().subject.expiration, ended_by: BudgetEnd::ResponseKey }
            }
        }
    }
}

/// Seconds since 1970, as metrics have times.
#[expect(clippy::cast_precision_loss, reason = "exact until the year 287396")]
fn seconds(time: Timestamp) -> f64 {
    time.unix_millis() as f64 / 1000.0
}
