//! One slot or two, each with its token and the [`Signer`] that talks to it, behind one face.
//!
//! Two slots are mirrors: a key is made on one, carried to the other under a wrap key and proven on both by a
//! signature, before anything commits to it. Either token then signs, rotates and taints alone. A slot whose token
//! does not answer is noted as *silent*, asked again every two seconds ([`Tokens::ask_silent`]), and meanwhile nothing
//! on it is believed absent.

pub mod backend;
pub mod ceremony;
mod known_token;
mod member;
mod mirror;
mod open;
pub mod signer;
mod state;
mod survey;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

use keychain::{PublicKey, Signature};

use crate::{
    token::backend::{Fault, Handle, Kept, Key},
    token::signer::{Class, Signer},
};
use member::Member;

pub use known_token::{Comparison, KnownToken};
pub use open::{Source, Threads, start};
pub use state::{TokenState, mirrored_from, warning};
pub use survey::Survey;

/// Which slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// That of `[hsm]`.
    First,
    /// That of `[second_hsm]`.
    Second,
}

impl Slot {
    /// The slot's name in health, metrics and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Second => "second",
        }
    }

    /// The slot's table in the configuration.
    pub const fn table(self) -> &'static str {
        match self {
            Self::First => "hsm",
            Self::Second => "second_hsm",
        }
    }
}

/// On how many of two tokens a new key must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copies {
    /// On both if the configuration requires both, else on those that answer.
    AsConfigured,
    /// On one at least: a taint does not wait for a token.
    OneSuffices,
}

/// A key that was just made, and the slots that hold it.
#[derive(Clone, Debug)]
pub struct Made {
    /// The key, as the first of the slots holds it.
    pub key: Key,
    /// The slots.
    pub on: Vec<Slot>,
}

/// The tokens of one hsmd: at least one, at most two. Cloning shares them.
#[derive(Clone)]
pub struct Tokens {
    first: Arc<Member>,
    second: Option<Arc<Member>>,
    /// Whether a key is made on both tokens or not at all.
    require_both: bool,
    /// Why the newest key could not be mirrored.
    unmirrored: Arc<Mutex<Option<Fault>>>,
    /// A token was opened, or could not be.
    attempted: Arc<Notify>,
}

impl From<Signer> for Tokens {
    fn from(signer: Signer) -> Self {
        Self::of(Member::opened(Slot::First, signer, true), None)
    }
}

impl Tokens {
    /// Two tokens that are open.
    pub fn pair(first: Signer, second: Signer) -> Self {
        let second = Member::opened(Slot::Second, second, false);
        Self::of(Member::opened(Slot::First, first, false), Some(second))
    }

    fn of(first: Member, second: Option<Member>) -> Self {
        Self::shared(Arc::new(first), second.map(Arc::new), Arc::default())
    }

    fn shared(first: Arc<Member>, second: Option<Arc<Member>>, attempted: Arc<Notify>) -> Self {
        Self { first, second, require_both: false, unmirrored: Arc::default(), attempted }
    }

    /// Makes a key on both tokens or not at all: rotations wait while one of two tokens is silent.
    #[must_use]
    pub fn requiring_both(mut self, require_both: bool) -> Self {
        self.require_both = require_both;
        self
    }

    /// Whether there are two slots, which mirror each other.
    pub const fn are_mirrored(&self) -> bool {
        self.second.is_some()
    }

    /// Sets a slot aside whose token holds another chain's keys, or takes it into use again: nothing is made, carried
    /// or signed there.
    pub fn set_aside(&self, slot: Slot, aside: bool) {
        self.member(slot).set_aside(aside);
    }

    /// Signs a SHA-256 digest with the key whose public half is `public_key`, on any token that holds it.
    pub async fn sign(
        &self,
        public_key: PublicKey,
        digest: [u8; 32],
        class: Class,
    ) -> Result<Signature, Fault> {
        let mut failed = None;
        for member in self.holders(&public_key) {
            match member.sign(public_key, digest, class).await {
                // Another may hold the key or have room in its queue.
                Err(fault) => failed = Some(weightier(failed, fault)),
                signed => return signed,
            }
        }
        Err(failed.unwrap_or(Fault::NoSuchKey(public_key)))
    }

    /// Destroys the key whose public half is `public_key` on every slot that answers. A copy on a silent one is
    /// surplus at the next survey.
    pub async fn retire(&self, public_key: PublicKey) -> Result<(), Fault> {
        let (mut retired, mut silent, mut failed) = (false, None, None);
        // Also where it is not known to be: officers may have carried it there.
        for member in self.members().filter(|member| !member.is_aside()) {
            match member.retire(public_key).await {
                Ok(()) => retired = true,
                Err(fault @ Fault::Silent { .. }) => silent = Some(fault),
                // The copy on the other slot goes in any case.
                Err(fault) => failed = Some(fault),
            }
        }
        failed.or(silent.filter(|_| !retired)).map_or(Ok(()), Err)
    }

    /// Destroys what a handle of that slot's newest listing names.
    pub async fn destroy(&self, slot: Slot, handle: Handle) -> Result<(), Fault> {
        self.member(slot).destroy(handle).await
    }

