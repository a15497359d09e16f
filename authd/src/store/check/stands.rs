//! What stands in a store at one moment, one line each: by these lines a later walk tells what was removed, or put back
//! from before.

use std::fmt;

use keychain::{Digest, PublicKey};

/// Something that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stands {
    /// A denial, or the lift of one, until its end.
    Denial {
        /// The row's number.
        row: i64,
        /// When it ends by itself, in Unix milliseconds.
        end: Option<i64>,
    },
    /// The HSM's word for a key of authd, until its end.
    Endorsement {
        /// The key.
        key: PublicKey,
        /// When it ends, in Unix milliseconds.
        end: i64,
    },
    /// Where the denial feed stands.
    Feed {
        /// The epoch.
        epoch: i64,
        /// The position in it.
        position: i64,
    },
    /// The newest record of a chain.
    Record {
        /// The table.
        table: String,
        /// The chain.
        prefix: Digest,
        /// The record's number.
        number: u64,
        /// Its address.
        id: Digest,
    },
    /// A secret that all authd share, by a digest.
    Secret {
        /// Its name.
        name: String,
        /// The digest of its row.
        digest: Digest,
    },
    /// Rows that end together, as a set: no row joins it any more.
    Set(Set),
    /// That sessions of a device were ended, until none of them could be refreshed any more.
    SessionEnd {
        /// The row's key.
        id: String,
        /// The issue of the last token that is refused, in Unix milliseconds.
        issued_up_to: i64,
        /// When it is forgotten, in Unix milliseconds.
        end: i64,
    },
    /// The HSM's word for a key that signed orders.
    Signer(PublicKey),
    /// The newest line of the audit trail.
    Trail {
        /// Its number.
        number: i64,
        /// Its digest.
        digest: Digest,
    },
}

/// Rows that end in the same span of time and were written before one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// The table.
    pub table: String,
    /// When the span begins, in Unix milliseconds.
    pub ends: i64,
    /// The moment, in Unix milliseconds.
    pub before: i64,
    /// How many rows there are.
    pub count: u64,
    /// The digests of all rows, added bit by bit, in hexadecimal.
    pub sum: String,
}

/// A line that is none of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the line is none of a summary")]
pub struct Line;

impl fmt::Display for Stands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denial { row, end: Some(end) } => write!(f, "denial {row} {end}"),
            Self::Denial { row, end: None } => write!(f, "denial {row} never"),
            Self::Endorsement { key, end } => write!(f, "endorsement {key} {end}"),
            Self::Feed { epoch, position } => write!(f, "feed {epoch} {position}"),
            Self::Record { table, prefix, number, id } => write!(f, "record {table} {prefix} {number} {id}"),
            Self::Secret { name, digest } => write!(f, "secret {name} {digest}"),
            Self::Set(Set { table, ends, before, count, sum }) => {
                write!(f, "set {table} {ends} {before} {count} {sum}")
            }
            Self::SessionEnd { id, issued_up_to, end } => write!(f, "session-end {id} {issued_up_to} {end}"),
            Self::Signer(key) => write!(f, "signer {key}"),
            Self::Trail { number, digest } => write!(f, "trail {number} {digest}"),
        }
    }
}

impl Stands {
    /// Reads a line.
    pub fn parse(line: &str) -> Result<Self, Line> {
        let words: Vec<&str> = line.split(' ').collect();
        let digest = |text: &str| Digest::parse(text).map_err(|_| Line);
        let key = |text: &str| PublicKey::parse(text).map_err(|_| Line);
        let number = |text: &str| text.parse::<i64>().map_err(|_| Line);
        let count = |text: &str| text.parse::<u64>().map_err(|_| Line);
        Ok(match words.as_slice() {
            ["denial", row, "never"] => Self::Denial { row: number(row)?, end: None },
            ["denial", row, end] => Self::Denial { row: number(row)?, end: Some(number(end)?) },
            ["endorsement", of, end] => Self::Endorsement { key: key(of)?, end: number(end)? },
            ["feed", epoch, position] => Self::Feed { epoch: number(epoch)?, position: number(position)? },
            ["record", table, prefix, place, id] => Self::Record {
                table: (*table).to_owned(),
                prefix: digest(prefix)?,
                number: count(place)?,
                id: digest(id)?,
            },
            ["secret", name, of] => Self::Secret { name: (*name).to_owned(), digest: digest(of)? },
            ["set", table, ends, before, rows, sum] => Self::Set(Set {
                table: (*table).to_owned(),
                ends: number(ends)?,
                before: number(before)?,
                count: count(rows)?,
                sum: (*sum).to_owned(),
            }),
            ["session-end", id, last, end] => {
                Self::SessionEnd { id: (*id).to_owned(), issued_up_to: number(last)?, end: number(end)? }
            }
            ["signer", of] => Self::Signer(key(of)?),
            ["trail", place, of] => Self::Trail { number: number(place)?, digest: digest(of)? },
            _ => return Err(Line),
        })
    }
}

#[cfg(test)]
mod tests {
    use keychain::SigningKey;

    use super::*;

    #[test]
    fn every_line_reads_as_it_was_written() {
        let key = SigningKey::from_seed(&[1; 32]).unwrap().public_key();
        let digest = Digest::of("x");
        let set = Set { table: "refreshes".to_owned(), ends: 3, before: 4, count: 5, sum: "0a".to_owned() };
        for stands in [
            Stands::Denial { row: 7, end: None },
            Stands::Denial { row: 7, end: Some(-1) },
            Stands::Endorsement { key, end: 9 },
            Stands::Feed { epoch: 1, position: 2 },
            Stands::Record {
                table: "ban_records".to_owned(),
                prefix: digest,
                number: 3,
                id: Digest::of("y"),
            },
            Stands::Secret { name: "challenge".to_owned(), digest },
            Stands::Set(set),
            Stands::SessionEnd { id: digest.to_string(), issued_up_to: 5, end: 6 },
            Stands::Signer(key),
            Stands::Trail { number: 4, digest },
        ] {
            assert_eq!(Stands::parse(&stands.to_string()), Ok(stands));
        }
        for line in ["", "denial", "denial x never", "denial 1 2 3", "signer E", "trail 1", "feed 1 2\n"] {
            assert_eq!(Stands::parse(line), Err(Line), "{line}");
        }
    }
}
