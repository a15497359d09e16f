//! What the HSM's generations say beside endorsements: which event is the newest ([`Head`]), and which
//! keys of services are compromised ([`KeyRevocation`]) (`PROTOCOL.md#statements`).
//!
//! They have the shape of an endorsement and are told apart by their purpose, which is signed: none of the
//! readers takes another's texts.

mod head;
mod key_revocation;

use std::{fmt::Display, ops::Range, time::Duration};

use crate::{
    cesr::{Digest, Signature},
    chain::{Chain, SignedEvent},
    error::{Code, Refusal},
    json::{self, Object},
    limits,
    time::Timestamp,
};

pub use head::{Head, NewHead, ProvenHead};
pub use key_revocation::{KeyRevocation, NewKeyRevocation};

/// A statement to be signed by the chain's newest generation.
#[derive(Clone, Debug)]
pub struct Draft {
    body: String,
}

impl Draft {
    pub(crate) fn new(payload: &str, identity: &Digest, generation_id: &Digest) -> Self {
        Self {
            body: format!(
                "{{\"payload\":{payload},\"hsm\":{{\"identity\":\"{identity}\",\"generationId\":\"{generation_id}\"}}}}"
            ),
        }
    }

    /// The bytes to sign.
    pub fn body(&self) -> &str {
        &self.body
    }

    /// Puts the signature to it: what is published.
    pub fn seal(&self, signature: &Signature) -> String {
        format!("{{\"body\":{},\"signature\":\"{signature}\"}}", self.body)
    }
}

/// Who signed a statement, and the bytes that the signature is over.
#[derive(Clone, Debug)]
struct Signed {
    identity: Digest,
    generation_id: Digest,
    signature: Signature,
    text: Box<str>,
    body: Range<usize>,
}

impl Signed {
    /// Reads the outer form of a statement whose purpose is `purpose`; answers its payload too.
    fn open<'a>(text: &'a str, purpose: &str) -> Result<(Self, Object<'a>), Refusal> {
        if text.len() > limits::DIRECTORY_VALUE_MAX {
            return Err(Refusal::new(Code::TooLarge, "the statement is longer than 4 KiB"));
        }
        let mut outer = Object::parse(text)?;
        let raw_body = outer.raw("body")?;
        let signature = outer.parsed("signature", Signature::parse)?;
        let mut body = Object::parse(raw_body)?;
        let mut payload = body.object("payload")?;
        let mut hsm = body.object("hsm")?;
        if payload.string("purpose")? != purpose {
            return Err(Refusal::new(Code::WrongPurpose, "the statement is for another purpose"));
        }
        let identity = hsm.parsed("identity", Digest::parse)?;
        let generation_id = hsm.parsed("generationId", Digest::parse)?;
        let start = raw_body.as_ptr().addr().saturating_sub(text.as_ptr().addr());
        let body = start..start.saturating_add(raw_body.len());
        Ok((Self { identity, generation_id, signature, text: text.into(), body }, payload))
    }

    /// Verifies that the generation named signed this, and is live.
    fn verify<'a>(
        &self,
        chain: &'a Chain,
        window: Duration,
        now: Timestamp,
    ) -> Result<&'a SignedEvent, Refusal> {
        if self.identity != chain.prefix() {
            return Err(Refusal::new(Code::DeadKey, "the statement is by another HSM identity"));
        }
        let generation = chain.live(&self.generation_id, window, now)?;
        self.verify_signature(generation)?;
        Ok(generation)
    }

    /// Verifies that the generation of `event` signed this, whether it is live or not.
    fn verify_signature(&self, event: &SignedEvent) -> Result<(), Refusal> {
        if self.generation_id != event.id() || self.identity != event.event().prefix {
            return Err(Refusal::new(Code::DeadKey, "the statement is by another generation"));
        }
        let body = self.text.get(self.body.clone()).unwrap_or_default();
        event.key().verify(body.as_bytes(), &self.signature)
    }
}

/// The times of a statement: it must end after it was made.
fn times(payload: &mut Object<'_>) -> Result<(Timestamp, Timestamp), Refusal> {
    let issued_at = payload.parsed("issuedAt", Timestamp::parse)?;
    let expiration = payload.parsed("expiration", Timestamp::parse)?;
    if expiration <= issued_at {
        return Err(Refusal::new(Code::InvalidMessage, "`expiration` is not after `issuedAt`"));
    }
    Ok((issued_at, expiration))
}

/// Takes out a member that must be a list of at most `most` different values.
fn list<T: Ord + Copy>(
    payload: &mut Object<'_>,
    name: &str,
    most: usize,
    read: impl Fn(&str) -> Result<T, Refusal>,
) -> Result<Vec<T>, Refusal> {
    let texts = json::plain_strings(payload.raw(name)?).map_err(|refusal| refusal.with("member", name))?;
    if texts.len() > most {
        return Err(Refusal::new(Code::TooLarge, "the statement lists too many").with("member", name));
    }
    let values = texts.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let different: std::collections::BTreeSet<_> = values.iter().copied().collect();
    if different.len() < values.len() {
        return Err(Refusal::new(Code::InvalidMessage, "the statement lists one twice").with("member", name));
    }
    Ok(values)
}

/// Writes a list of values that need no escapes.
fn written(values: &[impl Display]) -> String {
    let quoted: Vec<_> = values.iter().map(|value| format!("\"{value}\"")).collect();
    format!("[{}]", quoted.join(","))
}

#[cfg(test)]
mod tests;
