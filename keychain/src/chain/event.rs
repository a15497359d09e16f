//! One event of the HSM key chain (`PROTOCOL.md#event`).

use std::fmt;

use crate::{
    cesr::{Digest, PublicKey, Signature},
    error::{Code, Refusal},
    json::Object,
    key::VerifyingKey,
    limits, number, said,
    signed::{self, Envelope},
    time::Timestamp,
};

/// The purpose of every event.
const PURPOSE: &str = "key-authorization";

/// What an event says: generation `sequence_number` uses `public_key`, and the next will use the key that
/// digests to `rotation_hash`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The event's address, which also names the generation.
    pub id: Digest,
    /// The chain's identity: the id of event 0.
    pub prefix: Digest,
    /// 0, 1, 2, … without a hole.
    pub sequence_number: u64,
    /// The id of the event before; none in event 0.
    pub previous: Option<Digest>,
    /// When the generation began.
    pub created_at: Timestamp,
    /// Whether the generation before is compromised.
    pub taint_previous: bool,
    /// The generation's key, which the event is signed by.
    pub public_key: PublicKey,
    /// The digest of the next generation's public key text.
    pub rotation_hash: Digest,
}

impl Event {
    /// Whether this event is a rightful successor of `previous`, all but the clock.
    pub fn follows(&self, previous: &Self) -> Result<(), Refusal> {
        let bad = |because| Err(Refusal::new(Code::BadChain, because).with("event", self.id.to_string()));
        if self.prefix != previous.prefix {
            return bad("the event is of another chain");
        }
        if previous.sequence_number.checked_add(1) != Some(self.sequence_number) {
            return bad("the sequence numbers have a hole");
        }
        if self.previous != Some(previous.id) {
            return bad("`previous` does not name the event before");
        }
        if self.public_key.digest() != previous.rotation_hash {
            return bad("the public key is not the one that the event before committed to");
        }
        if self.created_at <= previous.created_at {
            return bad("`createdAt` does not increase");
        }
        Ok(())
    }
}

/// An event whose address and signature have been verified. It stands for itself: whether it belongs to a
/// chain is [`super::Chain`]'s to say.
#[derive(Clone)]
pub struct SignedEvent {
    event: Event,
    key: VerifyingKey,
    text: Box<str>,
}

impl SignedEvent {
    /// Reads one published event, `{"payload":…,"signature":…}`, and verifies its address and signature.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        if text.len() > limits::DIRECTORY_VALUE_MAX {
            return Err(Refusal::new(Code::TooLarge, "the event is longer than 4 KiB"));
        }
        let text = text.trim_end_matches('\n');
        let envelope = Envelope::parse(text)?;
        let signature = envelope.required_signature()?;
        let event = parse_payload(envelope.payload)?;
        let key = VerifyingKey::new(&event.public_key)?;
        key.verify(envelope.payload.as_bytes(), &signature)?;
        Ok(Self { event, key, text: text.into() })
    }

    /// What the event says.
    pub const fn event(&self) -> &Event {
        &self.event
    }

    /// The event's address.
    pub const fn id(&self) -> Digest {
        self.event.id
    }

    /// The generation's key, ready for verifying.
    pub const fn key(&self) -> &VerifyingKey {
        &self.key
    }

    /// The published form, as received.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for SignedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SignedEvent").field(&self.event.sequence_number).field(&self.event.id).finish()
    }
}

