//! The device's side of the protocol (`PROTOCOL.md#device`): a state machine without IO.
//!
//! [`Device`] holds the keys of one device of one account, the session that it may have, and the one
//! operation that waits for its answer. Time, entropy, the network and the disk are the caller's:
//!
//! 1. A *command* ([`Device::create`], [`Device::rotate`], …) draws what keys it needs, puts the machine in
//!    its waiting state and returns what to send.
//! 2. The caller **saves the device** ([`Device::save`]) and only then sends: a key must be on disk before
//!    the request that commits to it or reveals it leaves.
//! 3. [`Device::handle_response`] verifies the answer, takes the new state, and the caller saves again.
//!    No other input changes the state: an answer that fails, or an error, which nobody signs, changes
//!    nothing.
//! 4. If no answer comes, [`Device::retry`] makes the same request again, as often as needed, also after
//!    [`Device::restore`]. [`Device::abandon`] gives up on what the operation was for without ever losing
//!    the device.
//!
//! Access requests to app servers need no state and may be under way in any number:
//! [`Device::access_request`], [`access_response`].
//!
//! What an answer is checked against is a [`Trust`]: the chain as this device knows it, and the endorsement
//! of the key that signed. Which key that is, [`server_identity`] says; the caller fetches
//! `/keys/{publicKey}` and, where the chain lacks the endorsing generation, `/hsm/keys`. A chain that has also taken the
//! heads of `/hsm/heads` ([`take_heads`]) refuses denied generations and revoked keys.

mod command;
mod secret;
mod session;
mod state;
mod trust;

#[cfg(test)]
mod tests;

use std::fmt;

use zeroize::Zeroizing;

pub use secret::Entropy;
pub use session::{AccessOutgoing, access_response};
pub use trust::{Heads, Trust, refusal_code, server_identity, take_heads};

use crate::{
    cesr::{Digest, Nonce},
    error::{Code, Refusal},
    limits,
    message::{self, Operation},
    time::Timestamp,
    token::{Claims, Token},
};
use state::{Account, Effect, Pending, Session};

/// The service that answers the ten operations (`PROTOCOL.md#service`).
pub const AUTH_SERVICE: &str = "authd";

/// A device: of no account yet, or of one; with or without a session; waiting for an answer or not.
///
/// It serialises to what [`Device::restore`] reads. That text holds private keys.
#[derive(Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Device {
    account: Option<Account>,
    session: Option<Session>,
    /// Answered by the next session creation.
    challenge: Option<Nonce>,
    pending: Option<Pending>,
}

/// A message to post to [`Operation::path`] of the auth server, once the device has been saved.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Which operation, and so which path.
    pub operation: Operation,
    /// The body.
    pub body: String,
}

impl Device {
    /// A device of no account.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads what [`Self::save`] wrote.
    pub fn restore(saved: &str) -> Result<Self, Refusal> {
        serde_json::from_str(saved).map_err(|_| {
            Refusal::new(Code::Internal, "the saved device is damaged: restore a copy or recover")
        })
    }

    /// The whole state as a text, private keys included.
    pub fn save(&self) -> Result<Zeroizing<String>, Refusal> {
        let failed = |_| Refusal::new(Code::Internal, "the device cannot be written as JSON");
        // Large enough that no half-written copy is left behind by growing.
        let mut text = Zeroizing::new(Vec::with_capacity(SAVED_ROOM));
        serde_json::to_writer(&mut *text, self).map_err(failed)?;
        String::from_utf8(std::mem::take(&mut *text))
            .map(Zeroizing::new)
            .map_err(|_| Refusal::new(Code::Internal, "the device cannot be written as text"))
    }

    /// The account, once it is known that the auth server registered this device or (for a device that
    /// joins) once its container exists.
    pub fn identity(&self) -> Option<Digest> {
        self.account.as_ref().map(|account| account.identity)
    }

    /// This device's id in the account.
    pub fn device(&self) -> Option<Digest> {
        self.account.as_ref().map(|account| account.device)
    }

    /// The container by which this device joins an account, until its first operation has been answered.
    pub fn container(&self) -> Option<&str> {
        self.account.as_ref()?.container.as_deref()
    }

    /// The operation that waits for its answer.
    pub fn waits_for(&self) -> Option<Operation> {
        self.pending.as_ref().map(|pending| pending.operation)
    }

    /// Whether there is a challenge for [`Self::session_create`].
    pub fn is_challenged(&self) -> bool {
        self.challenge.is_some()
    }

