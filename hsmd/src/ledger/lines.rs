//! The audit trail: rows, each with a line that names the digest of the line before (`PROTOCOL.md#audit`).

use keychain::{
    Timestamp,
    audit::{Entry, Head, Record},
};
use sea_orm::{ConnectionTrait, Value};

use super::{
    Error,
    sql::{self, number, stored},
    state,
};

/// Rows of one INSERT: each power of two up to this is a statement that stays prepared.
const ROWS_MAX: usize = 64;

/// Lines of one page, each shorter than 8 KiB.
pub(super) const PAGE: usize = 500;

/// Lines that one transaction cuts: it takes a fraction of a second.
const CUT_AT_ONCE: u64 = 5000;

/// Bytes of one page, about.
const PAGE_BYTES: usize = 1 << 20;

/// Lines of the trail, one after the other.
#[derive(Clone, Debug)]
pub struct Page {
    /// The lines, each without the line feed that ends it.
    pub lines: Vec<String>,
    /// The number of the line after these; nothing if they are the newest.
    pub next: Option<u64>,
}

/// Where the trail begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trail {
    /// The newest line that was cut.
    pub cut: Option<Head>,
    /// The number of the oldest line that is there.
    pub first: Option<u64>,
    /// The number of the newest.
    pub last: Option<u64>,
}

/// A line that has its number.
pub(super) struct Line {
    head: Head,
    text: String,
}

impl Line {
    /// Its number and digest.
    pub(super) const fn head(&self) -> Head {
        self.head
    }
}

/// Numbers lines after `head`; answers them, and the new end of the trail.
pub(super) fn chain(
    records: impl IntoIterator<Item = Record>,
    head: Option<Head>,
    at: Timestamp,
) -> (Vec<Line>, Option<Head>) {
    let mut head = head;
    let line = |record: Record| {
        let (text, next) = record.line(head.as_ref(), at);
        head = Some(next);
        Line { head: next, text }
    };
    let lines = records.into_iter().map(line).collect();
    (lines, head)
}

/// Inserts lines, in statements of powers of two rows.
pub(super) async fn insert(on: &impl ConnectionTrait, lines: Vec<Line>) -> Result<(), Error> {
    let mut lines = lines.into_iter();
    while lines.len() > 0 {
        let rows = if lines.len() >= ROWS_MAX { ROWS_MAX } else { 1 << lines.len().ilog2() };
        let mut values: Vec<Value> = Vec::with_capacity(rows.saturating_mul(3));
        for Line { head, text } in lines.by_ref().take(rows) {
            values.extend([stored(head.number)?.into(), head.digest.to_string().into(), text.into()]);
        }
        sql::execute(on, insertion(rows), values).await?;
    }
    Ok(())
}

/// The text of an INSERT of so many rows, a power of two up to [`ROWS_MAX`].
fn insertion(rows: usize) -> &'static str {
    use std::sync::OnceLock;
    static TEXTS: [OnceLock<String>; 7] = [const { OnceLock::new() }; 7];
    let build = || {
        let row = |row: usize| {
            let first = row.saturating_mul(3);
            format!(
                "(${}, ${}, ${})",
                first.saturating_add(1),
                first.saturating_add(2),
                first.saturating_add(3)
            )
        };
        let rows: Vec<_> = (0..rows).map(row).collect();
        format!("INSERT INTO audit_lines (number, digest, line) VALUES {}", rows.join(", "))
    };
    let index = usize::try_from(rows.max(1).ilog2()).unwrap_or(0);
    TEXTS.get(index).map_or("", |text| text.get_or_init(build).as_str())
}

/// The newest line.
pub(super) async fn newest(on: &impl ConnectionTrait) -> Result<Option<String>, Error> {
    let row = sql::one(on, "SELECT line FROM audit_lines ORDER BY number DESC LIMIT 1", []).await?;
    row.map(|row| Ok(row.try_get("", "line")?)).transpose()
}

/// Whether the trail has that line.
pub(super) async fn has(on: &impl ConnectionTrait, head: &Head) -> Result<bool, Error> {
    const ONE: &str = "SELECT digest FROM audit_lines WHERE number = $1";
    let Some(row) = sql::one(on, ONE, [stored(head.number)?.into()]).await? else { return Ok(false) };
    let digest: String = row.try_get("", "digest")?;
    Ok(digest == head.digest.to_string())
}

