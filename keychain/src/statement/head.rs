//! The newest event, as its own generation says it is (`PROTOCOL.md#head`).

use std::time::Duration;

use super::{Draft, Signed, list, times, written};
use crate::{
    cesr::Digest,
    chain::{Chain, Event, SignedEvent, sequence_number},
    error::{Code, Refusal},
    limits,
    time::Timestamp,
};

/// The purpose of every head.
const PURPOSE: &str = "chain-head";

/// What a new head is to say.
#[derive(Clone, Debug)]
pub struct NewHead<'a> {
    /// The newest event, whose key is to sign.
    pub event: &'a Event,
    /// When the head is made.
    pub issued_at: Timestamp,
    /// Until when it may be counted at most.
    pub expiration: Timestamp,
    /// The older generations that are to be refused, each once.
    pub denied: &'a [Digest],
}

impl NewHead<'_> {
    /// The head to be signed. More than [`limits::DENIED_MAX`] denied generations would not be read.
    pub fn draft(&self) -> Result<Draft, Refusal> {
        if self.denied.len() > limits::DENIED_MAX {
            return Err(Refusal::new(Code::TooLarge, "more generations than a head can deny"));
        }
        let payload = format!(
            "{{\"purpose\":\"{PURPOSE}\",\"eventId\":\"{}\",\"sequenceNumber\":{},\"issuedAt\":\"{}\",\
             \"expiration\":\"{}\",\"denied\":{}}}",
            self.event.id,
            self.event.sequence_number,
            self.issued_at,
            self.expiration,
            written(self.denied)
        );
        Ok(Draft::new(&payload, &self.event.prefix, &self.event.id))
    }
}

/// A head as received. It proves nothing until [`Self::verify`] has passed.
#[derive(Clone, Debug)]
pub struct Head {
    event_id: Digest,
    sequence_number: u64,
    issued_at: Timestamp,
    expiration: Timestamp,
    denied: Vec<Digest>,
    signed: Signed,
}

impl Head {
    /// Reads a head.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let (signed, mut payload) = Signed::open(text, PURPOSE)?;
        let event_id = payload.parsed("eventId", Digest::parse)?;
        let sequence_number = sequence_number(payload.raw("sequenceNumber")?)?;
        let (issued_at, expiration) = times(&mut payload)?;
        let denied = list(&mut payload, "denied", limits::DENIED_MAX, Digest::parse)?;
        if denied.contains(&event_id) {
            return Err(Refusal::new(Code::InvalidMessage, "the head denies its own generation"));
        }
        Ok(Self { event_id, sequence_number, issued_at, expiration, denied, signed })
    }

    /// The head as received: what stands in the directory.
    pub fn text(&self) -> &str {
        &self.signed.text
    }

    /// When the head says that it was made.
    pub const fn issued_at(&self) -> Timestamp {
        self.issued_at
    }

    /// Until when the head may be counted, as it says.
    pub const fn expiration(&self) -> Timestamp {
        self.expiration
    }

    /// The event that the head says is the newest.
    pub const fn event_id(&self) -> Digest {
        self.event_id
    }

    /// Verifies that a generation, live at `now` for a verifier whose window is `window`, signed this about
    /// itself.
    pub fn verify(&self, chain: &Chain, window: Duration, now: Timestamp) -> Result<ProvenHead<'_>, Refusal> {
        let generation = self.signed.verify(chain, window, now)?;
        self.proven(generation)
    }

    /// Verifies that the generation of `event` signed this about itself, whether it is live or not: for those
    /// who carry heads.
    pub fn verify_signature(&self, event: &SignedEvent) -> Result<ProvenHead<'_>, Refusal> {
        self.signed.verify_signature(event)?;
        self.proven(event)
    }

    fn proven(&self, generation: &SignedEvent) -> Result<ProvenHead<'_>, Refusal> {
        if self.event_id != generation.id() || self.sequence_number != generation.event().sequence_number {
            return Err(Refusal::new(Code::BadChain, "the head names another event than its generation's"));
        }
        Ok(ProvenHead(self))
    }
}

/// A head whose signature has held. What it denies counts ([`Chain::deny`]); how fresh it shows the chain to
/// be, [`Self::age`] says.
#[derive(Clone, Copy, Debug)]
pub struct ProvenHead<'a>(&'a Head);

impl ProvenHead<'_> {
    /// The event that the head is of.
    pub const fn event_id(&self) -> Digest {
        self.0.event_id
    }

    /// The older generations that are to be refused.
    pub fn denied(&self) -> &[Digest] {
        &self.0.denied
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
