//! The copy of the response keys that keysd serves from: what stands in database 1 and verifies.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use keychain::chain::{Chain, windows};
use keychain::directory::{self, Db, Directory, NAMES_PER_PAGE};
use keychain::endorsement::{Endorsement, Expected, Purpose};
use keychain::{PublicKey, Refusal, Timestamp};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use crate::health::{self, Dependencies};
use crate::state_file::{Content, StateFile, content};
use crate::task::Task;
use crate::trust::{TrustFeed, TrustState};
use crate::updates::{Subscription, Update, Updates};

/// Names in one update above which all keys are read. Fewer are asked for in one go.
const SINGLE_READS_MAX: usize = NAMES_PER_PAGE;

/// Pause before another attempt when the directory does not answer.
const RETRY: Duration = Duration::from_secs(1);

/// The file in keysd's state directory that has the keys, and the longest read: a hundred thousand of them.
const FILE: &str = "keys.json";
const FILE_MAX: u64 = 64 * 1_024 * 1_024;

/// Expired keys leave the list within this time.
const REBUILD_EVERY: Duration = Duration::from_secs(30);

/// How far apart listings are at least: with thousands of keys each takes milliseconds, and a fleet that is rolled changes
/// all of them. A question for a key that is not listed yet waits longer than this.
const REBUILD_PAUSE: Duration = Duration::from_millis(50);

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
    _tasks: Arc<[Task]>,
}

impl Copy {
    /// Begins to follow the directory, with what was known before a restart.
    pub(super) fn start(directory: &Directory, updates: &Updates, feed: TrustFeed, state: &Path) -> Self {
        let file = StateFile::new(state, FILE, FILE_MAX);
        let kept = file.read();
        let (remember, wanted) = watch::channel(None);
        let listing = Arc::new(RwLock::new(Arc::new(Listing::default())));
        let (told, version) = watch::channel(0);
        let follower = Follower {
            directory: directory.clone(),
            dependencies: updates.dependencies().clone(),
            feed,
            entries: BTreeMap::new(),
            listing: Arc::clone(&listing),
            told,
            remember,
        };
        let follow = follower.run(kept, updates.subscribe());
        let tasks = [Task::spawn(file.keep_up(wanted)), Task::spawn(follow)];
        Self { listing, version, _tasks: Arc::new(tasks) }
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

/// What a look at the directory came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Read {
    /// An entry is not as it was.
    Changed,
    /// Nothing was asked.
    Nothing,
    /// All that was asked for is as it was.
    Same,
}

impl Read {
    const fn of(has_changed: bool) -> Self {
        if has_changed { Self::Changed } else { Self::Same }
    }
}

struct Follower {
    directory: Directory,
    dependencies: Dependencies,
    feed: TrustFeed,
    entries: BTreeMap<PublicKey, Entry>,
    listing: Arc<RwLock<Arc<Listing>>>,
    told: watch::Sender<u64>,
    /// Has the keys kept on disk.
    remember: watch::Sender<Content>,
}

impl Follower {
    async fn run(mut self, kept: Vec<String>, mut updates: Subscription) {
        for text in kept {
            if let Ok(endorsement) = Endorsement::parse(&text) {
                self.take(endorsement.subject.public_key, text, None);
            }
        }
        // What was kept is verified like what is read, and told while the directory is away.
        let is_kept = !self.entries.is_empty();
        let mut chain = self.feed.version();
        let mut expiry = tokio::time::interval(REBUILD_EVERY);
        expiry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pending = Update::default();
        let (mut has_read, mut is_due, mut not_before) = (is_kept, is_kept, Instant::now());
        loop {
            let retry = if pending.is_nothing() { Duration::MAX } else { RETRY };
            tokio::select! {
                update = updates.next() => pending.merge(&update),
                _ = chain.changed() => is_due = true,
                _ = expiry.tick() => is_due = true,
                () = tokio::time::sleep_until(not_before), if is_due && has_read => {}
                () = tokio::time::sleep(retry) => {}
            }
            match self.read(&pending).await {
                Ok(Read::Nothing) => pending = Update::default(),
                Ok(read) => {
                    self.dependencies.good(health::DIRECTORY_KEYS);
                    is_due |= read == Read::Changed || !has_read;
                    has_read = true;
                    pending = Update::default();
                }
                Err(error) => {
                    self.dependencies.lost(health::DIRECTORY_KEYS, &error);
                    pending.everything = true;
                }
            }
            // What is tainted leaves the list also while the directory is away.
            if is_due && has_read && Instant::now() >= not_before {
                self.rebuild();
                (is_due, not_before) = (false, Instant::now() + REBUILD_PAUSE);
            }
        }
    }

    /// Reads what may have changed: nothing, if no name is a key's.
    async fn read(&mut self, update: &Update) -> Result<Read, directory::Error> {
        let names: BTreeSet<PublicKey> =
            update.names.iter().filter_map(|name| PublicKey::parse(name).ok()).collect();
        if update.is_everything() || names.len() > SINGLE_READS_MAX {
            return self.read_all().await;
        }
        if names.is_empty() {
            return Ok(Read::Nothing);
        }
        let names: Vec<PublicKey> = names.into_iter().collect();
        let texts = self.directory.endorsements_of(Db::Response, &names).await?;
        let mut has_changed = false;
        for (key, text) in names.into_iter().zip(texts) {
            let known = self.entries.remove(&key);
            has_changed |= match text {
                Some(text) => self.take(key, text, known),
                None => known.is_some(),
            };
        }
        Ok(Read::of(has_changed))
    }

    async fn read_all(&mut self) -> Result<Read, directory::Error> {
        let all = self.directory.all_response().await?;
        let mut old = std::mem::take(&mut self.entries);
        let mut has_changed = false;
        for (name, text) in all {
            if let Ok(key) = PublicKey::parse(&name) {
                let known = old.remove(&key);
                has_changed |= self.take(key, text, known);
            }
        }
        Ok(Read::of(has_changed || !old.is_empty()))
    }

    /// Keeps an entry that reads as an endorsement; what was proven of the same text stays proven. Answers whether it is
    /// another one than before.
    fn take(&mut self, key: PublicKey, text: String, known: Option<Entry>) -> bool {
        let was_known = known.is_some();
        if let Some(known) = known.filter(|known| *known.text == *text) {
            self.entries.insert(key, known);
            return false;
        }
        match Endorsement::parse(&text) {
            Ok(endorsement) => {
                let text = text.into();
                self.entries.insert(key, Entry { text, endorsement, proven: false, counted: false });
                true
            }
            Err(refusal) => {
                refused(&key, &refusal);
                was_known
            }
        }
    }

    /// Has the keys kept on disk, if they are others than before.
    fn keep(&self, listing: &Listing) {
        if listing.keys.is_empty() {
            return; // nothing is known yet, or all has ended
        }
        let wanted = content(listing.keys.values().map(|text| &**text));
        self.remember.send_if_modified(|before| {
            let is_new = *before != wanted;
            *before = wanted;
            is_new
        });
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
        self.keep(&listing);
        metrics::counter!("keysd_listings_total").increment(1);
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
