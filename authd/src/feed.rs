//! Writes the denial feed (`PROTOCOL.md#feed-writing`): signed batches as denials are declared and lifted, and
//! snapshots of all of them.
//!
//! The store decides what is said and where; this task signs and carries. What it had marked and not carried when it
//! was killed is in the snapshot that the next holder of the lease begins with.

mod published;
mod snapshot;

use std::collections::VecDeque;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use edge::health;
use edge::own_key::Endorsed;
use edge::updates::{Subscription, Update};
use keychain::chain::windows;
use keychain::directory;
use keychain::feed::{Content, Draft, Position, Signers};
use keychain::{Digest, Refusal, Timestamp, limits};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::service::Service;
use crate::store::{Batch, Fault, LEASE, Lease, Lost};
use snapshot::{Published, publish};

/// How often the task looks by itself: another authd on this store does not wake it.
const LOOK: Duration = Duration::from_millis(500);

/// Longest silence of the feed: an empty batch shows that nothing else was to be said.
const SILENCE: Duration = Duration::from_mins(5);

/// Batches that wait for the directory. Beyond it a snapshot says the same in less.
const WAITING_MAX: usize = 64;

/// Batches after which a new snapshot spares readers the way through them.
const SNAPSHOT_AFTER: u64 = 512;

/// Messages of others remembered as refused.
const REFUSED_MAX: usize = 64;

/// Why the feed does not go on.
#[derive(Debug, thiserror::Error)]
pub enum Halted {
    /// The store was restored or reset.
    #[error(
        "this store is behind the denial feed that is published ({shown:?} against {given:?}), and that cannot be read \
         whole: what it denies stays denied; restore a newer backup, or have `opsctl feed reopen` begin a new epoch with \
         what this store says"
    )]
    Behind {
        /// Where the published feed stands.
        shown: Position,
        /// Where the store does.
        given: Position,
    },
    /// The directory did not take a message.
    #[error("the directory did not take a part of the denial feed")]
    Directory(#[from] directory::Error),
    /// There is no key to sign with, or signing failed.
    #[error("the denial feed cannot be signed: {0}")]
    Signing(Refusal),
    /// The store did not answer.
    #[error("the store does not say what the denial feed is to tell")]
    Store(#[from] Fault),
}

impl From<Refusal> for Halted {
    fn from(refusal: Refusal) -> Self {
        Self::Signing(refusal)
    }
}

/// Writes the feed for as long as it is polled, while this authd holds the lease.
pub async fn run(service: Arc<Service>, mut updates: Subscription) {
    let mut teller = Teller::new(service);
    let mut failing = None;
    loop {
        let halted = teller.turn().await.err();
        match &halted {
            None => teller.service.dependencies.good(health::DIRECTORY_DENIALS),
            Some(error) => teller.service.dependencies.lost(health::DIRECTORY_DENIALS, error),
        }
        let kind = halted.as_ref().map(std::mem::discriminant);
        if let Some(error) = halted.filter(|_| kind != failing) {
            tracing::warn!(error = &error as &dyn Error, "the denial feed waits; trying again");
        }
        failing = kind;
        teller.note().await;
        let service = Arc::clone(&teller.service);
        tokio::select! {
            () = service.denied.notified() => {}
            () = tokio::time::sleep(LOOK) => {}
            update = updates.next() => teller.look = teller.look.max(Look::after(&update, &teller.name)),
            Some(outcome) = teller.snapshot.join_next() => teller.snapshot_ended(outcome.ok()),
            () = service.stopping.notified() => return teller.end().await,
        }
    }
}

/// How much of the directory is to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Look {
    Nothing,
    /// Somebody wrote the newest message.
    Newest,
    /// The directory may have lost something.
    All,
}

impl Look {
    fn after(update: &Update, name: &str) -> Self {
        match (update.is_everything(), update.names.contains(name)) {
            (true, _) => Self::All,
            (false, true) => Self::Newest,
            (false, false) => Self::Nothing,
        }
    }
}

struct Teller {
    service: Arc<Service>,
    /// Tells this process from others that want the lease.
    holder: String,
    /// The name of the newest message in the directory.
    name: String,
    lease: Option<(Lease, Instant)>,
    /// The keys that signed the newest snapshot, or are to sign the next.
    keys: Option<(Arc<Endorsed>, Arc<Endorsed>)>,
    /// Batches that the directory has not taken yet.
    waiting: VecDeque<(Position, String)>,
    /// A snapshot under way. Batches do not wait for it.
    snapshot: JoinSet<Result<Published, Halted>>,
    published: Option<Published>,
    snapshot_wanted: bool,
    /// Whether the store has not been compared with what is published since the lease was taken.
    is_start: bool,
    /// The position that the store had at the last turn.
    highest: Position,
    /// Where the published feed stands that the store is behind of, and that cannot be read whole.
    behind: Option<Position>,
    /// What of the directory is to be compared with the store.
    look: Look,
    /// The newest message that this authd wrote.
    written: String,
    /// Messages of others that do not count, each reported once.
    refused: VecDeque<Digest>,
    spoke: Instant,
}

