//! The file that the device's log is carried into before it is full.
//!
//! One line of JSON per batch, appended and on disk before the device may forget: so a
//! death in between only has the device tell the same entries again, which are recognised by their digests.
//! Each batch says the digest of its last entry.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use yubihsm::{Client, device::SerialNumber};

use super::{
    fault::{Cause, cause, fault},
    log::{Entry, LinkDigest, Log},
};
use crate::token::backend::{DeviceLog, Fault, Kept};

/// Entries that a device keeps, if it does not say.
pub(super) const CAPACITY: u8 = 62;

/// The share of its capacity at which a device is relieved of its log: half is left for what others do with
/// the device meanwhile.
const DUE: u32 = 2;

/// Length at which the file is put aside as the older one, which it replaces. A probe each ten seconds leaves some 9,000
/// entries a day, 1 MB: two files hold four months of them.
const FILE_MAX: u64 = 64 * 1024 * 1024;

/// Longest line: what a device can hold at once, spelled out, and a frame around it.
const LINE_MAX: u64 = 32 * 1024;

/// The device's log, in a file.
pub struct Journal {
    path: PathBuf,
    file: File,
    device: Option<SerialNumber>,
    /// Digests of the last entries kept, by device.
    kept: Option<(String, LinkDigest)>,
    /// Commands since the device was last relieved of its log: each leaves one entry at most.
    commands: u32,
    capacity: u32,
    /// The authentication key may not read the log.
    forbidden: bool,
    shared: DeviceLog,
}

/// One batch of entries, as a line of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Line {
    /// The device's serial number.
    device: String,
    /// Entries before these are lost: overwritten, or read out by somebody else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    gap: bool,
    /// Starts of the device that found no room in its log.
    #[serde(default, skip_serializing_if = "is_zero")]
    unlogged_boots: u16,
    /// Authentications that found no room in its log.
    #[serde(default, skip_serializing_if = "is_zero")]
    unlogged_authentications: u16,
    /// Entries in hexadecimal digits.
    entries: Vec<String>,
}

