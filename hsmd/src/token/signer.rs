//! One actor a token: a thread that owns the backend, and the bounded queue before it.
//!
//! [`Signer`] is the actor's address: callers share it, and it can do nothing but put work into the queue and wait. What
//! the work needs (the backend, the handles of its keys) is the actor's own, so that no lock is held during a call.
//!
//! A token serves one signature at a time whatever its callers do, and some modules crash when two
//! threads call them: so each token has one thread, callers wait for its answers, and a caller that
//! comes when its class's queue is full is refused at once. Steps of the chain go before everything else
//! ([`Class`]), equal signatures are made once, and the thread climbs the ladder out of a fault: try
//! again on a new session, then on a freshly initialised module ([`crate::token::backend::Rung`]).

mod actor;
mod progress;
mod queue;
#[cfg(test)]
mod tests;

use std::{sync::Arc, thread, time::Duration, time::Instant};

use keychain::{PublicKey, Signature};
use tokio::sync::oneshot;

use crate::token::backend::{Backend, DeviceLog, Fault, Handle, Inventory, Key, KeyId, WrapKeyId, Wrapped};
use actor::Actor;
use progress::Progress;
use queue::{Queue, Wanted, Work};

pub use queue::{Class, PROBE_PATIENCE, SHARED_MAX};

/// How long a caller waits for the token: the queue of the slowest device, and one climb of the ladder.
pub const DEADLINE: Duration = Duration::from_secs(12);

/// The address of one token's actor. Cloning shares it; the actor ends, and closes its token, once every clone is gone.
#[derive(Clone)]
pub struct Signer(Arc<Handed>);

/// What the clones share: closes the queue when the last is gone.
struct Handed {
    queue: Arc<Queue>,
    progress: Arc<Progress>,
    log: DeviceLog,
}

impl Drop for Handed {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl Signer {
    /// Starts the thread that owns `backend`.
    pub fn start(backend: Box<dyn Backend>) -> std::io::Result<(Self, thread::JoinHandle<()>)> {
        let (queue, progress) = (Arc::new(Queue::new()), Arc::new(Progress::default()));
        let log = backend.log();
        let handed = Handed { queue: Arc::clone(&queue), progress: Arc::clone(&progress), log };
        let thread = thread::Builder::new()
            .name("signer".to_owned())
            .spawn(move || Actor::new(backend, queue, progress).run())?;
        Ok((Self(Arc::new(handed)), thread))
    }

    /// Makes a key pair under `id`.
    pub async fn generate(&self, id: KeyId) -> Result<Key, Fault> {
        self.ask("generate", move |actor| actor.generate(id)).await
    }

    /// Signs a SHA-256 digest with the key whose public half is `public_key`. A request that equals one which
    /// is waiting or being signed in the same class shares its signature.
    pub async fn sign(
        &self,
        public_key: PublicKey,
        digest: [u8; 32],
        class: Class,
    ) -> Result<Signature, Fault> {
        let (reply, answer) = oneshot::channel();
        self.0.queue.push(class, Work::Sign(Wanted::new(public_key, digest, reply)))?;
        wait(answer).await
    }

    /// The wrap keys that keys can be carried under, proven to confine them.
    pub async fn wrap_keys(&self) -> Result<Vec<WrapKeyId>, Fault> {
        self.ask("wrap keys", Actor::wrap_keys).await
    }

    /// Encrypts a key under a wrap key.
    pub async fn wrap(&self, public_key: PublicKey, under: WrapKeyId) -> Result<Wrapped, Fault> {
        self.ask("wrap", move |actor| actor.wrap(&public_key, under)).await
    }

    /// Takes in a key that another token encrypted, under `id`, and proves that it signs.
    pub async fn unwrap(
        &self,
        id: KeyId,
        public_key: PublicKey,
        wrapped: Wrapped,
        under: WrapKeyId,
    ) -> Result<(), Fault> {
        self.ask("unwrap", move |actor| actor.unwrap(id, &public_key, &wrapped, under)).await
    }

