//! Sockets passed by systemd (`LISTEN_FDS`), by the name that their `.socket` unit gives them.

use std::sync::{Mutex, OnceLock, PoisonError};

use listenfd::ListenFd;

use super::{Error, Socket};

/// Taken once for the whole process, because the descriptors are the process's.
static PASSED: OnceLock<Mutex<Passed>> = OnceLock::new();

/// Takes the passed sockets over from the environment and out of it, so that no child process
/// believes they were meant for it. [`crate::exit::run`] calls it before the first thread exists.
pub fn collect() {
    PASSED.get_or_init(|| {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let sockets = ListenFd::from_env();
        Mutex::new(Passed { names: name_all(&names, sockets.len()), sockets })
    });
}

/// Takes the socket called `name`; a second call for the same name finds it gone.
pub(super) fn take(name: &str) -> Result<Socket, Error> {
    collect();
    let not_passed = || Error::NotPassed { name: name.to_owned(), passed: "none".to_owned() };
    let mut passed = PASSED.get().ok_or_else(not_passed)?.lock().unwrap_or_else(PoisonError::into_inner);
    passed.take(name)
}

struct Passed {
    names: Vec<String>,
    sockets: ListenFd,
}

impl Passed {
    fn take(&mut self, name: &str) -> Result<Socket, Error> {
        for (index, _) in self.names.iter().enumerate().filter(|(_, passed)| *passed == name) {
            let unix = self.sockets.take_unix_listener(index);
            if let Ok(found) = unix {
                if let Some(listener) = found {
                    return Ok(Socket::Unix(listener));
                }
                continue; // taken before
            }
            match self.sockets.take_tcp_listener(index) {
                Ok(Some(listener)) => return Ok(Socket::Tcp(listener)),
                Ok(None) => {}
                Err(source) => return Err(Error::NotStream { name: name.to_owned(), source }),
            }
        }
        let passed = if self.names.is_empty() { "none".to_owned() } else { self.names.join(", ") };
        Err(Error::NotPassed { name: name.to_owned(), passed })
    }
}

/// One name for each of `count` descriptors; those beyond the list are called `unknown`, as
/// systemd itself calls what has no name.
fn name_all(list: &str, count: usize) -> Vec<String> {
    list.split(':')
        .filter(|_| !list.is_empty())
        .map(ToOwned::to_owned)
        .chain(std::iter::repeat_with(|| "unknown".to_owned()))
        .take(count)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_descriptor_has_a_name() {
        let cases: [(&str, usize, &[&str]); 4] = [
            ("endorse:admin", 2, &["endorse", "admin"]),
            ("endorse", 2, &["endorse", "unknown"]),
            ("", 1, &["unknown"]),
            ("endorse:admin", 0, &[]),
        ];
        for (list, count, expected) in cases {
            assert_eq!(name_all(list, count), expected);
        }
    }

    #[test]
    fn a_name_that_was_not_passed_is_an_error_that_says_what_was() {
        let mut passed = Passed { names: vec!["admin".into()], sockets: ListenFd::empty() };
        let error = passed.take("endorse").unwrap_err().to_string();
        assert!(error.contains("FileDescriptorName=endorse") && error.contains("passed: admin"), "{error}");
    }
}
