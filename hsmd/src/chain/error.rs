//! Why the keeper did not do what it was asked to, and what that is on the wire.

use keychain::{Code, Refusal};

use super::State;
use crate::{
    clock::Doubt,
    failure_point,
    ledger::{self, Condition},
    token::backend::Fault,
};

/// Why the keeper did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The clock cannot be trusted with an event.
    #[error(transparent)]
    Clock(#[from] Doubt),
    /// The generation named is not the one in use, nor one that was left as asked.
    #[error("compare-and-swap lost: {0}")]
    Conflict(&'static str),
    /// The token failed.
    #[error("the HSM failed")]
    Hsm(#[from] Fault),
    /// The ledger failed.
    #[error("the ledger failed")]
    Ledger(#[from] ledger::Error),
    /// The generation was left without a taint, and an event taints only the one just before it.
    #[error("the generation was left without a taint; an event taints only the newest")]
    LeftUntainted,
    /// The state of the chain does not allow it.
    #[error("{0}")]
    State(State),
    /// The chain that was brought is not the one that the ledger lacks.
    #[error("cannot recover the ledger")]
    Unrecoverable(#[source] Refusal),
    /// What was asked for was overtaken again and again, or is not decided yet.
    #[error("token and ledger are being reconciled; ask again")]
    Unsettled,
    /// What the HSM signed does not verify.
    #[error("what the HSM signed does not verify")]
    Unverifiable(#[source] Refusal),
}

impl Error {
    /// The state that a failed attempt to reconcile leaves the chain in; `None` if it says nothing of the chain.
    pub(super) fn state(&self) -> Option<State> {
        match self {
            Self::State(state) => Some(state.clone()),
            Self::Hsm(Fault::Busy { .. }) | Self::Ledger(ledger::Error::Busy) => None,
            Self::Hsm(fault) if matches!(fault.root(), Fault::Pin { .. }) => {
                Some(State::PinRefused(with_causes(fault)))
            }
            Self::Hsm(fault) if matches!(fault.root(), Fault::Opening) => Some(State::Opening),
            Self::Hsm(fault) if fault.is_silence() => Some(State::TokenSilent(with_causes(fault))),
            Self::Ledger(error @ ledger::Error::Contradiction { .. }) => {
                Some(State::LedgerCorrupt(with_causes(error)))
            }
            Self::Ledger(ledger::Error::Unwritten(Condition::Standby { holder })) => {
                Some(State::Standby { holder: holder.clone() })
            }
            Self::Ledger(error) => Some(State::LedgerFailing(with_causes(error))),
            error => Some(State::Interrupted(with_causes(error))),
        }
    }
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

impl From<&State> for Refusal {
    /// The name of the state and its cause are as public as `GET /health`.
    fn from(state: &State) -> Self {
        Self::new(Code::Unavailable, state.summary())
            .with("state", state.label())
            .with("because", state.to_string())
    }
}

impl From<&Error> for Refusal {
    /// The one place where this crate's faults become codes of the wire.
    fn from(error: &Error) -> Self {
        match error {
            Error::Clock(doubt) => doubt.into(),
            Error::Conflict(because) => Self::new(Code::Conflict, because),
            Error::LeftUntainted => Self::new(Code::Conflict, "the generation was left without a taint"),
            Error::Hsm(Fault::Busy { .. }) => Self::new(Code::TooMany, "the queue before the HSM is full"),
            Error::Hsm(Fault::Full { .. }) => {
                Self::new(Code::Unavailable, "the HSM has no room for another key")
            }
            Error::Hsm(Fault::Silent { token, .. }) => {
                Self::new(Code::Unavailable, "a token of the HSM does not answer").with("token", *token)
            }
            Error::Hsm(_) => Self::new(Code::Unavailable, "the HSM does not answer"),
            Error::State(state) => state.into(),
            Error::Unrecoverable(refusal) => refusal.clone(),
            Error::Unsettled => Self::new(Code::Unavailable, "token and ledger are being reconciled"),
            Error::Ledger(error) => error.into(),
            Error::Unverifiable(_) => Self::new(Code::Internal, "what the HSM signed does not verify"),
        }
    }
}

/// An error and its causes, on one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
