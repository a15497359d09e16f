//! Heads and key revocations: what has been told, and what the directory holds of it.

use std::collections::{BTreeMap, BTreeSet};

use keychain::{
    Digest, PublicKey, Timestamp,
    chain::SignedEvent,
    directory::{Change, Db, Directory, Error},
    statement::{Head, KeyRevocation},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::source;

/// What hsmd answered about its statements.
#[derive(Clone, Debug)]
pub struct Told {
    /// To be named when asking for the next.
    pub version: u64,
    head: Option<Head>,
    revocations: Vec<KeyRevocation>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    version: u64,
    #[serde(borrow)]
    head: Option<&'a RawValue>,
    #[serde(borrow)]
    key_revocations: Vec<&'a RawValue>,
}

impl Told {
    /// Reads the answer to `GET /statements`.
    pub fn parse(body: &[u8]) -> Result<Self, source::Error> {
        let answer: Answer<'_> = serde_json::from_slice(body)?;
        let head = answer.head.map(|head| Head::parse(head.get())).transpose()?;
        let revocations = answer.key_revocations.into_iter().map(|one| KeyRevocation::parse(one.get()));
        Ok(Self { version: answer.version, head, revocations: revocations.collect::<Result<_, _>>()? })
    }
}

/// Keeps the directory's copy of the newest statements, and keeps revoked keys out of it.
///
/// Another publisher may carry the statements of another hsmd on the same ledger. So what stands in the
/// directory stays if it says no less than ours and a generation of this chain signed it.
pub struct StatementCarrier {
    directory: Directory,
    head: Option<Head>,
    /// The revocation of each key.
    revocations: BTreeMap<PublicKey, KeyRevocation>,
    /// Names of entries that the directory is not known to hold.
    owed: BTreeSet<Name>,
    /// Revoked keys whose endorsements are not known to be gone.
    to_withdraw: BTreeSet<PublicKey>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Head(Digest),
    Revocation(PublicKey),
}

impl StatementCarrier {
    /// Carries into `directory`; nothing is known yet.
    pub fn new(directory: Directory) -> Self {
        Self {
            directory,
            head: None,
            revocations: BTreeMap::new(),
            owed: BTreeSet::new(),
            to_withdraw: BTreeSet::new(),
        }
    }

    /// Takes in what hsmd told. It is published by the next [`Self::settle`].
    pub fn learn(&mut self, told: Told) {
        let before = std::mem::take(&mut self.revocations);
        for revocation in told.revocations {
            for key in revocation.claimed_keys() {
                if !before.contains_key(key) {
                    self.to_withdraw.insert(*key);
                }
                self.revocations.insert(*key, revocation.clone());
            }
        }
        self.head = told.head.or_else(|| self.head.take());
        self.owe_everything();
    }

    /// Takes in what changed in the directory. A service that does not know yet puts its revoked key back at
    /// once, so that is left to [`Self::sweep`]: two that write against each other would never rest.
    pub fn notice(&mut self, changes: &BTreeSet<Change>) {
        for change in changes {
            match change {
                Change::Flushed | Change::Reconnected => self.owe_everything(),
                Change::Key(name) => {
                    if let Ok(id) = Digest::parse(name)
                        && self.head.as_ref().is_some_and(|head| head.event_id() == id)
                    {
                        self.owed.insert(Name::Head(id));
                    } else if let Ok(key) = PublicKey::parse(name)
                        && self.revocations.contains_key(&key)
                    {
                        self.owed.insert(Name::Revocation(key));
                    }
                }
            }
        }
    }

    /// Looks at everything again.
    pub fn sweep(&mut self) {
        self.owe_everything();
        self.to_withdraw.extend(self.revocations.keys());
    }

    /// Owes the directory every statement.
    pub fn owe_everything(&mut self) {
        self.owed.extend(self.head.as_ref().map(|head| Name::Head(head.event_id())));
        self.owed.extend(self.revocations.keys().copied().map(Name::Revocation));
    }

    /// Publishes what is owed and withdraws the endorsements of revoked keys. `event` finds an event of the
    /// chain.
    pub async fn settle(
        &mut self,
        now: Timestamp,
        event: impl Fn(&Digest) -> Option<SignedEvent>,
    ) -> Result<(), Error> {
        while let Some(name) = self.owed.first().copied() {
            match name {
                Name::Head(id) => self.settle_head(&id, now, &event).await?,
                Name::Revocation(key) => self.settle_revocation(&key, now, &event).await?,
            }
            self.owed.remove(&name);
        }
        while let Some(key) = self.to_withdraw.first().copied() {
            for db in [Db::Access, Db::Response] {
                if self.directory.endorsement(db, &key).await.is_ok_and(|found| found.is_none()) {
                    continue;
                }
                self.directory.withdraw(db, &key).await?;
                metrics::counter!("hsm_publisher_withdrawn_total").increment(1);
                tracing::warn!(%key, ?db, "took the endorsement of a revoked key out of the directory");
            }
            self.to_withdraw.remove(&key);
        }
        Ok(())
    }

    /// Whether a head was told, and the directory holds everything as far as is known.
    pub fn is_settled(&self) -> bool {
        self.head.is_some() && self.owed.is_empty() && self.to_withdraw.is_empty()
    }

    async fn settle_head(
        &self,
        id: &Digest,
        now: Timestamp,
        event: impl Fn(&Digest) -> Option<SignedEvent>,
    ) -> Result<(), Error> {
        let Some(ours) = self.head.as_ref().filter(|head| head.event_id() == *id) else { return Ok(()) };
        let ttl = ours.expiration().since(now);
        let stays = |text: &String| {
            let Ok(theirs) = Head::parse(text) else { return false };
            let signed = event(id).is_some_and(|event| theirs.verify_signature(&event).is_ok());
            text == ours.text() || (signed && theirs.issued_at() > ours.issued_at())
        };
        if ttl.is_zero() || readable(self.directory.head(id).await).is_some_and(|text| stays(&text)) {
            return Ok(());
        }
        self.directory.publish_head(id, ours.text(), ttl).await?;
        metrics::counter!("hsm_publisher_published_total").increment(1);
        Ok(())
    }

    async fn settle_revocation(
        &self,
        key: &PublicKey,
        now: Timestamp,
        event: impl Fn(&Digest) -> Option<SignedEvent>,
    ) -> Result<(), Error> {
        let Some(ours) = self.revocations.get(key) else { return Ok(()) };
        let ttl = ours.expiration().since(now);
        let stays = |text: &String| {
            let Ok(theirs) = KeyRevocation::parse(text) else { return false };
            let newer = theirs.issued_at() > ours.issued_at() && theirs.expiration() >= ours.expiration();
            let signed = event(&theirs.generation_id())
                .is_some_and(|event| theirs.verify_signature(&event).is_ok_and(|keys| keys.contains(key)));
            text == ours.text() || (signed && newer)
        };
        let held = readable(self.directory.key_revocation(key).await);
        if ttl.is_zero() || held.is_some_and(|text| stays(&text)) {
            return Ok(());
        }
        self.directory.publish_key_revocation(key, ours.text(), ttl).await?;
        metrics::counter!("hsm_publisher_published_total").increment(1);
        Ok(())
    }
}

/// What stands there, where that is a text. Anything else is written over; a directory that does not answer is
/// noticed by the writing.
fn readable(found: Result<Option<String>, Error>) -> Option<String> {
    found.unwrap_or_default()
}
