//! The head as it was made.

use std::fmt::Write as _;

use keychain::{Digest, statement::Head};

/// The newest head. It never changes; the next one replaces it.
#[derive(Clone, Debug, Default)]
pub struct Issued {
    /// Grows with each change, also over restarts: milliseconds since 1970, or one more than the last.
    pub version: u64,
    /// The head; none before the first was signed.
    pub head: Option<Head>,
}

impl Issued {
    /// The answer to `GET /statements`: the head verbatim.
    pub fn to_json(&self) -> String {
        let head = self.head.as_ref().map_or("null", Head::text);
        format!("{{\"version\":{},\"head\":{head}}}", self.version)
    }

    /// Members for `GET /health`, each with a comma before it.
    pub fn to_health(&self) -> String {
        let mut members = String::new();
        let [denied, keys, services] = self.counts();
        if let Some(head) = &self.head {
            let (issued_at, number) = (head.issued_at(), head.number());
            // Writing to a text cannot fail.
            let _written = write!(members, ",\"headIssuedAt\":\"{issued_at}\",\"headNumber\":{number}");
        }
        let _written = write!(
            members,
            ",\"deniedGenerations\":{denied},\"revokedKeys\":{keys},\"revokedServices\":{services}"
        );
        members
    }

    /// The generation whose head this is.
    pub(super) fn generation(&self) -> Option<Digest> {
        self.head.as_ref().map(Head::event_id)
    }

    /// How many generations, keys and services the head refuses.
    pub(super) fn counts(&self) -> [usize; 3] {
        self.head.as_ref().map_or([0; 3], |head| {
            let entries = head.entries();
            [entries.denied.len(), entries.keys.len(), entries.services.len()]
        })
    }
}
