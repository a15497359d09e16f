//! `opsctl tls`: a small private certificate authority, for those who have none.
//!
//! hsmd lets services of other hosts in by mutual TLS and knows them by a name of their client certificate;
//! they know hsmd by its server certificate. An authority of one's own does as well. This one is a folder with
//! a certificate and a key, and issues those two kinds of certificate and no other.
//!
//! # What it is not
//!
//! It keeps no list of what it issued and revokes nothing: a certificate is left to end, and a service is shut
//! out by its row in hsmd's policy, which is the quicker way in any case.
//!
//! # Invariants
//!
//! - No key is ever overwritten, printed, or taken from the command line or the environment.
//! - A file is there whole or not at all, and stays through a power cut once it is told of.
//! - What is told of a certificate was read back from what was signed.
//! - A client has only names that a row of hsmd's policy can have (`tests/tests/e2e/names.rs`).

mod authority;
mod certificate;
mod files;
mod init;
mod issue;
mod key;
mod name;
mod report;
mod row;
#[cfg(test)]
mod tests;

pub(crate) use init::{Init, init};
pub(crate) use issue::{Issue, issue};

use std::ops::RangeInclusive;
use std::time::Duration;

const DAY: Duration = Duration::from_hours(24);

/// Reads `--days`.
fn days(text: &str, allowed: RangeInclusive<u32>) -> Result<Duration, String> {
    text.parse()
        .ok()
        .filter(|days| allowed.contains(days))
        .map(|days| DAY * days)
        .ok_or_else(|| format!("give {} to {} days", allowed.start(), allowed.end()))
}
