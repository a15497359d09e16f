//! What was accepted of the feed, on disk.
//!
//! Two files: the position, which is small and written first, and the whole state, which names its own digest. If the
//! second is missing, cut or older, the position still says how much has to be read again before anybody is admitted.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keychain::feed::{Denials, Position, State, parse_entries, write_entries};
use keychain::{Digest, Timestamp, limits};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::trust::memory::replace;

const POSITION: &str = "denials-position.json";
const STATE: &str = "denials.json";

/// Longest files read: the most entries, each of the longest.
const POSITION_MAX: u64 = 4 * 1_024;
const STATE_MAX: u64 = 256 * 1_024 * 1_024;

/// Pause between two writes: many bans in a row are one.
const PAUSE: Duration = Duration::from_secs(1);

/// Why the memory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The position is not what this daemon wrote.
    #[error("`{path}` is damaged; restore it, or delete it to trust the directory's denial feed afresh")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The directory or the file cannot be read or written.
    #[error("`{path}` cannot be used; the daemon must be able to write in its state directory")]
    Disk {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl From<Error> for systemd::exit::Failure {
    /// A disk may be well again at the next start; a wrong memory will not.
    fn from(error: Error) -> Self {
        match error {
            Error::Disk { .. } => Self::io(error),
            Error::Damaged { .. } => Self::config(error),
        }
    }
}

/// The first line of the state, and all of the position.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Head {
    identity: Digest,
    epoch: u64,
    position: u64,
    issued_at: i64,
    /// The digest of all that follows.
    digest: Digest,
}

/// What was accepted before a restart.
#[derive(Debug, Clone, Default)]
pub(super) struct Remembered {
    /// As far as the feed was known.
    pub(super) position: Option<Position>,
    /// All that it had said by then, or by an earlier position.
    pub(super) state: Option<State>,
}

/// The files, and what they hold.
#[derive(Debug)]
pub(super) struct Memory {
    folder: PathBuf,
    identity: Digest,
    remembered: Remembered,
}

impl Memory {
    /// Reads what was remembered, if anything was.
    pub(super) fn open(folder: &Path, identity: Digest) -> Result<Self, Error> {
        let (folder, path) = (folder.to_owned(), folder.join(POSITION));
        let position = match read(&path, POSITION_MAX)? {
            None => None,
            Some(text) => {
                Some(position(&text, identity).ok_or_else(|| Error::Damaged { path: path.clone() })?)
            }
        };
        let path = folder.join(STATE);
        let text = read(&path, STATE_MAX)?;
        let state = text.as_ref().and_then(|text| state(text, identity));
        if text.is_some() && state.is_none() {
            let path = path.display();
            tracing::warn!(%path, "what was kept of the denial feed is not whole; the feed is read again");
        }
        // A state behind the position lacks denials, and is completed by the batches that follow it.
        Ok(Self { folder, identity, remembered: Remembered { position, state } })
    }

    pub(super) const fn remembered(&self) -> &Remembered {
        &self.remembered
    }

