//! The newest head, and what the directory holds of it and of what it revokes.

use std::{collections::BTreeSet, time::Duration};

use keychain::{
    Digest, PublicKey, Timestamp,
    chain::SignedEvent,
    directory::{Change, Db, Directory, Error},
    endorsement::Endorsement,
    statement::{Entries, Head},
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

/// Keeps the directory's copy of the newest head, and keeps endorsements of what it revokes out of it.
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
    /// Revoked keys whose endorsements are not known to be gone.
    keys_to_withdraw: BTreeSet<PublicKey>,
    /// Whether endorsements of revoked services are not known to be gone.
    is_service_to_withdraw: bool,
}

impl StatementCarrier {
    /// Carries into `directory`; nothing is known yet.
    pub fn new(directory: Directory) -> Self {
        Self {
            directory,
            head: None,
            highest: None,
            is_pending: false,
            keys_to_withdraw: BTreeSet::new(),
            is_service_to_withdraw: false,
        }
    }

    /// Takes in what hsmd served. It is published by the next [`Self::settle`].
    pub fn learn(&mut self, received: Received) {
        let Some(head) = received.head else { return };
        let before = self.head.as_ref().map(|head| head.entries().clone()).unwrap_or_default();
        let now = head.entries();
        self.keys_to_withdraw.extend(now.keys.keys().filter(|key| !before.keys.contains_key(*key)));
        self.is_service_to_withdraw |= now.services != before.services;
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

    /// Takes in what changed in the directory. A service that does not know yet puts its revoked key back at
    /// once, so that is left to [`Self::sweep`]: two that write against each other would never rest.
    pub fn notice(&mut self, changes: &BTreeSet<Change>) {
        let own = self.head.as_ref().map(|head| head.event_id().to_string());
        self.is_pending |= changes.iter().any(|change| match change {
            Change::Flushed | Change::Reconnected => true,
            Change::Key(name) => own.as_ref() == Some(name),
        });
    }

    /// Reads everything again.
    pub fn sweep(&mut self) {
        self.mark_all_pending();
        let revoked = self.entries();
        self.is_service_to_withdraw |= !revoked.services.is_empty();
        self.keys_to_withdraw.extend(revoked.keys.keys());
    }

    /// The directory is not known to hold anything: the head is written again.
    pub const fn mark_all_pending(&mut self) {
        self.is_pending = true;
    }

    /// Publishes the head and withdraws the endorsements of what it revokes. `event` finds an event of the chain.
    pub async fn settle(
        &mut self,
        now: Timestamp,
        event: impl Fn(&Digest) -> Option<SignedEvent>,
    ) -> Result<(), Error> {
        if self.is_pending {
            self.settle_head(event).await?;
            self.is_pending = false;
        }
        while let Some(key) = self.keys_to_withdraw.first().copied() {
            for db in [Db::Access, Db::Response] {
                let is_gone = self.directory.endorsement(db, &key).await.is_ok_and(|found| found.is_none());
                if !is_gone {
                    self.withdraw(db, &key).await?;
                }
            }
            self.keys_to_withdraw.remove(&key);
        }
        if self.is_service_to_withdraw {
            self.withdraw_services(now).await?;
            self.is_service_to_withdraw = false;
        }
        Ok(())
    }

    /// Whether a head was served, and the directory holds everything as far as is known.
    pub fn is_settled(&self) -> bool {
        let has_rest = self.is_pending || self.is_service_to_withdraw || !self.keys_to_withdraw.is_empty();
        self.head.is_some() && !has_rest
    }

    fn entries(&self) -> Entries {
        self.head.as_ref().map(|head| head.entries().clone()).unwrap_or_default()
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

    /// Takes every endorsement of a revoked service, up to its number, out of the directory.
    async fn withdraw_services(&self, now: Timestamp) -> Result<(), Error> {
        let revoked = self.entries();
        for db in [Db::Access, Db::Response] {
            let entries = match db {
                Db::Access => self.directory.all_access().await?,
                Db::Response => self.directory.all_response().await?,
            };
            for (name, text) in entries {
                let Ok(endorsement) = Endorsement::parse(&text) else { continue };
                if let Ok(key) = PublicKey::parse(&name)
                    && revoked.demand_not_revoked(&endorsement, now).is_err()
                {
                    self.withdraw(db, &key).await?;
                }
            }
        }
        Ok(())
    }

    async fn withdraw(&self, db: Db, key: &PublicKey) -> Result<(), Error> {
        self.directory.withdraw(db, key).await?;
        metrics::counter!("hsm_publisher_withdrawn_total").increment(1);
        tracing::warn!(%key, ?db, "took the endorsement of a revoked key or service out of the directory");
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
