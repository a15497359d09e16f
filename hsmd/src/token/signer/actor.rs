//! The actor of one token: it owns the backend and knows where its keys are, takes its work from the one queue, and climbs
//! the ladder out of a fault.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Instant,
};

use keychain::{PublicKey, Signature};

use super::{
    Progress,
    queue::{Next, Queue},
    record,
};
use crate::token::backend::{Backend, Fault, Handle, Inventory, Key, KeyId, Rung, WrapKeyId, Wrapped};

/// Retired keys that are remembered: signatures that waited while their generation was left ask for the
/// newest few.
const RETIRED_MAX: usize = 64;

pub(super) struct Actor {
    backend: Box<dyn Backend>,
    /// Handles of this connection. Emptied by a reconnect.
    handles: HashMap<PublicKey, Handle>,
    /// Keys that are not on the token any more, newest last: a request that waits for one is refused at once, and
    /// does not cost a listing of the token.
    retired: VecDeque<PublicKey>,
    queue: Arc<Queue>,
    progress: Arc<Progress>,
}

impl Drop for Actor {
    /// However the thread ends, no caller waits for it in vain.
    fn drop(&mut self) {
        self.queue.end();
    }
}

impl Actor {
    pub(super) fn new(backend: Box<dyn Backend>, queue: Arc<Queue>, progress: Arc<Progress>) -> Self {
        progress.connected(backend.identity());
        Self { backend, handles: HashMap::new(), retired: VecDeque::new(), queue, progress }
    }

    /// The thread: works until no sender is left.
    pub(super) fn run(mut self) {
        while let Some(next) = self.queue.next() {
            match next {
                Next::Job(job) => job(&mut self),
                Next::Sign(public_key, digest) => {
                    let start = Instant::now();
                    let outcome = self.sign(&public_key, &digest);
                    record("sign", start, &outcome);
                    self.queue.signed(outcome);
                }
            }
            self.queue.done();
        }
    }

    pub(super) fn generate(&mut self, id: KeyId) -> Result<Key, Fault> {
        // A generation that failed after its effect leaves a second key under the id: the reconciliation of
        // token and ledger that follows destroys it, because the ledger does not name it.
        let key = self.climb(|actor| actor.call(|backend| backend.generate(id)))?;
        self.handles.insert(key.public_key, key.handle);
        Ok(key)
    }

    pub(super) fn wrap_keys(&mut self) -> Result<Vec<WrapKeyId>, Fault> {
        self.climb(|actor| actor.call(|backend| backend.wrap_keys()))
    }

    pub(super) fn wrap(&mut self, public_key: &PublicKey, under: WrapKeyId) -> Result<Wrapped, Fault> {
        self.climb(|actor| {
            let handle = actor.find(public_key)?.ok_or(Fault::NoSuchKey(*public_key))?;
            actor.call(|backend| backend.wrap(handle, under))
        })
    }

    pub(super) fn unwrap(
        &mut self,
        id: KeyId,
        public_key: &PublicKey,
        wrapped: &Wrapped,
        under: WrapKeyId,
    ) -> Result<(), Fault> {
        let mut again = false;
        let key = self.climb(|actor| {
            // The attempt before may have had its effect.
            if again && let Some(handle) = actor.find(public_key)? {
                return Ok(handle);
            }
            again = true;
            actor.call(|backend| backend.unwrap(id, public_key, wrapped, under)).map(|key| key.handle)
        })?;
        self.retired.retain(|retired| retired != public_key);
        self.handles.insert(*public_key, key);
        Ok(())
    }

    fn sign(&mut self, public_key: &PublicKey, digest: &[u8; 32]) -> Result<Signature, Fault> {
        if self.retired.contains(public_key) {
            return Err(Fault::NoSuchKey(*public_key));
        }
        self.climb(|actor| {
            let handle = actor.find(public_key)?.ok_or(Fault::NoSuchKey(*public_key))?;
            actor.call(|backend| backend.sign(handle, digest))
        })
    }

    pub(super) fn inventory(&mut self) -> Result<Inventory, Fault> {
        self.climb(Self::list)
    }

