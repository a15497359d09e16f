//! Database 5: what the HSM's generations state
//! ([PROTOCOL.md#directory-statements](../../PROTOCOL.md#directory-statements)).
//!
//! Heads stand under the id of their event, key revocations under each key that they name, so that a change
//! is pushed to whoever follows [`super::Changes`], and a single key can be looked up.

use std::time::Duration;

use super::{Directory, Error, millis, read};
use crate::cesr::{Digest, PublicKey};

impl Directory {
    /// Publishes the newest head of one event, as it stands. It disappears after `ttl`.
    pub async fn publish_head(&self, event_id: &Digest, text: &str, ttl: Duration) -> Result<(), Error> {
        self.publish_statement("publish a head", &event_id.to_string(), text, ttl).await
    }

    /// The newest published head of one event, unverified.
    pub async fn head(&self, event_id: &Digest) -> Result<Option<String>, Error> {
        read::one(&self.lanes.statements, "read a head", &event_id.to_string()).await
    }

    /// The newest published head of every event that has one, unverified. Unreadable entries are left out.
    pub async fn heads(&self) -> Result<Vec<String>, Error> {
        let entries = read::all(&self.lanes.statements, "read all heads", read::Name::Digest).await?;
        Ok(entries.into_iter().map(|(_, text)| text).collect())
    }

    /// Publishes a key revocation, as it stands, under one of the keys that it names. It disappears after
    /// `ttl`.
    pub async fn publish_key_revocation(
        &self,
        key: &PublicKey,
        text: &str,
        ttl: Duration,
    ) -> Result<(), Error> {
        self.publish_statement("publish a key revocation", &key.to_string(), text, ttl).await
    }

    /// The published revocation of one key, unverified.
    pub async fn key_revocation(&self, key: &PublicKey) -> Result<Option<String>, Error> {
        read::one(&self.lanes.statements, "read a key revocation", &key.to_string()).await
    }

    /// Every key under which a revocation stands, with that revocation, unverified, sorted by key. Unreadable
    /// entries are left out.
    pub async fn key_revocations(&self) -> Result<Vec<(String, String)>, Error> {
        read::all(&self.lanes.statements, "read all key revocations", read::Name::Key).await
    }

    async fn publish_statement(
        &self,
        operation: &'static str,
        name: &str,
        text: &str,
        ttl: Duration,
    ) -> Result<(), Error> {
        read::bounded(name, text)?;
        let mut set = redis::pipe();
        set.cmd("SET").arg(name).arg(text).arg("PX").arg(millis(ttl)).ignore();
        self.lanes.statements.run(operation, &set).await
    }
}