impl Teller {
    fn new(service: Arc<Service>) -> Self {
        let name = keychain::feed::name(&identity(&service)).to_string();
        // No other process has this key.
        let holder = service.response.current().public_key().to_string();
        Self {
            service,
            holder,
            name,
            lease: None,
            keys: None,
            waiting: VecDeque::new(),
            snapshot: JoinSet::new(),
            published: None,
            snapshot_wanted: false,
            is_start: true,
            highest: Position { epoch: 0, number: 0 },
            behind: None,
            look: Look::All,
            written: String::new(),
            refused: VecDeque::new(),
            spoke: Instant::now(),
        }
    }

    /// Does what is due.
    async fn turn(&mut self) -> Result<(), Halted> {
        let now = self.service.now();
        let Some(lease) = self.hold_lease(now).await? else {
            self.behind = None;
            return Ok(());
        };
        self.follow_store().await?;
        // Before any position is given: one that was given would hide that the store is behind.
        self.compare(lease, now).await?;
        self.renew_keys(lease, now).await?;
        self.flush().await?;
        let due = self.spoke.elapsed() >= SILENCE;
        let mut batch = self.next_batch(lease, due).await?;
        while let Ok(Some(told)) = batch {
            self.tell(told).await?;
            batch = self.next_batch(lease, false).await?;
        }
        if batch.is_err() {
            self.lease = None;
            return Ok(());
        }
        self.begin_snapshot();
        Ok(())
    }

    /// The next batch. If the store does not say whether it gave one, a snapshot says all that would be in it.
    async fn next_batch(
        &mut self,
        lease: Lease,
        even_if_empty: bool,
    ) -> Result<Result<Option<Batch>, Lost>, Halted> {
        let now = self.service.now();
        let batch = self.service.store.next_batch(lease, ENTRIES, even_if_empty, now).await;
        self.snapshot_wanted |= batch.is_err();
        Ok(batch?)
    }

    /// Takes or renews the lease. A new one begins with a snapshot.
    async fn hold_lease(&mut self, now: Timestamp) -> Result<Option<Lease>, Halted> {
        if let Some((lease, renewed)) = self.lease
            && renewed.elapsed() < LEASE / 4
        {
            return Ok(Some(lease));
        }
        let taken = self.service.store.take_lease(&self.holder, now).await?;
        let is_new = taken.is_some() && self.lease.map(|(lease, _)| lease) != taken;
        if is_new {
            tracing::info!("this authd writes the denial feed");
            self.waiting.clear();
            (self.published, self.snapshot) = (None, JoinSet::new());
            (self.snapshot_wanted, self.is_start, self.look) = (true, true, Look::All);
        }
        if taken.is_none() {
            self.service.fed.send_replace(None);
        }
        self.lease = taken.map(|lease| (lease, Instant::now()));
        Ok(taken)
    }

    /// Signs with the newest keys. New ones begin with a snapshot; if old ones died, in a new epoch: what their thief
    /// said ends with it.
    async fn renew_keys(&mut self, lease: Lease, now: Timestamp) -> Result<(), Halted> {
        let keys = (self.service.access.usable(now)?, self.service.response.usable(now)?);
        let is_same = |(access, response): &(Arc<Endorsed>, Arc<Endorsed>)| {
            Arc::ptr_eq(access, &keys.0) && Arc::ptr_eq(response, &keys.1)
        };
        if self.keys.as_ref().is_some_and(is_same) {
            return Ok(());
        }
        let trust = self.service.trust.state();
        let died = |key: &Endorsed| trust.check(key.endorsement(), windows::EDGE, now).is_err();
        if self.keys.as_ref().is_some_and(|(access, response)| died(access) || died(response)) {
            tracing::warn!("a key that signed the denial feed died: a new epoch begins");
            self.service.store.open_epoch(lease, None, now).await?;
            self.waiting.clear();
        }
        self.keys = Some(keys);
        self.snapshot_wanted = true;
        Ok(())
    }