pub(super) async fn page(on: &impl ConnectionTrait, from: u64) -> Result<Page, Error> {
    const SOME: &str = "SELECT number, line FROM audit_lines WHERE number >= $1 ORDER BY number LIMIT $2";
    let limit = i64::try_from(PAGE).map_err(|_| Error::Overflow)?;
    let rows = sql::all(on, SOME, [stored(from)?.into(), limit.into()]).await?;
    let full = rows.len() >= PAGE;
    let (mut lines, mut bytes, mut last) = (Vec::new(), 0_usize, None);
    for row in &rows {
        let line: String = row.try_get("", "line")?;
        bytes = bytes.saturating_add(line.len());
        last = Some(number(row.try_get("", "number")?));
        lines.push(line);
        if bytes >= PAGE_BYTES {
            break;
        }
    }
    let more = full || lines.len() < rows.len();
    Ok(Page { lines, next: last.filter(|_| more).map(|last| last.saturating_add(1)) })
}

pub(super) async fn trail(on: &impl ConnectionTrait) -> Result<Trail, Error> {
    const ENDS: &str = "SELECT MIN(number) AS first_number, MAX(number) AS last_number FROM audit_lines";
    const CUT: &str = "SELECT cut_number, cut_digest FROM state WHERE id = 1";
    let ends = sql::one(on, ENDS, []).await?;
    let end = |name: &str| -> Result<Option<u64>, Error> {
        let Some(row) = &ends else { return Ok(None) };
        let end: Option<i64> = row.try_get("", name)?;
        Ok(end.map(number))
    };
    let cut = match sql::one(on, CUT, []).await? {
        Some(row) => state::cut(&row)?,
        None => None,
    };
    Ok(Trail { cut, first: end("first_number")?, last: end("last_number")? })
}

/// Where the first part ends of what is to be cut up to number `up_to`; nothing if it is the last one.
pub(super) async fn first_part(on: &impl ConnectionTrait, up_to: u64) -> Result<Option<Head>, Error> {
    const ONE: &str = "SELECT line FROM audit_lines WHERE number = $1";
    let row = loop {
        let end = trail(on).await?.first.and_then(|first| part_end(first, up_to));
        let Some(end) = end else { return Ok(None) };
        // One that is gone by now was cut meanwhile, by the same cut that was broken off.
        if let Some(row) = sql::one(on, ONE, [stored(end)?.into()]).await? {
            break row;
        }
    };
    let line: String = row.try_get("", "line")?;
    // Digested anew: what stays must be the digest of the line that goes.
    let entry = Entry::parse(&line).map_err(|_| Error::Unreadable { table: "audit_lines" })?;
    Ok(Some(entry.head))
}

const fn part_end(first: u64, up_to: u64) -> Option<u64> {
    let end = first.saturating_add(CUT_AT_ONCE - 1);
    if end < up_to { Some(end) } else { None }
}

/// Cuts the lines up to `head`, which stays as number and digest.
pub(super) async fn cut(on: &impl ConnectionTrait, head: &Head) -> Result<(), Error> {
    const NOTE: &str = "UPDATE state SET cut_number = $1, cut_digest = $2 WHERE id = 1";
    if trail(on).await?.cut.is_some_and(|cut| cut.number >= head.number) {
        return Ok(());
    }
    if !has(on, head).await? {
        return Err(Error::NoSuchLine(head.number));
    }
    let number: Value = stored(head.number)?.into();
    sql::execute(on, NOTE, [number.clone(), head.digest.to_string().into()]).await?;
    sql::execute(on, "DELETE FROM audit_lines WHERE number <= $1", [number]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_cut_is_done_in_parts() {
        for (first, up_to, end) in [
            (0, 0, None),
            (0, CUT_AT_ONCE - 1, None),
            (0, CUT_AT_ONCE, Some(CUT_AT_ONCE - 1)),
            (7, 3 * CUT_AT_ONCE, Some(CUT_AT_ONCE + 6)),
            (u64::MAX, u64::MAX, None),
        ] {
            assert_eq!(part_end(first, up_to), end, "{first} {up_to}");
        }
    }
}
