//! Keeps what the HSM said of the keys of every authd on this store, and puts it back when the directory has lost it: a
//! token names the key that issued it, and that key may be one of a process that has ended.
//!
//! The store is believed no more than the directory is: what it gives is verified. What the newest head revokes or
//! denies is not put back, and nothing is while no head is fresh enough to say so.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use edge::own_key::Endorsed;
use edge::updates::{Subscription, Update};
use keychain::chain::windows;
use keychain::directory::{self, Db};
use keychain::endorsement::{Endorsement, Expected, Purpose};
use keychain::{PublicKey, Refusal, Timestamp};
use tokio::sync::watch;

use crate::issuer::SERVICE;
use crate::service::Service;
use crate::store::Fault;

/// Pause before a store or a directory that did not answer is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// Longest wait until what was announced before a loss is heard of.
const HEAD_WAIT: Duration = Duration::from_secs(2);

/// Why endorsements are not kept, or not put back.
#[derive(Debug, thiserror::Error)]
enum Waiting {
    /// The directory did not answer.
    #[error("the directory did not take an endorsement")]
    Directory(#[from] directory::Error),
    /// What may have revoked some is not known.
    #[error("nothing is put back: {0}")]
    Stale(Refusal),
    /// The store did not answer.
    #[error("the store did not keep or give endorsements")]
    Store(#[from] Fault),
}

/// Looks after the endorsements for as long as it is polled.
pub async fn run(service: Arc<Service>, mut updates: Subscription) {
    let mut keys = [service.access.changes(), service.response.changes()];
    let mut keeper = Keeper { service, known: BTreeMap::new(), unkept: true };
    let mut lost = updates.next().await; // the first tells to look at everything
    let mut failing = false;
    loop {
        let done = keeper.turn(&mut keys, &mut lost).await;
        metrics::gauge!("authd_endorsements_behind").set(if done.is_ok() { 0.0 } else { 1.0 });
        if let Err(error) = &done
            && !failing
        {
            tracing::warn!(error = error as &dyn Error, "endorsements of authd's keys wait; trying again");
        }
        failing = done.is_err();
        let [access, response] = &mut keys;
        tokio::select! {
            Ok(()) = access.changed() => keeper.unkept = true,
            Ok(()) = response.changed() => keeper.unkept = true,
            update = updates.next() => lost.merge(&update),
            () = tokio::time::sleep(if failing { RETRY } else { Duration::MAX }) => {}
        }
    }
}

struct Keeper {
    service: Arc<Service>,
    /// What the store keeps and what verified, by its key.
    known: BTreeMap<PublicKey, Endorsement>,
    /// Whether a key of this process may not be in the store.
    unkept: bool,
}

impl Keeper {
    async fn turn(
        &mut self,
        keys: &mut [watch::Receiver<Arc<Endorsed>>; 2],
        lost: &mut Update,
    ) -> Result<(), Waiting> {
        if self.unkept {
            for key in keys {
                let key = Arc::clone(&key.borrow_and_update());
                self.service.store.keep_endorsement(key.endorsement()).await?;
                self.known.insert(key.public_key(), key.endorsement().clone());
            }
            self.unkept = false;
        }
        if lost.everything {
            self.read().await?;
        }
        let names: Vec<PublicKey> =
            self.known.keys().filter(|key| lost.touches(&key.to_string())).copied().collect();
        if !names.is_empty() {
            self.put_back(&names, lost.number).await?;
        }
        *lost = Update::default();
        Ok(())
    }

    /// Reads what the store keeps, also of other authd.
    async fn read(&mut self) -> Result<(), Fault> {
        let now = self.service.now();
        for text in self.service.store.endorsements(now).await? {
            match Endorsement::parse(&text) {
                Ok(endorsement) => drop(self.known.insert(endorsement.subject.public_key, endorsement)),
                Err(refusal) => tracing::error!(%refusal, "a row of `endorsements` holds none; passed over"),
            }
        }
        self.known.retain(|_, endorsement| endorsement.subject.expiration > now);
        Ok(())
    }

    /// Learns those that count, and puts back those that the directory lacks, once all is heard that was announced before.
    async fn put_back(&mut self, names: &[PublicKey], number: u64) -> Result<(), Waiting> {
        let service = &self.service;
        // Late is no error here: the freshness of the heads is judged below.
        drop(tokio::time::timeout(HEAD_WAIT, service.trust.wait_for_update(number)).await);
        let now = service.now();
        let known = names.iter().filter_map(|name| Some((name, self.known.get(name)?)));
        let counts: Vec<_> =
            known.filter(|(_, endorsement)| verify(service, endorsement, now).is_ok()).collect();
        // Before the directory is asked: it may be away, and sessions go on.
        for (name, endorsement) in &counts {
            self.teach(name, endorsement, now);
        }
        service.trust.state().demand_fresh(now).map_err(Waiting::Stale)?;
        for (name, endorsement) in counts {
            let db = match endorsement.subject.purpose {
                Purpose::Access => Db::Access,
                Purpose::Response => Db::Response,
            };
            // Another endorsement of the same key is newer, or somebody else's doing: nothing to be mended here.
            if service.directory.endorsement(db, name).await?.is_some() {
                continue;
            }
            let left = endorsement.subject.expiration.since(now);
            service.directory.publish(db, name, endorsement.text(), left).await?;
            tracing::warn!(key = %name, "the directory had lost this key of authd; put back");
        }
        Ok(())
    }

    /// Tokens of a key that verified are refreshed here even while the directory is away.
    fn teach(&self, name: &PublicKey, endorsement: &Endorsement, now: Timestamp) {
        let issuers = &self.service.issuers;
        if endorsement.subject.purpose == Purpose::Access
            && !issuers.knows(name)
            && let Err(refusal) = issuers.take(name, endorsement.clone(), now)
        {
            tracing::debug!(key = %name, %refusal, "an issuer that the store keeps is not taken");
        }
    }
}

/// Whether any verifier still accepts it.
fn verify(service: &Service, endorsement: &Endorsement, now: Timestamp) -> Result<(), Refusal> {
    let subject = endorsement.subject;
    let window = match subject.purpose {
        Purpose::Access => windows::AUTHD,
        Purpose::Response => windows::DEVICE,
    };
    let expected =
        Expected { purpose: subject.purpose, public_key: &subject.public_key, service: Some(SERVICE) };
    endorsement.verify(service.trust.state().chain(), expected, window, now)
}
