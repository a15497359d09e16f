//! What a person reads while a command works: on standard error, because standard output is data. Nobody is left to
//! tell when it cannot be written.

use std::io::{self, Write as _};

/// Speaks on standard error unless told to be quiet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Talk {
    quiet: bool,
}

impl Talk {
    pub(crate) fn new(quiet: bool) -> Self {
        Self { quiet }
    }

    pub(crate) fn say(self, line: impl AsRef<str>) {
        if !self.quiet {
            Self::write(format_args!("{}\n", line.as_ref()));
        }
    }

    /// Says what must be heard also by those who asked for quiet.
    pub(crate) fn warn(line: impl AsRef<str>) {
        Self::write(format_args!("opsctl: {}\n", line.as_ref()));
    }

    /// Asks, on the line on which the answer is typed.
    pub(crate) fn ask(question: impl AsRef<str>) {
        Self::write(format_args!("{}", question.as_ref()));
    }

    fn write(text: std::fmt::Arguments<'_>) {
        let _heard: io::Result<()> = io::stderr().write_fmt(text);
    }
}
