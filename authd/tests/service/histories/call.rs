//! What a history is made of: requests, when each began and ended, and what came of it.

use std::collections::BTreeMap;
use std::fmt;

use authd::operation::order::Order;
use keychain::message::{AccessKeys, Verified};
use keychain::token::Claims;
use keychain::{Digest, Nonce, PublicKey, Timestamp};

/// One request of a history.
pub(super) struct Call {
    pub(super) asked: Asked,
    /// When it was sent, as a number among the history's events.
    pub(super) begun: usize,
    /// The clock then.
    pub(super) at: Timestamp,
    /// What came back. Nothing: it may have been carried out at any time since, but once at most.
    pub(super) answer: Option<Answer>,
}

/// What is asked for.
pub(super) enum Asked {
    /// One of the operations that change an account or a device.
    Change(Verified),
    /// A further token.
    Refresh(Verified),
    /// A session.
    Open(Opening),
    /// What an operator orders, and why: no two orders have one reason.
    Order { identity: Digest, order: Order, reason: String },
    /// All rows of the history's accounts.
    Look,
}

/// `/session/create`.
pub(super) struct Opening {
    /// Whom the challenge was issued for.
    pub(super) identity: Digest,
    pub(super) device: Digest,
    pub(super) challenge: Nonce,
    pub(super) access: AccessKeys,
    /// The key that signed.
    pub(super) signer: PublicKey,
    /// Digest of the request, as for the other operations.
    pub(super) cause: Digest,
}

/// What came back, and when.
pub(super) struct Answer {
    /// When it was read, as a number among the history's events.
    pub(super) ended: usize,
    /// The clock then.
    pub(super) at: Timestamp,
    pub(super) outcome: Outcome,
}

/// What an answer says.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    /// What the token says. Which authd issued it is left out.
    Token(Box<Said>),
    /// Whether the order changed anything.
    Ordered(bool),
    /// The code.
    Refused(String),
    /// Each chain of rows, oldest first.
    Rows(Rows),
}

/// The rows of a history: of each chain its lines, oldest first.
pub(super) type Rows = BTreeMap<String, Vec<String>>;

/// The claims of a token, but for its issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) owner: (Digest, Digest),
    pub(super) keys: (PublicKey, Digest),
    pub(super) issued_at: Timestamp,
    pub(super) expiry: Timestamp,
    pub(super) refresh_expiry: Timestamp,
    pub(super) attributes: String,
}

impl From<&Claims> for Said {
    fn from(claims: &Claims) -> Self {
        Self {
            owner: (claims.identity, claims.device),
            keys: (claims.public_key, claims.rotation_hash),
            issued_at: claims.issued_at,
            expiry: claims.expiry,
            refresh_expiry: claims.refresh_expiry,
            attributes: claims.attributes.to_json(),
        }
    }
}

impl Call {
    /// What an exact repeat has in common with the first request.
    pub(super) fn cause(&self) -> Option<Digest> {
        match &self.asked {
            Asked::Change(request) | Asked::Refresh(request) => Some(request.cause()),
            Asked::Open(opening) => Some(opening.cause),
            Asked::Order { .. } | Asked::Look => None,
        }
    }

    /// What the answer says, if there is one.
    pub(super) fn outcome(&self) -> Option<&Outcome> {
        self.answer.as_ref().map(|answer| &answer.outcome)
    }

    /// The token that was issued for it, if one was seen.
    pub(super) fn said(&self) -> Option<&Said> {
        match self.outcome() {
            Some(Outcome::Token(said)) => Some(said),
            _ => None,
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.asked {
            Asked::Change(request) => write!(f, "{} {}", request.operation(), request.payload())?,
            Asked::Refresh(request) => write!(f, "{} {}", request.operation(), request.cause())?,
            Asked::Open(opening) => {
                write!(f, "/session/create {} for {}", opening.device, opening.identity)?;
            }
            Asked::Order { identity, order, reason } => write!(f, "{order:?} {identity} ({reason})")?,
            Asked::Look => f.write_str("look")?,
        }
        match &self.answer {
            Some(answer) => write!(f, "\n      {}..{}: {:?}", self.begun, answer.ended, answer.outcome),
            None => write!(f, "\n      {}..: no answer", self.begun),
        }
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Token(said) => write!(f, "{said:?}"),
            Self::Ordered(changed) => write!(f, "ordered, changed: {changed}"),
            Self::Refused(code) => write!(f, "refused with {code}"),
            Self::Rows(rows) => {
                for (chain, lines) in rows {
                    write!(f, "\n        {chain}: {lines:#?}")?;
                }
                Ok(())
            }
        }
    }
}
