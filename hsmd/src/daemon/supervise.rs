//! When hsmd ends itself, so that systemd starts it anew: the last rung of the ladder out of a fault.
//!
//! Only what a new process can cure ends this one: a call of the module that never returns, a signer's thread
//! that is gone, and a module that cannot even be initialised or list its slots. A token that is unplugged,
//! locked or broken is none of these: hsmd stays, not ready, says why, and goes on trying.

use std::time::{Duration, Instant};

use crate::{chain::Keeper, token::backend::Fault};

/// How long a call of the HSM's module may take: longer than any device takes for anything hsmd asks of it.
pub const HANG_MAX: Duration = Duration::from_secs(30);

/// For how long the module must have failed as such before a new process is tried. A token that comes back
/// sooner is used by this one.
pub const MODULE_FAILS_MAX: Duration = Duration::from_mins(1);

/// How often the thread is asked.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long the exit handlers of a module may take once one of its calls hangs.
const EXIT_MAX: Duration = Duration::from_secs(3);

/// Why this process cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ending {
    /// A call has not returned.
    #[error("a call of the HSM's module has not returned for {} s; starting anew", HANG_MAX.as_secs())]
    Hangs,
    /// The module does not come up again in this process.
    #[error("the HSM's module has failed for {} s however it was initialised; starting anew", MODULE_FAILS_MAX.as_secs())]
    ModuleFails,
    /// The thread that talks to the token has ended.
    #[error("the signer's thread has ended")]
    ThreadGone,
}

/// Watches the signer's thread; resolves when it can do nothing more.
pub async fn run(keeper: &Keeper) -> Ending {
    let mut interval = tokio::time::interval(INTERVAL);
    loop {
        interval.tick().await;
        if keeper.signer_has_ended() {
            return Ending::ThreadGone;
        }
        if keeper.time_in_call().is_some_and(|since| since >= HANG_MAX) {
            exit_in_any_case();
            return Ending::Hangs;
        }
    }
}

/// Since when the module fails as such.
#[derive(Default)]
pub struct ModuleFailure {
    since: Option<Instant>,
}

impl ModuleFailure {
    /// Notes how an attempt ended; the reason to end if only a new process could help.
    pub fn note(&mut self, fault: Option<&Fault>, now: Instant) -> Option<Ending> {
        if !fault.is_some_and(Fault::is_of_the_module) {
            self.since = None;
            return None;
        }
        let since = *self.since.get_or_insert(now);
        (now.duration_since(since) >= MODULE_FAILS_MAX).then_some(Ending::ModuleFails)
    }
}

/// A module whose call hangs may hold up its own exit handlers: the process is ended if it still lives then.
pub fn exit_in_any_case() {
    let end = || {
        let start = Instant::now();
        while start.elapsed() < EXIT_MAX {
            std::thread::park_timeout(EXIT_MAX);
        }
        std::process::abort();
    };
    if let Err(error) = std::thread::Builder::new().name("exit".to_owned()).spawn(end) {
        tracing::warn!(%error, "nothing ends this process if the module's exit handlers hang");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_module_that_fails_for_long_ends_the_process() {
        let lost = |call: &str| Fault::Lost { call: call.to_owned(), source: "planned".into() };
        let failed =
            || Fault::ModuleFailed { call: "Function::Initialize".to_owned(), source: "planned".into() };
        let silent = |fault| Fault::Silent { token: "first", source: std::sync::Arc::new(fault) };
        let start = Instant::now();
        let later = start + MODULE_FAILS_MAX;
        for (fault, ending) in [
            (failed(), Some(Ending::ModuleFails)),
            (silent(failed()), Some(Ending::ModuleFails)),
            (lost("Function::OpenSession"), None),
            (silent(lost("Function::Sign")), None),
        ] {
            let mut failure = ModuleFailure::default();
            assert_eq!(failure.note(Some(&fault), start), None);
            assert_eq!(failure.note(Some(&fault), later), ending, "{fault:?}");
        }
        let mut failure = ModuleFailure::default();
        assert_eq!(failure.note(Some(&failed()), start), None);
        assert_eq!(failure.note(None, start), None);
        assert_eq!(failure.note(Some(&failed()), later), None, "it worked meanwhile");
    }
}