fn parse_payload(payload: &str) -> Result<Event, Refusal> {
    let bad = |because| Refusal::new(Code::BadChain, because);
    let mut object = Object::parse(payload)?;
    let raw_id = object.raw("id")?;
    let raw_prefix = object.raw("prefix")?;
    let sequence_number = number::parse(object.raw("sequenceNumber")?)
        .map_err(|refusal| refusal.with("member", "sequenceNumber"))?;
    let previous = match object.take("previous") {
        Some(raw) => Some(Digest::parse(crate::json::plain_string(raw)?)?),
        None => None,
    };
    let event = Event {
        id: Digest::parse(crate::json::plain_string(raw_id)?)?,
        prefix: Digest::parse(crate::json::plain_string(raw_prefix)?)?,
        sequence_number,
        previous,
        created_at: object.parsed("createdAt", Timestamp::parse)?,
        taint_previous: match object.take("taintPrevious") {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => return Err(Refusal::new(Code::InvalidMessage, "`taintPrevious` is not a boolean")),
        },
        public_key: object.parsed("publicKey", PublicKey::parse)?,
        rotation_hash: object.parsed("rotationHash", Digest::parse)?,
    };
    if object.string("purpose")? != PURPOSE {
        return Err(Refusal::new(Code::WrongPurpose, "the event's purpose is not `key-authorization`"));
    }
    let first = event.sequence_number == 0;
    if first != event.previous.is_none() {
        return Err(bad("`previous` stands in every event but the first"));
    }
    if first && (event.prefix != event.id || event.taint_previous) {
        return Err(bad("the first event's prefix is its id, and it taints nothing"));
    }
    if event.rotation_hash == event.public_key.digest() {
        return Err(bad("the event commits to its own key"));
    }
    let members: &[&str] = if first { &[raw_id, raw_prefix] } else { &[raw_id] };
    if said::digest(payload, members)? != event.id {
        return Err(bad("the event's id is not its digest"));
    }
    Ok(event)
}

/// An event to be signed: its id is computed, its signature is not made yet.
#[derive(Clone, Debug)]
pub struct Draft {
    payload: String,
    id: Digest,
}

impl Draft {
    /// The first event of a new chain. `rotation_hash` is the digest of the second generation's key.
    pub fn first(public_key: &PublicKey, rotation_hash: &Digest, created_at: Timestamp) -> Self {
        let head = format!("{{\"id\":\"{0}\",\"prefix\":\"{0}\",\"sequenceNumber\":0,", said::PLACEHOLDER);
        let payload = head + &Self::rest(public_key, rotation_hash, created_at, false);
        let id = Digest::of(&payload);
        Self { payload: payload.replacen(said::PLACEHOLDER, &id.to_string(), 2), id }
    }

    /// The event after `previous`.
    pub fn next(
        previous: &Event,
        public_key: &PublicKey,
        rotation_hash: &Digest,
        created_at: Timestamp,
        taint_previous: bool,
    ) -> Self {
        let head = format!(
            "{{\"id\":\"{}\",\"prefix\":\"{}\",\"sequenceNumber\":{},\"previous\":\"{}\",",
            said::PLACEHOLDER,
            previous.prefix,
            previous.sequence_number.saturating_add(1),
            previous.id,
        );
        let payload = head + &Self::rest(public_key, rotation_hash, created_at, taint_previous);
        let id = Digest::of(&payload);
        Self { payload: payload.replacen(said::PLACEHOLDER, &id.to_string(), 1), id }
    }

    fn rest(key: &PublicKey, rotation_hash: &Digest, created_at: Timestamp, taint: bool) -> String {
        let taint = if taint { "\"taintPrevious\":true," } else { "" };
        format!(
            "\"createdAt\":\"{created_at}\",{taint}\"purpose\":\"{PURPOSE}\",\"publicKey\":\"{key}\",\
             \"rotationHash\":\"{rotation_hash}\"}}"
        )
    }

    /// The id that the event will have.
    pub const fn id(&self) -> Digest {
        self.id
    }

    /// The bytes to sign with the key that the event reveals.
    pub fn payload(&self) -> &str {
        &self.payload
    }

    /// Puts the signature to the event and verifies both, as any reader will.
    pub fn seal(self, signature: &Signature) -> Result<SignedEvent, Refusal> {
        SignedEvent::parse(&signed::seal(&self.payload, signature))
    }
}
