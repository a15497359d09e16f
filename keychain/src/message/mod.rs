//! The ten operations between devices and authd (`PROTOCOL.md#operations`).
//!
//! [`parse`] reads the shape, [`Unverified::verify`] proves everything that needs no store: the signature,
//! and every rule that the message alone can break. What is left to authd is what its store knows.

mod request;
mod rules;
mod write;

#[cfg(test)]
mod tests;

use std::fmt;

pub use request::{AccessKeys, Authentication, Link, Request};
pub use write::{body, link_container, request, unsigned_request};

use crate::{
    cesr::{Digest, Nonce, PublicKey, Signature},
    error::{Code, Refusal},
    json::Object,
    key::VerifyingKey,
    limits,
    signed::Envelope,
};

/// One of the ten operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// A new account with its first device.
    AccountCreate,
    /// All devices replaced by one, with the recovery key.
    AccountRecover,
    /// The account deleted.
    AccountDelete,
    /// A challenge for a session.
    SessionRequest,
    /// A session, for an answered challenge.
    SessionCreate,
    /// A further token of a session.
    SessionRefresh,
    /// A device's next key.
    DeviceRotate,
    /// A further device.
    DeviceLink,
    /// A device removed.
    DeviceUnlink,
    /// Another recovery key.
    RecoveryChange,
}

impl Operation {
    /// All ten.
    pub const ALL: [Self; 10] = [
        Self::AccountCreate,
        Self::AccountRecover,
        Self::AccountDelete,
        Self::SessionRequest,
        Self::SessionCreate,
        Self::SessionRefresh,
        Self::DeviceRotate,
        Self::DeviceLink,
        Self::DeviceUnlink,
        Self::RecoveryChange,
    ];

    /// The path that the operation is posted to.
    pub const fn path(self) -> &'static str {
        match self {
            Self::AccountCreate => "/account/create",
            Self::AccountRecover => "/account/recover",
            Self::AccountDelete => "/account/delete",
            Self::SessionRequest => "/session/request",
            Self::SessionCreate => "/session/create",
            Self::SessionRefresh => "/session/refresh",
            Self::DeviceRotate => "/device/rotate",
            Self::DeviceLink => "/device/link",
            Self::DeviceUnlink => "/device/unlink",
            Self::RecoveryChange => "/recovery/change",
        }
    }

    /// The operation posted to `path`.
    pub fn from_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.path() == path)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.path())
    }
}

/// A message of the right shape, of which nothing is proven.
#[derive(Clone, Debug)]
pub struct Unverified(Parts);

/// A message whose signature holds and that breaks no rule which needs no store.
#[derive(Clone, Debug)]
pub struct Verified(Parts);

#[derive(Clone, Debug)]
struct Parts {
    operation: Operation,
    request: Request,
    nonce: Nonce,
    cause: Digest,
    payload: Box<str>,
    signature: Option<Signature>,
}

/// Reads the shape of a message posted for `operation`.
pub fn parse(operation: Operation, body: &[u8]) -> Result<Unverified, Refusal> {
    if body.len() > limits::MESSAGE_MAX {
        return Err(Refusal::new(Code::TooLarge, "the message is longer than 64 KiB"));
    }
    let envelope = Envelope::parse_bytes(body)?;
    let mut payload = Object::parse(envelope.payload)?;
    let mut access = payload.object("access")?;
    let raw_request = payload.raw("request")?;
    payload.finish()?;
    let nonce = access.parsed("nonce", Nonce::parse)?;
    access.finish()?;
    if (operation == Operation::SessionRequest) == envelope.signature.is_some() {
        return Err(Refusal::new(
            Code::InvalidMessage,
            "every message but that to `/session/request` has a signature",
        ));
    }
    Ok(Unverified(Parts {
        operation,
        request: request::parse(operation, raw_request)?,
        nonce,
        cause: Digest::of_parts(&[operation.path(), raw_request]),
        payload: envelope.payload.into(),
        signature: envelope.signature,
    }))
}

impl Unverified {
    /// What is asked for, unproven.
    pub const fn request(&self) -> &Request {
        &self.0.request
    }

    /// Names the request; the answer repeats it.
    pub const fn nonce(&self) -> Nonce {
        self.0.nonce
    }

    /// Verifies a message that names the key which signs it, and every rule that it alone can break.
    ///
    /// `/session/request` is signed by nobody and passes on its shape; `/session/create` does not name its
    /// key and is refused here: use [`Self::verify_with`].
    pub fn verify(self) -> Result<Verified, Refusal> {
        match self.0.request.signer() {
            Some(key) => self.verify_with(&key),
            None if self.0.operation == Operation::SessionRequest => Ok(Verified(self.0)),
            None => Err(Refusal::new(Code::Internal, "the key of a session creation is looked up first")),
        }
    }

    /// Verifies a message with the key that must have signed it.
    pub fn verify_with(self, key: &PublicKey) -> Result<Verified, Refusal> {
        let missing = Refusal::new(Code::InvalidMessage, "the signature is missing");
        let signature = self.0.signature.ok_or(missing)?;
        VerifyingKey::new(key)?.verify(self.0.payload.as_bytes(), &signature)?;
        rules::check(&self.0.request)?;
        Ok(Verified(self.0))
    }
}

impl Verified {
    /// Which operation it is.
    pub const fn operation(&self) -> Operation {
        self.0.operation
    }

    /// What is asked for.
    pub const fn request(&self) -> &Request {
        &self.0.request
    }

    /// Names the request; the answer repeats it.
    pub const fn nonce(&self) -> Nonce {
        self.0.nonce
    }

    /// The digest of the path and the bytes of `payload.request`: what makes a message an exact repeat
    /// (`PROTOCOL.md#exact-repeats`).
    pub const fn cause(&self) -> Digest {
        self.0.cause
    }

    /// The bytes that the signature is over, kept as proof of what was asked for.
    pub fn payload(&self) -> &str {
        &self.0.payload
    }

    /// The device's signature; none for `/session/request`.
    pub const fn signature(&self) -> Option<Signature> {
        self.0.signature
    }
}
