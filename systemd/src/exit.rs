//! How a daemon starts and ends: one runtime, and an exit code that says who has to act.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use crate::telemetry::Priority;
use crate::{config, credential, listen, notify, passed, telemetry};

/// All went well.
pub const OK: u8 = 0;
/// The command line is wrong.
pub const USAGE: u8 = 64;
/// What was given to work on is wrong.
pub const DATA: u8 = 65;
/// Something that the daemon needs is not there (a server, a token).
pub const UNAVAILABLE: u8 = 69;
/// A bug: our own state contradicts itself.
pub const SOFTWARE: u8 = 70;
/// The system failed to read or write.
pub const IO: u8 = 74;
/// It may work if tried again.
pub const TEMPORARY: u8 = 75;
/// Not allowed.
pub const DENIED: u8 = 77;
/// The configuration is wrong. The units do not restart on this one
/// (`RestartPreventExitStatus=78`): trying again would fail again.
pub const CONFIG: u8 = 78;

/// How long blocking work that is still under way may take once the daemon has ended.
const BLOCKING_WORK_MAX: Duration = Duration::from_secs(2);

/// Why a daemon ends, and with which exit code.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    cause: Box<dyn Error + Send + Sync>,
}

impl Failure {
    /// Any of this module's codes, with its cause.
    pub fn new(code: u8, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { code, cause: cause.into() }
    }

    /// The configuration is wrong ([`CONFIG`]).
    pub fn config(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(CONFIG, cause)
    }

    /// A dependency is not there ([`UNAVAILABLE`]).
    pub fn unavailable(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(UNAVAILABLE, cause)
    }

    /// A bug, or state that contradicts itself ([`SOFTWARE`]).
    pub fn software(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(SOFTWARE, cause)
    }

    /// The system failed ([`IO`]).
    pub fn io(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(IO, cause)
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for Failure {
    /// The whole chain of causes on one line.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.cause)?;
        let mut cause = self.cause.source();
        while let Some(error) = cause {
            write!(formatter, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl From<config::Error> for Failure {
    fn from(error: config::Error) -> Self {
        Self::config(error)
    }
}

impl From<credential::Error> for Failure {
    fn from(error: credential::Error) -> Self {
        Self::config(error)
    }
}

impl From<listen::Error> for Failure {
    fn from(error: listen::Error) -> Self {
        match error {
            // The address may be free again at the next start.
            listen::Error::Bind { .. } => Self::unavailable(error),
            listen::Error::NotPassed { .. } | listen::Error::NotStream { .. } => Self::config(error),
        }
    }
}

impl From<telemetry::Error> for Failure {
    fn from(error: telemetry::Error) -> Self {
        match error {
            telemetry::Error::Install { .. } => Self::software(error),
            telemetry::Error::Listen(error) => error.into(),
            telemetry::Error::Serve { .. } => Self::io(error),
        }
    }
}

/// Runs `main` to its end as the daemon `daemon`: takes the inherited sockets, starts the log and
/// the runtime, and turns a [`Failure`] into its exit code, with the whole chain of causes on
/// standard error and in the unit's status.
///
/// To be called first thing in `main`, after the command line is parsed: the environment is only
/// read and cleaned while there is no other thread.
pub fn run<M, F>(daemon: &'static str, main: M) -> ExitCode
where
    M: FnOnce() -> F,
    F: Future<Output = Result<(), Failure>>,
{
    passed::collect();
    telemetry::init(daemon);
    let ended = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name(daemon)
        .build()
        .map_err(Failure::io)
        .and_then(|runtime| {
            runtime.spawn(notify::ping_by_default());
            let ended = runtime.block_on(async { main().await });
            notify::stopping();
            runtime.shutdown_timeout(BLOCKING_WORK_MAX);
            ended
        });
    match ended {
        Ok(()) => ExitCode::from(OK),
        Err(failure) => report(daemon, &failure),
    }
}

/// Not through the log, which a filter can silence: why a daemon ended must always be seen.
#[expect(clippy::print_stderr, reason = "the one message that no filter may drop")]
fn report(daemon: &str, failure: &Failure) -> ExitCode {
    let text = failure.to_string().replace('\n', "; ");
    notify::status(&text);
    let code = failure.code();
    if telemetry::is_journal() {
        eprintln!("{}{daemon}: {text} (exit {code})", Priority::Error);
    } else {
        eprintln!("{daemon}: {text} (exit {code})");
    }
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::*;

    fn end(result: Result<(), Failure>) -> String {
        format!("{:?}", run("test", || async { result }))
    }

    #[test]
    fn the_code_of_the_failure_is_the_exit_code() {
        assert_eq!(end(Ok(())), format!("{:?}", ExitCode::from(OK)));
        let failures = [
            (Failure::config("x"), CONFIG),
            (Failure::unavailable("x"), UNAVAILABLE),
            (Failure::new(DENIED, "x"), DENIED),
            (config::Error::value(Path::new("/a"), "pin", "is wrong").into(), CONFIG),
            (credential::Error::Name { name: String::new() }.into(), CONFIG),
            (listen::Error::NotPassed { name: "a".into(), passed: "none".into() }.into(), CONFIG),
        ];
        for (failure, code) in failures {
            assert_eq!(end(Err(failure)), format!("{:?}", ExitCode::from(code)));
        }
    }

    #[test]
    fn the_whole_chain_of_causes_is_told() {
        let source = io::Error::other("disk on fire");
        let error = credential::Error::Unreadable { path: "/etc/hsmd/pin".into(), source };
        let text = Failure::from(error).to_string();
        assert_eq!(text, "cannot read the secret in `/etc/hsmd/pin`: disk on fire");
    }
}
