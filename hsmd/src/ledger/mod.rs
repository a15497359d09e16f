//! The ledger: every event of the chain, what is stated beside it, and the audit trail, in SQLite or PostgreSQL.
//!
//! The ledger is the truth about the chain; all other copies are made from it. All writes go through one task,
//! the `journal`, each as one short transaction whose first statement checks the fence of this process's lease: of
//! any number of hsmd on one ledger one writes (`lease`). No transaction spans a call of the HSM.
//!
//! After an error whose outcome is not known the connection is dropped, and what the database has is read through
//! another one, behind the lock that the first one held, before anything is answered or written again.

mod attestations;
mod chain_copy;
mod change;
mod cluster;
mod condition;
mod connect;
mod declaration;
mod endorsements;
mod error;
mod events;
mod head_numbers;
mod journal;
mod lease;
mod lines;
mod open_files;
mod room;
mod schema;
mod sql;
mod state;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use keychain::{
    Digest, PublicKey, Timestamp,
    audit::{Head, Record},
    chain::SignedEvent,
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::clock::{Clock, System};
pub use change::Compose;
use change::{Change, Effect, Lines};
use journal::{Ask, Journal, WaitingLines};
use open_files::OpenFiles;
use state::Shared;

pub use chain_copy::{Copied, Kept};
pub use cluster::Cluster;
pub use condition::Condition;
pub use declaration::{Declaration, Entry, REVOKED_MAX, RevokedService, RolledService, Stated};
pub use endorsements::EndorsementLine;
pub use error::Error;
pub use events::Contents;
pub(crate) use head_numbers::highest_at as highest_head_number;
pub use lease::Holder;
pub use lines::{Page, Trail};
pub use state::HeadBasis;

/// How long one transaction, or one reading, may take: whatever takes longer is a database that does not answer.
pub const CALL_MAX: Duration = Duration::from_secs(5);

/// Changes that may wait for the journal: each is an operator's, or the chain's own.
const CHANGES_MAX: usize = 64;

/// Groups of lines that may wait: what all connections of a few sockets can ask for at a time.
const LINES_MAX: usize = 1024;

/// Every part that [`Ledger::warnings`] can name.
pub const WARNINGS: [&str; 7] =
    ["audit", "chainCopy", "headCopy", "ledgerCluster", "ledgerClusterUnknown", "room", "wal"];

/// Where the ledger is, and what goes with it.
pub struct Settings {
    /// `sqlite:///…` or `postgres://…`.
    pub url: String,
    /// `chain.jsonl`: each event's text, appended as it is committed. Beside it stands `head.json`.
    pub chain_copy: PathBuf,
    /// Free room below which no endorsement is written (SQLite), in bytes.
    pub room_floor: u64,
    /// What dates the lines of the audit trail.
    pub clock: Box<dyn Clock>,
    /// The name of this process in the lease.
    pub holder: String,
    /// How long opening waits for the lease of a process that may only just be ending (SQLite).
    pub patience: Duration,
}

impl Settings {
    /// The ledger at `url`, its chain copy in `copies`, everything else as by default.
    pub fn new(url: &str, copies: &Path) -> Self {
        Self {
            url: url.to_owned(),
            chain_copy: copies.join("chain.jsonl"),
            room_floor: 64 << 20,
            clock: Box::new(System::start()),
            holder: lease::holder(),
            patience: lease::PATIENCE,
        }
    }
}

/// The ledger. Cloning shares the journal, which ends once every clone is gone.
#[derive(Clone)]
pub struct Ledger {
    changes: mpsc::Sender<Ask>,
    lines: mpsc::Sender<WaitingLines>,
    shared: Arc<Shared>,
    /// Ends when the journal has closed everything.
    ended: Arc<Mutex<Option<tokio::task::JoinHandle<()>>>>,
}

impl Ledger {
    /// Opens the ledger, brings its tables up to date, and takes the lease if it is free. That another hsmd has
    /// it, or that the database fails later, is a [`Condition`].
    pub async fn open(settings: Settings) -> Result<Self, Error> {
        let (changes, asked) = mpsc::channel(CHANGES_MAX);
        let (lines, waiting) = mpsc::channel(LINES_MAX);
        let journal = Journal::open(settings, asked, waiting).await?;
        let shared = journal.shared();
        let ended = tokio::spawn(journal.run());
        Ok(Self { changes, lines, shared, ended: Arc::new(Mutex::new(Some(ended))) })
    }

