//! What goes wrong in the store, and whose fault it is.

use keychain::{Code, Refusal};
use sea_orm::{DbErr, RuntimeErr, SqlErr};
use thiserror::Error;

/// A store that could not do what was asked. Never the caller's fault.
#[derive(Debug, Error)]
pub enum Fault {
    /// The database cannot be reached, is full, or did not answer in time.
    #[error("the database did not answer: check that it runs, has room and is reachable")]
    Unavailable(#[source] DbErr),
    /// Another transaction wrote the same place first; trying again decides on what it wrote.
    #[error("another transaction wrote first")]
    Lost(#[source] DbErr),
    /// A row is not what was written there: the store was damaged or edited.
    #[error("row `{id}` of `{table}` is not intact ({because}): restore the store from a backup")]
    Corrupt {
        /// The table.
        table: &'static str,
        /// The row's key.
        id: String,
        /// What is wrong with it.
        because: &'static str,
    },
    /// The `database` of the configuration cannot be used.
    #[error("`database`: {0}")]
    Location(String),
}

/// Why a request was not carried out.
#[derive(Debug, Error)]
pub enum Failure {
    /// The request is at fault.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store is.
    #[error(transparent)]
    Store(#[from] Fault),
}

impl Fault {
    /// Whether the server ended the connection, as it does when it is stopped or promoted.
    pub(super) fn is_cut(&self) -> bool {
        let Self::Unavailable(
            DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error)),
        ) = self
        else {
            return false;
        };
        let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
        matches!(**error, sqlx::Error::Io(_)) || code.is_some_and(|code| code.starts_with("57P"))
    }
}

impl From<DbErr> for Fault {
    fn from(error: DbErr) -> Self {
        if is_lost(&error) {
            Self::Lost(error)
        } else if is_pooler(&error) {
            Self::Location(POOLER.to_owned())
        } else {
            Self::Unavailable(error)
        }
    }
}

/// Why a pooler is refused, and what to do.
const POOLER: &str = "it is a pooler, which does not take the settings that a session of authd begins with: give the \
                      address of PostgreSQL itself (see authd/DATABASE.md)";

impl From<DbErr> for Failure {
    fn from(error: DbErr) -> Self {
        Self::Store(Fault::from(error))
    }
}

impl Failure {
    /// What the caller is told; the fault itself is for the log.
    pub fn into_refusal(self) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal,
            Self::Store(Fault::Unavailable(_) | Fault::Location(_)) => {
                Refusal::new(Code::Unavailable, "the store did not answer")
            }
            Self::Store(Fault::Lost(_)) => {
                Refusal::new(Code::Conflict, "other requests for this account kept writing first")
            }
            Self::Store(Fault::Corrupt { .. }) => Refusal::new(Code::Internal, "a row is not intact"),
        }
    }
}

/// PgBouncer refuses settings that it does not know in the first message of a session.
fn is_pooler(error: &DbErr) -> bool {
    let DbErr::Conn(RuntimeErr::SqlxError(error)) = error else { return false };
    error.as_database_error().is_some_and(|error| {
        error.code().as_deref() == Some("08P01") && error.message().contains("startup parameter")
    })
}

/// Unique violations, serialisation failures and deadlocks: whoever met one may simply decide again.
fn is_lost(error: &DbErr) -> bool {
    if matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) {
        return true;
    }
    let (DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error))) = error
    else {
        return false;
    };
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    matches!(code.as_deref(), Some("40001" | "40P01"))
}
