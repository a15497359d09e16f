//! The chain's keeper: which generation signs, which comes next, and how one follows the other.
//!
//! The order of a rotation never varies, and nothing is skipped on the way (`PROTOCOL.md#chain`):
//!
//! 1. the ledger notes that a key is about to be made ([`Ledger::intend`]);
//! 2. the turn is taken, and the ledger's newest event is the one that is to be followed;
//! 3. the key after the next is made in the HSM;
//! 4. the next key, which the newest event committed to, signs its event;
//! 5. the event is committed, with its signature, in the transaction that holds the turn;
//! 6. generation id and signing key change together, and the event becomes visible;
//! 7. the key that was left is destroyed.
//!
//! A process may die between any two steps, and a write may fail and yet be persisted. Both end in the
//! same place: [`Keeper`] is *unsettled*, signs nothing, and reconciles token and ledger before the next
//! thing it does, exactly as at start-up.

mod advance;
mod alternate;
mod attest;
mod clock;
mod first;
mod make;
mod reconcile;
mod recover;
mod signed_statement;
pub mod statement;
mod view;

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::digest;
use keychain::{Code, Digest, PublicKey, Refusal, Signature, endorsement};
use tokio::sync::{Mutex, Notify, watch};

use crate::{
    clock::{Doubt, Source, TrustedClock},
    failure_point::{self, Step},
    ledger::{self, Ledger},
    policy::Permission,
    token::Tokens,
    token::backend::{Fault, Kept, KeyIds},
    token::signer::Class,
};

pub use advance::{Advance, Advanced};
pub use attest::Attested;
pub use recover::{Brought, Recovered, Unfinished};
pub use view::View;