    /// What the session's token says; nothing without a session. The token was checked when it was taken.
    pub fn claims(&self) -> Option<Claims> {
        let session = self.session.as_ref()?;
        Token::parse(&session.token).ok().map(|token| token.claims().clone())
    }

    /// The same request again, with a new nonce (`PROTOCOL.md#device-retry`). A session creation starts
    /// over: the request for a challenge is returned, and the creation follows as at first.
    pub fn retry(&mut self, entropy: &mut impl Entropy) -> Result<Outgoing, Refusal> {
        let pending = self.pending.as_mut().ok_or(IDLE)?;
        if matches!(pending.effect, Effect::Open { .. }) {
            self.pending = None;
            return self.session_request(entropy);
        }
        pending.nonce = secret::nonce(entropy);
        self.outgoing()
    }

    /// Gives up on what the waiting operation was for.
    ///
    /// Whether the auth server applied it is unknown, so an operation that reveals a key turns into a
    /// rotation to the same next key, which is returned and must be seen through: it is answered whether or
    /// not the first request was applied (`PROTOCOL.md#repeat-rotate`), unless that removed this very device.
    /// A rotation itself can only be retried. The other operations just end:
    ///
    /// - a session that was being refreshed can still be used until its token expires, but a further refresh
    ///   of it may be refused, so open a new one;
    /// - a creation or recovery loses its keys: if it was applied, only the recovery key leads back.
    pub fn abandon(&mut self, entropy: &mut impl Entropy) -> Result<Option<Outgoing>, Refusal> {
        let pending = self.pending.as_mut().ok_or(IDLE)?;
        let Effect::Rotate { next, leaves } = &mut pending.effect else {
            self.pending = None;
            return Ok(None);
        };
        let account = self.account.as_ref().ok_or(state::BROKEN)?;
        if pending.operation == Operation::DeviceRotate {
            return Err(Refusal::new(Code::Conflict, "a rotation may have been applied: retry it"));
        }
        *leaves = false;
        pending.request = message::body::of_device(&account.revealing(next.digest()));
        pending.operation = Operation::DeviceRotate;
        pending.nonce = secret::nonce(entropy);
        self.outgoing().map(Some)
    }

    /// Takes the answer to the operation that waits: verifies it against `trust` and commits the new state.
    /// Save the device afterwards.
    ///
    /// Any refusal leaves the state as it was, so that another answer can still come, or a retry be made.
    pub fn handle_response(
        &mut self,
        body: &[u8],
        trust: &Trust<'_>,
        now: Timestamp,
    ) -> Result<Operation, Refusal> {
        let pending = self.pending.as_ref().ok_or(IDLE)?;
        if body.len() > limits::MESSAGE_MAX {
            return Err(Refusal::new(Code::TooLarge, "the answer is longer than 64 KiB"));
        }
        let answer = trust.open(body, &pending.nonce, AUTH_SERVICE, now)?;
        let answer = self.read(pending, answer)?;
        let Some(Pending { operation, effect, .. }) = self.pending.take() else { return Err(IDLE) };
        self.commit(effect, answer)?;
        Ok(operation)
    }

    fn begin(&mut self, pending: Pending) -> Result<Outgoing, Refusal> {
        self.pending = Some(pending);
        self.outgoing().inspect_err(|_| self.pending = None)
    }

    /// Writes the pending request, and refuses to send what the auth server would refuse for its own sake.
    fn outgoing(&self) -> Result<Outgoing, Refusal> {
        let pending = self.pending.as_ref().ok_or(IDLE)?;
        let body = match self.signer(pending)? {
            Some(key) => {
                let body = message::request(key, &pending.nonce, &pending.request)?;
                message::parse(pending.operation, body.as_bytes())?.verify_with(&key.public_key())?;
                body
            }
            None => message::unsigned_request(&pending.nonce, &pending.request),
        };
        Ok(Outgoing { operation: pending.operation, body })
    }

    fn idle(&self) -> Result<(), Refusal> {
        match self.pending {
            Some(_) => {
                Err(Refusal::new(Code::Conflict, "an operation waits for its answer: retry it or abandon it"))
            }
            None => Ok(()),
        }
    }
}

/// Prints no key.
impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Device")
    }
}

const IDLE: Refusal = Refusal::new(Code::Conflict, "no operation waits for an answer");

/// Room for the saved text, in bytes: two tokens and a request at their longest.
const SAVED_ROOM: usize = 3 * limits::MESSAGE_MAX;