    /// Lists what is on the token.
    pub async fn inventory(&self) -> Result<Inventory, Fault> {
        self.ask("list", Actor::inventory).await
    }

    /// The same through a connection made wholly anew: what a module remembers of the token, another process
    /// may have changed.
    pub async fn inventory_afresh(&self) -> Result<Inventory, Fault> {
        self.ask("list", Actor::inventory_afresh).await
    }

    /// Destroys the key whose public half is `public_key`; nothing if there is none.
    pub async fn retire(&self, public_key: PublicKey) -> Result<(), Fault> {
        self.ask("destroy", move |actor| actor.retire(&public_key)).await
    }

    /// Destroys what a handle of the newest inventory names.
    pub async fn destroy(&self, handle: Handle) -> Result<(), Fault> {
        self.ask("destroy", move |actor| actor.destroy(handle)).await
    }

    /// The device's certificate about the key whose public half is `public_key`, DER, checked; none where the
    /// device issues none.
    pub async fn attest(&self, public_key: PublicKey) -> Result<Option<Vec<u8>>, Fault> {
        self.ask("attest", move |actor| actor.attest(&public_key)).await
    }

    /// How many more objects fit on the token; none where it does not tell.
    pub async fn free_objects(&self) -> Result<Option<u32>, Fault> {
        self.ask("storage", Actor::free_objects).await
    }

    /// Requests in the queue or at the token now.
    pub fn waiting(&self) -> usize {
        self.depths().into_iter().map(|(_, depth)| depth).sum()
    }

    /// The same, of each class.
    pub fn depths(&self) -> [(Class, usize); 4] {
        self.0.queue.depths()
    }

    /// How often the connection to the token was made anew. A call during which this changed may have had
    /// its effect twice.
    pub fn recoveries(&self) -> usize {
        self.0.progress.recoveries()
    }

    /// How many calls of the token have ended, well or badly: one that stands still while work is waiting is
    /// a thread that hangs.
    pub fn attempts(&self) -> usize {
        self.0.progress.attempts()
    }

    /// For how long the call that is at the token now has not returned; nothing if there is none.
    pub fn time_in_call(&self) -> Option<Duration> {
        self.0.progress.time_in_call()
    }

    /// Which token it is; none if it has not said.
    pub fn identity(&self) -> Option<String> {
        self.0.progress.identity()
    }

    /// What is kept of the device's own log.
    pub fn log(&self) -> DeviceLog {
        self.0.log.clone()
    }

    /// Whether the thread is gone: nothing will be answered any more.
    pub fn has_ended(&self) -> bool {
        self.0.queue.has_ended()
    }

    /// Work of [`Class::Chain`].
    async fn ask<T: Send + 'static>(
        &self,
        op: &'static str,
        work: impl FnOnce(&mut Actor) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(move |actor: &mut Actor| {
            if reply.is_closed() {
                return;
            }
            let start = Instant::now();
            let done = work(actor);
            record(op, start, &done);
            drop(reply.send(done));
        });
        self.0.queue.push(Class::Chain, Work::Job(job))?;
        wait(answer).await
    }
}

async fn wait<T>(answer: oneshot::Receiver<Result<T, Fault>>) -> Result<T, Fault> {
    match tokio::time::timeout(DEADLINE, answer).await {
        Ok(Ok(done)) => done,
        Ok(Err(_)) => Err(Fault::Stopped),
        Err(_) => Err(Fault::Timeout { seconds: DEADLINE.as_secs() }),
    }
}

fn record<T>(op: &'static str, start: Instant, outcome: &Result<T, Fault>) {
    let result = if outcome.is_ok() { "ok" } else { "fault" };
    metrics::histogram!("hsmd_token_duration_seconds", "op" => op, "result" => result)
        .record(start.elapsed());
}