/// Why the keeper did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The ledger lacks events of the chain, or its token's keys are elsewhere.
    #[error("the ledger is behind its token: {0}; nothing was changed")]
    Behind(String),
    /// The clock cannot be trusted with an event.
    #[error(transparent)]
    Clock(#[from] Doubt),
    /// The generation named is not the one in use, nor one that was left as asked.
    #[error("compare-and-swap lost: {0}")]
    Conflict(&'static str),
    /// The generation was left without a taint, and an event taints only the one just before it.
    #[error("the generation was left without a taint; an event taints only the newest")]
    LeftUntainted,
    /// A chain cannot begin with one of its two tokens silent.
    #[error("a chain begins with a key on each of two tokens; bring both, or remove `[second_hsm]`")]
    FirstNeedsBoth(#[source] Fault),
    /// Ledger and token do not belong together.
    #[error("ledger and token contradict each other: {0}")]
    Contradiction(String),
    /// The next key's token is silent.
    #[error(
        "the next key is on a token that does not answer, and on no other; endorsements go on, bring it back"
    )]
    NextSilent(#[source] Fault),
    /// The token failed.
    #[error("the HSM failed")]
    Hsm(#[from] Fault),
    /// The ledger failed.
    #[error("the ledger failed")]
    Ledger(#[from] ledger::Error),
    /// The chain that was brought is not the one that the ledger lacks.
    #[error("cannot recover the ledger")]
    Unrecoverable(#[source] Refusal),
    /// Token and ledger are being reconciled.
    #[error("token and ledger are being reconciled; ask again")]
    Unsettled,
    /// What the HSM signed does not verify.
    #[error("what the HSM signed does not verify")]
    Unverifiable(#[source] Refusal),
}

impl From<failure_point::Failed> for Error {
    fn from(failed: failure_point::Failed) -> Self {
        Self::Ledger(failed.into())
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Unverifiable(refusal)
    }
}

impl From<&Error> for Refusal {
    /// The one place where this crate's faults become codes of the wire.
    fn from(error: &Error) -> Self {
        match error {
            Error::Behind(_) => Self::new(Code::Unavailable, "the ledger is behind its token"),
            Error::Clock(doubt) => doubt.into(),
            Error::Conflict(because) => Self::new(Code::Conflict, because),
            Error::LeftUntainted => Self::new(Code::Conflict, "the generation was left without a taint"),
            Error::Contradiction(_) => Self::new(Code::Unavailable, "ledger and token contradict each other"),
            Error::Hsm(Fault::Busy { .. }) => Self::new(Code::TooMany, "the queue before the HSM is full"),
            Error::Hsm(Fault::Full { .. }) => {
                Self::new(Code::Unavailable, "the HSM has no room for another key")
            }
            Error::Hsm(Fault::Silent { token, .. }) => {
                Self::new(Code::Unavailable, "a token of the HSM does not answer").with("token", *token)
            }
            Error::Hsm(_) => Self::new(Code::Unavailable, "the HSM does not answer"),
            Error::FirstNeedsBoth(fault) | Error::NextSilent(fault) => alternate::refusal(error, fault),
            Error::Unrecoverable(refusal) => refusal.clone(),
            Error::Unsettled => Self::new(Code::Unavailable, "token and ledger are being reconciled"),
            Error::Ledger(error) => error.into(),
            Error::Unverifiable(_) => Self::new(Code::Internal, "what the HSM signed does not verify"),
        }
    }
}

/// How many generations one signature is tried with, each left while it waited, before the caller is told to
/// ask again: rotations follow one another only as fast as the token makes keys.
const GENERATIONS_TRIED_MAX: usize = 8;

/// An endorsement that was made.
#[derive(Debug)]
pub struct Endorsed {
    /// The answer: body and signature (`PROTOCOL.md#endorsement`).
    pub text: String,
    /// The generation that signed it.
    pub generation: Digest,
    /// Its number.
    pub number: u64,
}

/// What is signed to see whether the HSM signs: not shaped like an event or an endorsement, so that it can
/// pass for neither.
const PROBE: &[u8] = b"keelson: proof that the HSM signs";

/// Keeps the chain: the only one who makes events, and the only one who endorses.
pub struct Keeper {
    ledger: Ledger,
    tokens: Tokens,
    clock: Arc<TrustedClock>,
    key_ids: KeyIds,
    /// One rotation or reconciliation at a time in this process; the ledger's turn does it among several.
    turn: Mutex<()>,
    /// What everybody sees; nothing while unsettled. Generation id and key change together, because both are
    /// in it. Never held while anything is waited for: a taint must not stand behind the signatures that
    /// wait for a slow token.
    view: RwLock<Option<Arc<View>>>,
    /// The newest view that there was, also while unsettled: its events need not be verified once more.
    verified: RwLock<Option<Arc<View>>>,
    /// Whether the token holds keys that nothing needs and that could not be destroyed yet.
    strays: AtomicBool,
    /// Why token and ledger are not reconciled, if that was tried and failed.
    trouble: RwLock<Option<String>>,
    /// The sequence number of the newest visible event, for those who wait for the next.
    head: watch::Sender<u64>,
    /// A signature failed: whoever watches over the way to one need not wait until it is tried again.
    suspicion: Notify,
}

impl Keeper {
    /// Reconciles token and ledger, making keys and the first event if both are empty.
    ///
    /// The whole ledger is verified, and both keys have signed, when this returns.
    pub async fn start(
        ledger: Ledger,
        tokens: impl Into<Tokens>,
        clock: impl Into<Arc<TrustedClock>>,
        key_ids: KeyIds,
    ) -> Result<Self, Error> {
        let keeper = Self::new(ledger, tokens, clock, key_ids);
        keeper.settled().await?;
        Ok(keeper)
    }

    /// A keeper that has not looked at token and ledger yet: [`Self::settled`] does.
    pub fn new(
        ledger: Ledger,
        tokens: impl Into<Tokens>,
        clock: impl Into<Arc<TrustedClock>>,
        key_ids: KeyIds,
    ) -> Self {
        Self {
            ledger,
            tokens: tokens.into(),
            clock: clock.into(),
            key_ids,
            turn: Mutex::new(()),
            view: RwLock::new(None),
            verified: RwLock::new(None),
            strays: AtomicBool::new(false),
            trouble: RwLock::new(None),
            head: watch::Sender::new(0),
            suspicion: Notify::new(),
        }
    }

    /// Endorses a service's key, as the permission says, by the live generation.
    pub async fn endorse(&self, permission: &Permission) -> Result<Endorsed, Error> {
        failure_point::pass(Step::Endorse, "before-sign");
        let number = self.ledger.next_endorsement_number().await?;
        let (view, (draft, signature)) = self
            .sign_by_live(Class::Endorsement, |view| {
                let draft = endorsement::Draft::numbered(
                    permission.request(),
                    permission.service(),
                    number,
                    &view.prefix(),
                    &view.live().id(),
                );
                let body = draft.body().as_bytes().to_vec();
                Ok((draft, body))
            })
            .await?;
        failure_point::pass(Step::Endorse, "after-sign");
        Ok(Endorsed { text: draft.seal(&signature), generation: view.live().id(), number })
    }

    /// Has the live generation sign what `compose` makes of the view, which names that generation.
    ///
    /// If the generation is left before the signature is there, it is made again by the one that followed:
    /// nobody is given the signature of a generation that may just have been tainted.
    async fn sign_by_live<T>(
        &self,
        class: Class,
        compose: impl Fn(&View) -> Result<(T, Vec<u8>), Refusal>,
    ) -> Result<(Arc<View>, (T, Signature)), Error> {
        for _ in 0..GENERATIONS_TRIED_MAX {
            let view = self.settled().await?;
            let (composed, message) = compose(&view)?;
            let signed = self.sign(view.live().event().public_key, &message, class).await;
            let still_live = self.view().is_some_and(|now| now.live().id() == view.live().id());
            match signed {
                Ok(signature) if still_live => return Ok((view, (composed, signature))),
                // Another hsmd on the same ledger and token has left the generation, or somebody has taken
                // the key away.
                Err(Error::Hsm(Fault::NoSuchKey(_))) if still_live => self.look_again(&view).await?,
                Ok(_) | Err(Error::Hsm(Fault::NoSuchKey(_))) => {}
                Err(error) => {
                    let busy = matches!(error, Error::Hsm(Fault::Busy { .. }));
                    if class != Class::Probe && !busy {
                        self.suspicion.notify_one();
                    }
                    return Err(error);
                }
            }
        }
        Err(Error::Unsettled)
    }

    /// What is visible of the chain now, reconciled first if need be.
    pub async fn settled(&self) -> Result<Arc<View>, Error> {
        if let Some(view) = self.view() {
            return Ok(view);
        }
        let _turn = self.turn.lock().await;
        self.settled_in_turn().await
    }

    /// What is visible of the chain now; nothing while token and ledger are not reconciled.
    pub fn view(&self) -> Option<Arc<View>> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was visible last: the chain goes on from it whatever happens, so that those who only read need not wait
    /// while token and ledger are being reconciled, nor set that off.
    pub fn seen(&self) -> Option<Arc<View>> {
        self.view().or_else(|| self.verified())
    }

    /// Why token and ledger are not reconciled, if that was tried and failed.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Follows the sequence number of the newest visible event.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    /// Resolves when somebody's signature has failed since this was last asked.
    pub async fn suspected(&self) {
        self.suspicion.notified().await;
    }

    /// Requests in the queue before the token, and at it.
    pub fn waiting(&self) -> usize {
        self.depths().into_iter().map(|(_, depth)| depth).sum()
    }

    /// The same, of each class.
    pub fn depths(&self) -> [(Class, usize); 4] {
        self.tokens.depths()
    }

    /// Tries the whole way once: ledger, queue, token, signature, verification.
    pub async fn probe(&self) -> Result<(), Error> {
        self.catch_up().await?;
        let (view, ((), signature)) = self.sign_by_live(Class::Probe, |_| Ok(((), PROBE.to_vec()))).await?;
        Ok(view.live().key().verify(PROBE, &signature)?)
    }

    /// Reconciles if another hsmd has added to the ledger.
    async fn catch_up(&self) -> Result<Arc<View>, Error> {
        let _turn = self.turn.lock().await;
        let view = self.settled_in_turn().await?;
        if self.ledger.newest().await? == Some(view.live().id()) {
            if self.tokens.needs_survey() {
                return self.survey_again().await;
            }
            if self.has_strays() {
                self.sweep().await;
            }
            return Ok(view);
        }
        self.unsettle();
        self.settled_in_turn().await
    }

    /// Tries again to destroy what could not be destroyed; meanwhile everything goes on. In turn only.
    async fn sweep(&self) {
        match self.reconcile().await {
            Ok(view) => self.show(Arc::new(view)),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot sweep the token yet");
            }
        }
    }

    /// Whether the token holds keys that nothing needs and that could not be destroyed yet.
    pub fn has_strays(&self) -> bool {
        self.strays.load(Ordering::Relaxed)
    }

    /// For how long a call of the token has not returned that only a new process can end; nothing if there is
    /// none.
    pub fn at_the_token(&self) -> Option<Duration> {
        let known = self.verified();
        self.tokens.at_the_token(known.as_ref().map(|view| &view.live().event().public_key))
    }

    /// How many calls of the token have ended, well or badly.
    pub fn attempts(&self) -> usize {
        self.tokens.attempts()
    }

    /// What was kept of devices' own logs since this was last asked.
    pub fn device_log(&self) -> Vec<Kept> {
        self.tokens.device_log()
    }

    /// Whether a signer's thread is gone.
    pub fn signer_has_ended(&self) -> bool {
        self.tokens.have_ended()
    }

    /// Reconciles because `doubted` turned out not to hold, unless that was done meanwhile.
    async fn look_again(&self, doubted: &View) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        if self.view().is_some_and(|view| view.live().id() == doubted.live().id()) {
            self.unsettle();
        }
        self.settled_in_turn().await.map(drop)
    }

    /// Writes out and closes the ledger. Nothing can be asked of the keeper any more.
    pub async fn close(&self) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        self.unsettle();
        Ok(self.ledger.close().await?)
    }

    async fn sign(&self, public_key: PublicKey, message: &[u8], class: Class) -> Result<Signature, Error> {
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest::digest(&digest::SHA256, message).as_ref());
        Ok(self.tokens.sign(public_key, sha256, class).await?)
    }

    /// To be called in turn only.
    async fn settled_in_turn(&self) -> Result<Arc<View>, Error> {
        if let Some(view) = self.view() {
            return Ok(view);
        }
        let reconciled = self.reconcile().await;
        *self.trouble.write().unwrap_or_else(PoisonError::into_inner) =
            reconciled.as_ref().err().map(|error| told(error));
        let view = Arc::new(reconciled?);
        metrics::gauge!("hsmd_token_objects", "state" => "live").set(1);
        metrics::gauge!("hsmd_token_objects", "state" => "next").set(u32::from(view.next().is_some()));
        self.show(Arc::clone(&view));
        Ok(view)
    }

    /// Makes a view the visible one. To be called in turn only.
    fn show(&self, view: Arc<View>) {
        let fields = view.live().event();
        let sequence_number = fields.sequence_number;
        self.clock.learn(Source::Event, fields.created_at);
        metrics::gauge!("hsmd_chain_sequence").set(to_gauge(sequence_number));
        metrics::gauge!("hsmd_key_created_timestamp_seconds")
            .set(to_gauge(u64::try_from(fields.created_at.unix_millis() / 1000).unwrap_or(0)));
        *self.verified.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&view));
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Some(view);
        self.head.send_replace(sequence_number);
    }

    /// The newest view that there was.
    fn verified(&self) -> Option<Arc<View>> {
        self.verified.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Trusts nothing that was visible any more. To be called in turn only.
    fn unsettle(&self) {
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// An error and its causes, on one line.
pub(crate) fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |told, cause| format!("{told}: {cause}"))
}

/// A whole number as a gauge: exact to 2^32, beyond any sequence number that rotations reach and any time of
/// day before 2106.
pub(crate) fn to_gauge(number: u64) -> f64 {
    u32::try_from(number).map_or_else(|_| f64::from(u32::MAX) + 1.0, f64::from)
}
