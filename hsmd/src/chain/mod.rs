//! The chain's keeper: which generation signs, which comes next, and how one follows the other.
//!
//! The order of a rotation never varies, and nothing is skipped on the way (`PROTOCOL.md#chain`): see `advance`.
//!
//! A process may die between any two steps, and a write may fail and yet be persisted. Both end in the same place:
//! the tokens are surveyed and held against the ledger (`reconcile`), what is to be done is decided by a pure
//! function (`plan`), and the chain is in one of a few states (`state`), each with a name, a cause and a cure.
//! In most of them nothing is signed. Only the daemon's watcher and operators reconcile: a caller who asks for a signature
//! meanwhile is refused with the state that is known.

mod advance;
mod attest;
mod clock;
mod error;
mod evidence;
mod first;
mod make;
mod plan;
mod reconcile;
mod recover;
mod sign;
mod signed_statement;
mod state;
pub mod statement;
mod turn;
mod view;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use keychain::Digest;
use tokio::sync::{Notify, watch};

use crate::{
    clock::{Source, TrustedClock},
    ledger::Ledger,
    token::backend::{Kept, KeyIds},
    token::signer::Class,
    token::{TokenState, Tokens},
};
use evidence::Evidence;
use turn::{Turns, Waiting};

pub use advance::{Advance, Advanced};
pub use attest::Attested;
pub use error::Error;
pub(crate) use error::with_causes;
pub use recover::{Brought, Recovered, Unfinished};
pub use sign::Endorsed;
pub use state::{Powers, State};
pub use view::View;

/// Keeps the chain: the only one who makes events, and the only one who endorses.
pub struct Keeper {
    ledger: Ledger,
    tokens: Tokens,
    clock: Arc<TrustedClock>,
    key_ids: KeyIds,
    /// One step of the chain at a time.
    turns: Turns,
    /// The state and the chain, replaced together. Never held while anything is waited for.
    standing: watch::Sender<Standing>,
    /// Whether the token holds keys that nothing needs and that could not be destroyed yet.
    strays: AtomicBool,
    /// The event that is known to be the chain's newest: its key was seen on a token in this run, or an operator said so.
    proven: Mutex<Option<Digest>>,
    /// What speaks for and against the ledger besides the tokens.
    evidence: Mutex<Evidence>,
    /// The sequence number of the newest visible event, for those who wait for the next.
    head: watch::Sender<u64>,
    /// A signature failed: the watcher need not wait until it is tried again.
    suspicion: Notify,
}

/// The state of the chain, and the chain as it was visible last.
#[derive(Clone, Default)]
struct Standing {
    state: State,
    view: Option<Arc<View>>,
}

impl Keeper {
    /// Reconciles token and ledger, making keys and the first event if both are empty.
    ///
    /// The whole ledger is verified, and both keys have signed, when this returns; unless another hsmd has the ledger.
    pub async fn start(
        ledger: Ledger,
        tokens: impl Into<Tokens>,
        clock: impl Into<Arc<TrustedClock>>,
        key_ids: KeyIds,
    ) -> Result<Self, Error> {
        let keeper = Self::new(ledger, tokens, clock, key_ids);
        keeper.check().await?;
        if !matches!(keeper.chain_state(), State::Standby { .. }) {
            keeper.settled()?;
        }
        Ok(keeper)
    }

