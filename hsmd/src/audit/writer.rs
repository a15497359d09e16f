//! The files of a trail, written: appended to, made durable, and gone on from in another file when that fails.
//!
//! A line that was given its number stays in the trail, whatever its caller is told: if the disk fails, the
//! lines that are not known to be durable are written again at the start of the next file, byte for byte
//! (`PROTOCOL.md#audit-segments`). So no number is ever given out twice, and what the failed file holds behind
//! its last durable line counts for nothing.

use std::{
    collections::VecDeque,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use keychain::{
    Timestamp,
    audit::{Head, Record, segment_name},
    limits,
};

use super::{
    Error,
    found::{self, Torn},
};

/// Bytes after which another file is begun: read by an auditor in a second, and some 150,000 endorsements.
pub(super) const SEGMENT_MAX: u64 = 64 * 1024 * 1024;

/// Lines that may be written ahead of the disk's word that they are durable: a fraction of a second's worth at
/// the rate of the fastest token, and a quarter of what readers take for repeated.
pub(super) const UNSYNCED_MAX: usize = 2048;

/// Held by the one hsmd that writes the trail.
const LOCK: &str = "lock";

/// The writer of one trail.
pub(super) struct Writer {
    folder: PathBuf,
    /// Locked as long as it is open.
    _lock: File,
    /// The number of the newest file.
    ordinal: u64,
    /// Whether that file was begun here and never held a line that counts: it can be begun again.
    abortive: bool,
    file: Option<(File, u64)>,
    head: Option<Head>,
    /// Lines since the last sync, each with its line feed.
    unsynced: VecDeque<String>,
}

impl Writer {
    /// Takes the folder of a trail, making it if it is not there, and reads how the trail ends.
    pub(super) fn open(folder: &Path) -> Result<(Self, Option<Torn>), Error> {
        let unusable = |error: io::Error| Error::Folder {
            folder: folder.display().to_string(),
            because: error.to_string(),
        };
        prepare(folder)?;
        let lock = options().create(true).truncate(false).open(folder.join(LOCK)).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(Error::Folder {
                    folder: folder.display().to_string(),
                    because: "another hsmd writes there; each needs an `audit` folder of its own".to_owned(),
                });
            }
            Err(fs::TryLockError::Error(error)) => return Err(unusable(error)),
        }
        let found = found::find(folder).map_err(unusable)?;
        let file = match found.open {
            Some(length) => {
                Some((options().append(true).open(path(folder, found.ordinal)).map_err(unusable)?, length))
            }
            None => None,
        };
        let writer = Self {
            folder: folder.to_owned(),
            _lock: lock,
            ordinal: found.ordinal,
            abortive: false,
            file,
            head: found.head,
            unsynced: found.unsure,
        };
        Ok((writer, found.torn))
    }

    /// The newest line.
    pub(super) const fn head(&self) -> Option<Head> {
        self.head
    }

    /// Lines that are not known to be durable.
    pub(super) fn lag(&self) -> usize {
        self.unsynced.len()
    }

    /// Whether a file can be written to; [`Self::begin`] opens one.
    pub(super) const fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// Appends lines; answers the end of the trail after each. On an error the lines are in the trail all the
    /// same, and come into its next file.
    pub(super) fn append(&mut self, records: &[Record], at: Timestamp) -> io::Result<Vec<Head>> {
        if self.file.as_ref().is_some_and(|(_, length)| *length >= SEGMENT_MAX) {
            self.sync()?;
            return self.begin(records, at);
        }
        let known = self.unsynced.len();
        let heads = self.add(records, at);
        let text: String = self.unsynced.iter().skip(known).map(String::as_str).collect();
        self.write(&text, ["before-append", "after-append"])?;
        if self.unsynced.len() >= UNSYNCED_MAX {
            self.sync()?;
        }
        Ok(heads)
    }

    /// Returns once every line is durable. After a failure the file is written to no more: what it holds is not
    /// known.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if !self.unsynced.is_empty() {
            self.force()?;
            self.unsynced.clear();
        }
        Ok(())
    }

    /// Goes on in another file, which begins with the lines that are not known to be durable, and then has these.
    /// All are durable when this returns; on an error these are not in the trail.
    pub(super) fn begin(&mut self, records: &[Record], at: Timestamp) -> io::Result<Vec<Head>> {
        let (head, known) = (self.head, self.unsynced.len());
        let heads = self.add(records, at);
        if let Err(error) = self.begin_file() {
            self.unsynced.truncate(known);
            (self.head, self.file) = (head, None);
            return Err(error);
        }
        self.unsynced.clear();
        Ok(heads)
    }

    fn begin_file(&mut self) -> io::Result<()> {
        let again = self.abortive;
        let ordinal = if again { self.ordinal } else { self.ordinal.saturating_add(1) };
        let path = path(&self.folder, ordinal);
        let file = options().create(again).create_new(!again).truncate(again).open(&path)?;
        (self.ordinal, self.abortive, self.file) = (ordinal, true, Some((file, 0)));
        let text: String = self.unsynced.iter().map(String::as_str).collect();
        self.write(&text, ["before-begin", "after-begin"])?;
        self.force()?;
        // The file's name is durable only once the folder is.
        File::open(&self.folder)?.sync_all()?;
        self.abortive = false;
        Ok(())
    }

    /// Numbers lines.
    fn add(&mut self, records: &[Record], at: Timestamp) -> Vec<Head> {
        let number = |record: &Record| {
            let (mut line, head) = record.line(self.head.as_ref(), at);
            line.push('\n');
            self.unsynced.push_back(line);
            self.head = Some(head);
            head
        };
        records.iter().map(number).collect()
    }

    fn write(&mut self, text: &str, [before, after]: [&str; 2]) -> io::Result<()> {
        let (file, length) = self.file.as_mut().ok_or_else(closed)?;
        match super::fail(before).and_then(|()| file.write_all(text.as_bytes())) {
            Ok(()) => *length = length.saturating_add(u64::try_from(text.len()).unwrap_or(u64::MAX)),
            Err(error) => {
                self.file = None;
                return Err(error);
            }
        }
        super::fail(after).inspect_err(|_| self.file = None)
    }

    /// Has the disk take what was written.
    fn force(&mut self) -> io::Result<()> {
        let (file, _) = self.file.as_ref().ok_or_else(closed)?;
        let forced = super::fail("before-sync").and_then(|()| file.sync_all());
        forced.and_then(|()| super::fail("after-sync")).inspect_err(|_| self.file = None)
    }
}

/// Refuses a folder that others may write to, and makes one that is not there.
fn prepare(folder: &Path) -> Result<(), Error> {
    let unusable = |because: String| Error::Folder { folder: folder.display().to_string(), because };
    match DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => {
            return Err(unusable(format!("{error}; check that the folder above it exists and is hsmd's")));
        }
    }
    let metadata = folder.metadata().map_err(|error| unusable(error.to_string()))?;
    if !metadata.is_dir() {
        return Err(unusable("it is no folder".to_owned()));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(unusable(format!("others may write to it (mode {mode:04o}); run `chmod 0700`")));
    }
    Ok(())
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

fn path(folder: &Path, ordinal: u64) -> PathBuf {
    folder.join(segment_name(ordinal))
}

fn closed() -> io::Error {
    io::Error::other("no file of the trail is open")
}

const _: () = assert!(UNSYNCED_MAX * 2 <= limits::AUDIT_REPEATED_MAX);
