//! The memory against rollback: the highest event ever accepted and the heads that count, durable.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use keychain::Digest;
use keychain::chain::Highest;
use keychain::statement::HeadPlace;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// The file's name in a daemon's state directory.
const NAME: &str = "trust.json";

/// Longest content read: the most heads remembered, each of the longest.
const LENGTH_MAX: u64 = 2 * 1_024 * 1_024;

/// Pause before another attempt to write.
const RETRY: Duration = Duration::from_secs(5);

/// What the file holds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Content {
    identity: Digest,
    highest: Option<Highest>,
    heads: Vec<String>,
}

/// Why the memory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is not what this daemon wrote.
    #[error("`{path}` is damaged; restore it, or delete it to trust the directory's chain afresh")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// The directory or the file cannot be read or written.
    #[error("`{path}` cannot be used; the daemon must be able to write in its state directory")]
    Disk {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file remembers another chain.
    #[error(
        "`{path}` remembers chain `{found}`, but `identity` is configured as `{configured}`; give each identity a state directory of its own"
    )]
    OtherIdentity {
        /// The file.
        path: PathBuf,
        /// The chain remembered.
        found: Digest,
        /// The chain configured.
        configured: Digest,
    },
}

impl From<Error> for systemd::exit::Failure {
    /// A disk may be well again at the next start; a wrong memory will not.
    fn from(error: Error) -> Self {
        match error {
            Error::Disk { .. } => Self::io(error),
            Error::Damaged { .. } | Error::OtherIdentity { .. } => Self::config(error),
        }
    }
}

/// What is remembered. It is proved again after a start: whoever can write the file can make nobody believe anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Remembered {
    /// The highest event accepted.
    pub(super) highest: Option<Highest>,
    /// The heads that count, as received.
    pub(super) heads: Vec<String>,
    /// The newest head of the newest event, which is one of them; what the file says of it, is said by the heads.
    pub(super) newest: Option<HeadPlace>,
}

/// The file, and what it holds.
#[derive(Debug)]
pub(super) struct Memory {
    path: PathBuf,
    identity: Digest,
    remembered: Remembered,
}

impl Memory {
    /// Reads what was remembered, if anything was.
    pub(super) fn open(state: &Path, identity: Digest) -> Result<Self, Error> {
        let path = state.join(NAME);
        let disk = |source| Error::Disk { path: path.clone(), source };
        fs::create_dir_all(state).map_err(disk)?;
        let content = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(disk(error)),
            Ok(found) if found.len() > LENGTH_MAX => {
                return Err(disk(io::Error::new(io::ErrorKind::InvalidData, "longer than it can be")));
            }
            Ok(_) => Some(fs::read(&path).map_err(disk)?),
        };
        let Some(content) = content else {
            return Ok(Self { path, identity, remembered: Remembered::default() });
        };
        let content: Content = serde_json::from_slice(&content)
            .map_err(|source| Error::Damaged { path: path.clone(), source })?;
        if content.identity != identity {
            return Err(Error::OtherIdentity { path, found: content.identity, configured: identity });
        }
        let remembered = Remembered { highest: content.highest, heads: content.heads, newest: None };
        Ok(Self { path, identity, remembered })
    }

    pub(super) const fn remembered(&self) -> &Remembered {
        &self.remembered
    }

    /// Makes durable what is wanted, the newest at a time, for ever, and tells `kept` of the head. A disk that fails or
    /// hangs delays nothing but this.
    pub(super) async fn keep_up(
        mut self,
        mut wanted: watch::Receiver<Remembered>,
        kept: watch::Sender<Option<HeadPlace>>,
    ) {
        let mut failing = false;
        loop {
            let wait = if failing { RETRY } else { Duration::MAX };
            if let Ok(Err(_ended)) = tokio::time::timeout(wait, wanted.changed()).await {
                return;
            }
            let newest = wanted.borrow_and_update().clone();
            let head = newest.newest;
            if newest == self.remembered {
                continue;
            }
            behind(true);
            match self.keep(newest).await {
                Ok(()) => {
                    behind(false);
                    failing = false;
                    kept.send_replace(head);
                }
                Err(error) => {
                    if !failing {
                        tracing::error!(
                            error = &error as &dyn std::error::Error,
                            "cannot keep what was accepted: a rollback would go unnoticed after a restart"
                        );
                    }
                    failing = true;
                }
            }
        }
    }

    async fn keep(&mut self, newest: Remembered) -> Result<(), Error> {
        let path = self.path.clone();
        let disk = |source| Error::Disk { path: path.clone(), source };
        let Remembered { highest, heads, .. } = newest.clone();
        let content = Content { identity: self.identity, highest, heads };
        let content = serde_json::to_vec(&content).map_err(|source| disk(source.into()))?;
        let target = self.path.clone();
        let written = tokio::task::spawn_blocking(move || replace(&target, &content)).await;
        written.map_err(|stopped| disk(io::Error::other(stopped))).and_then(|done| done.map_err(disk))?;
        self.remembered = newest;
        Ok(())
    }
}

/// Whether something accepted is not on disk yet.
fn behind(is_behind: bool) {
    metrics::gauge!("verifier_memory_behind").set(if is_behind { 1.0 } else { 0.0 });
}

/// Replaces a file so that a crash leaves the old or the new content, whole: write beside it, fsync,
/// rename over it, fsync the directory.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = File::create(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_remembered_is_read_again_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (identity, other) = (Digest::of("identity"), Digest::of("another"));
        let path = folder.path().join(NAME);
        let mut memory = Memory::open(folder.path(), identity).unwrap();
        assert_eq!(memory.remembered(), &Remembered::default());
        let highest = Some(Highest { id: Digest::of("event"), sequence_number: 7, pin: None });
        let newest = Remembered { highest, heads: vec!["{\"body\":1}".to_owned()], newest: None };
        memory.keep(newest.clone()).await.unwrap();
        assert_eq!(Memory::open(folder.path(), identity).unwrap().remembered(), &newest);

        assert!(matches!(Memory::open(folder.path(), other), Err(Error::OtherIdentity { .. })));
        let whole = fs::read_to_string(&path).unwrap();
        for damaged in ["", &whole[..whole.len() - 1], &whole.replace("heads", "head")] {
            fs::write(&path, damaged).unwrap();
            assert!(matches!(Memory::open(folder.path(), identity), Err(Error::Damaged { .. })), "{damaged}");
        }
        let too_long = usize::try_from(LENGTH_MAX).unwrap() + 1;
        fs::write(&path, " ".repeat(too_long)).unwrap();
        assert!(matches!(Memory::open(folder.path(), identity), Err(Error::Disk { .. })));
        fs::write(&path, whole).unwrap();
        assert_eq!(Memory::open(folder.path(), identity).unwrap().remembered(), &newest);
    }
}
