//! What the tests stand on.

pub mod authority;
pub mod daemon;
pub mod disk;
pub mod ledger;
pub mod memory;
pub mod page;
pub mod servers;
pub mod softhsm;
pub mod trail;
pub mod world;

use std::{
    path::Path,
    sync::Mutex,
    time::{Duration, Instant},
};

/// How many rows of a table are worked on at a time: they wait for a daemon more than they compute.
const WORKERS: usize = 4;

/// Does the work of each row, some at a time. A row that fails fails the test once all others are done.
pub fn in_parallel<T: Send>(rows: impl IntoIterator<Item = T, IntoIter: Send>, work: impl Fn(T) + Sync) {
    let rows = Mutex::new(rows.into_iter());
    let next = || rows.lock().unwrap().next();
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(row) = next() {
                    work(row);
                }
            });
        }
    });
}

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

/// An operator's word about the tokens that `config` names: `retry-pin` or `accept-token`.
pub fn operators_word(verb: &str, config: &Path) {
    let program = env!("CARGO_BIN_EXE_hsm-backup");
    let done = std::process::Command::new(program).args([verb, "--config"]).arg(config).status();
    assert!(done.unwrap().success());
}

/// Whether a Unix socket accepts connections.
pub fn listens(socket: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(socket).is_ok()
}
