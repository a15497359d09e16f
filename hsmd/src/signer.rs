//! The one thread that talks to a token, and the bounded queue before it.
//!
//! A token serves one signature at a time whatever its callers do, and some modules crash when two
//! threads call them: so each token has one thread, callers wait for its answers, and a caller that
//! comes when the queue is full is told so at once. The thread climbs the ladder out of a fault: try
//! again on a new session, then on a freshly initialised module ([`Rung`]).

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use keychain::{PublicKey, Signature};
use tokio::sync::{mpsc, oneshot};

use crate::backend::{Backend, Fault, Handle, Inventory, Key, KeyId, Rung};

/// Requests that may wait for the token. A YubiHSM signs about 14 times a second and a caller waits
/// [`DEADLINE`] at most, so what stands further back could not be answered in time by the slowest device.
/// A SoftHSM empties this queue in a fiftieth of a second.
pub const QUEUE: usize = 128;

/// How long a caller waits for the token: the queue of the slowest device, and one climb of the ladder.
pub const DEADLINE: Duration = Duration::from_secs(12);

/// Hands work to the thread of one token. Cloning shares it; the thread ends, and closes its token, once
/// every clone is gone.
#[derive(Clone)]
pub struct Signer {
    queue: mpsc::Sender<Job>,
    waiting: Arc<AtomicUsize>,
    recoveries: Arc<AtomicUsize>,
}

type Job = Box<dyn FnOnce(&mut Vault) + Send>;

impl Signer {
    /// Starts the thread that owns `backend`.
    pub fn start(backend: Box<dyn Backend>) -> std::io::Result<(Self, thread::JoinHandle<()>)> {
        let (queue, mut jobs) = mpsc::channel::<Job>(QUEUE);
        let waiting = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&waiting);
        let recoveries = Arc::new(AtomicUsize::new(0));
        let recovered = Arc::clone(&recoveries);
        let thread = thread::Builder::new().name("signer".to_owned()).spawn(move || {
            let mut vault = Vault { backend, handles: HashMap::new(), recovered };
            while let Some(job) = jobs.blocking_recv() {
                job(&mut vault);
                counter.fetch_sub(1, Ordering::Relaxed);
                metrics::gauge!("hsmd_queue_depth").set(waiting_now(&counter));
            }
        })?;
        Ok((Self { queue, waiting, recoveries }, thread))
    }

    /// Makes a key pair under `id`.
    pub async fn generate(&self, id: KeyId) -> Result<Key, Fault> {
        self.ask("generate", move |vault| vault.generate(id)).await
    }

    /// Signs a SHA-256 digest with the key whose public half is `public_key`.
    pub async fn sign(&self, public_key: PublicKey, digest: [u8; 32]) -> Result<Signature, Fault> {
        self.ask("sign", move |vault| vault.sign(&public_key, &digest)).await
    }

    /// Lists what is on the token.
    pub async fn inventory(&self) -> Result<Inventory, Fault> {
        self.ask("list", Vault::inventory).await
    }

    /// Destroys the key whose public half is `public_key`; nothing if there is none.
    pub async fn retire(&self, public_key: PublicKey) -> Result<(), Fault> {
        self.ask("destroy", move |vault| vault.retire(&public_key)).await
    }

    /// Destroys what a handle of the newest inventory names.
    pub async fn destroy(&self, handle: Handle) -> Result<(), Fault> {
        self.ask("destroy", move |vault| vault.backend.destroy(handle)).await
    }

    /// Requests in the queue or at the token now.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// How often the connection to the token was made anew. A call during which this changed may have had
    /// its effect twice.
    pub fn recoveries(&self) -> usize {
        self.recoveries.load(Ordering::Relaxed)
    }

    async fn ask<T: Send + 'static>(
        &self,
        op: &'static str,
        work: impl FnOnce(&mut Vault) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |vault| {
            // Whoever asked may have given up: work that nobody waits for would only make the queue longer.
            if reply.is_closed() {
                return;
            }
            let start = Instant::now();
            let done = work(vault);
            let result = if done.is_ok() { "ok" } else { "fault" };
            metrics::histogram!("hsmd_token_duration_seconds", "op" => op, "result" => result)
                .record(start.elapsed());
            drop(reply.send(done));
        });
        self.waiting.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = self.queue.try_send(job) {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(match error {
                mpsc::error::TrySendError::Full(_) => Fault::Busy { capacity: QUEUE },
                mpsc::error::TrySendError::Closed(_) => Fault::Stopped,
            });
        }
        match tokio::time::timeout(DEADLINE, answer).await {
            Ok(Ok(done)) => done,
            Ok(Err(_)) => Err(Fault::Stopped),
            Err(_) => Err(Fault::Timeout { seconds: DEADLINE.as_secs() }),
        }
    }
}

fn waiting_now(counter: &AtomicUsize) -> f64 {
    u32::try_from(counter.load(Ordering::Relaxed)).map_or(f64::INFINITY, f64::from)
}

/// A backend and where its keys are: what lives on the thread.
struct Vault {
    backend: Box<dyn Backend>,
    /// Handles of this connection. Emptied by a reconnect.
    handles: HashMap<PublicKey, Handle>,
    /// Counts reconnections.
    recovered: Arc<AtomicUsize>,
}

impl Vault {
    fn generate(&mut self, id: KeyId) -> Result<Key, Fault> {
        // A generation that failed after its effect leaves a second key under the id: the reconciliation of
        // token and ledger that follows destroys it, because the ledger does not name it.
        let key = self.climb(|vault| vault.backend.generate(id))?;
        self.handles.insert(key.public_key, key.handle);
        Ok(key)
    }

    fn sign(&mut self, public_key: &PublicKey, digest: &[u8; 32]) -> Result<Signature, Fault> {
        self.climb(|vault| {
            let handle = vault.find(public_key)?.ok_or(Fault::NoSuchKey(*public_key))?;
            vault.backend.sign(handle, digest)
        })
    }

    fn inventory(&mut self) -> Result<Inventory, Fault> {
        let inventory = self.climb(|vault| vault.backend.inventory())?;
        self.handles = inventory.keys.iter().map(|key| (key.public_key, key.handle)).collect();
        Ok(inventory)
    }

    fn retire(&mut self, public_key: &PublicKey) -> Result<(), Fault> {
        self.climb(|vault| match vault.find(public_key)? {
            Some(handle) => vault.backend.destroy(handle),
            None => Ok(()),
        })?;
        self.handles.remove(public_key);
        Ok(())
    }

    /// The handle of a key, looked up on the token if this connection has not met it.
    fn find(&mut self, public_key: &PublicKey) -> Result<Option<Handle>, Fault> {
        if let Some(handle) = self.handles.get(public_key) {
            return Ok(Some(*handle));
        }
        let inventory = self.backend.inventory()?;
        self.handles = inventory.keys.iter().map(|key| (key.public_key, key.handle)).collect();
        Ok(self.handles.get(public_key).copied())
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
            self.recovered.fetch_add(1, Ordering::Relaxed);
            self.handles.clear();
            outcome = self.backend.reconnect(rung).and_then(|()| work(self));
        }
        outcome
    }
}
