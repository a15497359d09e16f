//! The task that reads the feed.

use std::collections::BTreeMap;
use std::time::Duration;

use keychain::acknowledgement::Applied;
use keychain::directory::{self, Directory};
use keychain::feed::{Content, Entry, Loading, Message, Position, Proven, State, Taken};
use keychain::{Digest, Refusal, Timestamp};
use tokio::sync::watch;
use tokio::time::Instant;

use super::memory::{Accepted, Remembered};
use crate::health::{self, Dependencies};
use crate::trust::TrustFeed;
use crate::updates::Subscription;

/// Batches asked for at once.
const PAGE: usize = 16;

/// Batches that are read one after the other; beyond it a snapshot costs less.
const GAP_MAX: u64 = 1_024;

/// Pause before another attempt when the directory does not answer.
const RETRY: Duration = Duration::from_secs(1);

/// Batches kept that came ahead of a gap: a snapshot that is read meanwhile does not say what they do.
const AHEAD_MAX: usize = 64;
/// How long a part of the feed may be missing before that is a loss: a snapshot follows its batches, and authd writes
/// one again that was deleted.
const MISSING_MAX: Duration = Duration::from_secs(10);

/// Texts remembered as not acceptable, so that one is reported once.
const REJECTED_MAX: usize = 64;

/// Why the feed is not known up to its newest message.
#[derive(Debug, thiserror::Error)]
enum Unread {
    /// The directory did not answer.
    #[error(transparent)]
    Directory(#[from] directory::Error),
    /// Neither the batches before the newest message nor a snapshot after them are there.
    #[error(
        "parts of the denial feed before {shown:?} are missing in the directory: they were deleted or evicted; authd \
         writes a snapshot within a minute"
    )]
    Missing {
        /// Where the newest message stands.
        shown: Position,
    },
    /// The newest message does not verify, as it does before the chain is known that has its signers.
    #[error("the newest message of the denial feed does not verify yet")]
    Unproven,
}

/// What others are told of what was accepted.
pub(super) struct Says {
    /// Whether as much is known as was known before a restart.
    pub(super) loaded: watch::Sender<bool>,
    /// How much of the feed is in force and on disk, and whether authd went back behind it.
    pub(super) applied: watch::Sender<Option<Applied>>,
    /// What is to be made durable.
    pub(super) remember: watch::Sender<Option<Accepted>>,
}

pub(super) struct Follower {
    directory: Directory,
    trust: TrustFeed,
    identity: Digest,
    state: State,
    /// The newest batches that were taken ahead of a gap.
    ahead: BTreeMap<Position, String>,
    /// What was known before a restart, at least.
    floor: Option<Position>,
    says: Says,
    /// Whether authd was seen at a position before what it had said here already: its database was put back. Until a later
    /// epoch, its lifts do not count, and its positions prove nothing.
    went_back: bool,
    /// Where the newest message in the directory stands, as it was read last.
    shown: Option<Position>,
    /// Since when a part of the feed is missing, or its newest message does not verify.
    missing: Option<Instant>,
    /// Whether the newest message may yet verify, and show that a part is missing.
    awaits_proof: bool,
    rejected: Vec<Digest>,
    /// The last message that was older than what is known: counted once.
    older: Option<Position>,
    /// Whether the log says that the feed is waited for.
    said: bool,
}

impl Follower {
    pub(super) fn new(
        directory: Directory,
        trust: TrustFeed,
        identity: Digest,
        remembered: &Remembered,
        says: Says,
    ) -> Self {
        let Remembered { position, went_back, state } = remembered.clone();
        let follower = Self {
            directory,
            trust,
            identity,
            state: state.unwrap_or_default(),
            ahead: BTreeMap::new(),
            floor: position,
            says,
            went_back,
            shown: None,
            missing: None,
            awaits_proof: false,
            rejected: Vec::new(),
            older: None,
            said: false,
        };
        follower.put_in_force(&[]);
        follower
    }

    pub(super) async fn run(mut self, mut updates: Subscription, dependencies: Dependencies) {
        let name = keychain::feed::name(&self.identity).to_string();
        let mut trust = self.trust.version();
        let mut pending = true;
        loop {
            let retry = if pending { RETRY } else { Duration::MAX };
            tokio::select! {
                update = updates.next() => {
                    pending |= update.touches(&name);
                    if update.reread {
                        self.state.drop_ended(self.trust.now());
                        self.put_in_force(&[]);
                    }
                }
                // Signers that were not known yet may be now.
                _ = trust.changed() => pending |= self.waits_for_signers(),
                () = tokio::time::sleep(retry) => {}
            }
            if !pending {
                continue;
            }
            match self.read().await {
                Ok(()) => {
                    (pending, self.missing) = (false, None);
                    match self.lacks() {
                        None => dependencies.good(health::DIRECTORY_DENIALS),
                        Some(what) => dependencies.failed(health::DIRECTORY_DENIALS, what),
                    }
                }
                // It may be on its way.
                Err(Unread::Missing { .. } | Unread::Unproven) if self.is_missing_for_a_moment() => {}
                Err(error) => dependencies.lost(health::DIRECTORY_DENIALS, &error),
            }
            self.note();
        }
    }

