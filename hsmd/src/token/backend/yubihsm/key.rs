//! Keys as objects of the device: making, finding and using them, one command each.

use aws_lc_rs::{
    digest::{self, Digest},
    signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey},
};
use keychain::{PublicKey, Signature};
use yubihsm::{
    Algorithm, Capability, Client, Domain, asymmetric, client,
    object::{Filter, Info, Origin, Type},
};

use super::{
    fault::{Cause, cause},
    label,
};
use crate::token::backend::{Fault, KeyId};

/// What a key signs to prove which public key is its own. No event or endorsement starts so.
const PROOF: &[u8] = b"keelson: proof that a key on the token signs as itself";

/// The curve that keys are on.
const P256: asymmetric::Algorithm = asymmetric::Algorithm::EcP256;

/// The digest of what a key signs to prove which public key is its own.
pub(super) fn proof() -> [u8; 32] {
    let mut proof = [0; 32];
    proof.copy_from_slice(digest::digest(&digest::SHA256, PROOF).as_ref());
    proof
}

/// Makes a key under `id`; false if the id is taken.
pub(super) fn generate(
    client: &Client,
    id: KeyId,
    domain: Domain,
    capabilities: Capability,
) -> Result<bool, client::Error> {
    match client.generate_asymmetric_key(id.number(), label(), domain, capabilities, P256) {
        Ok(_) => Ok(true),
        Err(error) if cause(&error) == Cause::Taken => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether any asymmetric key, ours or not, has the id.
pub(super) fn is_taken(client: &Client, id: KeyId) -> Result<bool, client::Error> {
    match client.get_object_info(id.number(), Type::AsymmetricKey) {
        Ok(_) => Ok(true),
        Err(error) if cause(&error) == Cause::Absent => Ok(false),
        Err(error) => Err(error),
    }
}

/// The ids of all keys that bear our label.
pub(super) fn list(client: &Client) -> Result<Vec<u16>, client::Error> {
    let wanted =
        [Filter::Type(Type::AsymmetricKey), Filter::Algorithm(Algorithm::from(P256)), Filter::Label(label())];
    let entries = client.list_objects(&wanted)?;
    Ok(entries.iter().map(|entry| entry.object_id).collect())
}

/// The public key of the object under `id`; none if it is not on P-256.
pub(super) fn public(client: &Client, id: KeyId) -> Result<Option<PublicKey>, client::Error> {
    let key = client.get_public_key(id.number())?;
    let point = [&[4][..], key.as_slice()].concat();
    Ok(PublicKey::from_sec1(&point).ok().filter(|_| key.algorithm == P256))
}

/// Deletes the key under `id`, or finds it gone.
pub(super) fn delete(client: &Client, id: KeyId) -> Result<(), client::Error> {
    deleted(client.delete_object(id.number(), Type::AsymmetricKey))
}

/// What is gone is deleted.
pub(super) fn deleted(outcome: Result<(), client::Error>) -> Result<(), client::Error> {
    match outcome {
        Err(error) if cause(&error) == Cause::Absent => Ok(()),
        done => done,
    }
}

/// Refuses a key that can do more than it was made for, or that the device did not make itself.
pub(super) fn demand_confined(info: &Info, domain: Domain, capabilities: Capability) -> Result<(), Fault> {
    if info.origin != Origin::Generated {
        return Err(Fault::Nonsense("a new key that the device did not make itself"));
    }
    if info.capabilities != capabilities || info.domains != domain {
        return Err(Fault::Nonsense("a new key with other capabilities or domains than it was made with"));
    }
    Ok(())
}

/// The signature of 64 bytes that a DER signature spells, once it is known to be `key`'s.
pub(super) fn checked(der: &[u8], key: &PublicKey, digest: &[u8; 32]) -> Result<Signature, Fault> {
    let digest = Digest::import_less_safe(digest, &digest::SHA256)
        .map_err(|_| Fault::Nonsense("a digest that is none"))?;
    // Another key has the id by now: the caller looks it up again.
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.sec1())
        .verify_digest(&digest, der)
        .map_err(|_| Fault::EarlierHandle)?;
    let signature = p256::ecdsa::Signature::from_der(der)
        .map_err(|_| Fault::Nonsense("a signature that is no pair of numbers"))?;
    Ok(Signature::from_bytes(signature.to_bytes().into()))
}
