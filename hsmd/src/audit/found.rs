//! What the folder of a trail holds when hsmd starts.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
};

use keychain::audit::{Entry, Head, Kind, Record, Trail, segment_name, segment_ordinal};

use super::writer::{SEGMENT_MAX, UNSURE_MAX};

/// Longest file that is read: the last lines written to one may go beyond what it is meant to hold.
const READ_MAX: u64 = 2 * SEGMENT_MAX;

/// The end of a trail.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The number of the newest file; 0 if there is none.
    pub(super) ordinal: u64,
    /// The newest line that holds.
    pub(super) head: Option<Head>,
    /// The newest lines, which the disk may not have: the process before may have died between writing them
    /// and hearing that they are durable. None if it ended as it was asked to.
    pub(super) unsure: VecDeque<String>,
    /// What stands behind the newest line.
    pub(super) torn: Option<Torn>,
    /// The length of the newest file, if more can be written to it: it ends as hsmd does when it is asked to.
    pub(super) open: Option<u64>,
}

/// What stands behind the newest line that holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Torn {
    /// The file with that line.
    file: String,
    /// How many bytes, in it and in later files.
    bytes: u64,
    /// Whether whole lines are among them.
    whole: bool,
}

impl Torn {
    pub(super) fn record(&self) -> Record {
        Record::new(Kind::Torn)
            .text("file", &self.file)
            .number("bytes", self.bytes)
            .raw("whole", if self.whole { "true" } else { "false" })
    }
}

/// Reads the newest file in which a line holds, and how much stands behind that line.
pub(super) fn find(folder: &Path) -> io::Result<Found> {
    let mut ordinals = Vec::new();
    for entry in fs::read_dir(folder)? {
        ordinals.extend(entry?.file_name().to_str().and_then(segment_ordinal));
    }
    ordinals.sort_unstable();
    let mut found = Found { ordinal: ordinals.last().copied().unwrap_or(0), ..Found::default() };
    let mut torn: Option<Torn> = None;
    for ordinal in ordinals.into_iter().rev() {
        let file = segment_name(ordinal);
        let bytes = read(&folder.join(&file))?;
        let ending = Ending::of(&bytes);
        let rest = bytes.get(ending.held..).unwrap_or_default();
        let (later, whole) = torn.take().map_or((0, false), |later| (later.bytes, later.whole));
        let behind = later.saturating_add(length(rest));
        torn = (behind > 0).then_some(Torn { file, bytes: behind, whole: whole || rest.contains(&b'\n') });
        if let Some(head) = ending.head {
            let closed = ending.is_stop && torn.is_none() && ordinal == found.ordinal;
            found.head = Some(head);
            found.open = Some(length(&bytes)).filter(|length| closed && *length < SEGMENT_MAX);
            found.unsure = if closed { VecDeque::new() } else { ending.tail };
            break;
        }
    }
    found.torn = torn;
    Ok(found)
}

/// How the lines of one file that hold end.
#[derive(Default)]
struct Ending {
    held: usize,
    head: Option<Head>,
    tail: VecDeque<String>,
    is_stop: bool,
}

impl Ending {
    fn of(bytes: &[u8]) -> Self {
        let mut ending = Self::default();
        let first = bytes.split_inclusive(|byte| *byte == b'\n').next().unwrap_or_default();
        let Some(entry) = first.strip_suffix(b"\n").and_then(|line| std::str::from_utf8(line).ok()) else {
            return ending;
        };
        let Ok(entry) = Entry::parse(entry) else { return ending };
        // What stands before it is another file's matter, and an auditor's.
        let mut trail = Trail::starting_with(&entry);
        let mut is_stop = entry.kind == Kind::Stop;
        let walked = trail.walk(bytes.get(first.len()..).unwrap_or_default(), |entry, _| {
            is_stop = entry.kind == Kind::Stop;
        });
        ending.is_stop = is_stop;
        ending.held = first.len().saturating_add(walked.held);
        ending.head = trail.head();
        let lines = bytes.get(..ending.held).unwrap_or_default().split_inclusive(|byte| *byte == b'\n');
        let newest = lines.rev().take(UNSURE_MAX).filter_map(|line| std::str::from_utf8(line).ok());
        newest.for_each(|line| ending.tail.push_front(line.to_owned()));
        ending
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(READ_MAX + 1).read_to_end(&mut bytes)?;
    if length(&bytes) > READ_MAX {
        let because = format!("`{}` is longer than any file of a trail", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, because));
    }
    Ok(bytes)
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