    /// Why nobody is admitted, though all that the directory has of the feed was read.
    fn lacks(&self) -> Option<&'static str> {
        if *self.says.loaded.borrow() {
            return None;
        }
        Some(match self.state.position() {
            None => {
                "there is none in the directory yet: authd writes one within a minute; a public auth server has none \
                 (`denial_feed`)"
            }
            Some(_) => {
                "the directory has less of it than was known before the restart: authd writes a snapshot within a minute"
            }
        })
    }

    /// Reads on from where the feed was left: first whom the newest message denies, then what lies between.
    async fn read(&mut self) -> Result<(), Unread> {
        loop {
            let text = self.directory.newest_of_feed(&self.identity).await?;
            let newest = text.as_ref().and_then(|text| self.take(text));
            self.shown = newest;
            // Junk in its place is passed over in the end.
            self.awaits_proof = text.is_some() && newest.is_none() && self.is_missing_for_a_moment();
            self.read_batches(newest).await?;
            let is_known = newest.is_some_and(|newest| !self.state.wants(newest));
            if !is_known && self.load_snapshot().await? {
                continue;
            }
            if self.awaits_proof {
                return Err(Unread::Unproven);
            }
            // A snapshot may have been read before the newest message was verified.
            if !*self.says.loaded.borrow() {
                self.put_in_force(&[]);
            }
            // After a feed that went back, positions prove nothing.
            let missing = newest.filter(|_| !is_known && !self.went_back);
            return missing.map_or(Ok(()), |shown| Err(Unread::Missing { shown }));
        }
    }

    /// Whether a message that was read may count once trust is another one.
    fn waits_for_signers(&self) -> bool {
        self.awaits_proof || self.missing.is_some() || !self.rejected.is_empty() || self.lacks().is_some()
    }

    fn is_missing_for_a_moment(&mut self) -> bool {
        self.missing.get_or_insert_with(Instant::now).elapsed() < MISSING_MAX
    }

    /// Reads the batches that follow what is known, unless a snapshot spares that.
    async fn read_batches(&mut self, newest: Option<Position>) -> Result<(), directory::Error> {
        let mut page = 1; // most often there is just one
        while let Some(mine) = self.state.position().filter(|_| !self.went_back) {
            let is_far = newest.is_some_and(|newest| {
                newest.epoch != mine.epoch || newest.number > mine.number.saturating_add(GAP_MAX)
            });
            if is_far && self.load_snapshot().await? {
                continue;
            }
            for text in self.directory.batches(mine.next(), page).await? {
                self.take(&text);
            }
            if self.state.position() == Some(mine) {
                return Ok(());
            }
            page = PAGE;
        }
        Ok(())
    }

    /// Takes in a batch, as far as it counts. Answers where a message stands that is authd's.
    fn take(&mut self, text: &str) -> Option<Position> {
        let trust = self.trust.state();
        let message = Message::parse(text);
        let verdict = message
            .as_ref()
            .map_err(Refusal::clone)
            .and_then(|message| message.verify(trust.chain(), self.trust.now()));
        match verdict {
            Ok(proven) => {
                self.notice(proven, trust.chain().skew());
                let is_denials_only = self.went_back && !self.is_later_epoch(proven);
                let taken =
                    if is_denials_only { self.state.take_denials(proven) } else { self.state.take(proven) };
                match taken {
                    Taken::Next | Taken::Ahead if is_denials_only => self.put_in_force(&[]),
                    Taken::Next => self.put_in_force(entries(proven)),
                    Taken::Ahead => {
                        self.ahead.insert(proven.position(), text.to_owned());
                        if self.ahead.len() > AHEAD_MAX {
                            self.ahead.pop_first();
                        }
                        self.put_in_force(entries(proven));
                    }
                    Taken::Old => self.note_older(proven.position()),
                    Taken::TooMany => {
                        metrics::counter!("verifier_denial_feed_refused_total", "code" => "full")
                            .increment(1);
                        tracing::error!(
                            "the denial feed denies more than can be held; the rest is not taken in"
                        );
                    }
                }
                Some(proven.position())
            }
            Err(refusal) => {
                self.reject(text, &refusal);
                None
            }
        }
    }

    /// The newest message is read again and again. One before it is a directory that was rolled back, or a snapshot that
    /// was overtaken by a batch.
    fn note_older(&mut self, position: Position) {
        let is_older = self.state.position().is_some_and(|mine| position < mine);
        if is_older && self.older.replace(position) != Some(position) {
            metrics::counter!("verifier_denial_feed_older_total").increment(1);
        }
    }

    /// Takes note of an authd that says again what it has said, otherwise.
    fn notice(&mut self, message: Proven<'_>, skew: Duration) {
        if self.went_back || !self.state.went_back(message, skew) {
            return;
        }
        self.went_back = true;
        let (known, shown) = (self.state.position(), message.position());
        tracing::error!(
            ?known,
            ?shown,
            "authd's denial feed went back behind what is known here: authd's database was restored or reset; whom it \
             denies now is denied, and nothing is lifted before `opsctl feed reopen`"
        );
        self.put_in_force(&[]);
    }

    fn is_later_epoch(&self, message: Proven<'_>) -> bool {
        self.state.position().is_none_or(|mine| message.position().epoch > mine.epoch)
    }

    /// Reads a snapshot that says more than is known; false if there is none that is whole.
    async fn load_snapshot(&mut self) -> Result<bool, directory::Error> {
        let Some(text) = self.directory.snapshot().await? else { return Ok(false) };
        let loading = {
            let trust = self.trust.state();
            let message = Message::parse(&text);
            let proven = message
                .as_ref()
                .map_err(Refusal::clone)
                .and_then(|message| message.verify(trust.chain(), self.trust.now()));
            match proven {
                Ok(proven) if self.went_back && !self.is_later_epoch(proven) => None,
                Ok(proven) if self.state.wants(proven.position()) => Loading::begin(proven),
                Ok(_) => None,
                Err(refusal) => {
                    self.reject(&text, &refusal);
                    None
                }
            }
        };
        let Some(loading) = loading else { return Ok(false) };
        let chunks = self.directory.chunks(loading.chunks()).await?;
        let Some(chunks) = chunks.into_iter().collect::<Option<Vec<String>>>() else {
            return Ok(false); // authd writes it again
        };
        match loading.finish(&chunks) {
            Ok(state) => {
                self.state = state;
                // While it had gone back, only a later epoch is read.
                self.went_back = false;
                // Whom batches beyond the snapshot deny stays denied.
                let ahead = std::mem::take(&mut self.ahead);
                for (position, text) in ahead {
                    if self.state.wants(position) {
                        self.take(&text);
                    }
                }
                self.put_in_force(&[]);
                self.trust.deny(|denied| denied.review(self.trust.now()));
                Ok(true)
            }
            Err(refusal) => {
                self.reject(&text, &refusal);
                Ok(false)
            }
        }
    }

    /// Puts what was accepted in force, and only then has it remembered; `said` is what is new in it.
    fn put_in_force(&self, said: &[Entry]) {
        let accepted = Accepted { state: self.state.clone(), went_back: self.went_back };
        self.trust.deny(|denied| denied.hear(accepted.state.clone(), said));
        if let Some(mine) = self.state.position().filter(|mine| self.floor.is_none_or(|floor| floor <= *mine))
        {
            // Whom the parts that are missing deny is not known yet. After a feed that went back, positions prove nothing.
            let is_whole = self.went_back || self.shown.is_none_or(|shown| shown <= mine);
            if !self.awaits_proof && is_whole {
                self.says.loaded.send_replace(true);
            }
            self.says.remember.send_replace(Some(accepted));
        }
        // No disk is waited for: what was acknowledged before says less than it seems to.
        if self.went_back {
            self.says.applied.send_if_modified(|told| {
                told.as_mut().is_some_and(|told| !std::mem::replace(&mut told.went_back, true))
            });
        }
    }

    fn reject(&mut self, text: &str, refusal: &Refusal) {
        let fingerprint = Digest::of(text);
        if self.rejected.contains(&fingerprint) {
            return;
        }
        if self.rejected.len() >= REJECTED_MAX {
            self.rejected.remove(0);
        }
        self.rejected.push(fingerprint);
        metrics::counter!("verifier_denial_feed_refused_total", "code" => refusal.code().as_str())
            .increment(1);
        tracing::warn!(%refusal, "a message of the denial feed does not count; passed over");
    }

    /// Sets the gauge, and says what is waited for.
    fn note(&mut self) {
        if !*self.says.loaded.borrow() && !self.said {
            self.said = true;
            let (known, demanded) = (self.state.position(), self.floor);
            tracing::info!(
                ?known,
                ?demanded,
                "waiting for authd's denial feed; nobody is admitted before it was read"
            );
        }
        let now = self.trust.now();
        let age = |issued_at: Timestamp| now.since(issued_at).as_secs_f64();
        let age = self.state.issued_at().map_or(f64::INFINITY, age);
        metrics::gauge!("verifier_denial_feed_age_seconds").set(age);
        metrics::gauge!("verifier_denial_feed_went_back").set(if self.went_back { 1.0 } else { 0.0 });
    }
}

/// What a batch says.
fn entries(batch: Proven<'_>) -> &[Entry] {
    match batch.content() {
        Content::Batch(entries) => entries,
        Content::Snapshot { .. } => &[],
    }
}
