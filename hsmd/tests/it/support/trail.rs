//! An audit trail as an auditor reads it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use keychain::{
    audit::{Checkpoint, Kind, Step, Trail, segment_ordinal},
    chain::SignedEvent,
};

/// A line that holds.
#[derive(Clone, Debug)]
pub struct Line {
    pub number: u64,
    pub kind: Kind,
    /// The other members, as they are written.
    pub members: BTreeMap<String, String>,
}

impl Line {
    /// A member that is a text; empty if there is none.
    pub fn text(&self, name: &str) -> String {
        self.members.get(name).map(|raw| serde_json::from_str(raw).unwrap()).unwrap_or_default()
    }

    pub fn raw(&self, name: &str) -> &str {
        self.members.get(name).map_or("", String::as_str)
    }

    /// Whether it is the line of an endorsement or an operation of that name with that outcome.
    pub fn is(&self, kind: Kind, operation: &str) -> bool {
        self.kind == kind && self.text("operation") == operation
    }
}

/// The files of a trail, in order.
pub fn segments(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut ordinals: Vec<_> = files.filter_map(|name| Some((segment_ordinal(&name)?, name))).collect();
    ordinals.sort();
    ordinals.into_iter().map(|(_, name)| folder.join(name)).collect()
}

/// Reads a trail; fails the test if it does not hold from its first line to its last whole one.
pub fn read(folder: &Path) -> Vec<Line> {
    let mut trail = Trail::new();
    let mut lines = Vec::new();
    let mut doubt = None;
    for segment in segments(folder) {
        trail.begin_segment();
        let bytes = fs::read(&segment).unwrap();
        let walked = trail.walk(&bytes, |entry, step| {
            if step == Step::New {
                let members =
                    entry.members().iter().map(|(name, raw)| ((*name).to_owned(), (*raw).to_owned()));
                lines.push(Line { number: entry.head.number, kind: entry.kind, members: members.collect() });
            }
        });
        if walked.whole > 0 || bytes.is_empty() {
            doubt = None;
        }
        if walked.because.is_some() {
            doubt = Some((segment, walked));
        }
    }
    assert!(doubt.is_none(), "{doubt:?}");
    lines
}

/// Up to which line the checkpoints of a trail vouch for it.
pub fn covered(lines: &[Line], chain: &[SignedEvent]) -> Option<u64> {
    let vouched = lines.iter().filter(|line| line.kind == Kind::Checkpoint).filter_map(|line| {
        let checkpoint = Checkpoint::parse(line.raw("statement")).unwrap();
        assert!(checkpoint.covers.number < line.number);
        checkpoint.verify(chain).ok().map(|()| checkpoint.covers.number)
    });
    vouched.max()
}
