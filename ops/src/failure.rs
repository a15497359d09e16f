//! Why a command ended without doing what it was asked, and the exit code that says so.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

/// Exit codes: sysexits where they fit. `opsctl --help` documents them; success is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The answer is no: the chain does not verify, something is unhealthy.
    No = 1,
    /// Done in part: the rest goes on without this command.
    Partial = 2,
    /// The command line is wrong.
    Usage = 64,
    /// A file or an answer is not what it should be.
    Data = 65,
    /// A dependency is not there.
    Unavailable = 69,
    /// A fault of this program.
    Software = 70,
    /// A file cannot be read or written.
    Io = 74,
    /// It may work later.
    Temporary = 75,
    /// Refused by the other side.
    Denied = 77,
    /// This machine is not set up for the command.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A command's failure: what failed and how to mend it, the exit code, and what caused it.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    what: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), source: None }
    }

    /// A failure that has nobody to be told to.
    pub(crate) fn silent(exit: Exit) -> Self {
        Self::new(exit, "")
    }

    pub(crate) fn is_silent(&self) -> bool {
        self.what.is_empty()
    }

    pub(crate) fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }
}

/// The whole chain of causes on one line, outermost first.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        let mut cause: Option<&dyn Error> = match &self.source {
            Some(source) => Some(&**source),
            None => None,
        };
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// Turns any error into a [`Failure`] that names the thing and the fix.
pub(crate) trait OrFail<T> {
    fn or_fail<W: Into<String>>(self, exit: Exit, what: impl FnOnce() -> W) -> Result<T, Failure>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> OrFail<T> for Result<T, E> {
    fn or_fail<W: Into<String>>(self, exit: Exit, what: impl FnOnce() -> W) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(exit, what()).because(error))
    }
}

impl<T> OrFail<T> for Option<T> {
    fn or_fail<W: Into<String>>(self, exit: Exit, what: impl FnOnce() -> W) -> Result<T, Failure> {
        self.ok_or_else(|| Failure::new(exit, what()))
    }
}
