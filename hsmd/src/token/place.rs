//! One of two tokens: its signer once it is open, what it holds, and whether it answers.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use keychain::{PublicKey, Signature};

use super::Which;
use crate::{
    token::backend::{Fault, Handle, Inventory, Key, KeyId},
    token::signer::{Class, Signer},
};

/// How long one call may be at a token before nobody waits for it any more: some fifty times what a slow device
/// takes for a signature.
const STUCK: Duration = Duration::from_secs(5);

/// How long a token may take to make a key before it is made on the other instead: longer than it waits for the
/// other's call when one module is behind both.
const GENERATE_MAX: Duration = Duration::from_secs(6);

/// A token that nobody has used for so long is listed, to see whether it answers. Below the 30 s after which an
/// idle session of a YubiHSM dies, and above the pause between two probes of the one that is used.
const IDLE_MAX: Duration = Duration::from_secs(12);

/// How much longer than usual a call may take that has hung ever since the start: a new process was tried
/// already, and an operator who goes on with the other token needs this one to stay.
const START_GRACE: Duration = Duration::from_mins(10);

pub(super) struct Place {
    pub(super) which: Which,
    signer: OnceLock<Signer>,
    standing: Mutex<Standing>,
}

#[derive(Default)]
struct Standing {
    /// Why it does not answer; nothing if it does, as far as is known.
    silent: Option<String>,
    /// Whether it was listed with the others since it last was silent.
    surveyed: bool,
    /// The keys that it is known to hold.
    keys: BTreeSet<PublicKey>,
    /// How many keys were made on it: a listing from before the newest does not say that it is not there.
    made: u64,
    /// When it answered last.
    heard: Option<Instant>,
    /// Since when it is being opened, if it is now.
    opening: Option<Instant>,
}

impl Place {
    pub(super) fn opened(which: Which, signer: Signer) -> Self {
        Self { which, signer: OnceLock::from(signer), standing: Mutex::default() }
    }

    /// A place whose token is not open yet.
    pub(super) fn unopened(which: Which) -> Self {
        let silent = Some("it is being opened".to_owned());
        let standing = Mutex::new(Standing { silent, ..Standing::default() });
        Self { which, signer: OnceLock::new(), standing }
    }

    pub(super) fn signer(&self) -> Option<&Signer> {
        self.signer.get()
    }

    /// Notes that it is being opened now, or is not any more.
    pub(super) fn note_opening(&self, opening: bool) {
        self.standing().opening = opening.then(Instant::now);
    }

    /// Takes the token into use.
    pub(super) fn adopt(&self, signer: Signer) {
        drop(self.signer.set(signer));
        let mut standing = self.standing();
        (standing.silent, standing.opening) = (None, None);
    }

    pub(super) async fn generate(&self, id: KeyId) -> Result<Key, Fault> {
        let signer = self.reachable()?;
        let made = tokio::time::timeout(GENERATE_MAX, signer.generate(id)).await;
        let made = made.unwrap_or(Err(Fault::Timeout { seconds: GENERATE_MAX.as_secs() }));
        if let Ok(key) = &made {
            let mut standing = self.standing();
            standing.keys.insert(key.public_key);
            standing.made = standing.made.wrapping_add(1);
        }
        if made.as_ref().is_err_and(Fault::is_silence) {
            // The key may come to be all the same.
            self.standing().surveyed = false;
        }
        self.noted(made)
    }

    pub(super) async fn sign(
        &self,
        public_key: PublicKey,
        digest: [u8; 32],
        class: Class,
    ) -> Result<Signature, Fault> {
        // One that was silent a moment ago is tried: it may be back.
        let signed = self.usable()?.sign(public_key, digest, class).await;
        self.noted(signed)
    }

    pub(super) async fn list(&self, afresh: bool) -> Result<Inventory, Fault> {
        let signer = self.reachable()?;
        let made = self.standing().made;
        let listed = if afresh { signer.inventory_afresh().await } else { signer.inventory().await };
        self.note_listed(listed, made)
    }

    /// Sees whether it answers, if that is not known from what it does anyway.
    pub(super) async fn look(&self) {
        let (silent, heard, made) = {
            let standing = self.standing();
            (standing.silent.is_some(), standing.heard, standing.made)
        };
        let idle = heard.is_none_or(|heard| heard.elapsed() >= IDLE_MAX);
        if let (Ok(signer), true) = (self.usable(), silent || idle) {
            // What comes of it is noted.
            drop(self.note_listed(signer.inventory().await, made));
        }
    }

