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

/// Lines at the end of a file that the disk may not have: those, and what is written at once.
pub(super) const UNSURE_MAX: usize = 2 * UNSYNCED_MAX;

/// What a file is called until it is whole.
const NEW: &str = "new";

/// Held by the one hsmd that writes the trail.
const LOCK: &str = "lock";

/// The writer of one trail.
pub(super) struct Writer {
    folder: PathBuf,
    /// Locked as long as it is open.
    _lock: File,
    /// The number of the newest file.
    ordinal: u64,
    /// Whether it is not known if that file's name is durable: nobody was told of a line in it, and it is replaced.
    nameless: bool,
    file: Option<(File, u64)>,
    /// Bytes after which another file is begun.
    file_max: u64,
    head: Option<Head>,
    /// Lines since the last sync, each with its line feed.
    unsynced: VecDeque<String>,
}

impl Writer {
    /// Takes the folder of a trail, making it if it is not there, and reads how the trail ends.
    pub(super) fn open(folder: &Path) -> Result<(Self, Option<Torn>), Error> {
        let unusable =
            |error: io::Error| Error::Disk { folder: folder.display().to_string(), source: error.into() };
        prepare(folder)?;
        let lock = options().create(true).truncate(false).open(folder.join(LOCK)).map_err(unusable)?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => Error::Taken { folder: folder.display().to_string() },
            fs::TryLockError::Error(error) => unusable(error),
        })?;
        let found = found::find(folder).map_err(unusable)?;
        let file = match found.open {
            Some(length) => {
                let file = options().append(true).open(path(folder, found.ordinal)).map_err(unusable)?;
                file.sync_all().map_err(unusable)?;
                Some((file, length))
            }
            None => None,
        };
        let writer = Self {
            folder: folder.to_owned(),
            _lock: lock,
            ordinal: found.ordinal,
            nameless: false,
            file,
            file_max: SEGMENT_MAX,
            head: found.head,
            unsynced: found.unsure,
        };
        Ok((writer, found.torn))
    }

    #[cfg(test)]
    pub(super) const fn with_files_of(mut self, bytes: u64) -> Self {
        self.file_max = bytes;
        self
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
        let known = self.unsynced.len();
        let heads = self.add(records, at);
        if self.file.as_ref().is_some_and(|(_, length)| *length >= self.file_max) {
            self.begin(&[], at)?;
            return Ok(heads);
        }
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

    /// The file gets its name once it is whole and durable: one that was begun in vain, or half, is none of the
    /// trail's.
    fn begin_file(&mut self) -> io::Result<()> {
        let ordinal = self.ordinal.saturating_add(u64::from(!self.nameless));
        let (new, path) = (self.folder.join(NEW), path(&self.folder, ordinal));
        let file = options().create(true).truncate(true).open(&new)?;
        self.file = Some((file, 0));
        let text: String = self.unsynced.iter().map(String::as_str).collect();
        self.write(&text, ["before-begin", "after-begin"])?;
        self.force()?;
        if !self.nameless && path.try_exists()? {
            return Err(io::Error::other(format!("`{}` is there already", path.display())));
        }
        fs::rename(&new, &path)?;
        // From here on it may have its name or not, until the folder is durable.
        (self.ordinal, self.nameless) = (ordinal, true);
        super::fail("after-name")?;
        File::open(&self.folder)?.sync_all()?;
        self.nameless = false;
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
    let name = || folder.display().to_string();
    let unusable = |because: String| Error::Folder { folder: name(), because };
    match DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => {
            let above = folder.parent().unwrap_or(folder);
            let durable = File::open(above).and_then(|above| above.sync_all());
            return durable.map_err(|error| Error::Disk { folder: name(), source: error.into() });
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(unusable(
                "the folder above it does not exist: make it, and let it be hsmd's".to_owned(),
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(unusable("the folder above it is not hsmd's".to_owned()));
        }
        Err(error) => return Err(Error::Disk { folder: name(), source: error.into() }),
    }
    let metadata = folder.metadata();
    let metadata = metadata.map_err(|error| Error::Disk { folder: name(), source: error.into() })?;
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

const _: () = assert!(UNSURE_MAX * 2 <= limits::AUDIT_REPEATED_MAX);
