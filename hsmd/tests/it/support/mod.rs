//! What the tests stand on.

pub mod authority;
pub mod daemon;
pub mod disk;
pub mod ledger;
pub mod memory;
pub mod servers;
pub mod softhsm;
pub mod trail;
pub mod world;

use std::{
    path::Path,
    time::{Duration, Instant},
};

/// Waits until `done` is true; fails the test if it is not within `deadline`.
pub fn eventually(what: &str, deadline: Duration, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < deadline, "{what} did not happen within {deadline:?}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// Copies a program by a process of its own: a file that this one has open for writing may still be open in a child
/// of another test, and cannot be run until that child has run its own program (`ETXTBSY`).
pub fn install_program(from: &Path, to: &Path) {
    let done = std::process::Command::new("install").args(["-m", "755"]).args([from, to]).status();
    assert!(done.unwrap().success());
}

/// Whether a Unix socket accepts connections.
pub fn listens(socket: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(socket).is_ok()
}
