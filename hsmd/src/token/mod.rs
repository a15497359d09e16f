//! One token or two, each with its [`Signer`], behind one face.
//!
//! With two, the live key is on one and the next on the other, so that the chain goes on past the loss of
//! either: of the live key's by a rotation, of the next key's without one. A key is signed for by the token that
//! holds it. Nothing waits for a token that does not answer but, once, whoever finds that out: it is noted as
//! *silent*, asked again every two seconds by [`tend()`], and meanwhile nothing on it is believed absent.
//!
//! With one token every call goes straight to its signer.

pub mod backend;
mod open;
mod place;
pub mod signer;
mod state;
mod survey;
mod tend;

use std::{sync::Arc, time::Duration};

use keychain::{PublicKey, Signature};

use crate::{
    token::backend::{Fault, Handle, Kept, Key, KeyId},
    token::signer::{Class, Signer},
};
use place::Place;

pub use open::{Source, Threads, Unopened, open};
pub use state::TokenState;
pub use survey::Survey;
pub use tend::tend;

/// Which token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Which {
    /// That of `[hsm]`.
    First,
    /// That of `[second_hsm]`.
    Second,
}

impl Which {
    /// The token's name in health, metrics and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Second => "second",
        }
    }
}

/// A key that was just made, and the token that it was made on.
#[derive(Clone, Copy, Debug)]
pub struct Made {
    /// The token.
    pub which: Which,
    /// The key.
    pub key: Key,
}

/// The tokens of one hsmd: at least one, at most two.
#[derive(Clone)]
pub struct Tokens {
    first: Arc<Place>,
    second: Option<Arc<Place>>,
}

impl From<Signer> for Tokens {
    fn from(signer: Signer) -> Self {
        Self { first: Arc::new(Place::opened(Which::First, signer)), second: None }
    }
}

impl Tokens {
    /// Two tokens that are open.
    pub fn pair(first: Signer, second: Signer) -> Self {
        let first = Arc::new(Place::opened(Which::First, first));
        Self { first, second: Some(Arc::new(Place::opened(Which::Second, second))) }
    }

    /// Whether there are two.
    pub const fn are_two(&self) -> bool {
        self.second.is_some()
    }

    /// Where a key is to be made that must not be where `other` is: the tokens to try, the best first. The last
    /// is tried only because one token is better than no key.
    pub fn apart_from(&self, other: Option<&PublicKey>) -> Vec<Which> {
        let mut places: Vec<_> = self.places().collect();
        places.sort_by_key(|place| (place.is_silent(), other.is_some_and(|other| place.holds(other))));
        // A silent one is not even tried while the other answers.
        let answering = places.iter().filter(|place| !place.is_silent()).count();
        places.truncate(answering.max(1));
        places.into_iter().map(|place| place.which).collect()
    }

    /// Whether a token holds keys, and none that is ours: it is another chain's, put in the wrong place.
    pub fn is_foreign(&self, which: Which, is_ours: impl Fn(&PublicKey) -> bool) -> bool {
        self.are_two() && self.place(which).holds_only_others(is_ours)
    }

    /// Makes a key pair under `id` on that token. With two tokens it waits no longer than a device takes.
    pub async fn generate(&self, which: Which, id: KeyId) -> Result<Made, Fault> {
        let key = match self.alone() {
            Some(signer) => signer.generate(id).await?,
            None => self.place(which).generate(id).await?,
        };
        Ok(Made { which, key })
    }

    /// Signs a SHA-256 digest with the key whose public half is `public_key`, on the token that holds it.
    pub async fn sign(
        &self,
        public_key: PublicKey,
        digest: [u8; 32],
        class: Class,
    ) -> Result<Signature, Fault> {
        match self.alone() {
            Some(signer) => signer.sign(public_key, digest, class).await,
            None => self.holder_of(&public_key)?.sign(public_key, digest, class).await,
        }
    }

    /// Destroys the key whose public half is `public_key`, wherever it is; nothing if it is nowhere.
    pub async fn retire(&self, public_key: PublicKey) -> Result<(), Fault> {
        if let Some(signer) = self.alone() {
            return signer.retire(public_key).await;
        }
        let mut outcome = Ok(());
        let mut holders: Vec<_> = self.places().filter(|place| place.holds(&public_key)).collect();
        if holders.is_empty() {
            holders = self.places().collect();
        }
        for place in holders {
            outcome = outcome.and(place.retire(public_key).await);
        }
        outcome
    }

