//! Messages as a device writes them: members in the protocol's order (`PROTOCOL.md#operations`).

use super::request::{AccessKeys, Authentication};
use crate::{
    cesr::{Digest, Nonce, PublicKey},
    error::Refusal,
    key::SigningKey,
    signed,
};

/// A signed message: `request` (see [`body`]) with a nonce, signed by `key`.
pub fn request(key: &SigningKey, nonce: &Nonce, request: &str) -> Result<String, Refusal> {
    let payload = payload(nonce, request);
    let signature = key.sign(payload.as_bytes())?;
    Ok(signed::seal(&payload, &signature))
}

/// A message that nobody signs: `/session/request`.
pub fn unsigned_request(nonce: &Nonce, request: &str) -> String {
    format!("{{\"payload\":{}}}", payload(nonce, request))
}

/// The container by which a new device says that it joins an account.
pub fn link_container(key: &SigningKey, new: &Authentication) -> Result<String, Refusal> {
    let payload = body::of_device(new);
    let signature = key.sign(payload.as_bytes())?;
    Ok(signed::seal(&payload, &signature))
}

fn payload(nonce: &Nonce, request: &str) -> String {
    format!("{{\"access\":{{\"nonce\":\"{nonce}\"}},\"request\":{request}}}")
}

/// `payload.request` of each operation.
pub mod body {
    use super::{AccessKeys, Authentication, Digest, Nonce, PublicKey};

    /// `/account/delete`, `/device/rotate`, and what a link container signs.
    pub fn of_device(by: &Authentication) -> String {
        format!("{{\"authentication\":{}}}", authentication(by, None, None))
    }

    /// `/account/create` and `/recovery/change`.
    pub fn with_recovery_hash(by: &Authentication, recovery_hash: &Digest) -> String {
        format!("{{\"authentication\":{}}}", authentication(by, Some(recovery_hash), None))
    }

    /// `/account/recover`.
    pub fn recover(new: &Authentication, recovery_hash: &Digest, recovery_key: &PublicKey) -> String {
        format!("{{\"authentication\":{}}}", authentication(new, Some(recovery_hash), Some(recovery_key)))
    }

    /// `/device/link` with a container of [`super::link_container`].
    pub fn link(by: &Authentication, container: &str) -> String {
        format!("{{\"authentication\":{},\"link\":{container}}}", authentication(by, None, None))
    }

    /// `/device/unlink` of `device`.
    pub fn unlink(by: &Authentication, device: &Digest) -> String {
        let by = authentication(by, None, None);
        format!("{{\"authentication\":{by},\"link\":{{\"device\":\"{device}\"}}}}")
    }

    /// `/session/request`.
    pub fn session_request(identity: &Digest) -> String {
        format!("{{\"authentication\":{{\"identity\":\"{identity}\"}}}}")
    }

    /// `/session/create`.
    pub fn session_create(access: &AccessKeys, device: &Digest, challenge: &Nonce) -> String {
        format!(
            "{{\"access\":{{\"publicKey\":\"{}\",\"rotationHash\":\"{}\"}},\
             \"authentication\":{{\"device\":\"{device}\",\"nonce\":\"{challenge}\"}}}}",
            access.public_key, access.rotation_hash
        )
    }

    /// `/session/refresh`.
    pub fn session_refresh(access: &AccessKeys, token: &str) -> String {
        format!(
            "{{\"access\":{{\"publicKey\":\"{}\",\"rotationHash\":\"{}\",\"token\":\"{token}\"}}}}",
            access.public_key, access.rotation_hash
        )
    }

    /// Members stand in alphabetical order.
    fn authentication(
        by: &Authentication,
        recovery_hash: Option<&Digest>,
        key: Option<&PublicKey>,
    ) -> String {
        let recovery_hash =
            recovery_hash.map(|hash| format!("\"recoveryHash\":\"{hash}\",")).unwrap_or_default();
        let recovery_key = key.map(|key| format!("\"recoveryKey\":\"{key}\",")).unwrap_or_default();
        format!(
            "{{\"device\":\"{}\",\"identity\":\"{}\",\"publicKey\":\"{}\",{recovery_hash}{recovery_key}\
             \"rotationHash\":\"{}\"}}",
            by.device, by.identity, by.public_key, by.rotation_hash
        )
    }
}