    /// A keeper that has not read anything yet: [`Self::read`] and [`Self::check`] do.
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
            turns: Turns::default(),
            standing: watch::Sender::new(Standing::default()),
            strays: AtomicBool::new(false),
            proven: Mutex::new(None),
            evidence: Mutex::default(),
            head: watch::Sender::new(0),
            suspicion: Notify::new(),
        }
    }

    /// The state of the chain.
    pub fn chain_state(&self) -> State {
        self.standing.borrow().state.clone()
    }

    /// The chain, if its newest generation signs now.
    pub fn view(&self) -> Option<Arc<View>> {
        let standing = self.standing.borrow();
        standing.view.clone().filter(|_| standing.state.powers().signs)
    }

    /// The chain, if its newest generation signs now; the state as a refusal if not. Sets off nothing.
    pub fn settled(&self) -> Result<Arc<View>, Error> {
        self.demand(|powers| powers.signs)
    }

    /// The chain as it was visible last, whatever the state: for those who only read.
    pub fn seen(&self) -> Option<Arc<View>> {
        self.standing.borrow().view.clone()
    }

    /// Follows the sequence number of the newest visible event.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    /// Surveys both tokens if one of them was silent at the last survey: keys are mirrored again as soon as it answers.
    pub async fn survey_if_due(&self) {
        if self.tokens.needs_survey() && self.view().is_some() {
            // The state says how it went.
            drop(self.check().await);
        }
    }

    /// Resolves when a signature has failed since this was last asked.
    pub async fn suspected(&self) {
        self.suspicion.notified().await;
    }

    /// The tokens.
    pub const fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// How each of two tokens stands; nothing if there is one.
    pub fn token_states(&self) -> Vec<TokenState> {
        let view = self.seen();
        self.tokens.states(view.as_ref().map(|view| view.live().event()))
    }

    /// Requests in the queue before the token, and at it.
    pub fn waiting(&self) -> usize {
        self.depths().into_iter().map(|(_, depth)| depth).sum()
    }

    /// The same, of each class.
    pub fn depths(&self) -> [(Class, usize); 4] {
        self.tokens.depths()
    }

    /// Whether the token holds keys that nothing needs and that could not be destroyed yet.
    pub fn has_strays(&self) -> bool {
        self.strays.load(Ordering::Relaxed)
    }

    /// For how long a call of the token has not returned that only a new process can end; nothing if there is
    /// none.
    pub fn time_in_call(&self) -> Option<Duration> {
        let known = self.seen();
        self.tokens.time_in_call(known.as_ref().map(|view| &view.live().event().public_key))
    }

    /// How many calls of the token have ended, well or badly.
    pub fn attempts(&self) -> usize {
        self.tokens.attempts()
    }

    /// What was kept of devices' own logs since this was last asked.
    pub fn device_log(&self) -> Vec<Kept> {
        self.tokens.device_log()
    }

    /// Keeps what could not be written of devices' own logs until it is asked for again.
    pub fn put_back_device_log(&self, kept: Vec<Kept>) {
        self.tokens.put_back_device_log(kept);
    }

    /// Whether a signer's thread is gone.
    pub fn signer_has_ended(&self) -> bool {
        self.tokens.have_ended()
    }

    /// Writes out and closes the ledger. Nothing can be asked of the keeper any more.
    pub async fn close(&self) -> Result<(), Error> {
        let _turn = self.turns.take(Waiting::Other).await;
        self.enter(State::Interrupted("hsmd ends".to_owned()), None);
        Ok(self.ledger.close().await?)
    }

    /// The chain, if the state allows what is asked for.
    fn demand(&self, allows: impl Fn(Powers) -> bool) -> Result<Arc<View>, Error> {
        let standing = self.standing.borrow();
        match &standing.view {
            Some(view) if allows(standing.state.powers()) => Ok(Arc::clone(view)),
            _ => Err(Error::State(standing.state.clone())),
        }
    }

    /// Enters a state: state and chain in one swap. Without a view the one before stays visible. To be called in turn
    /// only.
    fn enter(&self, state: State, view: Option<Arc<View>>) {
        let newest = view.as_ref().map(|view| view.live().event().sequence_number);
        if let Some(view) = &view {
            note_newest(view);
            self.clock.learn(Source::Event, view.live().event().created_at);
        }
        let mut before = State::Opening;
        self.standing.send_modify(|standing| {
            before = std::mem::replace(&mut standing.state, state);
            standing.view = view.or(standing.view.take());
        });
        announce(&before, &self.chain_state());
        if let Some(newest) = newest {
            self.head.send_if_modified(|head| std::mem::replace(head, newest) != newest);
        }
    }

    /// Leaves the state in which `view` signs, unless that was left already: a signature has failed. Nobody needs the
    /// turn for this; the watcher's next reconciliation says how it is.
    fn doubt(&self, view: &View, state: State) {
        let mut before = None;
        self.standing.send_if_modified(|standing| {
            let is_same = standing.view.as_ref().is_some_and(|now| now.live().id() == view.live().id());
            let doubts = is_same && standing.state.powers().signs;
            if doubts {
                before = Some(std::mem::replace(&mut standing.state, state));
            }
            doubts
        });
        if let Some(before) = before {
            announce(&before, &self.chain_state());
        }
    }
}

/// Says that the state has changed.
fn announce(before: &State, state: &State) {
    for label in State::LABELS {
        let is_it = if label == state.label() { 1.0 } else { 0.0 };
        metrics::gauge!("hsmd_chain_state", "state" => label).set(is_it);
    }
    if before == state {
        return;
    }
    let label = state.label();
    if state.powers().signs {
        tracing::info!(state = label, "{state}");
    } else if state.passes_by_itself() {
        tracing::warn!(state = label, "{state}");
    } else {
        tracing::error!(state = label, "{state}");
    }
}

fn note_newest(view: &View) {
    let fields = view.live().event();
    metrics::gauge!("hsmd_chain_sequence").set(to_gauge(fields.sequence_number));
    metrics::gauge!("hsmd_key_created_timestamp_seconds")
        .set(to_gauge(u64::try_from(fields.created_at.unix_millis() / 1000).unwrap_or(0)));
    metrics::gauge!("hsmd_token_objects", "state" => "live").set(1);
    metrics::gauge!("hsmd_token_objects", "state" => "next").set(u32::from(view.next().is_some()));
}

/// A whole number as a gauge: exact to 2^32, beyond any sequence number that rotations reach and any time of
/// day before 2106.
pub(crate) fn to_gauge(number: u64) -> f64 {
    u32::try_from(number).map_or_else(|_| f64::from(u32::MAX) + 1.0, f64::from)
}
