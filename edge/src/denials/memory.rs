//! What was accepted of the feed, on disk.
//!
//! Two files: the position, which is small and written first, and the whole state, which names its own digest. If the
//! second is missing, cut or older, the position still says how much has to be read again before anybody is admitted.
//!
//! Denials are in force before they are written. What is acknowledged was written first: a kill a moment later does not
//! take it back.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use keychain::acknowledgement::Applied;
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

/// The shortest and the longest pause between two writes. Many bans in a row are one; a long state is written less often.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// How many times as long as a write takes nothing is written.
const REST: u32 = 4;

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
    /// Whether authd has spoken from an earlier position since.
    #[serde(default)]
    went_back: bool,
    /// The digest of all that follows.
    digest: Digest,
}

/// What was accepted.
#[derive(Debug, Clone, Default)]
pub(super) struct Accepted {
    /// All that the feed has said.
    pub(super) state: State,
    /// Whether authd has spoken from an earlier position since.
    pub(super) went_back: bool,
}

impl Accepted {
    fn applied(&self) -> Option<Applied> {
        self.state.position().map(|position| Applied { position, went_back: self.went_back })
    }
}

/// What was accepted before a restart.
#[derive(Debug, Clone, Default)]
pub(super) struct Remembered {
    /// As far as the feed was known.
    pub(super) position: Option<Position>,
    /// Whether authd had spoken from an earlier position since.
    pub(super) went_back: bool,
    /// All that it had said by then, or by an earlier position.
    pub(super) state: Option<State>,
}

/// The files, and what they hold.
#[derive(Debug)]
pub(super) struct Memory {
    folder: PathBuf,
    identity: Digest,
    remembered: Remembered,
    /// What is on disk as a whole.
    kept: Option<Applied>,
    failing: bool,
}

impl Memory {
    /// Reads what was remembered, if anything was.
    pub(super) fn open(folder: &Path, identity: Digest) -> Result<Self, Error> {
        let (folder, path) = (folder.to_owned(), folder.join(POSITION));
        let known = match read(&path, POSITION_MAX)? {
            None => None,
            Some(text) => Some(head(&text, identity).ok_or_else(|| Error::Damaged { path: path.clone() })?),
        };
        let path = folder.join(STATE);
        let text = read(&path, STATE_MAX)?;
        let state = text.as_ref().and_then(|text| state(text, identity));
        if text.is_some() && state.is_none() {
            let path = path.display();
            tracing::warn!(%path, "what was kept of the denial feed is not whole; the feed is read again");
        }
        // A state behind the position lacks denials, and is completed by the batches that follow it.
        let (position, went_back) =
            (known.as_ref().map(Head::place), known.is_some_and(|head| head.went_back));
        let kept = state.clone().and_then(|state| Accepted { state, went_back }.applied());
        let remembered = Remembered { position, went_back, state };
        Ok(Self { folder, identity, remembered, kept, failing: false })
    }

    pub(super) const fn remembered(&self) -> &Remembered {
        &self.remembered
    }

