//! The one statement: which event is the newest, what is denied and revoked, and where the audit trail ends
//! (`PROTOCOL.md#head`).

use std::{ops::Range, time::Duration};

use super::{Draft, Entries};
use crate::{
    cesr::{Digest, Signature},
    chain::{Chain, Event, SignedEvent},
    error::{Code, Refusal},
    json::Object,
    limits, number,
    time::Timestamp,
};

/// The purpose of every head.
const PURPOSE: &str = "chain-head";

/// The last line of the audit trail when a head was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastLine {
    /// The line's number.
    pub number: u64,
    /// The line's digest, which chains all before it.
    pub digest: Digest,
}

/// What a new head is to say.
#[derive(Clone, Debug)]
pub struct NewHead<'a> {
    /// The newest event, whose key is to sign.
    pub event: &'a Event,
    /// The head's place among those of its event, from 1 on. No number is used twice for different content.
    pub number: u64,
    /// When the head is made.
    pub issued_at: Timestamp,
    /// Until when it may be counted at most.
    pub expiration: Timestamp,
    /// What is denied and revoked.
    pub entries: &'a Entries,
    /// The last line of the audit trail, if it has any.
    pub audit: Option<LastLine>,
}

impl NewHead<'_> {
    /// The head to be signed. It errs for one that would not be read.
    pub fn draft(&self) -> Result<Draft, Refusal> {
        demand_numbered(self.number)?;
        self.entries.demand_bounded()?;
        let audit = self.audit.map_or_else(String::new, |LastLine { number, digest }| {
            format!(",\"audit\":{{\"number\":{number},\"digest\":\"{digest}\"}}")
        });
        let payload = format!(
            "{{\"purpose\":\"{PURPOSE}\",\"eventId\":\"{}\",\"sequenceNumber\":{},\"number\":{},\"issuedAt\":\"{}\",\
             \"expiration\":\"{}\",{}{audit}}}",
            self.event.id,
            self.event.sequence_number,
            self.number,
            self.issued_at,
            self.expiration,
            self.entries.to_members()
        );
        Ok(Draft::new(&payload, &self.event.prefix, &self.event.id))
    }
}

/// A head as received. It proves nothing until [`Self::verify`] has passed.
#[derive(Clone, Debug)]
pub struct Head {
    event_id: Digest,
    sequence_number: u64,
    number: u64,
    issued_at: Timestamp,
    expiration: Timestamp,
    entries: Entries,
    audit: Option<LastLine>,
    identity: Digest,
    generation_id: Digest,
    signature: Signature,
    text: Box<str>,
    body: Range<usize>,
}

