//! One slot: the signer of its token once that is open, what it holds, and whether it answers.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use keychain::{PublicKey, Signature};

use super::Slot;
use crate::{
    token::backend::{DeviceLog, Fault, Handle, Inventory, Kept, Key, KeyId, WrapKeyId, Wrapped},
    token::signer::{Class, Signer},
};

/// How long one call may be at a token before callers no longer wait for it: some forty times what a slow device
/// takes for a signature, and short enough that the other token signs within five seconds.
const STUCK: Duration = Duration::from_secs(3);

/// How often a caller that waits for a signature checks whether the token is stuck.
const STUCK_CHECK: Duration = Duration::from_millis(250);

/// How long one of two tokens may take to make or carry a key before that is given up: longer than it waits for the
/// other's call when one module is behind both.
const GENERATE_MAX: Duration = Duration::from_secs(6);

/// A token that was not used for so long is listed, to see whether it answers. Below the 30 s after which an
/// idle session of a YubiHSM dies, and above the pause between two probes of the one that is used.
const IDLE_MAX: Duration = Duration::from_secs(12);

/// How much longer than usual a call of one of two tokens may take that has hung ever since the start: a new process
/// was tried already.
const START_GRACE: Duration = Duration::from_mins(10);

pub(super) struct Member {
    pub(super) slot: Slot,
    /// Whether there is no other slot.
    alone: bool,
    standing: Mutex<Standing>,
    /// What was kept of devices' own logs, and is not in the audit trail although its connection is gone, or could not
    /// be written.
    pub(super) unwritten: DeviceLog,
}

/// How far a token has come that is being opened.
#[derive(Clone, Debug)]
pub(super) enum Stage {
    Failed(Fault),
    Open,
    Opening,
}

struct Standing {
    stage: Stage,
    /// None while the token is not open.
    signer: Option<Signer>,
    /// Why it does not answer; nothing if it does, as far as is known.
    silent: Option<Arc<Fault>>,
    /// Whether it was listed with the others since it last was silent.
    surveyed: bool,
    /// The keys that it is known to hold.
    keys: BTreeMap<PublicKey, KeyId>,
    /// How many keys were made on it: a listing from before the newest does not say that it is not there.
    made: u64,
    /// When it answered last.
    heard: Option<Instant>,
    /// Since when it is being opened, if it is now.
    opening: Option<Instant>,
    /// Whether it holds another chain's keys, so that it is not used.
    aside: bool,
}

impl Member {
    pub(super) fn opened(slot: Slot, signer: Signer, alone: bool) -> Self {
        let standing = Standing { stage: Stage::Open, signer: Some(signer), ..Standing::new() };
        Self { slot, alone, standing: Mutex::new(standing), unwritten: DeviceLog::default() }
    }

    /// A slot whose token is not open yet.
    pub(super) fn unopened(slot: Slot, alone: bool) -> Self {
        let standing = Standing { silent: Some(Arc::new(Fault::Opening)), ..Standing::new() };
        Self { slot, alone, standing: Mutex::new(standing), unwritten: DeviceLog::default() }
    }

    pub(super) fn signer(&self) -> Option<Signer> {
        self.standing().signer.clone()
    }

    /// Notes that it is being opened now, or is not any more.
    pub(super) fn note_opening(&self, opening: bool) {
        self.standing().opening = opening.then(Instant::now);
    }

    pub(super) fn note_stage(&self, stage: Stage) {
        if let Stage::Failed(fault) = &stage {
            self.note_silence(fault);
        }
        self.standing().stage = stage;
    }

    pub(super) fn stage(&self) -> Stage {
        self.standing().stage.clone()
    }

    /// Takes the token into use.
    pub(super) fn adopt(&self, signer: Signer) {
        let mut standing = self.standing();
        (standing.signer, standing.silent, standing.opening) = (Some(signer), None, None);
    }

    /// Whether its token has refused the PIN: nothing is asked of it until it is opened anew.
    pub(super) fn is_pin_refused(&self) -> bool {
        self.standing().silent.as_ref().is_some_and(|fault| matches!(fault.root(), Fault::Pin { .. }))
    }

    /// Closes the token. Why it does not answer stays known.
    pub(super) fn give_up(&self) {
        let signer = self.standing().signer.take();
        for kept in signer.iter().flat_map(|signer| signer.log().take()) {
            self.unwritten.add(kept);
        }
        // Not under the lock: the last clone may end a thread.
        drop(signer);
    }

    /// What was kept of its device's own log since this was last asked, over earlier connections too.
    pub(super) fn device_log(&self) -> Vec<Kept> {
        let newest = self.signer().map(|signer| signer.log().take());
        self.unwritten.take().into_iter().chain(newest.into_iter().flatten()).collect()
    }

    pub(super) async fn generate(&self, id: KeyId) -> Result<Key, Fault> {
        let made = self.bounded(self.reachable()?.generate(id)).await;
        if let Ok(key) = &made {
            self.note_made(id, key.public_key);
        }
        self.noted_effect(made)
    }

