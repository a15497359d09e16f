//! Follows the entries of database 3 (`PROTOCOL.md#directory`): a denial by whoever can write there, such as a public
//! auth server. They add to what the denial feed says, and their deletion lifts only themselves.

use std::sync::Arc;
use std::time::Duration;

use keychain::Digest;
use keychain::directory::{self, Directory};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::health::{self, Dependencies};
use crate::task::Task;
use crate::trust::TrustFeed;
use crate::updates::{Subscription, Update, Updates};

/// Names in one update above which reading all of them is cheaper than asking for each.
const SINGLE_READS_MAX: usize = 256;

/// Pause before another attempt when the directory does not answer.
const RETRY: Duration = Duration::from_secs(1);

/// All entries are read this often, if some were passed over.
const RESYNC: Duration = Duration::from_mins(1);

/// Keeps the entries current in the trust of this process. Cloning shares it.
#[derive(Debug, Clone)]
pub struct RevocationFeed {
    loaded: watch::Receiver<bool>,
    _task: Arc<Task>,
}

impl RevocationFeed {
    /// Begins to follow the directory.
    pub fn start(directory: &Directory, updates: &Updates, trust: TrustFeed) -> Self {
        let (loaded, is_loaded) = watch::channel(false);
        let dependencies = updates.dependencies().clone();
        let follower =
            Follower { directory: directory.clone(), dependencies, trust, loaded, passed_over: false };
        let task = Arc::new(Task::spawn(follower.run(updates.subscribe())));
        Self { loaded: is_loaded, _task: task }
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
    dependencies: Dependencies,
    trust: TrustFeed,
    loaded: watch::Sender<bool>,
    /// Whether there may be entries that were not read.
    passed_over: bool,
}

impl Follower {
    async fn run(mut self, mut updates: Subscription) {
        let mut pending = Update::default();
        let mut resync = tokio::time::interval(RESYNC);
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let patience = if pending.is_nothing() { Duration::MAX } else { RETRY };
            tokio::select! {
                update = updates.next() => pending.merge(&update),
                _ = resync.tick() => pending.everything |= std::mem::take(&mut self.passed_over),
                () = tokio::time::sleep(patience) => {}
            }
            if pending.is_nothing() {
                continue;
            }
            match self.read(&pending).await {
                Ok(()) => {
                    self.dependencies.good(health::DIRECTORY_REVOCATIONS);
                    pending = Update::default();
                    self.loaded.send_replace(true);
                }
                Err(error) => {
                    self.dependencies.lost(health::DIRECTORY_REVOCATIONS, &error);
                    pending.everything = true;
                }
            }
        }
    }

    async fn read(&mut self, update: &Update) -> Result<(), directory::Error> {
        let feed = keychain::feed::name(&self.trust.state().chain().prefix());
        let names = update.names.iter().filter_map(|name| Digest::parse(name).ok());
        let mut names: Vec<Digest> = names.filter(|name| *name != feed).collect();
        if names.len() > SINGLE_READS_MAX {
            // authd writes its copy of the feed: what the feed denies is denied already.
            let state = self.trust.state();
            let (denied, now) = (state.denied(), self.trust.now());
            let before = names.len();
            names.retain(|who| !denied.feed.denials().denies(who, now) || denied.entries.denies(who, now));
            self.passed_over |= names.len() < before;
        }
        if update.is_everything() || names.len() > SINGLE_READS_MAX {
            // What was announced beside a flush and is gone may have been lost with it: it is not lifted.
            let all = self.directory.all_revoked().await?;
            self.passed_over = false;
            self.trust.deny(|denied| denied.entries.replace(&all, self.trust.now()));
            return Ok(());
        }
        let found = self.directory.revoked(&names).await?;
        self.trust.deny(|denied| {
            for (who, is_there) in names.iter().zip(&found) {
                denied.entries.set(who, *is_there);
            }
        });
        Ok(())
    }
}
