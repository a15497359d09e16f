//! Descriptors passed by the service manager (`LISTEN_FDS`), by their names: listening sockets by the name that their
//! `.socket` unit gives them, and what this service left with the manager before ([`crate::kept`]).

use std::os::fd::OwnedFd;
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::io::{FdFlags, fcntl_setfd};

/// What systemd calls a descriptor that has no name.
const UNNAMED: &str = "unknown";

/// Taken once for the whole process, because the descriptors are the process's.
static PASSED: OnceLock<Mutex<Vec<(String, OwnedFd)>>> = OnceLock::new();

/// Takes the passed descriptors over, so that no child process inherits them; that they were meant for this process
/// alone is what `LISTEN_PID` says. [`crate::exit::run`] calls it before the first thread exists.
pub(crate) fn collect() {
    PASSED.get_or_init(|| {
        // A list that cannot be read passes nothing: whoever asks for a name is told so.
        let passed = sd_listen_fds::get().unwrap_or_default().into_iter().filter_map(|(name, descriptor)| {
            let descriptor = descriptor.into_std();
            // What cannot be marked is not open: the list promised too much.
            fcntl_setfd(&descriptor, FdFlags::CLOEXEC).ok()?;
            Some((name.unwrap_or_else(|| UNNAMED.to_owned()), descriptor))
        });
        Mutex::new(passed.collect())
    });
}

/// Takes the first descriptor called `name` that was not taken before.
pub(crate) fn take_first(name: &str) -> Option<OwnedFd> {
    with(|passed| {
        let place = passed.iter().position(|(passed, _)| passed == name)?;
        Some(passed.remove(place).1)
    })
}

/// Takes every descriptor called `name`.
pub(crate) fn take_all(name: &str) -> Vec<OwnedFd> {
    with(|passed| passed.extract_if(.., |(passed, _)| passed == name).map(|(_, taken)| taken).collect())
}

/// The names of those that were not taken yet.
pub(crate) fn names() -> Vec<String> {
    with(|passed| passed.iter().map(|(name, _)| name.clone()).collect())
}

fn with<T>(work: impl FnOnce(&mut Vec<(String, OwnedFd)>) -> T) -> T {
    collect();
    let empty = Mutex::default();
    let mut passed = PASSED.get().unwrap_or(&empty).lock().unwrap_or_else(PoisonError::into_inner);
    work(&mut passed)
}