    pub(super) async fn wrap_keys(&self) -> Result<Vec<WrapKeyId>, Fault> {
        let keys = self.bounded(self.reachable()?.wrap_keys()).await;
        self.noted(keys)
    }

    pub(super) async fn wrap(&self, public_key: PublicKey, under: WrapKeyId) -> Result<Wrapped, Fault> {
        let wrapped = self.bounded(self.reachable()?.wrap(public_key, under)).await;
        self.noted(wrapped)
    }

    pub(super) async fn unwrap(
        &self,
        id: KeyId,
        public_key: PublicKey,
        wrapped: Wrapped,
        under: WrapKeyId,
    ) -> Result<(), Fault> {
        let taken = self.bounded(self.reachable()?.unwrap(id, public_key, wrapped, under)).await;
        if taken.is_ok() {
            self.note_made(id, public_key);
        }
        self.noted_effect(taken)
    }

    /// One that was silent a moment ago is tried: it may be back. One that hangs is given up.
    pub(super) async fn sign(
        &self,
        public_key: PublicKey,
        digest: [u8; 32],
        class: Class,
    ) -> Result<Signature, Fault> {
        let signer = self.usable()?;
        let mut signing = std::pin::pin!(signer.sign(public_key, digest, class));
        loop {
            match tokio::time::timeout(STUCK_CHECK, &mut signing).await {
                // Of two tokens one that cannot sign, for whatever reason, is not asked again until it can.
                Ok(Err(fault))
                    if !self.alone && !matches!(fault, Fault::Busy { .. } | Fault::NoSuchKey(_)) =>
                {
                    self.note_silence(fault.root());
                    return Err(self.silent(fault.root().clone()));
                }
                Ok(signed) => return self.noted(signed),
                Err(_) => drop(self.usable()?),
            }
        }
    }

    pub(super) async fn list(&self, afresh: bool) -> Result<Inventory, Fault> {
        let signer = self.reachable()?;
        let made = self.standing().made;
        let listed = if afresh { signer.inventory_afresh().await } else { signer.inventory().await };
        self.note_listed(listed, made)
    }

    /// Sees whether it answers, if that is not known from what it does anyway.
    pub(super) async fn ask_silent(&self) {
        let (silent, heard, made) = {
            let standing = self.standing();
            (standing.silent.is_some(), standing.heard, standing.made)
        };
        // One that is alone is probed anyway.
        let idle = !self.alone && heard.is_none_or(|heard| heard.elapsed() >= IDLE_MAX);
        if let (Ok(signer), true) = (self.usable(), silent || idle) {
            // The outcome is noted.
            drop(self.note_listed(signer.inventory().await, made));
        }
    }

    pub(super) async fn retire(&self, public_key: PublicKey) -> Result<(), Fault> {
        let retired = self.bounded(self.reachable()?.retire(public_key)).await;
        if retired.is_ok() {
            self.standing().keys.remove(&public_key);
        }
        self.noted(retired)
    }

    /// A fault says nothing of the token: the handle may be of a connection that is no more.
    pub(super) async fn destroy(&self, handle: Handle) -> Result<(), Fault> {
        self.reachable()?.destroy(handle).await
    }

    pub(super) async fn attest(&self, public_key: PublicKey) -> Result<Option<Vec<u8>>, Fault> {
        let attested = self.reachable()?.attest(public_key).await;
        self.noted(attested)
    }

    pub(super) async fn free_objects(&self) -> Result<Option<u32>, Fault> {
        let free = self.reachable()?.free_objects().await;
        self.noted(free)
    }

    pub(super) fn holds(&self, public_key: &PublicKey) -> bool {
        self.standing().keys.contains_key(public_key)
    }

    /// The id that a key is under, if it is held.
    pub(super) fn key_id(&self, public_key: &PublicKey) -> Option<KeyId> {
        self.standing().keys.get(public_key).copied()
    }

    /// Whether it holds a key that is the one.
    pub(super) fn holds_one(&self, is_it: impl Fn(&PublicKey) -> bool) -> bool {
        self.standing().keys.keys().any(is_it)
    }

    pub(super) fn is_aside(&self) -> bool {
        self.standing().aside
    }

    pub(super) fn set_aside(&self, aside: bool) {
        self.standing().aside = aside;
    }

    /// Whether it has answered anything since the start.
    pub(super) fn has_answered(&self) -> bool {
        self.standing().heard.is_some()
    }

    pub(super) fn is_silent(&self) -> bool {
        self.silence().is_some()
    }

    pub(super) fn is_surveyed(&self) -> bool {
        self.standing().surveyed
    }

    /// Notes that it may hold other keys than the last survey says.
    pub(super) fn note_unsurveyed(&self) {
        self.standing().surveyed = false;
    }

    /// Notes that its keys were surveyed together with the other's.
    pub(super) fn note_surveyed(&self) {
        let mut standing = self.standing();
        // One that failed since the listing has its keys surveyed again once it answers.
        standing.surveyed = standing.silent.is_none();
    }

