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
mod first;
mod reconcile;
mod view;

use std::sync::Arc;

use aws_lc_rs::digest;
use keychain::{Code, PublicKey, Refusal, Signature, Timestamp, endorsement};
use tokio::sync::{Mutex, RwLock, watch};

use crate::{
    backend::{Fault, KeyIds},
    clock::Calendar,
    ledger::{self, Ledger},
    policy::Permission,
    signer::Signer,
};

pub use advance::{Advance, Advanced};
pub use view::View;

/// Why the keeper did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The clock cannot be trusted with an event.
    #[error("the clock is wrong: {0}")]
    Clock(String),
    /// The generation named is not the one in use, nor one that was left as asked.
    #[error("compare-and-swap lost: {0}")]
    Conflict(&'static str),
    /// Ledger and token do not belong together.
    #[error("ledger and token contradict each other: {0}")]
    Contradiction(String),
    /// The token failed.
    #[error("the HSM failed")]
    Hsm(#[from] Fault),
    /// The ledger failed.
    #[error("the ledger failed")]
    Ledger(#[from] ledger::Error),
    /// Token and ledger are being reconciled.
    #[error("token and ledger are being reconciled; ask again")]
    Unsettled,
    /// What the HSM signed does not verify.
    #[error("what the HSM signed does not verify")]
    Unverifiable(#[source] Refusal),
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
            Error::Clock(_) => Self::new(Code::Unavailable, "the clock of the HSM service is wrong"),
            Error::Conflict(because) => Self::new(Code::Conflict, because),
            Error::Contradiction(_) => Self::new(Code::Unavailable, "ledger and token contradict each other"),
            Error::Hsm(Fault::Busy { .. }) => Self::new(Code::TooMany, "the queue before the HSM is full"),
            Error::Hsm(_) => Self::new(Code::Unavailable, "the HSM does not answer"),
            Error::Unsettled => Self::new(Code::Unavailable, "token and ledger are being reconciled"),
            Error::Ledger(_) => Self::new(Code::Unavailable, "the ledger does not answer"),
            Error::Unverifiable(_) => Self::new(Code::Internal, "what the HSM signed does not verify"),
        }
    }
}

/// What is signed to see whether the HSM signs: not shaped like an event or an endorsement, so that it can
/// pass for neither.
const PROBE: &[u8] = b"keelson: proof that the HSM signs";

/// Keeps the chain: the only one who makes events, and the only one who endorses.
pub struct Keeper {
    ledger: Ledger,
    signer: Signer,
    calendar: Calendar,
    key_ids: KeyIds,
    /// One rotation or reconciliation at a time in this process; the ledger's turn does it among several.
    turn: Mutex<()>,
    /// What everybody sees; nothing while unsettled. An endorsement holds it for reading from the choice of
    /// the key until the signature is there, so that no key is destroyed under a signature, and no
    /// signature bears another generation's name.
    view: RwLock<Option<Arc<View>>>,
    /// The sequence number of the newest visible event, for those who wait for the next.
    head: watch::Sender<u64>,
}

impl Keeper {
    /// Reconciles token and ledger, making keys and the first event if both are empty.
    ///
    /// The whole ledger is verified, and both keys have signed, when this returns.
    pub async fn start(
        ledger: Ledger,
        signer: Signer,
        calendar: Calendar,
        key_ids: KeyIds,
    ) -> Result<Self, Error> {
        let keeper = Self {
            ledger,
            signer,
            calendar,
            key_ids,
            turn: Mutex::new(()),
            view: RwLock::new(None),
            head: watch::Sender::new(0),
        };
        keeper.settled().await?;
        Ok(keeper)
    }

    /// Endorses a service's key, as the permission says, by the live generation.
    pub async fn endorse(&self, permission: &Permission) -> Result<String, Error> {
        match self.endorse_once(permission).await {
            // Another hsmd on the same ledger and token has left the generation.
            Err(Error::Hsm(Fault::NoSuchKey(_))) => {
                self.catch_up().await?;
                self.endorse_once(permission).await
            }
            done => done,
        }
    }

    async fn endorse_once(&self, permission: &Permission) -> Result<String, Error> {
        drop(self.settled().await?);
        let guard = self.view.read().await;
        let view = guard.as_ref().ok_or(Error::Unsettled)?;
        let draft = endorsement::Draft::new(
            permission.request(),
            permission.service(),
            &view.prefix(),
            &view.live().id(),
        );
        let signature = self.sign(view.live().event().public_key, draft.body().as_bytes()).await?;
        Ok(draft.seal(&signature))
    }

    /// What is visible of the chain now, reconciled first if need be.
    pub async fn settled(&self) -> Result<Arc<View>, Error> {
        if let Some(view) = self.view.read().await.as_ref() {
            return Ok(Arc::clone(view));
        }
        let _turn = self.turn.lock().await;
        self.settled_in_turn().await
    }

    /// What is visible of the chain now; nothing while token and ledger are not reconciled.
    pub async fn view(&self) -> Option<Arc<View>> {
        self.view.read().await.clone()
    }

    /// Follows the sequence number of the newest visible event.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    /// The time of day.
    pub fn now(&self) -> Timestamp {
        self.calendar.now()
    }

    /// Requests in the queue before the token.
    pub fn waiting(&self) -> usize {
        self.signer.waiting()
    }

    /// Tries the whole way once: ledger, queue, token, signature, verification.
    pub async fn probe(&self) -> Result<(), Error> {
        let view = self.catch_up().await?;
        let guard = self.view.read().await;
        let live = guard.as_ref().unwrap_or(&view).live();
        let signature = self.sign(live.event().public_key, PROBE).await?;
        Ok(live.key().verify(PROBE, &signature)?)
    }

    /// Reconciles if another hsmd has added to the ledger.
    async fn catch_up(&self) -> Result<Arc<View>, Error> {
        let _turn = self.turn.lock().await;
        let view = self.settled_in_turn().await?;
        if self.ledger.head().await? == Some(view.live().id()) {
            return Ok(view);
        }
        self.unsettle().await;
        self.settled_in_turn().await
    }

    /// Writes out and closes the ledger. Nothing can be asked of the keeper any more.
    pub async fn close(&self) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        self.unsettle().await;
        Ok(self.ledger.close().await?)
    }

    async fn sign(&self, public_key: PublicKey, message: &[u8]) -> Result<Signature, Error> {
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest::digest(&digest::SHA256, message).as_ref());
        Ok(self.signer.sign(public_key, sha256).await?)
    }

    /// To be called in turn only.
    async fn settled_in_turn(&self) -> Result<Arc<View>, Error> {
        if let Some(view) = self.view.read().await.as_ref() {
            return Ok(Arc::clone(view));
        }
        let view = Arc::new(self.reconcile().await?);
        metrics::gauge!("hsmd_token_objects", "state" => "live").set(1);
        metrics::gauge!("hsmd_token_objects", "state" => "next").set(1);
        self.show(Arc::clone(&view)).await;
        Ok(view)
    }

    /// Makes a view the visible one. To be called in turn only.
    async fn show(&self, view: Arc<View>) {
        let fields = view.live().event();
        let sequence_number = fields.sequence_number;
        metrics::gauge!("hsmd_chain_sequence").set(to_gauge(sequence_number));
        metrics::gauge!("hsmd_key_created_timestamp_seconds")
            .set(to_gauge(u64::try_from(fields.created_at.unix_millis() / 1000).unwrap_or(0)));
        *self.view.write().await = Some(view);
        self.head.send_replace(sequence_number);
    }

    /// Trusts nothing that was visible any more. To be called in turn only.
    async fn unsettle(&self) {
        *self.view.write().await = None;
    }
}

/// A whole number as a gauge: exact to 2^32, beyond any sequence number that rotations reach and any time of
/// day before 2106.
pub(crate) fn to_gauge(number: u64) -> f64 {
    u32::try_from(number).map_or_else(|_| f64::from(u32::MAX) + 1.0, f64::from)
}