    pub(super) async fn retire(&self, public_key: PublicKey) -> Result<(), Fault> {
        let retired = self.reachable()?.retire(public_key).await;
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
        self.standing().keys.contains(public_key)
    }

    /// Whether it holds a key that is the one.
    pub(super) fn holds_one(&self, is_it: impl Fn(&PublicKey) -> bool) -> bool {
        self.standing().keys.iter().any(is_it)
    }

    /// Whether it holds keys, and none that is one.
    pub(super) fn holds_only_others(&self, is_it: impl Fn(&PublicKey) -> bool) -> bool {
        let standing = self.standing();
        !standing.keys.is_empty() && !standing.keys.iter().any(is_it)
    }

    pub(super) fn is_silent(&self) -> bool {
        self.silence().is_some()
    }

    pub(super) fn is_surveyed(&self) -> bool {
        self.standing().surveyed
    }

    /// Notes that what is on it was looked at together with the other's.
    pub(super) fn note_surveyed(&self) {
        self.standing().surveyed = true;
    }

    /// Why it does not answer, as a fault that names it; nothing if it does.
    pub(super) fn silence(&self) -> Option<Fault> {
        let because = self.stuck().or_else(|| self.standing().silent.clone())?;
        Some(Fault::Silent { token: self.which.as_str(), because })
    }

    /// Notes why it does not answer.
    pub(super) fn note_silence(&self, because: String) {
        let mut standing = self.standing();
        if standing.silent.as_ref() != Some(&because) {
            tracing::warn!(token = self.which.as_str(), because, "a token does not answer");
        }
        standing.silent = Some(because);
        standing.surveyed = false;
    }

    /// For how long a call has not returned. One that has hung since the start counts only after a while.
    pub(super) fn hangs_for(&self) -> Option<Duration> {
        let standing = self.standing();
        let since = match self.signer() {
            Some(signer) => signer.at_the_token()?,
            None => standing.opening?.elapsed(),
        };
        if standing.heard.is_some() { Some(since) } else { since.checked_sub(START_GRACE) }
    }

    /// The signer, if it can be asked without waiting in vain.
    fn reachable(&self) -> Result<&Signer, Fault> {
        match self.silence() {
            Some(silence) => Err(silence),
            None => self.usable(),
        }
    }

    /// The signer, unless a call hangs in it or it was never opened.
    fn usable(&self) -> Result<&Signer, Fault> {
        let silence = |because| Fault::Silent { token: self.which.as_str(), because };
        if let Some(because) = self.stuck() {
            self.note_silence(because.clone());
            return Err(silence(because));
        }
        let unopened = || silence(self.standing().silent.clone().unwrap_or_default());
        self.signer().ok_or_else(unopened)
    }

    /// What is said of a call that has not returned for long.
    fn stuck(&self) -> Option<String> {
        let since = self.signer()?.at_the_token()?;
        (since >= STUCK).then(|| "a call has not returned; see to the device, then restart hsmd".to_owned())
    }

    /// Notes what a listing told that was asked for when so many keys had been made.
    fn note_listed(&self, listed: Result<Inventory, Fault>, made: u64) -> Result<Inventory, Fault> {
        match listed {
            Ok(inventory) => {
                let mut standing = self.standing();
                if standing.made == made {
                    standing.keys.clear();
                }
                standing.keys.extend(inventory.keys.iter().map(|key| key.public_key));
                drop(standing);
                self.noted(Ok(inventory))
            }
            Err(fault @ Fault::Busy { .. }) => Err(fault),
            // Whatever the reason: what is on it is not known.
            Err(fault) => {
                self.note_silence(fault.told());
                Err(Fault::Silent { token: self.which.as_str(), because: fault.told() })
            }
        }
    }

    /// Notes whether it answered.
    fn noted<T>(&self, outcome: Result<T, Fault>) -> Result<T, Fault> {
        match outcome {
            Err(silence @ Fault::Silent { .. }) => Err(silence),
            Err(fault) if fault.is_silence() => {
                self.note_silence(fault.told());
                Err(Fault::Silent { token: self.which.as_str(), because: fault.told() })
            }
            Err(fault) => Err(fault),
            Ok(done) => {
                let mut standing = self.standing();
                if standing.silent.take().is_some() {
                    tracing::info!(token = self.which.as_str(), "a token answers again");
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