    /// The same through a connection made wholly anew: a module may go by a list that another process has
    /// changed since (SoftHSM does).
    pub(super) fn inventory_afresh(&mut self) -> Result<Inventory, Fault> {
        self.reconnect(Rung::Module)?;
        self.inventory()
    }

    pub(super) fn retire(&mut self, public_key: &PublicKey) -> Result<(), Fault> {
        self.climb(|actor| match actor.find(public_key)? {
            Some(handle) => actor.call(|backend| backend.destroy(handle)),
            None => Ok(()),
        })?;
        self.handles.remove(public_key);
        if self.retired.len() >= RETIRED_MAX {
            self.retired.pop_front();
        }
        self.retired.push_back(*public_key);
        Ok(())
    }

    pub(super) fn destroy(&mut self, handle: Handle) -> Result<(), Fault> {
        self.call(|backend| backend.destroy(handle))
    }

    pub(super) fn attest(&mut self, public_key: &PublicKey) -> Result<Option<Vec<u8>>, Fault> {
        let attested = self.climb(|actor| {
            if !actor.backend.capabilities().attestation {
                return Ok(None);
            }
            let handle = actor.find(public_key)?.ok_or(Fault::NoSuchKey(*public_key))?;
            actor.call(|backend| backend.attest(handle))
        });
        // A certificate names its device.
        self.progress.connected(self.backend.identity());
        attested
    }

    pub(super) fn free_objects(&mut self) -> Result<Option<u32>, Fault> {
        self.climb(|actor| actor.call(|backend| backend.free_objects()))
    }

    /// The handle of a key, looked up on the token if this connection has not met it.
    fn find(&mut self, public_key: &PublicKey) -> Result<Option<Handle>, Fault> {
        if let Some(handle) = self.handles.get(public_key) {
            return Ok(Some(*handle));
        }
        self.list()?;
        Ok(self.handles.get(public_key).copied())
    }

    fn list(&mut self) -> Result<Inventory, Fault> {
        let mut inventory = self.call(|backend| backend.inventory())?;
        self.destroy_second_copies(&mut inventory)?;
        self.handles = inventory.keys.iter().map(|key| (key.public_key, key.handle)).collect();
        self.retired.retain(|key| !self.handles.contains_key(key));
        Ok(inventory)
    }

    /// A key that was carried twice, by two processes or because the first attempt failed after its effect, is there
    /// twice: one of the copies goes.
    fn destroy_second_copies(&mut self, inventory: &mut Inventory) -> Result<(), Fault> {
        let mut seen = HashSet::new();
        let (once, again): (Vec<_>, Vec<_>) =
            inventory.keys.iter().copied().partition(|key| seen.insert(key.public_key));
        inventory.keys = once;
        again.into_iter().try_for_each(|key| {
            tracing::info!(key = %key.public_key, "destroying a second copy of a key");
            self.call(|backend| backend.destroy(key.handle))
        })
    }

    /// Does `work`, and while it fails for a reason that a new connection may cure, reconnects a rung
    /// further each time and does it again.
    fn climb<T>(&mut self, mut work: impl FnMut(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        let mut outcome = work(self);
        for rung in Rung::ALL {
            let Err(fault) = &outcome else { break };
            if !fault.is_curable() {
                break;
            }
            tracing::warn!(%fault, rung = rung.as_str(), "reconnecting to the token");
            metrics::counter!("hsmd_token_recoveries_total", "step" => rung.as_str()).increment(1);
            self.progress.recovered();
            outcome = self.reconnect(rung).and_then(|()| work(self));
        }
        outcome
    }

    fn reconnect(&mut self, rung: Rung) -> Result<(), Fault> {
        self.handles.clear();
        let outcome = self.call(|backend| backend.reconnect(rung));
        self.progress.connected(self.backend.identity());
        outcome
    }

    /// One call of the backend, timed by the watch for a call that never returns.
    fn call<T>(&mut self, work: impl FnOnce(&mut dyn Backend) -> T) -> T {
        self.progress.begins();
        let done = work(self.backend.as_mut());
        self.progress.ends();
        done
    }
}
