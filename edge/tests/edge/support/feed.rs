//! The denial feed as authd writes it.

use std::time::Duration;

use crate::support::clock;
use keychain::directory::Directory;
use keychain::endorsement::{Endorsement, Purpose};
use keychain::feed::{Cause, Chunks, Content, Draft, Entry, Place, Position, Signers, Standing};
use keychain::{Digest, SigningKey, Timestamp};

use super::fixture::{Hsm, key};

/// The number of authd's response key.
const RESPONSE: u32 = 900;

/// The two keys of an authd, endorsed.
pub(crate) struct Teller {
    identity: Digest,
    access: (SigningKey, Endorsement),
    response: (SigningKey, Endorsement),
    /// How much later than now it says that it speaks.
    pub(crate) ahead: Duration,
}

impl Teller {
    pub(crate) fn new(hsm: &Hsm, access: u32) -> Self {
        let endorsed = |number, purpose, hours| {
            let key = key(number);
            let text = hsm.endorse(purpose, key.public_key(), clock::now().plus(Duration::from_hours(hours)));
            (key, Endorsement::parse(&text).unwrap())
        };
        Self {
            identity: hsm.prefix(),
            access: endorsed(access, Purpose::Access, 24),
            response: endorsed(RESPONSE, Purpose::Response, 12),
            ahead: Duration::ZERO,
        }
    }

    pub(crate) fn seal(&self, position: Position, content: &Content) -> String {
        self.seal_at(position, content, clock::now().plus(self.ahead))
    }

    /// A message that is as old as that.
    pub(crate) fn seal_at(&self, position: Position, content: &Content, issued_at: Timestamp) -> String {
        let signers = Signers {
            access: (&self.access.0, &self.access.1),
            response: (&self.response.0, &self.response.1),
        };
        let draft = Draft { identity: self.identity, position, issued_at, content };
        draft.seal(signers).unwrap()
    }

    pub(crate) fn batch(&self, position: Position, entries: &[Entry]) -> String {
        self.seal(position, &Content::Batch(entries.to_vec()))
    }

    pub(crate) async fn publish_batch(&self, directory: &Directory, position: Position, entries: &[Entry]) {
        let text = self.batch(position, entries);
        directory.publish_batch(&self.identity, position, &text).await.unwrap();
    }

    pub(crate) async fn publish_snapshot(
        &self,
        directory: &Directory,
        position: Position,
        entries: &[Entry],
    ) {
        self.publish_snapshot_at(directory, position, entries, clock::now().plus(self.ahead)).await;
    }

    /// A snapshot that is as old as that.
    pub(crate) async fn publish_snapshot_at(
        &self,
        directory: &Directory,
        position: Position,
        entries: &[Entry],
        issued_at: Timestamp,
    ) {
        let chunks = Chunks::of(entries).unwrap();
        let text = self.seal_at(position, &chunks.content, issued_at);
        directory.publish_chunks(&chunks.texts).await.unwrap();
        directory.publish_snapshot(&self.identity, &text).await.unwrap();
    }
}

/// A ban of `subject`, or its end.
pub(crate) fn banned(subject: Digest, is_banned: bool) -> Entry {
    let place = Place { subject, account: Digest::of("account"), cause: Cause::Ban };
    let standing = if is_banned { Standing::Denied(None) } else { Standing::Lifted };
    Entry { place, standing }
}