    /// Makes durable what is wanted, the newest at a time, for ever. A disk that fails or hangs delays nothing but
    /// this.
    pub(super) async fn keep_up(self, mut wanted: watch::Receiver<Option<State>>) {
        let mut kept = self.remembered.state.as_ref().and_then(State::position);
        let mut failing = false;
        while wanted.changed().await.is_ok() {
            let newest = wanted.borrow_and_update().clone();
            let Some(state) = newest.filter(|state| state.position() != kept) else { continue };
            let position = state.position();
            let (folder, identity) = (self.folder.clone(), self.identity);
            let written = tokio::task::spawn_blocking(move || keep(&folder, identity, &state)).await;
            match written.map_err(io::Error::other).and_then(|done| done) {
                Ok(()) => {
                    kept = position;
                    failing = false;
                }
                Err(error) => {
                    if !failing {
                        let error = &error as &dyn std::error::Error;
                        tracing::error!(error, "cannot keep what the denial feed said");
                    }
                    failing = true;
                    wanted.mark_changed();
                }
            }
            metrics::gauge!("verifier_denial_memory_behind").set(if failing { 1.0 } else { 0.0 });
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn read(path: &Path, most: u64) -> Result<Option<String>, Error> {
    let disk = |source| Error::Disk { path: path.to_owned(), source };
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(disk(error)),
        Ok(found) if found.len() > most => Ok(Some(String::new())), // not what was written
        Ok(_) => Ok(Some(String::from_utf8(fs::read(path).map_err(disk)?).unwrap_or_default())),
    }
}

fn head(line: &str, identity: Digest) -> Option<Head> {
    serde_json::from_str(line).ok().filter(|head: &Head| head.identity == identity)
}

fn position(text: &str, identity: Digest) -> Option<Position> {
    let head = head(text, identity)?;
    Some(Position { epoch: head.epoch, number: head.position })
}

fn state(text: &str, identity: Digest) -> Option<State> {
    let (first, rest) = text.split_once('\n')?;
    let head = head(first, identity)?;
    if Digest::of(rest) != head.digest {
        return None;
    }
    let mut denials = Denials::default();
    for line in rest.lines() {
        for entry in parse_entries(line).ok()? {
            denials.set(&entry);
        }
    }
    let position = Position { epoch: head.epoch, number: head.position };
    Some(State::new(position, Timestamp::from_unix_millis(head.issued_at), denials))
}

/// Writes the position, then the state. A kill between leaves a state that is older than the position says.
fn keep(folder: &Path, identity: Digest, state: &State) -> io::Result<()> {
    let (Some(position), Some(issued_at)) = (state.position(), state.issued_at()) else { return Ok(()) };
    let entries: Vec<_> = state.denials().entries().collect();
    let mut rest = String::new();
    for chunk in entries.chunks(limits::FEED_ENTRIES_MAX) {
        rest.push_str(&write_entries(chunk));
        rest.push('\n');
    }
    let head = Head {
        identity,
        epoch: position.epoch,
        position: position.number,
        issued_at: issued_at.unix_millis(),
        digest: Digest::of(&rest),
    };
    let head = serde_json::to_string(&head)?;
    replace(&folder.join(POSITION), head.as_bytes())?;
    replace(&folder.join(STATE), [head.as_str(), "\n", rest.as_str()].concat().as_bytes())
}

#[cfg(test)]
mod tests {
    use keychain::feed::{Cause, Entry, Place, Standing};

    use super::*;

    #[test]
    fn what_was_accepted_is_read_again_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let identity = Digest::of("identity");
        let open = |identity| Memory::open(folder.path(), identity).map(|memory| memory.remembered);
        assert!(open(identity).unwrap().position.is_none());
        let mut denials = Denials::default();
        for number in 0..=limits::FEED_ENTRIES_MAX {
            let subject = Digest::of(number.to_string());
            let place = Place { subject, account: Digest::of("account"), cause: Cause::Ban };
            denials.set(&Entry { place, standing: Standing::Denied(None) });
        }
        let (position, now) = (Position { epoch: 7, number: 3 }, Timestamp::from_unix_millis(9_000));
        keep(folder.path(), identity, &State::new(position, now, denials.clone())).unwrap();
        let read = open(identity).unwrap();
        let state = read.state.unwrap();
        assert_eq!(
            (read.position, state.position(), state.issued_at()),
            (Some(position), Some(position), Some(now))
        );
        assert_eq!(state.denials().count(), denials.count());

        // Without a whole state, the position goes on demanding it.
        let path = folder.path().join(STATE);
        let whole = fs::read_to_string(&path).unwrap();
        for damaged in ["", &whole[..whole.len() - 2], &whole.replacen("\"ban\"", "\"deletion\"", 1)] {
            fs::write(&path, damaged).unwrap();
            let read = open(identity).unwrap();
            assert!(read.state.is_none() && read.position == Some(position), "{}", damaged.len());
        }
        assert!(matches!(open(Digest::of("another")), Err(Error::Damaged { .. })));
        let path = folder.path().join(POSITION);
        for damaged in ["", "{}", "\u{0}"] {
            fs::write(&path, damaged).unwrap();
            assert!(matches!(open(identity), Err(Error::Damaged { .. })), "{damaged}");
        }
    }
}
