//! The audit trail: what hsmd was asked to do, and what it did, on disk (`PROTOCOL.md#audit`).
//!
//! What changes something ([`operation`]) has its intent on disk before it is begun, and its outcome before its
//! success is told. An endorsement is written down before it leaves, and durable a fraction of a second later,
//! with those that came meanwhile. Who was refused is counted ([`Audit::refused`]), because a flood of refusals must not
//! fill the disk. Now and then the HSM signs what the trail has come to ([`attend`]).
//!
//! While the trail cannot be written nothing is signed or changed, `GET /health` says why, and everything that
//! only reads goes on.

pub mod attend;
mod found;
pub mod operation;
mod refusals;
mod scribe;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::AtomicU64,
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Duration,
};

use keychain::{
    Code, Nonce, Refusal, Timestamp,
    audit::{Head, Kind, Record},
    limits,
};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, SemaphorePermit, oneshot, watch},
};

use crate::{
    chain::Endorsed,
    clock::Clock,
    failure_point::{self, Step},
    policy::{Caller, Permission},
};
use refusals::Refusals;
use scribe::{Asked, Desk, Scribe, When};
use writer::Writer;

/// How long a caller waits for the disk.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// Lines that may wait to be written: what all connections of a few sockets can ask for at a time.
const WAITING_MAX: usize = 1024;

/// Longest name of a caller in a line, in bytes: a certificate may have many.
const CALLER_MAX: usize = 512;

/// Operations that may be under way at a time: operators are few.
const OPERATIONS_MAX: u32 = 64;

/// For how long the disk may be waited for before it counts as one that cannot be written: an honest one takes a
/// fraction of that, also under load.
const STALLED: Duration = Duration::from_secs(2);

/// Why a line is not in the trail.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Too many lines wait to be written, or too many operations are under way.
    #[error("too much waits for the audit trail; ask again")]
    Busy,
    /// The disk under the folder fails.
    #[error("cannot use the audit trail in `{folder}`")]
    Disk {
        /// The folder.
        folder: String,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The folder is not what it must be.
    #[error("cannot keep the audit trail in `{folder}`: {because}")]
    Folder {
        /// The folder.
        folder: String,
        /// What is wrong with it and what to do.
        because: String,
    },
    /// The disk does not answer.
    #[error("the disk of the audit trail does not answer")]
    Late,
    /// The line is longer than one may be.
    #[error("a line of the audit trail would be longer than {} bytes", limits::AUDIT_LINE_MAX)]
    Long,
    /// Another hsmd writes there.
    #[error("another hsmd writes the audit trail in `{folder}`; each needs an `audit` folder of its own")]
    Taken {
        /// The folder.
        folder: String,
    },
    /// The trail cannot be written now.
    #[error("the audit trail cannot be written ({0}): see that its disk has room and works")]
    Unwritable(Arc<str>),
}

impl From<&Error> for Refusal {
    fn from(error: &Error) -> Self {
        match error {
            Error::Busy => Self::new(Code::TooMany, "the queue before the audit trail is full"),
            _ => Self::new(Code::Unavailable, "the audit trail cannot be written"),
        }
    }
}

/// Writes the trail. Cloning shares it; its thread ends, with everything durable, once every clone is gone.
#[derive(Clone)]
pub struct Audit {
    asked: SyncSender<Asked>,
    desk: Arc<Desk>,
    trouble: watch::Receiver<Option<Arc<str>>>,
    refusals: Arc<Refusals>,
    /// The number of the newest checkpoint's line; one that no line has if there is none yet.
    vouched: Arc<AtomicU64>,
    /// Where operations are carried through: the runtime of a socket ends with it.
    runtime: Handle,
    operations: Arc<Semaphore>,
}

impl Audit {
    /// Goes on with the trail in `folder`, or begins one there once there is something to tell. It errs if the
    /// folder is not what it must be; a disk that is full is a state ([`Self::problem`]). To be called in the
    /// runtime that lives as long as the daemon.
    pub fn open(folder: &Path, clock: Box<dyn Clock>) -> Result<(Self, thread::JoinHandle<()>), Error> {
        let (writer, torn) = Writer::open(folder)?;
        let unusable =
            |source: io::Error| Error::Disk { folder: folder.display().to_string(), source: source.into() };
        let desk = Arc::new(Desk::default());
        if writer.head().is_none() {
            let mut nonce = [0; 16];
            aws_lc_rs::rand::fill(&mut nonce).map_err(|_| unusable(io::Error::other("no randomness")))?;
            desk.owe([Record::new(Kind::Trail).plain("nonce", Nonce::from_bytes(nonce))]);
        }
        desk.owe(torn.as_ref().map(found::Torn::record));
        let (asked, queue) = sync_channel(WAITING_MAX);
        let (told, trouble) = watch::channel(None);
        let scribe = Scribe::new(writer, clock, queue, Arc::clone(&desk), told);
        let thread =
            thread::Builder::new().name("audit".to_owned()).spawn(move || scribe.run()).map_err(unusable)?;
        let audit = Self {
            asked,
            desk,
            trouble,
            refusals: Arc::default(),
            vouched: Arc::new(AtomicU64::new(u64::MAX)),
            runtime: Handle::current(),
            operations: Arc::new(Semaphore::new(usize::try_from(OPERATIONS_MAX).unwrap_or(1))),
        };
        Ok((audit, thread))
    }