impl Head {
    /// Reads a head.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        if text.len() > limits::HEAD_MAX {
            return Err(Refusal::new(Code::TooLarge, "the head is longer than 20 KiB"));
        }
        let mut outer = Object::parse(text)?;
        let raw_body = outer.raw("body")?;
        let signature = outer.parsed("signature", Signature::parse)?;
        let mut body = Object::parse(raw_body)?;
        let mut payload = body.object("payload")?;
        let mut hsm = body.object("hsm")?;
        if payload.string("purpose")? != PURPOSE {
            return Err(Refusal::new(Code::WrongPurpose, "the statement is for another purpose"));
        }
        let start = raw_body.as_ptr().addr().saturating_sub(text.as_ptr().addr());
        let (issued_at, expiration) = times(&mut payload)?;
        let head = Self {
            event_id: payload.parsed("eventId", Digest::parse)?,
            sequence_number: number::parse(payload.raw("sequenceNumber")?)?,
            number: number::parse(payload.raw("number")?)?,
            issued_at,
            expiration,
            entries: Entries::take(&mut payload)?,
            audit: payload.take("audit").map(last_line).transpose()?,
            identity: hsm.parsed("identity", Digest::parse)?,
            generation_id: hsm.parsed("generationId", Digest::parse)?,
            signature,
            text: text.into(),
            body: start..start.saturating_add(raw_body.len()),
        };
        demand_numbered(head.number)?;
        if head.entries.denied.contains(&head.event_id) {
            return Err(Refusal::new(Code::InvalidMessage, "the head denies its own generation"));
        }
        Ok(head)
    }

    /// The head as received: what stands in the directory.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The bytes that the signature is over. Two heads with one number must agree in them.
    pub fn body(&self) -> &str {
        self.text.get(self.body.clone()).unwrap_or_default()
    }

    /// The chain that the head says it is of.
    pub const fn identity(&self) -> Digest {
        self.identity
    }

    /// The event that the head says is the newest.
    pub const fn event_id(&self) -> Digest {
        self.event_id
    }

    /// The sequence number of that event, as the head says.
    pub const fn sequence_number(&self) -> u64 {
        self.sequence_number
    }

    /// The head's place among those of its event.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// When the head says that it was made.
    pub const fn issued_at(&self) -> Timestamp {
        self.issued_at
    }

    /// Until when the head may be counted, as it says.
    pub const fn expiration(&self) -> Timestamp {
        self.expiration
    }

    /// What the head denies and revokes: nothing is proven about it here.
    pub const fn entries(&self) -> &Entries {
        &self.entries
    }

    /// The last line of the audit trail, as the head says.
    pub const fn audit(&self) -> Option<LastLine> {
        self.audit
    }

    /// Verifies that a generation, live at `now` for a verifier whose window is `window`, signed this about
    /// itself, and that no revocation lasts longer than any endorsement.
    pub fn verify(&self, chain: &Chain, window: Duration, now: Timestamp) -> Result<ProvenHead<'_>, Refusal> {
        if self.identity != chain.prefix() {
            return Err(Refusal::new(Code::DeadKey, "the statement is by another HSM identity"));
        }
        let generation = chain.live(&self.generation_id, window, now)?;
        let proven = self.verify_signature(generation)?;
        let last = self.issued_at.plus(limits::ACCESS_KEY_LIFETIME).plus(chain.skew());
        let services = self.entries.services.values().chain(self.entries.rolls.values());
        let services = services.map(|mark| mark.until);
        // Or a thief of the newest key could revoke for ever, beyond the taint that ends its own power.
        if self.entries.keys.values().copied().chain(services).any(|until| until > last) {
            return Err(Refusal::new(Code::InvalidMessage, "a revocation lasts longer than any endorsement"));
        }
        Ok(proven)
    }

    /// Verifies that the generation of `event` signed this about itself, whether it is live or not: for those
    /// who carry heads.
    pub fn verify_signature(&self, event: &SignedEvent) -> Result<ProvenHead<'_>, Refusal> {
        if self.generation_id != event.id() || self.identity != event.event().prefix {
            return Err(Refusal::new(Code::DeadKey, "the statement is by another generation"));
        }
        event.key().verify(self.body().as_bytes(), &self.signature)?;
        if self.event_id != event.id() || self.sequence_number != event.event().sequence_number {
            return Err(Refusal::new(Code::BadChain, "the head names another event than its generation's"));
        }
        Ok(ProvenHead(self))
    }
}

/// A head whose signature has held. What it lists counts once [`Chain::hear`] has taken it in; how fresh it shows
/// the chain to be, [`Self::age`] says.
#[derive(Clone, Copy, Debug)]
pub struct ProvenHead<'a>(&'a Head);

impl<'a> ProvenHead<'a> {
    /// The head that was proven.
    pub const fn head(&self) -> &'a Head {
        self.0
    }

    /// How long ago nothing newer than what `chain` holds existed.
    ///
    /// It errs for a head that shows no such thing: one of an older event than the newest known, one from the
    /// future, one that has expired.
    pub fn age(&self, chain: &Chain, now: Timestamp) -> Result<Duration, Refusal> {
        if chain.head().map(SignedEvent::id) != Some(self.0.event_id) {
            return Err(Refusal::new(Code::DeadKey, "the head is not of the newest event known"));
        }
        if self.0.issued_at > now.plus(chain.skew()) {
            return Err(Refusal::new(Code::FutureRequest, "the head is from the future"));
        }
        if self.0.expiration <= now {
            return Err(Refusal::new(Code::DeadKey, "the head has expired"));
        }
        Ok(now.since(self.0.issued_at))
    }
}

fn demand_numbered(number: u64) -> Result<(), Refusal> {
    let numbered = (1..=limits::NUMBER_MAX).contains(&number);
    if numbered {
        Ok(())
    } else {
        Err(Refusal::new(Code::InvalidMessage, "the heads of an event count from 1"))
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

fn last_line(raw: &str) -> Result<LastLine, Refusal> {
    let mut line = Object::parse(raw).map_err(|refusal| refusal.with("member", "audit"))?;
    let number = number::parse(line.raw("number")?)?;
    Ok(LastLine { number, digest: line.parsed("digest", Digest::parse)? })
}
