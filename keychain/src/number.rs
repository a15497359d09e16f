//! Whole numbers of the protocol: those that every peer reads exactly (`PROTOCOL.md#limits`).

use crate::{
    error::{Code, Refusal},
    limits,
};

/// Reads a whole number of at most [`limits::NUMBER_MAX`], written as JSON writes it and in no other way.
pub(crate) fn parse(raw: &str) -> Result<u64, Refusal> {
    let plain = raw.bytes().all(|byte| byte.is_ascii_digit()) && (raw == "0" || !raw.starts_with('0'));
    plain
        .then(|| raw.parse().ok())
        .flatten()
        .filter(|number| *number <= limits::NUMBER_MAX)
        .ok_or(Refusal::new(Code::InvalidMessage, "not a whole number of at most 2^53-1"))
}
