//! Reading without trusting who wrote: the server filters names and cuts values before they cross the wire.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::timeout;

use super::Error;
use super::lane::Lane;

/// The longest endorsement or event carried, in bytes.
pub const VALUE_MAX: usize = crate::limits::DIRECTORY_VALUE_MAX;
/// Names asked for at once: a page of the longest values stays at 2 MiB.
pub const NAMES_PER_PAGE: usize = 512;
/// The most endorsements or events read: a thousand services and a rotation every hour for seven years.
pub const ENTRIES_MAX: usize = 65_536;
/// The most revocations read: 45 MiB of names, far beyond any ban list that is alive at once.
pub const REVOKED_MAX: usize = 1_048_576;
/// How long the reading of a whole database may take.
pub const SCAN_DEADLINE: Duration = Duration::from_secs(30);

/// The names of a database's entries.
#[derive(Clone, Copy)]
pub(super) enum Name {
    Digest,
    Key,
}

impl Name {
    /// A pattern that matches the lead and the exact length, so that no longer name is ever sent.
    fn pattern(self) -> String {
        match self {
            Self::Digest => format!("E{}", "?".repeat(43)),
            Self::Key => format!("1AAI{}", "?".repeat(44)),
        }
    }
}

/// One value, if there is one.
pub(super) async fn one(lane: &Lane, operation: &'static str, name: &str) -> Result<Option<String>, Error> {
    let mut get = redis::pipe();
    cut(&mut get, name, lane.value_max);
    let (value,): (Vec<u8>,) = lane.run(operation, &get).await?;
    if value.is_empty() {
        return Ok(None);
    }
    let unreadable = || Error::Unreadable { name: name.to_owned(), most: lane.value_max };
    text(lane, value).map(Some).ok_or_else(unreadable)
}

/// Every entry of a database, sorted by name; entries that cannot be read are left out.
pub(super) async fn all(
    lane: &Lane,
    operation: &'static str,
    name: Name,
) -> Result<Vec<(String, String)>, Error> {
    let read = async {
        let mut entries = BTreeMap::new();
        let mut cursor = Cursor::default();
        while let Some(page) = page(lane, operation, name, &mut cursor).await? {
            for (name, value) in values(lane, operation, page).await? {
                entries.insert(name, value);
            }
            refuse_beyond(entries.len(), ENTRIES_MAX)?;
        }
        Ok(entries.into_iter().collect())
    };
    timeout(SCAN_DEADLINE, read).await.unwrap_or(Err(Error::Slow { operation }))
}

/// The names of every entry, sorted, without their values.
pub(super) async fn names(
    lane: &Lane,
    operation: &'static str,
    most: usize,
) -> Result<BTreeSet<String>, Error> {
    let read = async {
        let mut names = BTreeSet::new();
        let mut cursor = Cursor::default();
        while let Some(page) = page(lane, operation, Name::Digest, &mut cursor).await? {
            names.extend(page);
            refuse_beyond(names.len(), most)?;
        }
        Ok(names)
    };
    timeout(SCAN_DEADLINE, read).await.unwrap_or(Err(Error::Slow { operation }))
}

/// Refuses to publish what readers would not read.
pub(super) fn bounded(lane: &Lane, name: &str, text: &str) -> Result<(), Error> {
    if text.is_empty() || text.len() > lane.value_max {
        return Err(Error::Unreadable { name: name.to_owned(), most: lane.value_max });
    }
    Ok(())
}

/// Where a reading in pages stands.
#[derive(Clone, Debug, Default)]
pub struct Cursor(Scan);

/// The server's number is opaque; 0 ends it.
#[derive(Clone, Debug, Default)]
enum Scan {
    #[default]
    Start,
    At(u64),
    Done,
}

