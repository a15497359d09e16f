//! What can go wrong with the directory.

use thiserror::Error as ThisError;

/// Why a call on the directory failed. None of these says that a key is bad: they say that it cannot be
/// known now.
#[derive(Debug, ThisError)]
pub enum Error {
    /// The address of the directory cannot be one. The address itself is not repeated: it may hold a password.
    #[error("the directory's address is no `redis://`, `rediss://` or `unix://` URL: correct it")]
    Address(#[source] Cause),
    /// The server is a replica that hears nothing from its master: what it holds may be old.
    #[error(
        "cannot {operation}: the server behind the directory's name is a replica without a link to its master; point \
         the name at the master, or mend the link"
    )]
    Detached {
        /// What was being done.
        operation: &'static str,
    },
    /// A whole read met more entries than any deployment has; somebody is filling the directory.
    #[error("the directory holds more than {most} entries of one kind: remove what does not belong there")]
    Full {
        /// The most entries that are read.
        most: usize,
    },
    /// The directory did not answer in time.
    #[error(
        "cannot {operation}: the directory did not answer in time, check that it runs and is not overloaded"
    )]
    Slow {
        /// What was being done.
        operation: &'static str,
    },
    /// The directory could not be reached, or refused.
    #[error("cannot {operation}: the directory failed, check that it runs and lets this service in")]
    Unavailable {
        /// What was being done.
        operation: &'static str,
        /// What the directory or the network said.
        #[source]
        cause: Cause,
    },
    /// The server is there and cannot do it: it is a replica, is loading its data, or does not accept writes now.
    #[error(
        "cannot {operation}: the server behind the directory's name is not fit for it; point the name at the master, or \
         mend what it reports"
    )]
    Unfit {
        /// What was being done.
        operation: &'static str,
        /// What the server answered.
        #[source]
        cause: Cause,
    },
    /// An entry is no text, or longer than any that belongs there.
    #[error("entry `{name}` of the directory is no text of at most {most} bytes: remove it")]
    Unreadable {
        /// The entry's name.
        name: String,
        /// The longest text that is carried, in bytes.
        most: usize,
    },
}

/// What the directory or the network said.
#[derive(Debug, ThisError)]
#[error(transparent)]
pub struct Cause(redis::RedisError);

impl Error {
    /// Whether it is one entry's fault, and says nothing about the directory.
    pub const fn is_unreadable(&self) -> bool {
        matches!(self, Self::Unreadable { .. })
    }

    pub(super) fn address(error: redis::RedisError) -> Self {
        Self::Address(Cause(error))
    }

    /// Whether the server does not let this client ask.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Unavailable { cause: Cause(error), .. } if is_forbidden(error))
    }

    pub(super) const fn unfit(operation: &'static str, error: redis::RedisError) -> Self {
        Self::Unfit { operation, cause: Cause(error) }
    }

    pub(super) fn failed(operation: &'static str, error: redis::RedisError) -> Self {
        if error.is_timeout() {
            return Self::Slow { operation };
        }
        Self::Unavailable { operation, cause: Cause(error) }
    }
}

/// Whether a server, or one command of a pipeline, answered that this client may not ask.
fn is_forbidden(error: &redis::RedisError) -> bool {
    let answers = error.clone().into_server_errors();
    answers.is_some_and(|all| all.iter().any(|(_, answer)| answer.code() == "NOPERM"))
}
