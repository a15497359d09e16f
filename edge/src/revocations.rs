//! Devices and identities that are denied, in memory, kept current by what the directory announces
//! (`PROTOCOL.md#directory`, database 3). No request looks anything up.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use keychain::directory::{self, Directory};
use keychain::token::Claims;
use keychain::{Code, Digest, Refusal, Timestamp};
use tokio::sync::watch;

use crate::clock;
use crate::task::Task;
use crate::updates::{Subscription, Update, Updates};

/// How long an entry that the directory *lost* (emptied, or changed out of sight) goes on denying: until
/// every token issued before it has expired. One that is seen to be deleted stops at once.
const LOST_FOR: Duration = Duration::from_mins(16);

/// Names in one update above which reading all of them is cheaper than asking for each.
const SINGLE_READS_MAX: usize = 256;

/// Pause before another attempt when the directory does not answer.
const RETRY: Duration = Duration::from_secs(1);

/// Who is denied. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Denials(Arc<RwLock<HashMap<Digest, Denial>>>);

/// How long a denial holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Denial {
    /// As long as the directory holds its entry.
    Held,
    /// The entry was lost; until then all the same.
    Until(Timestamp),
}

impl Denials {
    /// Refuses the claims of a denied device or identity.
    pub fn check(&self, claims: &Claims, now: Timestamp) -> Result<(), Refusal> {
        let denials = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let denied = |who: &Digest| match denials.get(who) {
            None => false,
            Some(Denial::Held) => true,
            Some(Denial::Until(until)) => now < *until,
        };
        if denied(&claims.device) {
            return Err(Refusal::new(Code::Revoked, "the device is revoked or banned"));
        }
        if denied(&claims.identity) {
            return Err(Refusal::new(Code::Revoked, "the identity is banned"));
        }
        Ok(())
    }

    /// Takes in the whole list. Entries that are gone from it were lost, not lifted.
    pub fn replace(&self, all: &[Digest], now: Timestamp) {
        let mut denials = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for denial in denials.values_mut() {
            if *denial == Denial::Held {
                *denial = Denial::Until(now.plus(LOST_FOR));
            }
        }
        denials.extend(all.iter().map(|who| (*who, Denial::Held)));
        denials.retain(|_, denial| !matches!(denial, Denial::Until(until) if *until <= now));
    }

    /// Takes in one entry that was seen to be written or deleted.
    pub fn set(&self, who: Digest, denied: bool) {
        let mut denials = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if denied {
            denials.insert(who, Denial::Held);
        } else {
            denials.remove(&who);
        }
    }

    /// How many are denied.
    pub fn held(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// Keeps [`Denials`] current in the background. Cloning shares it.
#[derive(Debug, Clone)]
pub struct RevocationFeed {
    denials: Denials,
    loaded: watch::Receiver<bool>,
    _task: Arc<Task>,
}

impl RevocationFeed {
    /// Begins to follow the directory.
    pub fn start(directory: &Directory, updates: &Updates) -> Self {
        let denials = Denials::default();
        let (loaded, is_loaded) = watch::channel(false);
        let follower = Follower { directory: directory.clone(), denials: denials.clone(), loaded };
        let task = Arc::new(Task::spawn(follower.run(updates.subscribe())));
        Self { denials, loaded: is_loaded, _task: task }
    }

    /// Who is denied.
    pub fn denials(&self) -> Denials {
        self.denials.clone()
    }

    /// Waits until the whole list was read once: before that nobody can be said not to be on it.
    pub async fn loaded(&self) {
        let mut loaded = self.loaded.clone();
        if loaded.wait_for(|loaded| *loaded).await.is_err() {
            std::future::pending::<()>().await; // the feed never ends before its owner
        }
    }
}

struct Follower {
    directory: Directory,
    denials: Denials,
    loaded: watch::Sender<bool>,
}

impl Follower {
    async fn run(self, mut updates: Subscription) {
        let mut pending = Update::default();
        loop {
            let patience = if pending.is_nothing() { Duration::MAX } else { RETRY };
            if let Ok(update) = tokio::time::timeout(patience, updates.next()).await {
                pending.merge(&update);
            }
            match self.read(&pending).await {
                Ok(()) => {
                    pending = Update::default();
                    self.loaded.send_replace(true);
                }
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn StdError,
                        "cannot read the revocations; trying again"
                    );
                    pending.everything = true;
                }
            }
        }
    }

    async fn read(&self, update: &Update) -> Result<(), directory::Error> {
        let names: Vec<Digest> = update.names.iter().filter_map(|name| Digest::parse(name).ok()).collect();
        if update.everything || names.len() > SINGLE_READS_MAX {
            // What was announced beside a flush and is gone may have been lost with it: it is not lifted.
            let all = self.directory.all_revoked().await?;
            self.denials.replace(&all, clock::now());
            return Ok(());
        }
        let denied = self.directory.revoked(&names).await?;
        for (who, denied) in names.into_iter().zip(denied) {
            self.denials.set(who, denied);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_deleted_is_lifted_and_what_is_lost_is_not() {
        let denials = Denials::default();
        let (a, b) = (Digest::of("a"), Digest::of("b"));
        let now = Timestamp::from_unix_millis(1_000_000);
        let denied = |who: &Digest, now| match denials.0.read().unwrap().get(who) {
            Some(Denial::Until(until)) => now < *until,
            other => other.is_some(),
        };
        denials.replace(&[a, b], now);
        denials.set(a, false);
        assert!(!denied(&a, now) && denied(&b, now));
        denials.replace(&[], now);
        assert!(denied(&b, now.plus(LOST_FOR).minus(Duration::from_millis(1))));
        assert!(!denied(&b, now.plus(LOST_FOR)));
        denials.replace(&[b], now.plus(Duration::from_secs(1)));
        assert!(denied(&b, now.plus(LOST_FOR * 2)), "an entry that is back holds again");
        denials.replace(&[], now.plus(LOST_FOR));
        denials.replace(&[], now.plus(LOST_FOR * 3));
        assert_eq!(denials.held(), 0);
    }
}
