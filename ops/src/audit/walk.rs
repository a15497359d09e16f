//! A trail's files, walked line by line, as `PROTOCOL.md#audit-segments` says.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use keychain::audit::{Entry, Head, Step, Trail, segment_name, segment_ordinal};

use super::Place;
use crate::failure::{Exit, Failure, OrFail};

/// The longest file that is read, in bytes: twice what hsmd makes.
const LONGEST_FILE: u64 = 128 << 20;

/// How a trail was walked that holds.
#[derive(Debug)]
pub(super) struct Walked {
    /// How many files.
    pub(super) files: usize,
    /// The newest line.
    pub(super) head: Head,
    /// Ends of files that count for nothing: what a power cut, a full disk or a death left.
    pub(super) torn: Vec<Rest>,
}

/// What stands in a file behind the last line that holds.
#[derive(Debug)]
pub(super) struct Rest {
    pub(super) file: String,
    pub(super) bytes: usize,
    /// Why the next line does not hold; none if it is only cut short.
    because: Option<String>,
}

/// Walks the trail from its oldest line to its newest; `visit` is told each of them once. It errs at the first line
/// that nothing explains.
pub(super) fn walk(place: &Place, mut visit: impl FnMut(&Entry<'_>)) -> Result<Walked, Failure> {
    let ordinals = ordinals(place)?;
    let mut trail = Trail::new();
    let (mut torn, mut doubts) = (Vec::new(), Vec::new());
    for ordinal in &ordinals {
        let file = segment_name(*ordinal);
        let bytes = read(&place.dir.join(&file))?;
        let mut held = begin(&mut trail, place, &bytes, &mut visit);
        let walked = trail.walk(bytes.get(held..).unwrap_or_default(), |entry, step| {
            if step == Step::New {
                visit(entry);
            }
        });
        held = held.saturating_add(walked.held);
        if held > 0 {
            // The file goes on from the newest line: what stood behind that in files before counts for nothing.
            torn.append(&mut doubts);
        }
        let bytes = bytes.len().saturating_sub(held);
        if bytes > 0 {
            doubts.push(Rest { file, bytes, because: walked.because.map(|refusal| refusal.to_string()) });
        }
    }
    for Rest { file, because, .. } in &doubts {
        if let Some(because) = because {
            let last = trail.head().map_or("no line".to_owned(), |head| format!("line {}", head.number));
            let what = format!("the trail holds up to {last}; what follows in `{file}` does not: {because}");
            return Err(Failure::new(Exit::No, what));
        }
    }
    torn.append(&mut doubts);
    let head = trail.head().or_fail(Exit::No, || "the trail has no line")?;
    Ok(Walked { files: ordinals.len(), head, torn })
}

/// Begins a file; answers how many of its bytes were walked over: its first line, if a partial trail begins with it.
fn begin(trail: &mut Trail, place: &Place, bytes: &[u8], visit: &mut impl FnMut(&Entry<'_>)) -> usize {
    trail.begin_segment();
    if !place.partial || trail.head().is_some() {
        return 0;
    }
    let first = bytes.split_inclusive(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = first.strip_suffix(b"\n").and_then(|line| std::str::from_utf8(line).ok());
    let Some(entry) = line.and_then(|line| Entry::parse(line).ok()) else { return 0 };
    *trail = Trail::starting_with(&entry);
    visit(&entry);
    first.len()
}

/// The numbers of the files, in order; the first is 1 unless a part is enough.
fn ordinals(place: &Place) -> Result<Vec<u64>, Failure> {
    let names = list(&place.dir).map_err(|error| {
        let exit = if error.kind() == io::ErrorKind::PermissionDenied { Exit::Denied } else { Exit::Io };
        Failure::new(exit, format!("cannot read the folder `{}`", place.dir.display())).because(error)
    })?;
    let mut ordinals: Vec<_> = names.iter().filter_map(|name| segment_ordinal(name)).collect();
    ordinals.sort_unstable();
    match ordinals.first() {
        None => Err(Failure::new(Exit::Data, format!("`{}` holds no file of a trail", place.dir.display()))),
        Some(oldest) if *oldest != 1 && !place.partial => Err(Failure::new(
            Exit::No,
            format!(
                "the trail's first files are missing (the oldest is `{}`): bring them back, or say --partial",
                segment_name(*oldest)
            ),
        )),
        Some(_) => Ok(ordinals),
    }
}

fn list(folder: &Path) -> io::Result<Vec<String>> {
    let names = std::fs::read_dir(folder)?.map(|file| Ok(file?.file_name().into_string().ok()));
    names.filter_map(Result::transpose).collect()
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let context = || format!("cannot read `{}`", path.display());
    let mut bytes = Vec::new();
    let file = File::open(path).or_fail(Exit::Io, context)?;
    let length = file.take(LONGEST_FILE + 1).read_to_end(&mut bytes).or_fail(Exit::Io, context)?;
    if u64::try_from(length).is_ok_and(|length| length <= LONGEST_FILE) {
        return Ok(bytes);
    }
    Err(Failure::new(Exit::Data, format!("`{}` is longer than any file of a trail", path.display())))
}
