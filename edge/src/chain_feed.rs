//! The HSM chain as this process knows it, followed in the key directory.
//!
//! Events are merged as a set into what was accepted before, so the feed can only move forward: an
//! emptied or rolled-back directory changes nothing. The highest event accepted is kept on disk, so
//! that a restart does not forget it either (`PROTOCOL.md#contested`).

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use keychain::chain::{self, Chain, SignedEvent};
use keychain::directory::Directory;
use keychain::{Digest, Timestamp};
use tokio::sync::watch;

use crate::clock;
use crate::highest::{self, HighestFile};
use crate::task::Task;
use crate::updates::{Subscription, Update, Updates};

/// Names in one update above which reading the whole chain is cheaper than reading each.
const SINGLE_READS_MAX: usize = 16;

/// Pause before another attempt when the directory does not answer.
const RETRY: Duration = Duration::from_secs(1);

/// The chain is read in full this often, whatever was announced: a safety net, not the way.
const RESYNC: Duration = Duration::from_mins(1);

/// Texts remembered as not acceptable, so that junk in the directory is judged once.
const REJECTED_MAX: usize = 4_096;

/// What a feed follows, and where it keeps its memory.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The pinned prefix: the HSM identity.
    pub identity: Digest,
    /// How far clocks may differ.
    pub clock_skew: Duration,
    /// The event that resolves a contested chain, if configuration names one.
    pub pin: Option<Digest>,
    /// The daemon's state directory; `highest.json` in it is this feed's.
    pub state: PathBuf,
}

/// The chain, always the newest that was accepted. Cloning shares it.
#[derive(Debug, Clone)]
pub struct ChainFeed {
    shared: Arc<Shared>,
    _task: Arc<Task>,
}

#[derive(Debug)]
struct Shared {
    chain: RwLock<Arc<Chain>>,
    version: watch::Sender<u64>,
}

impl ChainFeed {
    /// Begins to follow. The chain is empty, and so nothing is live, until the first events are in.
    ///
    /// Fails if the state directory cannot be used, or remembers the highest event of another chain.
    pub fn start(
        directory: &Directory,
        updates: &Updates,
        settings: &Settings,
    ) -> Result<Self, highest::Error> {
        let file = HighestFile::open(&settings.state, settings.identity)?;
        let chain = Chain::new(
            settings.identity,
            chain::Settings { skew: settings.clock_skew, pin: settings.pin, highest: file.remembered() },
        );
        let shared = Arc::new(Shared { chain: RwLock::new(Arc::new(chain)), version: watch::Sender::new(0) });
        let follower = Follower {
            directory: directory.clone(),
            shared: Arc::clone(&shared),
            file,
            rejected: HashSet::new(),
            held_until: None,
        };
        let task = Arc::new(Task::spawn(follower.run(updates.subscribe())));
        Ok(Self { shared, _task: task })
    }

    /// The chain as it is now. Cheap: readers share one copy, and the lock is held to copy a pointer.
    pub fn chain(&self) -> Arc<Chain> {
        Arc::clone(&self.shared.chain.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A number that grows whenever the chain changes, to wait on.
    pub fn version(&self) -> watch::Receiver<u64> {
        self.shared.version.subscribe()
    }

    /// Waits until the chain satisfies `wanted`.
    pub async fn wait_until(&self, wanted: impl Fn(&Chain) -> bool) {
        let mut version = self.version();
        loop {
            version.mark_unchanged();
            if wanted(&self.chain()) {
                return;
            }
            if version.changed().await.is_err() {
                std::future::pending::<()>().await; // the feed never ends before its owner
            }
        }
    }
}

/// The one task that changes the chain.
struct Follower {
    directory: Directory,
    shared: Arc<Shared>,
    file: HighestFile,
    rejected: HashSet<Digest>,
    held_until: Option<Timestamp>,
}

impl Follower {
    async fn run(mut self, mut updates: Subscription) {
        let mut pending = Update::default();
        loop {
            tokio::select! {
                update = updates.next() => pending.merge(&update),
                () = tokio::time::sleep(self.pause(&pending)) => pending.everything = true,
            }
            match self.read(&pending).await {
                Ok(texts) => {
                    self.accept(texts).await;
                    pending = Update::default();
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot read the chain");
                    pending.everything = true;
                }
            }
        }
    }

    /// How long to wait for an update before acting without one.
    fn pause(&self, pending: &Update) -> Duration {
        if !pending.is_nothing() {
            return RETRY;
        }
        // A held-back event comes into force at its time, a moment later rather than earlier.
        let held = self.held_until.map(|time| time.since(clock::now()) + Duration::from_millis(1));
        held.map_or(RESYNC, |held| held.min(RESYNC))
    }

    /// The texts that may hold something new.
    async fn read(&self, update: &Update) -> Result<Vec<String>, keychain::directory::Error> {
        let names: Vec<Digest> = update.names.iter().filter_map(|name| Digest::parse(name).ok()).collect();
        if update.everything || names.len() > SINGLE_READS_MAX {
            return self.directory.events().await;
        }
        let mut texts = Vec::new();
        for name in names {
            // Most names are of other databases, and have no entry in this one.
            texts.extend(self.directory.event(&name).await?);
        }
        Ok(texts)
    }

    async fn accept(&mut self, texts: Vec<String>) {
        let now = clock::now();
        let old = Arc::clone(&self.shared.chain.read().unwrap_or_else(PoisonError::into_inner));
        let events = self.unknown_events(&old, &texts);
        if events.is_empty() && self.held_until.is_none() {
            return;
        }
        let mut chain = Chain::clone(&old);
        let merged = chain.merge(events, now);
        self.held_until = merged.held_until;
        for rival in &merged.rivals {
            tracing::error!(event = %rival, "the chain is contested: a second event was signed by a key that already signed one");
        }
        self.remember(&chain).await;
        if let Some(head) = chain.head() {
            let sequence = head.event().sequence_number;
            if merged.accepted > 0 {
                tracing::info!(sequence, event = %head.id(), "the chain grew");
            }
        }
        *self.shared.chain.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(chain);
        self.shared.version.send_modify(|version| *version += 1);
    }

    /// Verifies what is not known yet. What fails is reported once and passed over: one bad entry
    /// must not hide the good ones.
    fn unknown_events(&mut self, chain: &Chain, texts: &[String]) -> Vec<SignedEvent> {
        let known: HashSet<&str> = chain.events().map(SignedEvent::text).collect();
        let mut events = Vec::new();
        for text in texts.iter().filter(|text| !known.contains(text.as_str())) {
            let fingerprint = Digest::of(text);
            if self.rejected.contains(&fingerprint) {
                continue;
            }
            match SignedEvent::parse(text) {
                Ok(event) => events.push(event),
                Err(refusal) => {
                    if self.rejected.len() < REJECTED_MAX {
                        self.rejected.insert(fingerprint);
                    }
                    tracing::warn!(%refusal, "an entry among the published events is not one; passed over");
                }
            }
        }
        events
    }

    /// Keeps the highest event on disk. If that fails the chain is used all the same, because a taint
    /// must bite; it is tried again with the next change.
    async fn remember(&mut self, chain: &Chain) {
        let Some(highest) = chain.highest() else { return };
        if let Err(error) = self.file.keep(highest).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "cannot keep the highest event: a rollback would go unnoticed after a restart"
            );
        }
    }
}
