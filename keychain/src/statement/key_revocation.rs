//! Which keys of services are compromised (`PROTOCOL.md#key-revocation`).

use std::time::Duration;

use super::{Draft, Signed, list, times, written};
use crate::{
    cesr::{Digest, PublicKey},
    chain::{Chain, Event, SignedEvent},
    error::{Code, Refusal},
    limits,
    time::Timestamp,
};

/// The purpose of every key revocation.
const PURPOSE: &str = "key-revocation";

/// What a new key revocation is to say.
#[derive(Clone, Debug)]
pub struct NewKeyRevocation<'a> {
    /// The newest event, whose key is to sign.
    pub event: &'a Event,
    /// The keys, each once.
    pub public_keys: &'a [PublicKey],
    /// When the revocation is made.
    pub issued_at: Timestamp,
    /// When no endorsement of these keys can count any more, whatever it says.
    pub expiration: Timestamp,
}

impl NewKeyRevocation<'_> {
    /// The revocation to be signed. None, or more than [`limits::REVOKED_KEYS_MAX`] keys, would not be read.
    pub fn draft(&self) -> Result<Draft, Refusal> {
        if self.public_keys.is_empty() || self.public_keys.len() > limits::REVOKED_KEYS_MAX {
            return Err(Refusal::new(Code::TooLarge, "no key, or more than a statement can revoke"));
        }
        let payload = format!(
            "{{\"purpose\":\"{PURPOSE}\",\"publicKeys\":{},\"issuedAt\":\"{}\",\"expiration\":\"{}\"}}",
            written(self.public_keys),
            self.issued_at,
            self.expiration
        );
        Ok(Draft::new(&payload, &self.event.prefix, &self.event.id))
    }
}

/// A key revocation as received. It proves nothing until [`Self::verify`] has passed.
#[derive(Clone, Debug)]
pub struct KeyRevocation {
    public_keys: Vec<PublicKey>,
    issued_at: Timestamp,
    expiration: Timestamp,
    signed: Signed,
}

impl KeyRevocation {
    /// Reads a key revocation.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let (signed, mut payload) = Signed::open(text, PURPOSE)?;
        let public_keys = list(&mut payload, "publicKeys", limits::REVOKED_KEYS_MAX, PublicKey::parse)?;
        if public_keys.is_empty() {
            return Err(Refusal::new(Code::InvalidMessage, "the revocation names no key"));
        }
        let (issued_at, expiration) = times(&mut payload)?;
        Ok(Self { public_keys, issued_at, expiration, signed })
    }

    /// The revocation as received: what stands in the directory.
    pub fn text(&self) -> &str {
        &self.signed.text
    }

    /// When the revocation says that it was made. It counts before, too: a clock that is ahead delays no
    /// denial.
    pub const fn issued_at(&self) -> Timestamp {
        self.issued_at
    }

    /// Until when the revocation says that it matters.
    pub const fn expiration(&self) -> Timestamp {
        self.expiration
    }

    /// The generation that it says signed it.
    pub const fn generation_id(&self) -> Digest {
        self.signed.generation_id
    }

    /// The keys that it would revoke: nothing is proven about them here.
    pub fn claimed_keys(&self) -> &[PublicKey] {
        &self.public_keys
    }

    /// Verifies that a generation, live at `now` for a verifier whose window is `window`, signed this, and
    /// that it has not ended; answers the keys to refuse.
    pub fn verify(&self, chain: &Chain, window: Duration, now: Timestamp) -> Result<&[PublicKey], Refusal> {
        if self.expiration <= now {
            return Err(Refusal::new(Code::DeadKey, "the revocation has ended"));
        }
        self.signed.verify(chain, window, now)?;
        Ok(&self.public_keys)
    }

    /// Verifies that the generation of `event` signed this, whether it is live or not: for those who carry
    /// revocations.
    pub fn verify_signature(&self, event: &SignedEvent) -> Result<&[PublicKey], Refusal> {
        self.signed.verify_signature(event)?;
        Ok(&self.public_keys)
    }
}
