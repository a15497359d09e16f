//! The rules that a message can break by itself, whatever the store says (`PROTOCOL.md#derivations`).

use super::request::{Authentication, Link, Request};
use crate::{
    cesr::{Digest, PublicKey},
    error::{Code, Refusal},
    key::VerifyingKey,
};

/// Checks them all. The message's own signature has been verified.
pub(super) fn check(request: &Request) -> Result<(), Refusal> {
    match request {
        Request::AccountCreate { authentication, recovery_hash } => {
            commits_elsewhere(&authentication.public_key, &authentication.rotation_hash)?;
            device_is_derived(authentication)?;
            identity_is_derived(authentication, recovery_hash)
        }
        Request::AccountRecover { authentication, recovery_hash, recovery_key } => {
            commits_elsewhere(&authentication.public_key, &authentication.rotation_hash)?;
            if *recovery_hash == recovery_key.digest() {
                return Err(Refusal::new(
                    Code::InvalidHash,
                    "the recovery key commits to itself: whoever saw it could use it again",
                ));
            }
            device_is_derived(authentication)
        }
        Request::DeviceLink { authentication, link } => {
            commits_elsewhere(&authentication.public_key, &authentication.rotation_hash)?;
            link_is_sound(authentication, link)
        }
        Request::SessionCreate { access, .. } | Request::SessionRefresh { access, .. } => {
            commits_elsewhere(&access.public_key, &access.rotation_hash)
        }
        Request::AccountDelete { authentication }
        | Request::DeviceRotate { authentication }
        | Request::DeviceUnlink { authentication, .. }
        | Request::RecoveryChange { authentication, .. } => {
            commits_elsewhere(&authentication.public_key, &authentication.rotation_hash)
        }
        Request::SessionRequest { .. } => Ok(()),
    }
}

/// A commitment to the key that is being revealed would make the captured message good for ever.
fn commits_elsewhere(public_key: &PublicKey, rotation_hash: &Digest) -> Result<(), Refusal> {
    if *rotation_hash == public_key.digest() {
        return Err(Refusal::new(
            Code::InvalidHash,
            "the key commits to itself: whoever saw it could use it again",
        ));
    }
    Ok(())
}

fn device_is_derived(new: &Authentication) -> Result<(), Refusal> {
    let derived = Digest::of_parts(&[&new.public_key.to_string(), &new.rotation_hash.to_string()]);
    if derived != new.device {
        return Err(Refusal::new(Code::InvalidDevice, "the device is not the digest of its first keys"));
    }
    Ok(())
}

fn identity_is_derived(new: &Authentication, recovery_hash: &Digest) -> Result<(), Refusal> {
    let parts = [new.public_key.to_string(), new.rotation_hash.to_string(), recovery_hash.to_string()];
    let [public_key, rotation_hash, recovery_hash] = &parts;
    if Digest::of_parts(&[public_key, rotation_hash, recovery_hash]) != new.identity {
        return Err(Refusal::new(Code::InvalidIdentity, "the identity is not the digest of its first keys"));
    }
    Ok(())
}

fn link_is_sound(by: &Authentication, link: &Link) -> Result<(), Refusal> {
    let new = &link.authentication;
    if new.identity != by.identity {
        return Err(Refusal::new(
            Code::MismatchedIdentities,
            "the link container names another identity than the request around it",
        ));
    }
    VerifyingKey::new(&new.public_key)?.verify(link.payload.as_bytes(), &link.signature)?;
    commits_elsewhere(&new.public_key, &new.rotation_hash)?;
    device_is_derived(new)
}
