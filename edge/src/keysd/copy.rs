//! The copy of the response keys that keysd serves from: what stands in database 1 and verifies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use keychain::chain::{Chain, windows};
use keychain::directory::{self, Db, Directory};
use keychain::endorsement::{Endorsement, Expected, Purpose};
use keychain::{PublicKey, Refusal, Timestamp};
use tokio::sync::watch;

use crate::health::{self, Dependencies};
use crate::task::Task;
use crate::trust::{TrustFeed, TrustState};
use crate::updates::{Subscription, Update, Updates, readable};

/// Names in one update above which reading all keys is cheaper than reading each.
const SINGLE_READS_MAX: usize = 64;

/// Pause before another attempt when the directory does not answer.
const RETRY: Duration = Duration::from_secs(1);

/// Expired keys leave the list within this time.
const REBUILD_EVERY: Duration = Duration::from_secs(30);

/// What is served, made anew with every change and shared by all requests in between.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Each key's endorsement, verbatim.
    pub keys: BTreeMap<String, Arc<str>>,
    /// The body of `/keys`.
    pub all: String,
    /// The body of `/hsm/keys`.
    pub chain: String,
    /// The body of `/hsm/heads`.
    pub heads: String,
}

/// The newest listing. Cloning shares it.
#[derive(Debug, Clone)]
pub(super) struct Copy {
    listing: Arc<RwLock<Arc<Listing>>>,
    version: watch::Receiver<u64>,
    _task: Arc<Task>,
}

impl Copy {
    /// Begins to follow the directory.
    pub(super) fn start(directory: &Directory, updates: &Updates, feed: TrustFeed) -> Self {
        let listing = Arc::new(RwLock::new(Arc::new(Listing::default())));
        let (told, version) = watch::channel(0);
        let follower = Follower {
            directory: directory.clone(),
            dependencies: updates.dependencies().clone(),
            feed,
            entries: BTreeMap::new(),
            listing: Arc::clone(&listing),
            told,
        };
        let task = Arc::new(Task::spawn(follower.run(updates.subscribe())));
        Self { listing, version, _task: task }
    }

    /// What is served now.
    pub(super) fn listing(&self) -> Arc<Listing> {
        Arc::clone(&self.listing.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A number that grows with every listing, from 0 before the first; to wait on.
    pub(super) fn version(&self) -> watch::Receiver<u64> {
        self.version.clone()
    }
}

/// One entry of the directory, whether its signature was ever found good, and whether it was counted as refused.
struct Entry {
    text: Arc<str>,
    endorsement: Endorsement,
    proven: bool,
    counted: bool,
}

struct Follower {
    directory: Directory,
    dependencies: Dependencies,
    feed: TrustFeed,
    entries: BTreeMap<PublicKey, Entry>,
    listing: Arc<RwLock<Arc<Listing>>>,
    told: watch::Sender<u64>,
}

impl Follower {
    async fn run(mut self, mut updates: Subscription) {
        let mut chain = self.feed.version();
        let mut pending = Update::default();
        loop {
            let pause = if pending.is_nothing() { REBUILD_EVERY } else { RETRY };
            tokio::select! {
                update = updates.next() => pending.merge(&update),
                _ = chain.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
            match self.read(&pending).await {
                Ok(()) => {
                    if !pending.is_nothing() {
                        self.dependencies.good(health::DIRECTORY_KEYS);
                    }
                    pending = Update::default();
                    self.rebuild();
                }
                Err(error) => {
                    self.dependencies.lost(health::DIRECTORY_KEYS, &error);
                    pending.everything = true;
                }
            }
        }
    }

    async fn read(&mut self, update: &Update) -> Result<(), directory::Error> {
        let names: BTreeSet<PublicKey> =
            update.names.iter().filter_map(|name| PublicKey::parse(name).ok()).collect();
        if update.is_everything() || names.len() > SINGLE_READS_MAX {
            let all = self.directory.all_response().await?;
            let mut old = std::mem::take(&mut self.entries);
            for (name, text) in all {
                if let Ok(key) = PublicKey::parse(&name) {
                    let known = old.remove(&key);
                    self.take(key, text, known);
                }
            }
            return Ok(());
        }
        for key in names {
            let text = readable(self.directory.endorsement(Db::Response, &key).await)?;
            let known = self.entries.remove(&key);
            if let Some(text) = text {
                self.take(key, text, known);
            }
        }
        Ok(())
    }

    /// Keeps an entry that reads as an endorsement; what was proven of the same text stays proven.
    fn take(&mut self, key: PublicKey, text: String, known: Option<Entry>) {
        if let Some(known) = known.filter(|known| *known.text == *text) {
            self.entries.insert(key, known);
            return;
        }
        match Endorsement::parse(&text) {
            Ok(endorsement) => {
                let text = text.into();
                self.entries.insert(key, Entry { text, endorsement, proven: false, counted: false });
            }
            Err(refusal) => refused(&key, &refusal),
        }
    }

    fn rebuild(&mut self) {
        let (trust, now) = (self.feed.state(), self.feed.now());
        let heads = format!("[{}]", trust.heads().join(","));
        let mut listing = Listing { chain: chain_body(trust.chain()), heads, ..Listing::default() };
        for (key, entry) in &mut self.entries {
            if entry.holds(key, &trust, now) {
                listing.keys.insert(key.to_string(), Arc::clone(&entry.text));
            }
        }
        let members: Vec<String> =
            listing.keys.iter().map(|(key, text)| format!("\"{key}\":{text}")).collect();
        listing.all = format!("{{{}}}", members.join(","));
        metrics::gauge!("keysd_keys").set(u32::try_from(listing.keys.len()).unwrap_or(u32::MAX));
        let sequence = trust.chain().head().map_or(0, |head| head.event().sequence_number);
        metrics::gauge!("keysd_chain_sequence").set(u32::try_from(sequence).unwrap_or(u32::MAX));
        *self.listing.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(listing);
        self.told.send_modify(|version| *version += 1);
    }
}

impl Entry {
    /// Whether devices will accept it now. The signature is checked until it was good once.
    fn holds(&mut self, key: &PublicKey, trust: &TrustState, now: Timestamp) -> bool {
        if !self.proven {
            let expected = Expected { purpose: Purpose::Response, public_key: key, service: None };
            let verdict = self.endorsement.verify(trust.chain(), expected, windows::DEVICE, now);
            self.proven = verdict.is_ok();
            if let (Err(refusal), false) = (verdict, self.counted) {
                self.counted = true;
                refused(key, &refusal);
            }
            return self.proven;
        }
        trust.check(&self.endorsement, windows::DEVICE, now).is_ok()
    }
}

/// Counts an entry that is told to nobody.
fn refused(key: &PublicKey, refusal: &Refusal) {
    metrics::counter!("verifier_endorsements_refused_total", "code" => refusal.code().as_str()).increment(1);
    tracing::debug!(%key, %refusal, "an entry among the response keys does not verify now");
}

/// The surviving branch, in order, each event verbatim.
fn chain_body(chain: &Chain) -> String {
    let events: Vec<&str> = chain.events().map(keychain::chain::SignedEvent::text).collect();
    format!("[{}]", events.join(","))
}
