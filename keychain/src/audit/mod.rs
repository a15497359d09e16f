//! The audit trail of the HSM service as it stands on disk (`PROTOCOL.md#audit`).
//!
//! A trail is a sequence of lines, each one JSON object and each naming the digest of the line before, in
//! files that follow each other (*segments*). hsmd writes it and `opsctl` reads it: both with what is here.
//! A chain of digests shows that nothing was changed, taken out or put in before its newest line; a
//! [`Checkpoint`], which the HSM signs, shows that the lines up to it are those that the HSM service wrote.

mod checkpoint;
mod entry;
mod trail;

pub use checkpoint::{Checkpoint, checkpoint};
pub use entry::{Entry, Head, Kind, Record};
pub use trail::{Step, Trail, Walked};

/// The name of the segment of that number; the first is 1 (`PROTOCOL.md#audit-segments`).
pub fn segment_name(ordinal: u64) -> String {
    format!("audit-{ordinal:08}.jsonl")
}

/// The number of the segment of that name; none if it is not the name of one.
pub fn segment_ordinal(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("audit-")?.strip_suffix(".jsonl")?;
    let ordinal = digits.parse().ok()?;
    (segment_name(ordinal) == name).then_some(ordinal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_segments_read_as_written() {
        for ordinal in [1, 99_999_999, 100_000_000] {
            assert_eq!(segment_ordinal(&segment_name(ordinal)), Some(ordinal));
        }
        for bad in [
            "audit-1.jsonl",
            "audit-+0000001.jsonl",
            "audit-00000001.json",
            "audit-00000001.jsonl.old",
            "lock",
        ] {
            assert_eq!(segment_ordinal(bad), None, "{bad}");
        }
    }
}