    /// Destroys a key that was just made in vain. With two tokens not by its handle: the fault of one may have cost
    /// the other, behind the same module, the connection that the handle is of.
    pub async fn discard(&self, made: &Made) -> Result<(), Fault> {
        match self.alone() {
            Some(signer) => signer.destroy(made.key.handle).await,
            None => self.place(made.which).retire(made.key.public_key).await,
        }
    }

    /// Destroys what a handle of that token's newest listing names.
    pub async fn destroy(&self, which: Which, handle: Handle) -> Result<(), Fault> {
        match self.alone() {
            Some(signer) => signer.destroy(handle).await,
            None => self.place(which).destroy(handle).await,
        }
    }

    /// The device's certificate about a key, DER, checked; none where the device issues none.
    pub async fn attest(&self, public_key: PublicKey) -> Result<Option<Vec<u8>>, Fault> {
        match self.alone() {
            Some(signer) => signer.attest(public_key).await,
            None => self.holder_of(&public_key)?.attest(public_key).await,
        }
    }

    /// How many more objects fit on the fuller token; none where none tells.
    pub async fn free_objects(&self) -> Result<Option<u32>, Fault> {
        if let Some(signer) = self.alone() {
            return signer.free_objects().await;
        }
        let mut free = None;
        for place in self.places().filter(|place| !place.is_silent()) {
            let more = place.free_objects().await?;
            free = free.into_iter().chain(more).min();
        }
        Ok(free)
    }

    /// Why a key cannot be used now: its token is silent. Nothing if it can, or none is known to hold it although
    /// all answer.
    pub fn silence_about(&self, public_key: Option<&PublicKey>) -> Option<Fault> {
        if !self.are_two() {
            return None;
        }
        match public_key.and_then(|key| self.holder(key)) {
            Some(place) => place.silence(),
            None => self.places().find_map(Place::silence),
        }
    }

    /// Whether a token answers that was silent when the tokens were last surveyed: what is on it was not looked
    /// at since.
    pub fn owe_a_look(&self) -> bool {
        self.are_two() && self.places().any(|place| !place.is_silent() && !place.is_surveyed())
    }

    /// Requests in the queues or at the tokens now, of each class.
    pub fn depths(&self) -> [(Class, usize); 4] {
        Class::ALL.map(|class| {
            let depths = self.signers().flat_map(Signer::depths);
            (class, depths.filter(|(of, _)| *of == class).map(|(_, depth)| depth).sum())
        })
    }

    /// How often a connection to a token was made anew.
    pub fn recoveries(&self) -> usize {
        self.signers().map(Signer::recoveries).sum()
    }

    /// How many calls of the tokens have ended, well or badly.
    pub fn attempts(&self) -> usize {
        self.signers().map(Signer::attempts).sum()
    }

    /// What was kept of the devices' own logs since this was last asked.
    pub fn device_log(&self) -> Vec<Kept> {
        self.signers().flat_map(|signer| signer.log().take()).collect()
    }

    /// Whether a signer's thread is gone.
    pub fn have_ended(&self) -> bool {
        self.signers().any(Signer::has_ended)
    }

    /// For how long a call has not returned that only a new process can end: that of the one token; of two, that
    /// of the token which holds the live key, or may. The other's stands in nobody's way.
    pub fn at_the_token(&self, live: Option<&PublicKey>) -> Option<Duration> {
        if let Some(signer) = self.alone() {
            return signer.at_the_token();
        }
        match live.and_then(|live| self.holder(live)) {
            Some(place) => place.hangs_for(),
            // A token that was never listed is presumed to hold it.
            None => self.places().filter_map(Place::hangs_for).max(),
        }
    }

    /// The signer, if there is one token only.
    fn alone(&self) -> Option<&Signer> {
        if self.are_two() { None } else { self.first.signer() }
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        std::iter::once(&self.first).chain(&self.second).map(AsRef::as_ref)
    }

    fn signers(&self) -> impl Iterator<Item = &Signer> {
        self.places().filter_map(Place::signer)
    }

    fn place(&self, which: Which) -> &Place {
        match (which, &self.second) {
            (Which::Second, Some(second)) => second,
            _ => &self.first,
        }
    }

    /// The token that holds a key, as far as is known; of two that do, the one that answers.
    fn holder(&self, public_key: &PublicKey) -> Option<&Place> {
        self.places().filter(|place| place.holds(public_key)).min_by_key(|place| place.is_silent())
    }

    /// The same; a key that no token is known to hold may be on the silent one.
    fn holder_of(&self, public_key: &PublicKey) -> Result<&Place, Fault> {
        let unknown = || self.silence_about(None).unwrap_or(Fault::NoSuchKey(*public_key));
        self.holder(public_key).ok_or_else(unknown)
    }
}