    /// The device's certificate about a key, DER, checked; none where the device issues none.
    pub async fn attest(&self, public_key: PublicKey) -> Result<Option<Vec<u8>>, Fault> {
        let mut failed = None;
        for member in self.holders(&public_key) {
            match member.attest(public_key).await {
                Err(fault) => failed = Some(weightier(failed, fault)),
                attested => return attested,
            }
        }
        Err(failed.unwrap_or(Fault::NoSuchKey(public_key)))
    }

    /// How many more objects fit on the fuller token; none where none tells.
    pub async fn free_objects(&self) -> Result<Option<u32>, Fault> {
        let (mut free, mut silent) = (None, None);
        for member in self.members() {
            match member.free_objects().await {
                Ok(more) => free = free.into_iter().chain(more).min(),
                Err(fault @ Fault::Silent { .. }) => silent = Some(fault),
                Err(fault) => return Err(fault),
            }
        }
        match silent {
            Some(fault) if self.members().all(Member::is_silent) => Err(fault),
            _ => Ok(free),
        }
    }

    /// The slot that does not answer, as the fault that names it.
    pub fn silence(&self) -> Option<Fault> {
        self.members().find_map(Member::silence)
    }

    /// Whether a token answers that was silent when the tokens were last surveyed: what is on it is not known.
    pub fn needs_survey(&self) -> bool {
        self.are_mirrored() && self.members().any(|member| !member.is_silent() && !member.is_surveyed())
    }

    /// Asks the tokens that are silent or idle whether they answer.
    pub async fn ask_silent(&self) {
        match &self.second {
            Some(second) => drop(tokio::join!(self.first.ask_silent(), second.ask_silent())),
            None => self.first.ask_silent().await,
        }
    }

    /// Asks all tokens at once if none is known to answer: one may be back since.
    async fn ask_if_all_silent(&self) {
        if self.are_mirrored() && self.members().all(Member::is_silent) {
            self.ask_silent().await;
        }
    }

    /// Requests in the queues or at the tokens now, of each class.
    pub fn depths(&self) -> [(Class, usize); 4] {
        Class::ALL.map(|class| {
            let depths = self.signers().flat_map(|signer| signer.depths());
            (class, depths.filter(|(of, _)| *of == class).map(|(_, depth)| depth).sum())
        })
    }

    /// How often a connection to a token was made anew.
    pub fn recoveries(&self) -> usize {
        self.signers().map(|signer| signer.recoveries()).sum()
    }

    /// How many calls of the tokens have ended, well or badly.
    pub fn attempts(&self) -> usize {
        self.signers().map(|signer| signer.attempts()).sum()
    }

    /// What was kept of the devices' own logs since this was last asked.
    pub fn device_log(&self) -> Vec<Kept> {
        self.members().flat_map(Member::device_log).collect()
    }

    /// Keeps what could not be written until it is asked for again.
    pub fn put_back_device_log(&self, kept: Vec<Kept>) {
        let Some(member) = self.members().next() else { return };
        for kept in kept {
            member.unwritten.put_back(kept);
        }
    }

    /// Which token is in each slot whose token has said so.
    pub fn identities(&self) -> Vec<(Slot, String)> {
        let identity = |member: &Member| Some((member.slot, member.signer()?.identity()?));
        self.members().filter_map(identity).collect()
    }

    /// Whether a signer's thread is gone.
    pub fn have_ended(&self) -> bool {
        self.signers().any(|signer| signer.has_ended())
    }

    /// For how long a call has not returned that only a new process can end. While another token signs with the live
    /// key, none.
    pub fn time_in_call(&self, live: Option<&PublicKey>) -> Option<Duration> {
        let holds = |member: &&Member| live.is_some_and(|live| member.holds(live));
        let known = self.members().any(|member| holds(&member));
        let holders = self.members().filter(|member| holds(member) || !known);
        let answers = self.members().any(Member::has_answered);
        let hangs: Vec<_> = holders.map(|member| member.hangs_for(answers)).collect();
        if known {
            // One that does not hang signs.
            hangs.into_iter().min().flatten()
        } else {
            // A token that was never listed is presumed to hold the live key.
            hangs.into_iter().max().flatten()
        }
    }

    fn members(&self) -> impl Iterator<Item = &Member> {
        std::iter::once(&self.first).chain(&self.second).map(AsRef::as_ref)
    }

    fn signers(&self) -> impl Iterator<Item = Signer> {
        self.members().filter_map(Member::signer)
    }

    fn member(&self, slot: Slot) -> &Member {
        match (slot, &self.second) {
            (Slot::Second, Some(second)) => second,
            _ => &self.first,
        }
    }

    /// The slots that hold a key, as far as is known, those that answer first; all if none is known to.
    fn holders(&self, public_key: &PublicKey) -> Vec<&Member> {
        let usable = || self.members().filter(|member| !member.is_aside());
        let mut holders: Vec<_> = usable().filter(|member| member.holds(public_key)).collect();
        if holders.is_empty() {
            holders = usable().collect();
        }
        holders.sort_by_key(|member| member.is_silent());
        holders
    }

    fn note_unmirrored(&self, fault: Option<Fault>) {
        *self.unmirrored.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    fn unmirrored(&self) -> Option<Fault> {
        self.unmirrored.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Of two faults the one to report: a key that one token lacks may be on the one that is silent.
fn weightier(before: Option<Fault>, fault: Fault) -> Fault {
    match before {
        Some(before) if matches!(fault, Fault::NoSuchKey(_)) => before,
        _ => fault,
    }
}
