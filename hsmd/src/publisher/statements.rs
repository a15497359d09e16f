//! The newest head, and what the directory holds of it.

use std::{collections::BTreeSet, time::Duration};

use keychain::{
    Digest,
    chain::SignedEvent,
    directory::{Change, Directory, Error},
    statement::Head,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::source;

/// What hsmd answered about its statements.
#[derive(Clone, Debug)]
pub struct Received {
    /// To be named when asking for the next.
    pub version: u64,
    head: Option<Head>,
}

#[derive(Deserialize)]
struct Answer<'a> {
    version: u64,
    #[serde(borrow)]
    head: Option<&'a RawValue>,
}

impl Received {
    /// Reads the answer to `GET /statements`.
    pub fn parse(body: &[u8]) -> Result<Self, source::Error> {
        let answer: Answer<'_> = serde_json::from_slice(body)?;
        let head = answer.head.map(|head| Head::parse(head.get())).transpose()?;
        Ok(Self { version: answer.version, head })
    }
}

/// Keeps the directory's copy of the newest head.
///
/// Another publisher may carry the heads of another hsmd on the same ledger. So a head with a higher number stays in
/// the directory if the event's own generation signed it.
pub struct StatementCarrier {
    directory: Directory,
    head: Option<Head>,
    /// The head with the highest number that hsmd ever served of the same event: a restored ledger serves lower ones.
    highest: Option<Head>,
    /// Whether the directory is not known to hold the head.
    is_pending: bool,
}

impl StatementCarrier {
    /// Carries into `directory`; nothing is known yet.
    pub const fn new(directory: Directory) -> Self {
        Self { directory, head: None, highest: None, is_pending: false }
    }

    /// Takes in what hsmd served. It is published by the next [`Self::settle`].
    pub fn learn(&mut self, received: Received) {
        let Some(head) = received.head else { return };
        let is_highest = self
            .highest
            .as_ref()
            .is_none_or(|highest| highest.event_id() != head.event_id() || highest.number() < head.number());
        if is_highest {
            self.highest = Some(head.clone());
        }
        self.head = Some(head);
        self.is_pending = true;
    }

    /// The newest head that hsmd served.
    pub const fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// The heads of the event `id` that stand in the directory, or that hsmd served before: for hsmd, which alone can
    /// judge them.
    pub async fn found(&self, id: &Digest) -> Result<Vec<Head>, Error> {
        let published = self.directory.head(id).await?.and_then(|text| Head::parse(&text).ok());
        let received = self.highest.clone().filter(|head| head.event_id() == *id);
        Ok(published.into_iter().chain(received).collect())
    }

    /// Takes in what changed in the directory.
    pub fn notice(&mut self, changes: &BTreeSet<Change>) {
        let own = self.head.as_ref().map(|head| head.event_id().to_string());
        self.is_pending |= changes.iter().any(|change| match change {
            Change::Flushed | Change::Reconnected => true,
            Change::Key(name) => own.as_ref() == Some(name),
        });
    }

    /// The directory is not known to hold anything: the head is written again.
    pub const fn mark_all_pending(&mut self) {
        self.is_pending = true;
    }

    /// Publishes the head, if the directory is not known to hold it. `event` finds an event of the chain.
    pub async fn settle(&mut self, event: impl Fn(&Digest) -> Option<SignedEvent>) -> Result<(), Error> {
        if self.is_pending {
            self.settle_head(event).await?;
            self.is_pending = false;
        }
        Ok(())
    }

    /// Whether a head was served, and the directory holds it as far as is known.
    pub const fn is_settled(&self) -> bool {
        self.head.is_some() && !self.is_pending
    }

    async fn settle_head(&self, event: impl Fn(&Digest) -> Option<SignedEvent>) -> Result<(), Error> {
        let Some(ours) = &self.head else { return Ok(()) };
        let id = ours.event_id();
        let ttl = whole_life(ours);
        let stays = |text: &String| {
            let Ok(theirs) = Head::parse(text) else { return false };
            let is_signed = event(&id).is_some_and(|event| theirs.verify_signature(&event).is_ok());
            text == ours.text() || (is_signed && theirs.number() > ours.number())
        };
        if readable(self.directory.head(&id).await).is_some_and(|text| stays(&text)) {
            return Ok(());
        }
        self.directory.publish_head(&id, ours.text(), ttl).await?;
        metrics::counter!("hsm_publisher_published_total").increment(1);
        Ok(())
    }
}

/// What stands there, where that is a text. Anything else is written over; a directory that does not answer is
/// noticed by the writing.
fn readable(found: Result<Option<String>, Error>) -> Option<String> {
    found.unwrap_or_default()
}

/// How long a head stays in the directory: its whole life, not what is left of it by this clock, which may be wrong. A
/// taint's head must be found, and verifiers judge by their own clocks whether it has ended.
pub(super) fn whole_life(head: &Head) -> Duration {
    head.expiration().since(head.issued_at())
}