impl Journal {
    /// Opens the file, and cuts off what an interrupted write left at its end.
    pub(super) fn open(path: &Path) -> Result<Self, Fault> {
        let unusable = |source: io::Error| Fault::DeviceLog {
            path: path.display().to_string(),
            source: Arc::new(source),
        };
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).append(true).create(true).mode(0o600).open(path).map_err(unusable)?;
        let mut last = last_line(&mut file).map_err(unusable)?;
        if last.is_none() {
            // The file was put aside just now: its entries are followed by the next.
            last = match options.create(false).open(older(path)) {
                Ok(mut older) => last_line(&mut older).map_err(unusable)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(unusable(error)),
            };
        }
        let kept = last.and_then(|line| {
            let entry = Entry::from_hex(line.entries.last()?)?;
            Some((line.device, entry.digest))
        });
        Ok(Self {
            path: path.to_owned(),
            file,
            device: None,
            kept,
            commands: 0,
            capacity: u32::from(CAPACITY),
            forbidden: false,
            shared: DeviceLog::default(),
        })
    }

    /// What was kept, shared with those who write it into the audit trail.
    pub(super) fn shared(&self) -> DeviceLog {
        self.shared.clone()
    }

    /// Which device the next entries are of, and how many it holds.
    pub(super) fn attach(&mut self, device: Option<SerialNumber>, capacity: u8) {
        self.device = device;
        self.capacity = u32::from(if capacity == 0 { CAPACITY } else { capacity });
        // What happened before is not known.
        self.commands = self.capacity;
    }

    /// Notes commands that may each have left an entry.
    pub(super) fn note_commands(&mut self, commands: u32) {
        self.commands = self.commands.saturating_add(commands);
    }

    /// Whether the device may be half full.
    pub(super) fn is_due(&self) -> bool {
        !self.forbidden && self.commands.saturating_mul(DUE) >= self.capacity
    }

    /// Reads the device's log, checks it, writes what is new to disk, and has the device forget it.
    pub(super) fn drain(&mut self, client: &Client) -> Result<(), Fault> {
        let log = match Log::read(client) {
            Err(error) if cause(&error) == Cause::Forbidden => {
                tracing::warn!(
                    "the authentication key lacks get-log-entries: the device's log is kept by nobody, and one \
                     that is set to force auditing stops signing when its log is full"
                );
                self.forbidden = true;
                return Err(fault("get log entries", error));
            }
            log => log.map_err(|error| fault("get log entries", error))?,
        };
        self.commands = 0;
        let Some(newest) = log.entries.last().map(Entry::number) else { return Ok(()) };
        self.keep(&log)?;
        client.set_log_index(newest).map_err(|error| fault("set log index", error))
    }

    fn keep(&mut self, log: &Log) -> Result<(), Fault> {
        let device = self.device.map(|device| device.to_string()).unwrap_or_default();
        let kept = self.kept.as_ref().filter(|(of, _)| *of == device).map(|(_, digest)| digest);
        let news = log.after(kept)?;
        let Some(newest) = news.entries.last() else { return Ok(()) };
        let lost = news.gap || log.unlogged_boots != 0 || log.unlogged_authentications != 0;
        if lost {
            metrics::counter!("hsmd_device_log_gaps_total").increment(1);
            tracing::error!(
                gap = news.gap,
                boots = log.unlogged_boots,
                authentications = log.unlogged_authentications,
                "the device's log has lost entries"
            );
        }
        let line = Line {
            device: device.clone(),
            gap: news.gap,
            unlogged_boots: log.unlogged_boots,
            unlogged_authentications: log.unlogged_authentications,
            entries: news.entries.iter().map(|entry| entry.to_hex()).collect(),
        };
        let (count, digest) = (news.entries.len(), newest.digest);
        self.append(&line).map_err(|source| Fault::DeviceLog {
            path: self.path.display().to_string(),
            source: Arc::new(source),
        })?;
        let entries = u64::try_from(count).unwrap_or(0);
        metrics::counter!("hsmd_device_log_entries_total").increment(entries);
        tracing::info!(device, entries, newest = newest.to_hex(), "kept the device's log");
        let newest = newest.to_hex();
        self.shared.add(Kept { device: device.clone(), entries, newest, gaps: u64::from(lost) });
        self.kept = Some((device, digest));
        Ok(())
    }

    /// Appends a line, and returns once it is on disk. What a failure left half-written is taken away, so that
    /// the file consists of whole lines.
    fn append(&mut self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        let mut end = self.file.metadata()?.len();
        if end >= FILE_MAX {
            std::fs::rename(&self.path, older(&self.path))?;
            self.file =
                OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&self.path)?;
            end = 0;
        }
        let written = self.file.write_all(&text).and_then(|()| self.file.sync_data());
        if written.is_err() {
            self.file.set_len(end)?;
        }
        written
    }
}

/// Where the file goes when it is long enough.
fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".older");
    name.into()
}

/// The last whole line; what follows it, left by an interrupted write, is cut off.
fn last_line(file: &mut File) -> io::Result<Option<Line>> {
    let end = file.metadata()?.len();
    let start = end.saturating_sub(LINE_MAX);
    file.seek(SeekFrom::Start(start))?;
    let mut tail = Vec::new();
    file.take(LINE_MAX).read_to_end(&mut tail)?;
    let Some(last) = tail.iter().rposition(|byte| *byte == b'\n') else {
        return if start == 0 { file.set_len(0).map(|()| None) } else { Err(no_line()) };
    };
    let whole = tail.get(..last).unwrap_or_default();
    let kept = start.saturating_add(u64::try_from(whole.len()).unwrap_or(0)).saturating_add(1);
    if kept < end {
        file.set_len(kept)?;
        file.sync_data()?;
    }
    let line = whole.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    serde_json::from_slice(line).map(Some).map_err(|_| no_line())
}

fn no_line() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "its last line is no batch of log entries; move the file away, hsmd begins another",
    )
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(number: &u16) -> bool {
    *number == 0
}