    /// Why it does not answer, as a fault that names it; nothing if it does.
    pub(super) fn silence(&self) -> Option<Fault> {
        if self.is_stuck() {
            return Some(self.silent(Fault::Hangs));
        }
        let source = self.standing().silent.clone()?;
        Some(Fault::Silent { token: self.slot.as_str(), source })
    }

    /// For how long a call has not returned. One that has hung since the start counts only after a while if another
    /// answers.
    pub(super) fn hangs_for(&self, another_answers: bool) -> Option<Duration> {
        let (signer, opening, heard) = {
            let standing = self.standing();
            (standing.signer.clone(), standing.opening, standing.heard)
        };
        let since = match signer {
            Some(signer) => signer.time_in_call()?,
            None => opening?.elapsed(),
        };
        if heard.is_some() || !another_answers { Some(since) } else { since.checked_sub(START_GRACE) }
    }

    /// Waits for a call, but with another token at hand no longer than a device takes.
    async fn bounded<T>(&self, call: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        if self.alone {
            return call.await;
        }
        let (mut call, start) = (std::pin::pin!(call), Instant::now());
        while start.elapsed() < GENERATE_MAX {
            match tokio::time::timeout(STUCK_CHECK, &mut call).await {
                Ok(outcome) => return outcome,
                Err(_) => drop(self.usable()?),
            }
        }
        Err(Fault::Timeout { seconds: GENERATE_MAX.as_secs() })
    }

    /// The signer, if it can be asked without waiting in vain.
    fn reachable(&self) -> Result<Signer, Fault> {
        match self.silence() {
            // Nothing else can be asked.
            Some(silence) if !self.alone => Err(silence),
            _ => self.usable(),
        }
    }

    /// The signer, unless a call hangs in it or it was never opened.
    fn usable(&self) -> Result<Signer, Fault> {
        if self.is_stuck() {
            self.note_silence(&Fault::Hangs);
            return Err(self.silent(Fault::Hangs));
        }
        let unopened = || self.silence().unwrap_or_else(|| self.silent(Fault::Opening));
        self.signer().ok_or_else(unopened)
    }

    fn is_stuck(&self) -> bool {
        let since = self.signer().and_then(|signer| signer.time_in_call());
        since.is_some_and(|since| since >= STUCK)
    }

    fn silent(&self, because: Fault) -> Fault {
        Fault::Silent { token: self.slot.as_str(), source: Arc::new(because) }
    }

    fn note_made(&self, id: KeyId, public_key: PublicKey) {
        let mut standing = self.standing();
        standing.keys.insert(public_key, id);
        standing.made = standing.made.wrapping_add(1);
    }

    /// Notes why it does not answer.
    fn note_silence(&self, because: &Fault) {
        let mut standing = self.standing();
        let text = because.with_causes();
        if standing.silent.as_ref().is_none_or(|before| before.with_causes() != text) {
            tracing::warn!(token = self.slot.as_str(), because = text, "a token does not answer");
        }
        standing.silent = Some(Arc::new(because.clone()));
        standing.surveyed = false;
    }

    /// Notes the keys of a listing that was asked for when so many keys had been made.
    fn note_listed(&self, listed: Result<Inventory, Fault>, made: u64) -> Result<Inventory, Fault> {
        match listed {
            Ok(inventory) => {
                let mut standing = self.standing();
                if standing.made == made {
                    standing.keys.clear();
                }
                standing.keys.extend(inventory.keys.iter().map(|key| (key.public_key, key.id)));
                drop(standing);
                self.noted(Ok(inventory))
            }
            Err(fault @ Fault::Busy { .. }) => Err(fault),
            // Whatever the reason: what is on it is not known.
            Err(fault) => {
                self.note_silence(fault.root());
                Err(self.silent(fault.root().clone()))
            }
        }
    }

    /// Notes whether it answered a call that changes the token: one that failed may have its effect all the same.
    fn noted_effect<T>(&self, outcome: Result<T, Fault>) -> Result<T, Fault> {
        if outcome.as_ref().is_err_and(Fault::is_silence) {
            self.standing().surveyed = false;
        }
        self.noted(outcome)
    }

    /// Notes whether it answered.
    fn noted<T>(&self, outcome: Result<T, Fault>) -> Result<T, Fault> {
        match outcome {
            Err(silence @ Fault::Silent { .. }) => Err(silence),
            Err(fault) if fault.is_silence() => {
                self.note_silence(&fault);
                Err(self.silent(fault))
            }
            Err(fault) => Err(fault),
            Ok(done) => {
                let mut standing = self.standing();
                if standing.silent.take().is_some() {
                    tracing::info!(token = self.slot.as_str(), "a token answers again");
                }
                standing.heard = Some(Instant::now());
                Ok(done)
            }
        }
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Standing {
    fn new() -> Self {
        Self {
            stage: Stage::Opening,
            signer: None,
            silent: None,
            surveyed: false,
            keys: BTreeMap::new(),
            made: 0,
            heard: None,
            opening: None,
            aside: false,
        }
    }
}
