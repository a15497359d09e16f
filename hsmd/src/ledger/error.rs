//! Why the ledger did not do what it was asked to.

use std::sync::Arc;

use keychain::limits;
use sea_orm::DbErr;

use super::Condition;
use crate::failure_point;

/// Why the ledger did not do what it was asked to.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Too much waits for the journal.
    #[error("the queue before the ledger is full; ask again")]
    Busy,
    /// The ledger is closed, or its journal has ended.
    #[error("the ledger is closed")]
    Closed,
    /// The event names a key that may have been destroyed.
    #[error("the event names a key that was condemned: make another")]
    Condemned,
    /// A row does not hold what its columns say.
    #[error("the ledger contradicts itself at sequence number {sequence_number}: {because}")]
    Contradiction {
        /// The row.
        sequence_number: i64,
        /// What does not hold.
        because: String,
    },
    /// The chain copy, or what is kept beside it, cannot be written or read.
    #[error("cannot use the chain copy `{path}`: {because}")]
    Copy {
        /// The file.
        path: String,
        /// What the system said.
        because: String,
    },
    /// The database failed or cannot be reached.
    #[error("the database of the ledger failed")]
    Database(#[source] Arc<DbErr>),
    /// The file of the ledger is open to others, or cannot be made.
    #[error("cannot use `{path}` as ledger: {because}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it and what to do.
        because: String,
    },
    /// A list that is bounded has no room.
    #[error("no room for more than {most} {what} at a time")]
    Full {
        /// What it is a list of.
        what: &'static str,
        /// How many have room.
        most: usize,
    },
    /// The line is longer than one may be.
    #[error("a line of the audit trail would be longer than {} bytes", limits::AUDIT_LINE_MAX)]
    Long,
    /// The newest event names the key.
    #[error("the newest event names the key that is to be destroyed")]
    Named,
    /// The event that is named is not the newest.
    #[error("the event is not the newest")]
    NotNewest,
    /// The audit trail has no such line.
    #[error("the audit trail has no line {0} with that digest")]
    NoSuchLine(u64),
    /// A number beyond what the database stores.
    #[error("a number beyond 2^63")]
    Overflow,
    /// The service or the key was revoked since the endorsement took its number.
    #[error("the service is closed, or its key was revoked")]
    Revoked,
    /// Another event has this sequence number already.
    #[error("sequence number {0} is taken: another hsmd advanced the chain first")]
    Taken(u64),
    /// A row of a table cannot be read.
    #[error("a row of the ledger's table `{table}` cannot be read: bring back the newest ledger")]
    Unreadable {
        /// The table.
        table: &'static str,
    },
    /// It is not known whether it was written. Nothing else is before that is known.
    #[error("it is not known yet whether it was written: the database does not answer")]
    Unknown,
    /// The ledger is not written now.
    #[error("the ledger is not written: {0}")]
    Unwritten(Condition),
}

impl From<DbErr> for Error {
    fn from(error: DbErr) -> Self {
        Self::Database(Arc::new(error))
    }
}

impl From<failure_point::Failed> for Error {
    fn from(failed: failure_point::Failed) -> Self {
        DbErr::Custom(failed.to_string()).into()
    }
}

/// An error and its causes, on one line.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