    /// The events, the intent and the condemned keys. Rows that are byte for byte the `known` events, which were
    /// verified before, are not verified once more.
    pub async fn contents(&self, known: &[&SignedEvent]) -> Result<Contents, Error> {
        self.shared.reading(events::contents(&self.shared.reader, known)).await
    }

    /// The id of the newest event.
    pub async fn newest(&self) -> Result<Option<Digest>, Error> {
        self.shared.reading(events::newest_id(&self.shared.reader)).await
    }

    /// Notes, durably, that the key of generation `sequence_number` is about to be made. Must be called before it is.
    pub async fn intend(&self, sequence_number: u64) -> Result<(), Error> {
        self.change(Change::Intend(sequence_number), Vec::new()).await.map(drop)
    }

    /// Adds `event` if `after` is the newest one, and its lines, in one transaction; then its text to the chain copy.
    /// The key that it leaves is condemned in the same transaction. It errs with [`Error::Taken`] if another event
    /// is the newest, and with [`Error::Condemned`] if a key that it names may have been destroyed. On
    /// [`Error::Unknown`] nothing else is written before the journal has learnt what became of it.
    pub async fn commit(
        &self,
        after: Option<Digest>,
        event: &SignedEvent,
        lines: Vec<Record>,
    ) -> Result<(), Error> {
        self.change(Change::Event { after, event: event.clone() }, lines).await.map(drop)
    }

    /// Adds events that were brought from elsewhere and follow the newest one, notes that keys may have been made up
    /// to generation `key_intent`, and leaps over every number that may have been given out.
    pub async fn import(
        &self,
        events: &[SignedEvent],
        key_intent: u64,
        lines: Vec<Record>,
    ) -> Result<(), Error> {
        self.change(Change::Import { events: events.to_vec(), key_intent }, lines).await.map(drop)
    }

    /// Condemns keys, by the digests of their public keys, before they are destroyed: no event can commit to them any
    /// more. It errs with [`Error::Named`], and condemns none, if the newest event names one of them.
    pub async fn condemn(&self, keys: &[Digest]) -> Result<(), Error> {
        self.change(Change::Condemn(keys.to_vec()), Vec::new()).await.map(drop)
    }

    /// Writes audit lines; they are durable when this returns. Answers the last of them.
    pub async fn append(&self, lines: Vec<Record>) -> Result<Head, Error> {
        self.write_lines(lines, None).await
    }

    /// Writes the line of an endorsement; it is durable when this returns. It errs with [`Error::Revoked`] if the
    /// service was closed or revoked, or the key was, since the endorsement took its number.
    pub async fn endorsed(&self, line: EndorsementLine) -> Result<Head, Error> {
        let EndorsementLine { record, service, public_key, number } = line;
        self.write_lines(vec![record], Some(endorsements::Taken { service, public_key, number })).await
    }

    /// Denies a generation, revokes keys, revokes or opens a service, with the lines that are composed from all that is
    /// stated then, in one transaction. Answers what is stated.
    pub async fn declare(&self, what: Declaration, lines: Compose) -> Result<Stated, Error> {
        match self.ask(Change::Declare(what), Lines::OfStated(lines)).await? {
            Effect::Stated(stated) => Ok(stated),
            _ => Err(Error::Closed),
        }
    }

    /// What is stated, as the newest declaration left it.
    pub async fn stated(&self) -> Result<Stated, Error> {
        self.shared.reading(declaration::stated(&self.shared.reader)).await
    }

