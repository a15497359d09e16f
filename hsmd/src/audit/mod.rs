//! The audit trail: what hsmd was asked to do, and what it did, in the ledger's database (`PROTOCOL.md#audit`).
//!
//! What changes something ([`operation`]) has its intent in the trail before it is begun, and its outcome before its
//! success is answered: that of an event, a denial, a revocation or an import is in the transaction of the change
//! itself. An endorsement's line is durable before the endorsement leaves, together with those that came meanwhile. Who
//! was refused is counted ([`Audit::refused`]), because a flood of refusals must not fill the disk. Each head states the
//! newest line, and so signs the trail.
//!
//! While the trail cannot be written nothing is signed or changed, `GET /health` says why, and everything that
//! only reads goes on.

pub mod operation;
mod refusals;

use std::sync::Arc;

use keychain::{
    Code, Refusal, Timestamp,
    audit::{Kind, Record},
};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, SemaphorePermit},
};

use crate::{
    ledger::{Condition, EndorsementLine, Error, Ledger},
    policy::{Caller, Permission},
};
use refusals::Refusals;

/// Longest name of a caller in a line, in bytes: a certificate may have many.
const CALLER_MAX: usize = 512;

/// Operations that may be under way at a time: operators are few.
const OPERATIONS_MAX: u32 = 64;

/// Writes the trail. Cloning shares it.
#[derive(Clone)]
pub struct Audit {
    ledger: Ledger,
    refusals: Arc<Refusals>,
    /// Where operations are carried through: the runtime of a socket ends with it.
    runtime: Handle,
    operations: Arc<Semaphore>,
}

impl Audit {
    /// The trail in `ledger`. To be called in the runtime that lives as long as the daemon.
    pub fn new(ledger: Ledger) -> Self {
        Self {
            ledger,
            refusals: Arc::default(),
            runtime: Handle::current(),
            operations: Arc::new(Semaphore::new(usize::try_from(OPERATIONS_MAX).unwrap_or(1))),
        }
    }

    /// Why nothing can be written now, if nothing can.
    pub fn problem(&self) -> Option<Error> {
        let condition = self.ledger.condition().borrow().clone();
        let writes = matches!(condition, Condition::Writing | Condition::NoRoom { .. });
        (!writes).then_some(Error::Unwritten(condition))
    }

    /// Refuses at once an endorsement that could not be written down: nothing is spent on it.
    pub fn demand_writable(&self) -> Result<(), Error> {
        let condition = self.ledger.condition().borrow().clone();
        if condition == Condition::Writing { Ok(()) } else { Err(Error::Unwritten(condition)) }
    }

    /// Writes an endorsement down. It may leave when this returns.
    pub async fn endorsed(&self, permission: &Permission, endorsed: &Endorsed<'_>) -> Result<(), Error> {
        let wanted = permission.request();
        let record = Record::new(Kind::Endorsement)
            .text("caller", &name(permission.caller()))
            .plain("operation", "sign")
            .plain("purpose", wanted.purpose.as_str())
            .plain("service", permission.service())
            .plain("key", wanted.public_key)
            .plain("expiration", wanted.expiration)
            .plain("generation", endorsed.generation)
            .number("endorsement", endorsed.number)
            .plain("outcome", "ok");
        let line = EndorsementLine {
            record,
            service: permission.service().to_string(),
            public_key: wanted.public_key,
            number: endorsed.number,
        };
        self.ledger.endorsed(line).await.map(drop)
    }

    /// Counts that `caller` was refused an operation; a line says now and then how often.
    pub fn refused(&self, caller: Option<&Caller>, operation: &'static str, code: Code, now: Timestamp) {
        let caller = caller.map_or_else(|| "unknown".to_owned(), name);
        self.refusals.note(caller, operation, code, now);
    }

    /// Writes down who was refused since this was last asked. While room is short it is counted on.
    pub async fn write_refusals(&self) -> Result<(), Error> {
        self.demand_writable()?;
        let counted = self.refusals.take();
        if counted.is_empty() {
            return Ok(());
        }
        let written = self.ledger.append(counted.records()).await;
        if written.is_err() {
            self.refusals.put_back(counted);
        }
        written.map(drop)
    }

    /// Writes lines about what has happened already.
    pub async fn append(&self, records: Vec<Record>) -> Result<(), Error> {
        self.ledger.append(records).await.map(drop)
    }

    /// Waits until no operation is under way, and lets none begin any more.
    pub async fn quiet(&self) {
        let all = self.operations.acquire_many(OPERATIONS_MAX).await;
        all.into_iter().for_each(SemaphorePermit::forget);
    }

    /// The ledger that the trail is in.
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

/// An endorsement that was made, as its line states it.
#[derive(Clone, Copy, Debug)]
pub struct Endorsed<'a> {
    /// The generation that signed it.
    pub generation: &'a keychain::Digest,
    /// Its number.
    pub number: u64,
}

impl From<&Error> for Refusal {
    fn from(error: &Error) -> Self {
        match error {
            Error::Busy => Self::new(Code::TooMany, "the queue before the ledger is full"),
            Error::Full { .. } => {
                Self::new(Code::Conflict, "too many are denied or revoked at a time: taint a generation")
            }
            Error::NoSuchLine(_) => {
                Self::new(Code::Conflict, "the audit trail has no such line with that digest")
            }
            Error::Revoked => Self::new(Code::Revoked, "the service or its key was revoked"),
            Error::Unwritten(Condition::NoRoom { .. }) => {
                Self::new(Code::NoRoom, "the ledger has no room for another endorsement")
            }
            Error::Unwritten(Condition::Standby { .. }) => {
                Self::new(Code::Unavailable, "another hsmd writes this ledger; ask that one")
            }
            Error::Unwritten(Condition::Frozen) | Error::Unknown => {
                Self::new(Code::Unavailable, "the database of the ledger does not answer")
            }
            Error::Unwritten(Condition::Exchanged { .. }) => {
                Self::new(Code::Unavailable, "the ledger's file was exchanged")
            }
            _ => Self::new(Code::Unavailable, "the ledger cannot be written"),
        }
    }
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