/// One page of a database: names with their values, and nothing for a value that cannot be read. No page once all were
/// read.
pub(super) async fn page_of(
    lane: &Lane,
    operation: &'static str,
    name: Name,
    cursor: &mut Cursor,
) -> Result<Option<Vec<(String, Option<String>)>>, Error> {
    let mut next = cursor.clone();
    let Some(names) = page(lane, operation, name, &mut next).await? else { return Ok(None) };
    let values = each(lane, operation, names.clone()).await?;
    // A page whose values did not come is asked for again.
    *cursor = next;
    Ok(Some(names.into_iter().zip(values).collect()))
}

async fn page(
    lane: &Lane,
    operation: &'static str,
    name: Name,
    cursor: &mut Cursor,
) -> Result<Option<Vec<String>>, Error> {
    let from = match cursor.0 {
        Scan::Start => 0,
        Scan::At(from) => from,
        Scan::Done => return Ok(None),
    };
    let mut scan = redis::pipe();
    scan.cmd("SCAN").arg(from).arg("MATCH").arg(name.pattern()).arg("COUNT").arg(NAMES_PER_PAGE);
    let ((next, page),): ((u64, Vec<Vec<u8>>),) = lane.run(operation, &scan).await?;
    cursor.0 = if next == 0 { Scan::Done } else { Scan::At(next) };
    Ok(Some(page.into_iter().filter_map(|name| String::from_utf8(name).ok()).collect()))
}

/// The values of one page. SCAN may answer more names than asked for, so this cuts pages of its own.
async fn values(
    lane: &Lane,
    operation: &'static str,
    names: Vec<String>,
) -> Result<Vec<(String, String)>, Error> {
    let mut entries = Vec::with_capacity(names.len());
    for page in names.chunks(NAMES_PER_PAGE) {
        let mut get = redis::pipe();
        get.ignore_errors(); // what a single entry is must not hide the rest
        for name in page {
            cut(&mut get, name, lane.value_max);
        }
        let answers: Vec<redis::RedisResult<Vec<u8>>> = lane.run(operation, &get).await?;
        for (name, answer) in page.iter().zip(answers) {
            match answer {
                Ok(value) => entries.extend(text(lane, value).map(|value| (name.clone(), value))),
                // An entry of another type is none of ours.
                Err(error) if error.code() == Some(ANOTHER_TYPE) => lane.note_unreadable(),
                // Otherwise it is not known what stands there: that is not to be taken for nothing.
                Err(error) => return Err(lane.failed(operation, error).await),
            }
        }
    }
    Ok(entries)
}

/// The values under these names, in their order; nothing for one that is not there or cannot be read.
pub(super) async fn each(
    lane: &Lane,
    operation: &'static str,
    names: Vec<String>,
) -> Result<Vec<Option<String>>, Error> {
    let read = async {
        let mut found = values(lane, operation, names.clone()).await?.into_iter().collect::<BTreeMap<_, _>>();
        Ok(names.iter().map(|name| found.remove(name)).collect())
    };
    timeout(SCAN_DEADLINE, read).await.unwrap_or(Err(Error::Slow { operation }))
}

/// The answer about an entry that is no text.
const ANOTHER_TYPE: &str = "WRONGTYPE";

/// Asks for a value up to one byte more than allowed, so that a longer one is seen to be longer without
/// being sent.
fn cut(pipeline: &mut redis::Pipeline, name: &str, most: usize) {
    pipeline.cmd("GETRANGE").arg(name).arg(0).arg(most);
}

/// The text of a value; nothing for one that is not there, and for one that cannot be read, which is counted.
fn text(lane: &Lane, value: Vec<u8>) -> Option<String> {
    if value.is_empty() {
        return None;
    }
    let fits = value.len() <= lane.value_max;
    let text = String::from_utf8(value).ok().filter(|_| fits);
    if text.is_none() {
        lane.note_unreadable();
    }
    text
}

fn refuse_beyond(count: usize, most: usize) -> Result<(), Error> {
    if count > most {
        return Err(Error::Full { most });
    }
    Ok(())
}