    /// Takes the next head number of the newest event, which must be `event`, beyond `after`. Numbers begin at 1 with an
    /// event that was committed here, and at the milliseconds of `at` with one that was imported, or whose numbers may be
    /// lost. Answers what that head states, as it was in the same transaction: the signer of a head signs this.
    pub async fn begin_head(&self, event: &Digest, after: u64, at: Timestamp) -> Result<HeadBasis, Error> {
        match self.change(Change::BeginHead { event: *event, after, at }, Vec::new()).await? {
            Effect::Head(basis) => Ok(*basis),
            _ => Err(Error::Closed),
        }
    }

    /// Takes an endorsement number. The durable mark is never below one that was given out.
    pub async fn next_endorsement_number(&self) -> Result<u64, Error> {
        loop {
            if let Some(number) = self.shared.numbers().take() {
                return Ok(number);
            }
            // One reservation serves all who wait: theirs would fill the queue of changes, in which a taint stands.
            let _one = self.shared.reserving.lock().await;
            if let Some(number) = self.shared.numbers().take() {
                return Ok(number);
            }
            self.change(Change::Reserve, Vec::new()).await?;
        }
    }

    /// The highest endorsement number that may have been given out.
    pub fn endorsement_mark(&self) -> u64 {
        self.shared.numbers().mark
    }

    /// Goes on with numbers that cannot have been given out by any copy of this ledger: after every sign that it was
    /// restored. `marks` are the highest known from elsewhere.
    pub async fn leap(&self, marks: Kept, lines: Vec<Record>) -> Result<(), Error> {
        self.change(Change::Leap(marks), lines).await.map(drop)
    }

    /// Keeps the trusted time. It may be earlier than the one before: an operator accepts a clock that was set back.
    pub async fn note_trusted_time(&self, at: Timestamp) -> Result<(), Error> {
        self.change(Change::TrustedTime(at), Vec::new()).await.map(drop)
    }

    /// The trusted time; `None` before the first.
    pub fn trusted_time(&self) -> Option<Timestamp> {
        let millis = self.shared.trusted_time.load(Ordering::Relaxed);
        (millis != i64::MIN).then(|| Timestamp::from_unix_millis(millis))
    }

    /// Keeps a text under a name, or forgets it: a latch, a slot's serial number.
    pub async fn keep_note(
        &self,
        name: &'static str,
        text: Option<String>,
        lines: Vec<Record>,
    ) -> Result<(), Error> {
        self.change(Change::Note { name, text }, lines).await.map(drop)
    }

    /// The text that is kept under a name.
    pub async fn note(&self, name: &str) -> Result<Option<String>, Error> {
        self.shared.reading(state::note(&self.shared.reader, name)).await
    }

    /// Whether, and if not why not, the ledger is written.
    pub fn condition(&self) -> watch::Receiver<Condition> {
        self.shared.condition.subscribe()
    }

    /// Who has the lease.
    pub async fn holder(&self) -> Result<Holder, Error> {
        self.shared.reading(lease::holder_of(&self.shared.reader)).await
    }

    /// Takes the lease from the hsmd that has it, on an operator's word: that one writes nothing from then on, and so
    /// signs nothing. It errs with the condition that stays if it cannot be taken: that of an SQLite ledger is a lock
    /// that ends with its process.
    pub async fn take_lease(&self) -> Result<(), Error> {
        self.send(Change::TakeLease, Lines::NONE).await.map(drop)
    }

    /// What somebody has to see to although the ledger is written; by part.
    pub fn warnings(&self) -> Vec<(&'static str, String)> {
        self.shared.warnings()
    }