    /// Makes durable what is wanted, the newest at a time, for ever, and tells `applied` of it. A disk that fails or hangs
    /// delays nothing but this.
    pub(super) async fn keep_up(
        mut self,
        mut wanted: watch::Receiver<Option<Accepted>>,
        applied: watch::Sender<Option<Applied>>,
    ) {
        while wanted.changed().await.is_ok() {
            let Some(newest) = wanted.borrow_and_update().clone() else { continue };
            let pause = self.keep_one(newest, &wanted, &applied).await;
            if self.failing {
                wanted.mark_changed();
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Makes `newest` durable and tells of it. How long nothing is to be written then.
    async fn keep_one(
        &mut self,
        newest: Accepted,
        wanted: &watch::Receiver<Option<Accepted>>,
        applied: &watch::Sender<Option<Applied>>,
    ) -> Duration {
        let Some(is) = newest.applied() else { return Duration::ZERO };
        let mut pause = Duration::ZERO;
        if self.kept != Some(is) {
            let (folder, identity) = (self.folder.clone(), self.identity);
            let begun = Instant::now();
            let written = tokio::task::spawn_blocking(move || keep(&folder, identity, &newest)).await;
            let outcome = written.map_err(io::Error::other).and_then(|done| done);
            metrics::gauge!("verifier_denial_memory_behind").set(if outcome.is_err() { 1.0 } else { 0.0 });
            let was_failing = std::mem::replace(&mut self.failing, outcome.is_err());
            if let Err(error) = outcome {
                if !was_failing {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(error, "cannot keep what the denial feed said");
                }
                return PAUSE.1;
            }
            self.kept = Some(is);
            pause = begun.elapsed().saturating_mul(REST).clamp(PAUSE.0, PAUSE.1);
        }
        tell(applied, is.position, wanted);
        pause
    }
}

/// Tells what is kept. That authd went back is told at once, and not taken back by a position that was written late.
fn tell(
    applied: &watch::Sender<Option<Applied>>,
    position: Position,
    newest: &watch::Receiver<Option<Accepted>>,
) {
    applied.send_if_modified(|told| {
        let went_back = newest.borrow().as_ref().is_some_and(|newest| newest.went_back);
        let now = Some(Applied { position, went_back });
        std::mem::replace(told, now) != now
    });
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

impl Head {
    const fn place(&self) -> Position {
        Position { epoch: self.epoch, number: self.position }
    }
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
    Some(State::new(head.place(), Timestamp::from_unix_millis(head.issued_at), denials))
}

/// Writes the position, then the state. A kill between leaves a state that is older than the position says.
fn keep(folder: &Path, identity: Digest, accepted: &Accepted) -> io::Result<()> {
    let state = &accepted.state;
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
        went_back: accepted.went_back,
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
        let mut accepted = Accepted { state: State::new(position, now, denials.clone()), went_back: true };
        keep(folder.path(), identity, &accepted).unwrap();
        assert!(open(identity).unwrap().went_back);
        accepted.went_back = false;
        keep(folder.path(), identity, &accepted).unwrap();
        let read = open(identity).unwrap();
        assert!(!read.went_back);
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

    fn at(number: u64, went_back: bool) -> Accepted {
        let position = Position { epoch: 7, number };
        let state = State::new(position, Timestamp::from_unix_millis(9_000), Denials::default());
        Accepted { state, went_back }
    }

    /// A disk that fails has nothing acknowledged.
    #[tokio::test]
    async fn what_is_not_on_disk_is_not_told() {
        let folder = tempfile::tempdir().unwrap();
        let (state, away) = (folder.path().join("state"), folder.path().join("away"));
        fs::create_dir(&state).unwrap();
        let identity = Digest::of("identity");
        let (want, wanted) = watch::channel(None);
        let (apply, applied) = watch::channel(None);
        let mut memory = Memory::open(&state, identity).unwrap();
        for (accepted, has_disk) in [
            (at(1, false), true),
            (at(2, false), false),
            (at(2, false), true),
            (at(2, true), true),
            (at(3, true), false),
            (at(3, true), true),
        ] {
            let before = *applied.borrow();
            let is = accepted.applied();
            if !has_disk {
                fs::rename(&state, &away).unwrap();
            }
            want.send_replace(Some(accepted.clone()));
            memory.keep_one(accepted, &wanted, &apply).await;
            assert_eq!(*applied.borrow(), if has_disk { is } else { before }, "{is:?}");
            assert_eq!(memory.failing, !has_disk, "{is:?}");
            if has_disk {
                let read = Memory::open(&state, identity).unwrap();
                assert_eq!(read.kept, is);
            } else {
                fs::rename(&away, &state).unwrap();
            }
        }
        // What is kept is told without being written again.
        let mut memory = Memory::open(&state, identity).unwrap();
        fs::remove_dir_all(&state).unwrap();
        let (apply, applied) = watch::channel(None);
        assert_eq!(memory.keep_one(at(3, true), &wanted, &apply).await, Duration::ZERO);
        assert_eq!(*applied.borrow(), at(3, true).applied());
    }

    /// A position that was written late does not take back that authd went back meanwhile.
    #[test]
    fn that_authd_went_back_is_not_taken_back_by_a_late_write() {
        let (_want, wanted) = watch::channel(Some(at(3, true)));
        let (apply, applied) = watch::channel(at(1, true).applied());
        tell(&apply, Position { epoch: 7, number: 2 }, &wanted);
        assert_eq!(*applied.borrow(), at(2, true).applied());
    }
}
