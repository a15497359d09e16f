//! What each operation asks for (`PROTOCOL.md#operations`).

use super::Operation;
use crate::{
    cesr::{Digest, Nonce, PublicKey, Signature},
    error::Refusal,
    json::Object,
    signed::Envelope,
    token::Token,
};

/// Who asks: a device of an identity, and its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authentication {
    /// The device: the digest of its first keys.
    pub device: Digest,
    /// The account: the digest of the keys it was created with.
    pub identity: Digest,
    /// The key that the device reveals, or begins with.
    pub public_key: PublicKey,
    /// The digest of the device's next key.
    pub rotation_hash: Digest,
}

/// The keys of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessKeys {
    /// The key that access requests are signed with.
    pub public_key: PublicKey,
    /// The digest of the session's next key.
    pub rotation_hash: Digest,
}

/// A link container: the new device's own word that it joins the account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The new device, its keys and the account it joins.
    pub authentication: Authentication,
    /// The bytes that the new device signed.
    pub payload: Box<str>,
    /// The new device's signature.
    pub signature: Signature,
}

/// What is asked for, by operation.
#[derive(Clone, Debug)]
pub enum Request {
    /// `/account/create`
    AccountCreate {
        /// The account and its first device.
        authentication: Authentication,
        /// The digest of the recovery key.
        recovery_hash: Digest,
    },
    /// `/account/recover`
    AccountRecover {
        /// The account and the device that is to be its only one.
        authentication: Authentication,
        /// The digest of the next recovery key.
        recovery_hash: Digest,
        /// The recovery key revealed.
        recovery_key: PublicKey,
    },
    /// `/account/delete`
    AccountDelete {
        /// The device that asks.
        authentication: Authentication,
    },
    /// `/session/request`
    SessionRequest {
        /// The account that a challenge is for.
        identity: Digest,
    },
    /// `/session/create`
    SessionCreate {
        /// The session's keys.
        access: AccessKeys,
        /// The device that asks.
        device: Digest,
        /// The challenge that is answered.
        challenge: Nonce,
    },
    /// `/session/refresh`
    SessionRefresh {
        /// The key revealed and the next commitment.
        access: AccessKeys,
        /// The token that is followed.
        token: Box<Token>,
    },
    /// `/device/rotate`
    DeviceRotate {
        /// The device and its next keys.
        authentication: Authentication,
    },
    /// `/device/link`
    DeviceLink {
        /// The device that asks.
        authentication: Authentication,
        /// The new device's container.
        link: Box<Link>,
    },
    /// `/device/unlink`
    DeviceUnlink {
        /// The device that asks.
        authentication: Authentication,
        /// The device that is to go.
        device: Digest,
    },
    /// `/recovery/change`
    RecoveryChange {
        /// The device that asks.
        authentication: Authentication,
        /// The digest of the next recovery key.
        recovery_hash: Digest,
    },
}

impl Request {
    /// The key that the message names as its signer's.
    pub fn signer(&self) -> Option<PublicKey> {
        match self {
            Self::AccountRecover { recovery_key, .. } => Some(*recovery_key),
            Self::SessionRefresh { access, .. } => Some(access.public_key),
            Self::SessionRequest { .. } | Self::SessionCreate { .. } => None,
            Self::AccountCreate { authentication, .. }
            | Self::AccountDelete { authentication }
            | Self::DeviceRotate { authentication }
            | Self::DeviceLink { authentication, .. }
            | Self::DeviceUnlink { authentication, .. }
            | Self::RecoveryChange { authentication, .. } => Some(authentication.public_key),
        }
    }
}

/// Reads `payload.request` of a message for `operation`.
pub(super) fn parse(operation: Operation, text: &str) -> Result<Request, Refusal> {
    let mut object = Object::parse(text)?;
    let request = match operation {
        Operation::SessionRequest => {
            let mut authentication = object.object("authentication")?;
            let identity = authentication.parsed("identity", Digest::parse)?;
            authentication.finish()?;
            Request::SessionRequest { identity }
        }
        Operation::SessionCreate => session_create(&mut object)?,
        Operation::SessionRefresh => {
            let mut access = object.object("access")?;
            let keys = access_keys(&mut access)?;
            let token = Box::new(Token::parse(access.string("token")?)?);
            access.finish()?;
            Request::SessionRefresh { access: keys, token }
        }
        Operation::AccountCreate
        | Operation::AccountRecover
        | Operation::AccountDelete
        | Operation::DeviceRotate
        | Operation::DeviceLink
        | Operation::DeviceUnlink
        | Operation::RecoveryChange => by_device(operation, &mut object)?,
    };
    object.finish()?;
    Ok(request)
}

fn session_create(object: &mut Object<'_>) -> Result<Request, Refusal> {
    let mut access = object.object("access")?;
    let mut authentication = object.object("authentication")?;
    let request = Request::SessionCreate {
        access: access_keys(&mut access)?,
        device: authentication.parsed("device", Digest::parse)?,
        challenge: authentication.parsed("nonce", Nonce::parse)?,
    };
    access.finish()?;
    authentication.finish()?;
    Ok(request)
}

fn by_device(operation: Operation, object: &mut Object<'_>) -> Result<Request, Refusal> {
    let mut member = object.object("authentication")?;
    let authentication = authentication(&mut member)?;
    let request = match operation {
        Operation::AccountCreate => {
            Request::AccountCreate { authentication, recovery_hash: recovery_hash(&mut member)? }
        }
        Operation::AccountRecover => Request::AccountRecover {
            authentication,
            recovery_hash: recovery_hash(&mut member)?,
            recovery_key: member.parsed("recoveryKey", PublicKey::parse)?,
        },
        Operation::RecoveryChange => {
            Request::RecoveryChange { authentication, recovery_hash: recovery_hash(&mut member)? }
        }
        Operation::DeviceLink => {
            Request::DeviceLink { authentication, link: Box::new(link(object.raw("link")?)?) }
        }
        Operation::DeviceUnlink => {
            let mut link = object.object("link")?;
            let device = link.parsed("device", Digest::parse)?;
            link.finish()?;
            Request::DeviceUnlink { authentication, device }
        }
        Operation::AccountDelete => Request::AccountDelete { authentication },
        _ => Request::DeviceRotate { authentication },
    };
    member.finish()?;
    Ok(request)
}

fn link(text: &str) -> Result<Link, Refusal> {
    let envelope = Envelope::parse(text)?;
    let mut payload = Object::parse(envelope.payload)?;
    let mut member = payload.object("authentication")?;
    payload.finish()?;
    let authentication = authentication(&mut member)?;
    member.finish()?;
    Ok(Link { authentication, payload: envelope.payload.into(), signature: envelope.required_signature()? })
}

fn authentication(member: &mut Object<'_>) -> Result<Authentication, Refusal> {
    Ok(Authentication {
        device: member.parsed("device", Digest::parse)?,
        identity: member.parsed("identity", Digest::parse)?,
        public_key: member.parsed("publicKey", PublicKey::parse)?,
        rotation_hash: member.parsed("rotationHash", Digest::parse)?,
    })
}

fn access_keys(member: &mut Object<'_>) -> Result<AccessKeys, Refusal> {
    Ok(AccessKeys {
        public_key: member.parsed("publicKey", PublicKey::parse)?,
        rotation_hash: member.parsed("rotationHash", Digest::parse)?,
    })
}

fn recovery_hash(member: &mut Object<'_>) -> Result<Digest, Refusal> {
    member.parsed("recoveryHash", Digest::parse)
}