    /// The newest line of the audit trail.
    pub fn audit_head(&self) -> Option<Head> {
        *self.shared.audit_head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the newest signed head beside the chain copy, with the numbers that were given out: the evidence against
    /// a ledger that is restored later. Returns once it is durable.
    pub async fn keep_head(&self, event: &Digest, number: u64, text: &str) -> Result<(), Error> {
        let kept = Kept {
            event: Some(*event),
            head_number: number,
            endorsement_mark: self.endorsement_mark(),
            audit: self.audit_head(),
            head: Some(text.to_owned()),
            cluster: None,
        };
        self.shared.keep(kept).await
    }

    /// What is kept beside the chain copy; nothing if nothing was, or it cannot be read.
    pub async fn kept(&self) -> Option<Kept> {
        self.shared.kept().await
    }

    /// What the chain copy had when this process first held it against the ledger; `None` if it could not be read.
    pub fn copied(&self) -> Option<Copied> {
        self.shared.copied()
    }

    /// Lines of the audit trail from line `from` on, as many as one answer holds.
    pub async fn lines(&self, from: u64) -> Result<Page, Error> {
        self.shared.reading(lines::page(&self.shared.reader, from)).await
    }

    /// Where the audit trail begins and ends, and what was cut from it.
    pub async fn trail(&self) -> Result<Trail, Error> {
        self.shared.reading(lines::trail(&self.shared.reader)).await
    }

    /// Cuts the lines up to number `up_to`, whose digest must be `digest`. These two stay, so that the trail still
    /// verifies from there; `records` are written with the last of them.
    ///
    /// Each transaction cuts a bounded number, between which the chain has its turn. What an interruption leaves is a
    /// trail that was cut at an earlier line, and the same cut finishes it.
    pub async fn cut(&self, up_to: u64, digest: Digest, records: Vec<Record>) -> Result<(), Error> {
        let end = Head { number: up_to, digest };
        if !self.shared.reading(lines::has(&self.shared.reader, &end)).await? {
            return Err(Error::NoSuchLine(up_to));
        }
        while let Some(part) = self.shared.reading(lines::first_part(&self.shared.reader, up_to)).await? {
            self.change(Change::Cut(part), Vec::new()).await?;
        }
        self.change(Change::Cut(end), records).await.map(drop)
    }

    /// Keeps the certificate (DER) about a key; the first one that is kept stays.
    pub async fn keep_attestation(&self, key: &PublicKey, certificate: &[u8]) -> Result<(), Error> {
        let change = Change::Attestation { key: *key, certificate: certificate.to_vec() };
        self.change(change, Vec::new()).await.map(drop)
    }

    /// Releases the lease and closes the connections, once everything that was asked is done. SQLite then stands in
    /// its one file.
    pub async fn close(&self) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        let ask = Ask { change: Change::Close, lines: Lines::NONE, reply };
        self.changes.send(ask).await.map_err(|_| Error::Closed)?;
        drop(answer.await);
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(ended) = ended {
            ended.await.map_err(|_| Error::Closed)?;
        }
        Ok(())
    }

    async fn change(&self, change: Change, lines: Vec<Record>) -> Result<Effect, Error> {
        self.ask(change, Lines::Ready(lines)).await
    }

    async fn ask(&self, change: Change, lines: Lines) -> Result<Effect, Error> {
        self.shared.demand_open()?;
        self.send(change, lines).await
    }

    async fn send(&self, change: Change, lines: Lines) -> Result<Effect, Error> {
        let (reply, answer) = oneshot::channel();
        self.changes.try_send(Ask { change, lines, reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Error::Busy,
            mpsc::error::TrySendError::Closed(_) => Error::Closed,
        })?;
        answer.await.unwrap_or(Err(Error::Closed))
    }

    async fn write_lines(
        &self,
        lines: Vec<Record>,
        taken: Option<endorsements::Taken>,
    ) -> Result<Head, Error> {
        self.shared.demand_open()?;
        if taken.is_some() {
            self.shared.demand_room()?;
        }
        endorsements::demand_short(&lines)?;
        let (reply, answer) = oneshot::channel();
        self.lines.try_send(WaitingLines { lines, taken, reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Error::Busy,
            mpsc::error::TrySendError::Closed(_) => Error::Closed,
        })?;
        answer.await.unwrap_or(Err(Error::Closed))
    }
}

/// A whole number as a gauge: exact to 2^32, and never less than that beyond.
fn gauge(number: u64) -> f64 {
    const STEP: f64 = 4_294_967_296.0;
    let [high, low] =
        [number >> 32, number & u64::from(u32::MAX)].map(|half| u32::try_from(half).unwrap_or(0));
    f64::from(high).mul_add(STEP, f64::from(low))
}
