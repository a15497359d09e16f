//! The audit trail of the HSM service (`PROTOCOL.md#audit`).
//!
//! A trail is a sequence of lines, each one JSON object and each naming the digest of the line before. hsmd writes it
//! into its ledger and `opsctl` reads it: both with what is here. A chain of digests shows that nothing was changed,
//! taken out or put in before its newest line; a head, which the HSM signs, states the newest line at its time.

mod entry;
mod trail;

pub use entry::{Entry, Head, Kind, Record};
pub use trail::{Trail, Walked};
