//! Teaches the verifier the keys that issue tokens, as the directory announces them (`PROTOCOL.md#directory`,
//! database 0), and when a request names one that was not announced.
//!
//! A stranger can name as many keys as he likes. Whatever he names, the directory is read at most once a
//! second, all of it in one go, for everyone who waits; and not many may wait.

mod pending;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keychain::directory::{self, Db, Directory};
use keychain::endorsement::Endorsement;
use keychain::{Code, PublicKey, Refusal};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;

use crate::health::{self, Dependencies};
use crate::state_file::{Content, StateFile, content};
use crate::task::Task;
use crate::trust::TrustFeed;
use crate::updates::{Subscription, Update, Updates};
use crate::verifier::AccessVerifier;
use crate::verifier::issuers::Knowledge;
use pending::{Pending, names_of_keys};

/// Shortest time between two readings on behalf of requests, and pause after one that failed.
const READING_EVERY: Duration = Duration::from_secs(1);

/// Requests that may wait for a reading at a time. Honest ones seldom do: keys are announced.
const WAITING_MAX: usize = 256;

/// Longest that a request waits: one pause and one reading.
const WAIT_MAX: Duration = Duration::from_millis(2_500);

/// How often expired keys are dropped.
const TIDY_EVERY: Duration = Duration::from_mins(1);

/// The file in a daemon's state directory that has the keys, and the longest read: the most keys, each of the longest.
const FILE: &str = "issuers.json";
const FILE_MAX: u64 = 64 * 1_024 * 1_024;

/// Entries kept that did not verify yet: their generation's event may still be on its way.
const UNPROVEN_MAX: usize = 1_024;

/// Keeps a verifier's issuing keys current. Cloning shares it.
#[derive(Debug, Clone)]
pub struct IssuerFeed {
    verifier: Arc<AccessVerifier>,
    /// Asks for a reading; one request stands for all that came before it is served.
    wanted: mpsc::Sender<()>,
    readings: watch::Receiver<Reading>,
    /// Whether any key is known.
    some: watch::Receiver<bool>,
    waiting: Arc<Semaphore>,
    _tasks: Arc<[Task]>,
}

/// How many readings have begun and ended, and how the last went.
#[derive(Debug, Clone, Copy, Default)]
struct Reading {
    begun: u64,
    ended: u64,
    failed: bool,
}

impl IssuerFeed {
    /// Begins to teach `verifier`, first what was known before a restart.
    pub fn start(
        directory: &Directory,
        updates: &Updates,
        feed: TrustFeed,
        verifier: Arc<AccessVerifier>,
        state: &Path,
    ) -> Self {
        let file = StateFile::new(state, FILE, FILE_MAX);
        let texts = file.read();
        let (remember, to_keep) = watch::channel(None);
        let (is_some, some) = watch::channel(false);
        let (wanted, asked) = mpsc::channel(1);
        let (progress, readings) = watch::channel(Reading::default());
        let follower = Follower {
            directory: directory.clone(),
            feed,
            dependencies: updates.dependencies().clone(),
            verifier: Arc::clone(&verifier),
            unproven: BTreeMap::new(),
            progress,
            is_some,
            remember,
            is_unkept: false,
        };
        let follow = follower.run(texts, updates.subscribe(), asked);
        let tasks = [Task::spawn(file.keep_up(to_keep)), Task::spawn(follow)];
        let waiting = Arc::new(Semaphore::new(WAITING_MAX));
        Self { verifier, wanted, readings, some, waiting, _tasks: Arc::new(tasks) }
    }

    /// Waits until any key is known, be it from before a restart.
    pub async fn some(&self) {
        let mut some = self.some.clone();
        if some.wait_for(|some| *some).await.is_err() {
            std::future::pending::<()>().await; // the feed never ends before its owner
        }
    }

    /// Waits until the directory was read in full once.
    pub async fn loaded(&self) {
        let mut readings = self.readings.clone();
        if readings.wait_for(|reading| reading.ended > 0 && !reading.failed).await.is_err() {
            std::future::pending::<()>().await; // the feed never ends before its owner
        }
    }

    /// Looks for a key that nothing is known of, in a reading that begins after this call.
    ///
    /// `Unavailable` if it cannot be known now; otherwise the verifier knows after this, one way or the other.
    pub async fn learn(&self, key: PublicKey) -> Result<(), Refusal> {
        let Ok(_place) = self.waiting.try_acquire() else {
            return Err(Refusal::new(Code::Unavailable, "too many requests wait for the key directory"));
        };
        let mut readings = self.readings.clone();
        let begun = readings.borrow().begun;
        // A full channel means that a reading is asked for already.
        let _asked_already = self.wanted.try_send(());
        let is_endorsed = || matches!(self.verifier.issuers().look_up(&key), Knowledge::Endorsed(_));
        let read = readings.wait_for(|reading| reading.ended > begun || is_endorsed());
        let failed = match tokio::time::timeout(WAIT_MAX, read).await {
            Ok(Ok(reading)) => reading.failed,
            Ok(Err(_)) | Err(_) => true,
        };
        if failed {
            return Err(Refusal::new(Code::Unavailable, "the key directory does not answer"));
        }
        if matches!(self.verifier.issuers().look_up(&key), Knowledge::Nothing) {
            self.verifier.issuers().note_absent(key);
        }
        Ok(())
    }
}

