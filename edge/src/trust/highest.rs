//! The memory against rollback: the highest event ever accepted, durable.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use keychain::Digest;
use keychain::chain::Highest;
use serde::{Deserialize, Serialize};

/// The file's name in a daemon's state directory.
const NAME: &str = "highest.json";

/// Longest content read: it holds two digests and a number.
const LENGTH_MAX: u64 = 4_096;

/// What the file holds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Content {
    identity: Digest,
    highest: Highest,
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

/// The file, and what it holds.
#[derive(Debug)]
pub(crate) struct HighestFile {
    path: PathBuf,
    identity: Digest,
    remembered: Option<Highest>,
}

impl HighestFile {
    /// Reads what was remembered, if anything was.
    pub(crate) fn open(state: &Path, identity: Digest) -> Result<Self, Error> {
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
        let Some(content) = content else { return Ok(Self { path, identity, remembered: None }) };
        let content: Content = serde_json::from_slice(&content)
            .map_err(|source| Error::Damaged { path: path.clone(), source })?;
        if content.identity != identity {
            return Err(Error::OtherIdentity { path, found: content.identity, configured: identity });
        }
        Ok(Self { path, identity, remembered: Some(content.highest) })
    }

    pub(crate) const fn remembered(&self) -> Option<Highest> {
        self.remembered
    }

    /// Makes `highest` durable, unless it is what the file holds already.
    pub(crate) async fn keep(&mut self, highest: Highest) -> Result<(), Error> {
        if self.remembered.as_ref() == Some(&highest) {
            return Ok(());
        }
        let path = self.path.clone();
        let disk = |source| Error::Disk { path: path.clone(), source };
        let content = Content { identity: self.identity, highest };
        let content = serde_json::to_vec(&content).map_err(|source| disk(source.into()))?;
        let target = self.path.clone();
        let written = tokio::task::spawn_blocking(move || replace(&target, &content)).await;
        written.map_err(|stopped| disk(io::Error::other(stopped))).and_then(|done| done.map_err(disk))?;
        self.remembered = Some(highest);
        Ok(())
    }
}

/// Replaces a file so that a crash leaves the old or the new content, whole: write beside it, fsync,
/// rename over it, fsync the directory.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
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
