//! Statements as they were made.

use std::fmt::Write as _;

use keychain::{
    Digest, PublicKey, Timestamp,
    statement::{Head, KeyRevocation},
};

/// The statements of one moment. They never change; the next ones replace them.
#[derive(Clone, Debug, Default)]
pub struct Issued {
    /// Grows with each change, also over restarts: milliseconds since 1970, or one more than the last.
    pub version: u64,
    /// The newest head; none before the first was signed.
    pub head: Option<Head>,
    /// What the head denies.
    pub denied: Vec<Digest>,
    /// What revokes every key that has not ended.
    pub key_revocations: Vec<KeyRevocation>,
    /// The pages that `key_revocations` were made of.
    pub(super) pages: Vec<Page>,
    /// The generation that was the newest when they were.
    pub(super) pages_by: Option<Digest>,
}

/// The keys of one revocation, and when the last of them ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) keys: Vec<PublicKey>,
    pub(super) end: Timestamp,
}

impl Issued {
    /// The answer to `GET /statements`: each statement verbatim.
    pub fn to_json(&self) -> String {
        let head = self.head.as_ref().map_or("null", Head::text);
        let revocations: Vec<_> = self.key_revocations.iter().map(KeyRevocation::text).collect();
        format!(
            "{{\"version\":{},\"head\":{head},\"keyRevocations\":[{}]}}",
            self.version,
            revocations.join(",")
        )
    }

    /// Members for `GET /health`, each with a comma before it.
    pub fn to_health(&self) -> String {
        let mut members = String::new();
        if let Some(head) = &self.head {
            // Writing to a text cannot fail.
            let _written = write!(members, ",\"headIssuedAt\":\"{}\"", head.issued_at());
        }
        let keys: usize = self.pages.iter().map(|page| page.keys.len()).sum();
        let _written = write!(members, ",\"deniedGenerations\":{},\"revokedKeys\":{keys}", self.denied.len());
        members
    }

    /// The generation whose statements these are.
    pub(super) fn generation(&self) -> Option<Digest> {
        self.head.as_ref().map(Head::event_id)
    }
}
