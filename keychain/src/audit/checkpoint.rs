//! The HSM's word for the trail so far (`PROTOCOL.md#audit-checkpoint`).

use super::{Head, entry::whole_number};
use crate::{
    cesr::{Digest, Signature},
    chain::SignedEvent,
    error::{Code, Refusal},
    json::Object,
    limits, statement,
    time::Timestamp,
};

/// The purpose that stands in every checkpoint: no endorsement, event or other statement has it.
const PURPOSE: &str = "audit-checkpoint";

/// The statement, to be signed, that the trail went up to `head` at `issued_at`, by the generation `generation_id` of
/// the chain `identity`.
pub fn checkpoint(
    head: &Head,
    issued_at: Timestamp,
    identity: &Digest,
    generation_id: &Digest,
) -> statement::Draft {
    let (entry, number) = (head.digest, head.number);
    let payload = format!(
        "{{\"purpose\":\"{PURPOSE}\",\"entry\":\"{entry}\",\"number\":{number},\"issuedAt\":\"{issued_at}\"}}"
    );
    statement::Draft::new(&payload, identity, generation_id)
}

/// A checkpoint as read. It proves nothing until [`Self::verify`] has passed.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The newest line that it covers.
    pub covers: Head,
    /// When it was made.
    pub issued_at: Timestamp,
    /// The chain that signed.
    pub identity: Digest,
    /// The generation that signed.
    pub generation_id: Digest,
    signature: Signature,
    body: Box<str>,
}

impl Checkpoint {
    /// Reads a checkpoint and refuses members that it does not have.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        if text.len() > limits::DIRECTORY_VALUE_MAX {
            return Err(Refusal::new(Code::TooLarge, "the checkpoint is longer than 4 KiB"));
        }
        let mut outer = Object::parse(text)?;
        let raw_body = outer.raw("body")?;
        let signature = outer.parsed("signature", Signature::parse)?;
        let mut body = Object::parse(raw_body)?;
        let mut payload = body.object("payload")?;
        let mut hsm = body.object("hsm")?;
        if payload.string("purpose")? != PURPOSE {
            return Err(Refusal::new(Code::WrongPurpose, "the purpose is not `audit-checkpoint`"));
        }
        let checkpoint = Self {
            covers: Head {
                number: whole_number(payload.raw("number")?)?,
                digest: payload.parsed("entry", Digest::parse)?,
            },
            issued_at: payload.parsed("issuedAt", Timestamp::parse)?,
            identity: hsm.parsed("identity", Digest::parse)?,
            generation_id: hsm.parsed("generationId", Digest::parse)?,
            signature,
            body: raw_body.into(),
        };
        for object in [outer, body, payload, hsm] {
            object.finish()?;
        }
        Ok(checkpoint)
    }

    /// Verifies that a generation of the chain signed it: one that was not tainted, because whoever has a
    /// tainted generation's key can sign what suits him. `chain` must have been verified as a whole.
    pub fn verify(&self, chain: &[SignedEvent]) -> Result<(), Refusal> {
        let dead = |because| Err(Refusal::new(Code::DeadKey, because));
        if chain.first().is_none_or(|first| first.id() != self.identity) {
            return dead("the checkpoint is by another HSM identity");
        }
        let Some(place) = chain.iter().position(|event| event.id() == self.generation_id) else {
            return dead("the checkpoint is by a generation that the chain does not have");
        };
        let after = chain.get(place.saturating_add(1));
        if after.is_some_and(|next| next.event().taint_previous) {
            return dead("the checkpoint is by a generation that was tainted");
        }
        match chain.get(place) {
            Some(generation) => generation.key().verify(self.body.as_bytes(), &self.signature),
            None => dead("the checkpoint is by a generation that the chain does not have"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        chain::{self, Event},
        endorsement::Endorsement,
        key::SigningKey,
    };

    fn key(number: u8) -> SigningKey {
        SigningKey::from_seed(&[number; 32]).unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_millis(seconds * 1000)
    }

    fn first() -> SignedEvent {
        let draft = chain::Draft::first(&key(1).public_key(), &key(2).public_key().digest(), at(0));
        let signature = key(1).sign(draft.payload().as_bytes()).unwrap();
        draft.seal(&signature).unwrap()
    }

    fn second(first: &Event, taint: bool) -> SignedEvent {
        let draft =
            chain::Draft::next(first, &key(2).public_key(), &key(3).public_key().digest(), at(1), taint);
        let signature = key(2).sign(draft.payload().as_bytes()).unwrap();
        draft.seal(&signature).unwrap()
    }

    fn signed(identity: &Digest, generation: &Digest, by: u8) -> String {
        let head = Head { number: 17, digest: Digest::of("line") };
        let draft = checkpoint(&head, at(5), identity, generation);
        draft.seal(&key(by).sign(draft.body().as_bytes()).unwrap())
    }

    #[test]
    fn a_checkpoint_reads_as_written_and_as_nothing_else() {
        let id = first().id();
        let text = signed(&id, &id, 1);
        let checkpoint = Checkpoint::parse(&text).unwrap();
        assert_eq!(checkpoint.covers, Head { number: 17, digest: Digest::of("line") });
        assert_eq!((checkpoint.issued_at, checkpoint.identity), (at(5), id));
        assert_eq!(
            text.split(",\"signature\"").next().unwrap(),
            format!(
                "{{\"body\":{{\"payload\":{{\"purpose\":\"audit-checkpoint\",\"entry\":\"{}\",\"number\":17,\
                 \"issuedAt\":\"1970-01-01T00:00:05.000Z\"}},\"hsm\":{{\"identity\":\"{id}\",\"generationId\":\"{id}\"}}}}",
                Digest::of("line")
            )
        );
        assert!(Endorsement::parse(&text).is_err());
        assert!(SignedEvent::parse(&text).is_err());
        for (from, to) in [
            ("audit-checkpoint", "chain-head"),
            ("\"number\":17", "\"number\":017"),
            ("\"number\":17", "\"number\":\"17\""),
            ("\"entry\"", "\"x\":1,\"entry\""),
            ("{\"body\"", "{\"x\":1,\"body\""),
            ("\"hsm\"", "\"hms\""),
        ] {
            assert!(Checkpoint::parse(&text.replacen(from, to, 1)).is_err(), "{to}");
        }
    }

    #[test]
    fn only_an_untainted_generation_of_the_chain_vouches() {
        let zero = first();
        let id = zero.id();
        let rotated = [zero.clone(), second(zero.event(), false)];
        let tainted = [zero.clone(), second(zero.event(), true)];
        let one = rotated[1].id();
        let by_zero = signed(&id, &id, 1);
        for (name, text, chain, code) in [
            ("the live one", signed(&id, &one, 2), &rotated[..], None),
            ("an older one", by_zero.clone(), &rotated, None),
            ("a tainted one", by_zero.clone(), &tainted, Some(Code::DeadKey)),
            ("an unknown one", signed(&id, &one, 2), &rotated[..1], Some(Code::DeadKey)),
            ("another chain", by_zero.clone(), &rotated[1..], Some(Code::DeadKey)),
            ("no chain", by_zero.clone(), &[], Some(Code::DeadKey)),
            ("another key", signed(&id, &id, 2), &rotated, Some(Code::BadSignature)),
            (
                "altered",
                by_zero.replace("\"number\":17", "\"number\":18"),
                &rotated,
                Some(Code::BadSignature),
            ),
        ] {
            let verdict = Checkpoint::parse(&text).unwrap().verify(chain);
            assert_eq!(verdict.err().map(|refusal| refusal.code()), code, "{name}");
        }
    }
}
