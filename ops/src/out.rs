//! Standard output, which is data. A reader that went away (`| head`) or a full disk never ends a command half way:
//! what is left of the output is dropped, the command does and cleans up what it would have, and ends with 74.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::sync::OnceLock;

use crate::failure::{Exit, Failure};

/// The first error of this process's standard output.
static LOST: OnceLock<io::Error> = OnceLock::new();

/// Writes a line.
pub(crate) fn line(line: impl Display) {
    text(format_args!("{line}\n"));
}

/// Writes text as it is.
pub(crate) fn text(text: impl Display) {
    if LOST.get().is_none() {
        keep(write!(io::stdout(), "{text}"));
    }
}

/// Whether everything could be written so far. For those who have much left to write.
pub(crate) fn check() -> Result<(), Failure> {
    match LOST.get() {
        None => Ok(()),
        // Whoever closed the pipe has read what he wanted. The code still says that not all was written.
        Some(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::silent(Exit::Io)),
        Some(error) => Err(Failure::new(Exit::Io, format!("cannot write to standard output: {error}"))),
    }
}

/// The same once a command has done what it should.
pub(crate) fn finish() -> Result<(), Failure> {
    keep(io::stdout().flush());
    check()
}

fn keep(written: io::Result<()>) {
    if let Err(error) = written {
        // The first error tells what happened; those after it follow from it.
        let _kept: Result<(), io::Error> = LOST.set(error);
    }
}