    /// Why the trail cannot be written now, if it cannot.
    pub fn problem(&self) -> Option<Error> {
        if self.trouble.has_changed().is_err() {
            return Some(gone());
        }
        let trouble = self.trouble.borrow().clone().map(Error::Unwritable);
        trouble.or_else(|| (self.desk.waits_for() >= STALLED).then_some(Error::Late))
    }

    /// Resolves when [`Self::problem`] may have become another, within a second.
    pub async fn changed(&self) {
        let mut trouble = self.trouble.clone();
        trouble.mark_unchanged();
        tokio::select! {
            Ok(()) = trouble.changed() => {}
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }

    /// Refuses at once what could not be written down: nothing is spent on it.
    pub fn demand_writable(&self) -> Result<(), Error> {
        self.problem().map_or(Ok(()), |problem| {
            self.desk.note_refused();
            Err(problem)
        })
    }

    /// Writes an endorsement down. It may leave when this returns.
    pub async fn endorsed(&self, permission: &Permission, endorsed: &Endorsed) -> Result<(), Error> {
        let wanted = permission.request();
        let record = Record::new(Kind::Endorsement)
            .text("caller", &name(permission.caller()))
            .plain("operation", "sign")
            .plain("purpose", wanted.purpose.as_str())
            .plain("service", permission.service())
            .plain("key", wanted.public_key)
            .plain("expiration", wanted.expiration)
            .plain("generation", endorsed.generation)
            .plain("outcome", "ok");
        self.ask(Some(record), When::Written).await.map(drop)
    }

    /// Counts that `caller` was refused an operation; the trail is told now and then how often.
    pub fn refused(&self, caller: Option<&Caller>, operation: &'static str, code: Code, now: Timestamp) {
        let caller = caller.map_or_else(|| "unknown".to_owned(), name);
        self.refusals.note(caller, operation, code, now);
    }

    /// Waits until no operation is under way, and lets none begin any more.
    pub async fn quiet(&self) {
        let all = self.operations.acquire_many(OPERATIONS_MAX).await;
        all.into_iter().for_each(SemaphorePermit::forget);
    }

    /// Writes a line; it is durable when this returns. Answers its place.
    async fn commit(&self, record: Record) -> Result<Option<Head>, Error> {
        self.ask(Some(record), When::Durable).await
    }

    /// Writes lines about what has happened already; they are durable when this returns. If they cannot be written
    /// now, they are once the disk takes any.
    async fn owe(&self, records: impl IntoIterator<Item = Record>) -> Result<(), Error> {
        self.desk.owe(records);
        self.sync().await.map(drop)
    }

    /// Has everything made durable; answers the end of the trail.
    async fn sync(&self) -> Result<Option<Head>, Error> {
        self.ask(None, When::Durable).await
    }

    async fn ask(&self, record: Option<Record>, when: When) -> Result<Option<Head>, Error> {
        if record.as_ref().is_some_and(|record| record.line_length_max() >= limits::AUDIT_LINE_MAX) {
            return Err(Error::Long);
        }
        let (reply, answer) = oneshot::channel();
        self.asked.try_send(Asked { record, when, reply }).map_err(|error| match error {
            TrySendError::Full(_) => Error::Busy,
            TrySendError::Disconnected(_) => gone(),
        })?;
        match tokio::time::timeout(DEADLINE, answer).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) => Err(gone()),
            Err(_) => Err(Error::Late),
        }
    }
}

fn gone() -> Error {
    Error::Unwritable("its thread is gone".into())
}

/// A caller as lines name it.
fn name(caller: &Caller) -> String {
    let mut name = caller.to_string();
    if name.len() > CALLER_MAX {
        let end = (0..=CALLER_MAX).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
        name.truncate(end);
        name.push('…');
    }
    name
}

/// A failure point of the trail's files.
fn fail(place: &str) -> io::Result<()> {
    failure_point::write(Step::Audit, place).map_err(io::Error::other)
}