    /// Signs a batch and hands it to the directory.
    async fn tell(&mut self, batch: Batch) -> Result<(), Halted> {
        for id in batch.unreadable {
            tracing::error!(
                id,
                table = "outbox",
                "a row is not as authd wrote it, so whom it denies is not told; ops/RUNBOOK.md says what to do"
            );
        }
        let text = self.seal(batch.position, &Content::Batch(batch.entries))?;
        self.waiting.push_back((batch.position, text));
        if self.waiting.len() > WAITING_MAX {
            self.waiting.clear();
            self.snapshot_wanted = true;
        }
        if self.published.as_ref().is_some_and(|published| {
            published.position.epoch != batch.position.epoch
                || batch.position.number > published.position.number + SNAPSHOT_AFTER
        }) {
            self.snapshot_wanted = true;
        }
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), Halted> {
        let identity = identity(&self.service);
        while let Some((position, text)) = self.waiting.front() {
            self.service.directory.publish_batch(&identity, *position, text).await?;
            self.service.fed.send_replace(Some(*position));
            self.written.clone_from(text);
            self.waiting.pop_front();
            self.spoke = Instant::now();
        }
        Ok(())
    }

    /// Follows what was decided outside of this task: an operator opened an epoch, or the store was put back to an
    /// earlier state while this authd runs.
    async fn follow_store(&mut self) -> Result<(), Halted> {
        let given = self.service.store.feed_position().await?;
        if given < self.highest {
            (self.is_start, self.look) = (true, Look::All);
        }
        self.highest = given;
        let is_other = self.published.as_ref().is_some_and(|ours| ours.position.epoch != given.epoch);
        if is_other && self.snapshot.is_empty() {
            self.waiting.clear();
            self.snapshot_wanted = true;
        }
        match self.behind {
            // Whatever a key's end or a new declaration would begin: no epoch, and no position, before an operator's word.
            Some(shown) if shown > given && self.look == Look::Nothing => {
                Err(Halted::Behind { shown, given })
            }
            Some(_) => {
                self.look = Look::All;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The first epoch of a store that has written no feed, where none was published.
    async fn open_first(&mut self, lease: Lease, now: Timestamp) -> Result<(), Halted> {
        self.service.store.open_epoch(lease, None, now).await?;
        self.snapshot_wanted = true;
        Ok(())
    }

    /// Compares what is published with the store: something may be lost, or ahead of what was given out.
    async fn compare(&mut self, lease: Lease, now: Timestamp) -> Result<(), Halted> {
        if self.look == Look::Nothing {
            return Ok(());
        }
        let directory = &self.service.directory;
        let newest = directory.newest_of_feed(&identity(&self.service)).await?;
        // A store that was put back knows nothing of what this authd itself wrote.
        let is_news = |text: &String| self.is_start || *text != self.written;
        let mut texts: Vec<String> = newest.into_iter().filter(is_news).collect();
        if self.look == Look::All {
            let snapshot = directory.snapshot().await?;
            let is_whole = match &self.published {
                Some(ours) if snapshot.as_ref() == Some(&ours.text) => {
                    directory.has_chunks(&ours.chunks).await? && self.has_batches(ours.position).await?
                }
                Some(_) => false,
                None => true, // the first one is on its way
            };
            self.snapshot_wanted |= !is_whole;
            texts.extend(snapshot);
        }
        self.look = Look::Nothing;
        let trust = self.service.trust.state();
        let mut shown = None;
        for text in &texts {
            match published::position(text, trust.chain(), now) {
                Ok(position) => shown = shown.max(Some(position)),
                Err(refusal) => self.refuse(text, &refusal),
            }
        }
        let given = self.service.store.feed_position().await?;
        let is_start = std::mem::take(&mut self.is_start);
        let Some(shown) = shown.filter(|shown| *shown > given) else {
            self.behind = None;
            return if given.epoch == 0 { self.open_first(lease, now).await } else { Ok(()) };
        };
        // A store that was restored or reset is seen at the start, or by a position of its own that went back. Else it
        // is somebody else who speaks.
        let adopted = if is_start { self.adopt(shown, now).await } else { Ok(0) };
        let is_behind = matches!(adopted, Err(Halted::Behind { .. }));
        self.behind = is_behind.then_some(shown);
        if adopted.is_err() {
            // One that is behind is compared again when something was published, or an operator opened an epoch.
            self.is_start = true;
            self.look = if is_behind { Look::Nothing } else { Look::All };
        }
        let adopted = adopted?;
        metrics::counter!("authd_feed_foreign_positions_total").increment(1);
        tracing::error!(
            ?shown,
            ?given,
            adopted,
            "the denial feed is at a position that this store has not given: the store was restored, or somebody else \
             holds authd's keys; a new epoch begins with what this store says and the denials that it adopted, which \
             `opsctl feed show` lists"
        );
        self.service.store.open_epoch(lease, Some(shown), now).await?;
        self.waiting.clear();
        self.snapshot_wanted = true;
        Ok(())
    }

    /// Whether all that was written since a snapshot can be read: a reader that begins with it needs each batch.
    async fn has_batches(&self, snapshot: Position) -> Result<bool, Halted> {
        let given = self.service.store.feed_position().await?;
        // What waits is on its way. A later epoch begins with a snapshot of its own.
        if !self.waiting.is_empty() || given.epoch != snapshot.epoch {
            return Ok(true);
        }
        Ok(self.service.directory.has_batches(snapshot.next(), given).await?)
    }

    /// Reports what stands in the place of this authd's words and is none, once.
    fn refuse(&mut self, text: &str, refusal: &Refusal) {
        let fingerprint = Digest::of(text);
        if self.refused.contains(&fingerprint) {
            return;
        }
        if self.refused.len() >= REFUSED_MAX {
            self.refused.pop_front();
        }
        self.refused.push_back(fingerprint);
        metrics::counter!("authd_feed_refused_total", "code" => refusal.code().as_str()).increment(1);
        tracing::warn!(%refusal, "a message in the place of this authd's is not one; passed over");
    }

    /// Takes over the denials that are published up to `shown`; fails if they cannot be read whole.
    async fn adopt(&self, shown: Position, now: Timestamp) -> Result<usize, Halted> {
        let trust = self.service.trust.state();
        let entries = published::denials(&self.service.directory, trust.chain(), shown, now).await?;
        let given = self.service.store.feed_position().await?;
        let entries = entries.ok_or(Halted::Behind { shown, given })?;
        Ok(self.service.store.adopt(&entries, now).await?)
    }

    fn begin_snapshot(&mut self) {
        let Some((access, response)) = self.keys.clone() else { return };
        if self.snapshot_wanted && self.snapshot.is_empty() {
            self.snapshot_wanted = false;
            self.snapshot.spawn(publish(Arc::clone(&self.service), access, response));
        }
    }

    /// Takes note of a snapshot, or tries again; `outcome` is nothing if its task ended otherwise.
    fn snapshot_ended(&mut self, outcome: Option<Result<Published, Halted>>) {
        match outcome {
            Some(Ok(published)) => {
                self.written.clone_from(&published.text);
                self.service.fed.send_replace(Some(published.position));
                self.published = Some(published);
                self.spoke = Instant::now();
                return;
            }
            Some(Err(error)) => {
                tracing::warn!(error = &error as &dyn Error, "no snapshot of the denial feed; trying again");
            }
            None => {}
        }
        self.snapshot_wanted = true;
    }

    /// Lets another authd go on at once.
    async fn end(self) {
        if let Some((lease, _)) = self.lease
            && let Err(fault) = self.service.store.give_lease_back(lease).await
        {
            tracing::warn!(error = &fault as &dyn Error, "the lease of the denial feed ends by itself");
        }
    }

    fn seal(&self, position: Position, content: &Content) -> Result<String, Halted> {
        let unsigned = || Refusal::new(keychain::Code::Unavailable, "no keys yet");
        let (access, response) = self.keys.as_ref().ok_or_else(unsigned)?;
        Ok(seal(&self.service, (access, response), (position, content), self.service.now())?)
    }

    /// Sets the gauges.
    async fn note(&self) {
        metrics::gauge!("authd_feed_writes").set(if self.lease.is_some() { 1.0 } else { 0.0 });
        metrics::gauge!("authd_feed_silent_seconds").set(self.spoke.elapsed().as_secs_f64());
        let is_behind = self.behind.is_some();
        self.service.feed_behind.store(is_behind, Ordering::Relaxed);
        metrics::gauge!("authd_feed_behind").set(if is_behind { 1.0 } else { 0.0 });
        if let Ok(held) = self.service.store.count_held(self.service.now()).await {
            metrics::gauge!("authd_denials_held").set(u32::try_from(held).unwrap_or(u32::MAX));
        }
        if let Ok(unreadable) = self.service.store.count_unreadable().await {
            metrics::gauge!("authd_outbox_unreadable").set(u32::try_from(unreadable).unwrap_or(u32::MAX));
        }
    }
}

/// Entries of one batch.
const ENTRIES: u64 = limits::FEED_ENTRIES_MAX as u64;

fn seal(
    service: &Service,
    (access, response): (&Endorsed, &Endorsed),
    (position, content): (Position, &Content),
    issued_at: Timestamp,
) -> Result<String, Refusal> {
    let signers = Signers {
        access: (access.signing_key(), access.endorsement()),
        response: (response.signing_key(), response.endorsement()),
    };
    let draft = Draft { identity: identity(service), position, issued_at, content };
    draft.seal(signers)
}

fn identity(service: &Service) -> Digest {
    service.trust.state().chain().prefix()
}