struct Follower {
    directory: Directory,
    feed: TrustFeed,
    dependencies: Dependencies,
    verifier: Arc<AccessVerifier>,
    unproven: BTreeMap<PublicKey, String>,
    progress: watch::Sender<Reading>,
    is_some: watch::Sender<bool>,
    /// Has the keys kept on disk.
    remember: watch::Sender<Content>,
    /// Whether a key was learnt since.
    is_unkept: bool,
}

impl Follower {
    async fn run(mut self, kept: Vec<String>, mut updates: Subscription, mut asked: mpsc::Receiver<()>) {
        let mut chain = self.feed.version();
        for text in kept {
            if let Ok(endorsement) = Endorsement::parse(&text) {
                self.take(endorsement.subject.public_key, text);
            }
        }
        let mut pending = Pending::default();
        let mut quiet_until = Instant::now();
        loop {
            self.keep();
            let quiet = Instant::now() < quiet_until;
            let due = pending.due();
            tokio::select! {
                // The directory's own announcements do not wait: they are not strangers' doing.
                update = updates.next() => self.note(&update, &mut pending),
                _ = chain.changed() => self.prove_again(),
                Some(()) = asked.recv(), if !quiet => {
                    quiet_until = Instant::now() + READING_EVERY;
                    pending.want_everything(Instant::now());
                }
                () = tokio::time::sleep_until(quiet_until), if quiet => {}
                () = tokio::time::sleep_until(due.unwrap_or(quiet_until)), if due.is_some() => {}
                () = tokio::time::sleep(TIDY_EVERY) => self.verifier.issuers().forget_expired(self.feed.now()),
            }
            if pending.due().is_none_or(|due| Instant::now() < due) {
                continue;
            }
            match self.read(&pending).await {
                Ok(()) => {
                    self.dependencies.good(health::DIRECTORY_ISSUERS);
                    pending = Pending::default();
                }
                Err(error) => {
                    self.dependencies.lost(health::DIRECTORY_ISSUERS, &error);
                    quiet_until = Instant::now() + READING_EVERY;
                    pending = Pending::default();
                    pending.want_everything(quiet_until);
                }
            }
        }
    }

    fn note(&self, update: &Update, pending: &mut Pending) {
        for name in names_of_keys(update) {
            self.verifier.issuers().forget_absent(name);
        }
        pending.add(update, Instant::now());
    }

    async fn read(&mut self, pending: &Pending) -> Result<(), directory::Error> {
        if pending.is_everything() {
            return self.read_all().await;
        }
        let names = pending.names();
        let found = self.directory.endorsements_named(Db::Access, names.clone()).await?;
        // Most names are of response keys, and have no entry in this database.
        for (name, text) in names.iter().zip(found) {
            if let (Some(text), Ok(key)) = (text, PublicKey::parse(name)) {
                self.take(key, text);
            }
        }
        // A request may wait for one of them.
        self.progress.send_modify(|_| {});
        Ok(())
    }

    async fn read_all(&mut self) -> Result<(), directory::Error> {
        self.progress.send_modify(|reading| reading.begun += 1);
        let all = self.directory.all_access().await;
        let failed = all.is_err();
        let taken = all.map(|entries| {
            for (name, text) in entries {
                if let Ok(key) = PublicKey::parse(&name) {
                    self.take(key, text);
                }
            }
        });
        self.progress.send_modify(|reading| {
            reading.ended = reading.begun;
            reading.failed = failed;
        });
        taken
    }

    /// Proves an entry and teaches it, or keeps it for when the chain has grown.
    fn take(&mut self, key: PublicKey, text: String) {
        match self.verifier.issuers().learn(key, &text, &self.feed.state(), self.feed.now()) {
            Ok(is_new) => {
                self.unproven.remove(&key);
                self.is_some.send_replace(true);
                self.is_unkept |= is_new;
            }
            Err(refusal) => {
                if self.unproven.get(&key) == Some(&text) {
                    return; // it was counted
                }
                metrics::counter!("verifier_endorsements_refused_total", "code" => refusal.code().as_str())
                    .increment(1);
                tracing::debug!(%key, %refusal, "an entry among the issuing keys does not verify now");
                if self.unproven.len() < UNPROVEN_MAX {
                    self.unproven.insert(key, text);
                }
            }
        }
    }

    /// Has the keys kept on disk, if another was learnt.
    fn keep(&mut self) {
        if std::mem::take(&mut self.is_unkept) {
            let texts = self.verifier.issuers().texts();
            self.remember.send_replace(content(texts.iter().map(String::as_str)));
        }
    }

    fn prove_again(&mut self) {
        self.verifier.issuers().forget_all_absent();
        for (key, text) in self.unproven.clone() {
            self.take(key, text);
        }
    }
}
