//! What a person reads while a command works: on standard error, because standard output is data.

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
            eprintln!("{}", line.as_ref());
        }
    }

    /// Says what must be heard also by those who asked for quiet.
    pub(crate) fn warn(line: impl AsRef<str>) {
        eprintln!("opsctl: {}", line.as_ref());
    }
}
