//! Whether the ledger is written, and if not, why not and what cures it.

use std::fmt;

use super::Error;

/// Whether, and if not why not, the ledger is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It is.
    Writing,
    /// Another hsmd has the lease. This one reads, and takes over when the lease ends.
    Standby {
        /// Who has it.
        holder: String,
    },
    /// The file system under an SQLite ledger has less room than the floor: the chain goes on, endorsements do not.
    NoRoom {
        /// Bytes that are free.
        free: u64,
        /// Bytes that must be.
        floor: u64,
    },
    /// The file at the ledger's path is not the one that is open: it was deleted, moved or replaced.
    Exchanged {
        /// Which file.
        path: String,
    },
    /// The database fails.
    Failing(String),
    /// The database does not answer within [`super::CALL_MAX`].
    Frozen,
}

impl Condition {
    /// The label of metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Writing => "writing",
            Self::Standby { .. } => "standby",
            Self::NoRoom { .. } => "no-room",
            Self::Exchanged { .. } => "exchanged",
            Self::Failing(_) => "failing",
            Self::Frozen => "frozen",
        }
    }

    /// Every label.
    pub const LABELS: [&'static str; 6] = ["writing", "standby", "no-room", "exchanged", "failing", "frozen"];

    /// The cure, for the operator.
    pub const fn cure(&self) -> &'static str {
        match self {
            Self::Writing => "nothing has to be done",
            Self::Standby { .. } => "ask the hsmd that has the lease; this one takes over when that one ends",
            Self::NoRoom { .. } => {
                "free room on the ledger's file system, or archive the audit trail (`opsctl audit archive`)"
            }
            Self::Exchanged { .. } => {
                "put the ledger's own file back and hsmd goes on; if it is gone, start hsmd again and recover from \
                 the chain copy (`opsctl hsm recover`)"
            }
            Self::Failing(_) => "see what the database says; hsmd goes on as soon as it works",
            Self::Frozen => "see why the database does not answer; hsmd goes on as soon as it does",
        }
    }

    /// Refuses all writing where none can be done.
    pub(super) fn demand_open(&self) -> Result<(), Error> {
        match self {
            Self::Writing | Self::NoRoom { .. } => Ok(()),
            _ => Err(Error::Unwritten(self.clone())),
        }
    }

    /// Refuses what is not written while room is short.
    pub(super) fn demand_room(&self) -> Result<(), Error> {
        match self {
            Self::Writing => Ok(()),
            _ => Err(Error::Unwritten(self.clone())),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Writing => return write!(f, "it is written"),
            Self::Standby { holder } => write!(f, "hsmd of {holder} has the lease")?,
            Self::NoRoom { free, floor } => {
                write!(f, "its file system has {} KiB free, less than {} KiB", free / 1024, floor / 1024)?;
            }
            Self::Exchanged { path } => {
                write!(f, "the file at `{path}` is not the one that hsmd has open")?;
            }
            Self::Failing(because) => write!(f, "its database fails ({because})")?,
            Self::Frozen => write!(f, "its database does not answer")?,
        }
        write!(f, "; {}", self.cure())
    }
}
