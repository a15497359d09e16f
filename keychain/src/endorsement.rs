//! The HSM's word for the key of a service (`PROTOCOL.md#endorsement`).

use std::time::Duration;

use crate::{
    cesr::{Digest, PublicKey, Signature},
    chain::{Chain, Killed, SignedEvent},
    error::{Code, Refusal},
    json::{self, Object},
    limits, number,
    time::Timestamp,
};

/// What a service key may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Purpose {
    /// Issuing access tokens: authd's alone.
    Access,
    /// Signing answers to devices.
    Response,
}

impl Purpose {
    /// The purpose on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Response => "response",
        }
    }

    /// Reads the purpose from the wire.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        match text {
            "access" => Ok(Self::Access),
            "response" => Ok(Self::Response),
            _ => Err(Refusal::new(Code::WrongPurpose, "the purpose is neither `access` nor `response`")),
        }
    }

    /// The longest that a key of this purpose may be endorsed for, clock skew not counted.
    pub const fn longest_lifetime(self) -> Duration {
        match self {
            Self::Access => limits::ACCESS_KEY_LIFETIME,
            Self::Response => limits::RESPONSE_KEY_LIFETIME,
        }
    }
}

/// What a service asks hsmd to endorse: the body of `POST /sign`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignRequest {
    /// What the key is for.
    pub purpose: Purpose,
    /// The key of the service.
    pub public_key: PublicKey,
    /// Until when it is to be endorsed.
    pub expiration: Timestamp,
}

impl SignRequest {
    /// Reads the body.
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let mut outer = Object::parse_bytes(body)?;
        let mut payload = outer.object("payload")?;
        outer.finish()?;
        let request = Self {
            purpose: payload.parsed("purpose", requested_purpose)?,
            public_key: payload.parsed("publicKey", PublicKey::parse)?,
            expiration: payload.parsed("expiration", Timestamp::parse)?,
        };
        payload.finish()?;
        Ok(request)
    }

    /// Writes the body.
    pub fn to_json(&self) -> String {
        format!("{{\"payload\":{}}}", payload(self, None, None))
    }
}

/// A purpose that does not exist is no purpose of another key: the request is malformed.
fn requested_purpose(text: &str) -> Result<Purpose, Refusal> {
    Purpose::parse(text).map_err(|refusal| Refusal::new(Code::InvalidMessage, refusal.because()))
}

/// An endorsement to be signed by the chain's current generation.
#[derive(Clone, Debug)]
pub struct Draft {
    body: String,
}

impl Draft {
    /// The endorsement of what was asked for, to `service` (which policy names, never the caller), by the
    /// generation `generation_id` of the chain `identity`.
    pub fn new(request: &SignRequest, service: &str, identity: &Digest, generation_id: &Digest) -> Self {
        Self::with(&payload(request, Some(service), None), identity, generation_id)
    }

    /// The same with the number that a revocation of the whole service refers to.
    pub fn numbered(
        request: &SignRequest,
        service: &str,
        number: u64,
        identity: &Digest,
        generation_id: &Digest,
    ) -> Self {
        Self::with(&payload(request, Some(service), Some(number)), identity, generation_id)
    }

    fn with(payload: &str, identity: &Digest, generation_id: &Digest) -> Self {
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

    /// Puts the signature to it: the answer of `POST /sign` and the value in the directory.
    pub fn seal(&self, signature: &Signature) -> String {
        format!("{{\"body\":{},\"signature\":\"{signature}\"}}", self.body)
    }
}

fn payload(request: &SignRequest, service: Option<&str>, number: Option<u64>) -> String {
    let mut text = format!(
        "{{\"purpose\":\"{}\",\"publicKey\":\"{}\",\"expiration\":\"{}\"",
        request.purpose.as_str(),
        request.public_key,
        request.expiration
    );
    if let Some(service) = service {
        text.push_str(",\"service\":");
        text.push_str(&json::string(service));
    }
    if let Some(number) = number {
        text.push_str(",\"number\":");
        text.push_str(&number.to_string());
    }
    text.push('}');
    text
}

/// What a verifier needs an endorsement to say.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The use at hand.
    pub purpose: Purpose,
    /// The key that was looked up.
    pub public_key: &'a PublicKey,
    /// The service that must hold the key, where the use is one service's alone.
    pub service: Option<&'a str>,
}

/// An endorsement as received. It proves nothing until [`Self::verify`] has passed, and then only for as
/// long as its generation is live and it has not expired.
#[derive(Clone, Debug)]
pub struct Endorsement {
    /// What was asked for.
    pub subject: SignRequest,
    /// The service that policy named; public HSM services name none.
    pub service: Option<String>,
    /// The number that a revocation of the whole service refers to; public HSM services give none.
    pub number: Option<u64>,
    /// The chain that endorsed.
    pub identity: Digest,
    /// The generation that endorsed.
    pub generation_id: Digest,
    signature: Signature,
    text: Box<str>,
    body: std::ops::Range<usize>,
}

impl Endorsement {
    /// Reads an endorsement answer. A newline at its end, as public HSM services send, is left away.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let text = text.trim_end_matches('\n');
        if text.len() > limits::DIRECTORY_VALUE_MAX {
            return Err(Refusal::new(Code::TooLarge, "the endorsement is longer than 4 KiB"));
        }
        let mut outer = Object::parse(text)?;
        let raw_body = outer.raw("body")?;
        let signature = outer.parsed("signature", Signature::parse)?;
        let mut body = Object::parse(raw_body)?;
        let mut payload = body.object("payload")?;
        let mut hsm = body.object("hsm")?;
        let subject = SignRequest {
            purpose: payload.parsed("purpose", Purpose::parse)?,
            public_key: payload.parsed("publicKey", PublicKey::parse)?,
            expiration: payload.parsed("expiration", Timestamp::parse)?,
        };
        let service = match payload.take("service") {
            Some(raw) => Some(json::plain_string(raw)?.to_owned()),
            None => None,
        };
        let number = payload.take("number").map(number::parse).transpose()?;
        let identity = hsm.parsed("identity", Digest::parse)?;
        let generation_id = hsm.parsed("generationId", Digest::parse)?;
        let start = raw_body.as_ptr().addr().saturating_sub(text.as_ptr().addr());
        let body = start..start.saturating_add(raw_body.len());
        Ok(Self { subject, service, number, identity, generation_id, signature, text: text.into(), body })
    }

    /// The answer as received: what stands in the directory.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Verifies that the chain's word holds for the use at hand: everything in [`Expected`], not expired,
    /// and signed by a generation that is live at `now` for a verifier whose window is `window`.
    pub fn verify(
        &self,
        chain: &Chain,
        expected: Expected<'_>,
        window: Duration,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        self.verify_subject(expected)?;
        self.verify_alive(chain, window, now)?;
        self.verify_signature(chain.live(&self.generation_id, window, now)?)
    }

    /// Verifies that the chain's word held at `then`, for what the key signed then and somebody kept: not
    /// expired, and by a generation that had begun and whose window had not passed. What ended generation or
    /// key later counts for nothing, nor do taints and revocations: whoever keeps what was signed has to know
    /// by other means that it is not of later.
    pub fn verify_as_of(
        &self,
        chain: &Chain,
        expected: Expected<'_>,
        window: Duration,
        then: Timestamp,
    ) -> Result<(), Refusal> {
        self.verify_subject(expected)?;
        let dead = |because| Err(Refusal::new(Code::DeadKey, because));
        if self.identity != chain.prefix() {
            return dead("the endorsement is by another HSM identity");
        }
        if self.subject.expiration <= then {
            return dead("the endorsement had expired");
        }
        let Some(generation) = chain.event(&self.generation_id) else {
            return dead("the generation is not in the chain");
        };
        if then.plus(chain.skew()) < generation.event().created_at {
            return dead("the generation had not begun");
        }
        let replaced = chain.replaced_at(&self.generation_id);
        if replaced.is_some_and(|replaced| then >= replaced.plus(window)) {
            return dead("the generation had been replaced and its window had passed");
        }
        self.verify_signature(generation)
    }

    /// What can change about an endorsement that was verified once: that it has not expired, that its generation is
    /// live, and that neither its key nor its service is revoked by a head that the chain has heard.
    pub fn verify_alive(&self, chain: &Chain, window: Duration, now: Timestamp) -> Result<(), Refusal> {
        if self.identity != chain.prefix() {
            return Err(Refusal::new(Code::DeadKey, "the endorsement is by another HSM identity"));
        }
        if self.subject.expiration <= now {
            return Err(Refusal::new(Code::DeadKey, "the endorsement has expired"));
        }
        chain.live(&self.generation_id, window, now)?;
        chain.demand_not_revoked(self, now)
    }

    /// What ended this endorsement before its time, if anything did: for those who take it out of the directory. Neither
    /// that it has expired nor that its window has passed counts: both end by themselves, and a clock could be wrong.
    ///
    /// It errs for one that the chain cannot judge: of another chain, of a generation not known, and, where it would be
    /// dead, one that the generation did not sign.
    pub fn killed(&self, chain: &Chain, now: Timestamp) -> Result<Option<Killed>, Refusal> {
        if self.identity != chain.prefix() {
            return Err(Refusal::new(Code::DeadKey, "the endorsement is by another HSM identity"));
        }
        let unknown = Refusal::new(Code::DeadKey, "the generation is not in the chain");
        let generation = chain.event(&self.generation_id).ok_or(unknown)?;
        let is_revoked = || chain.demand_not_revoked(self, now).is_err();
        let killed = chain.killed(&self.generation_id).or_else(|| is_revoked().then_some(Killed::Revoked));
        if killed.is_some() {
            self.verify_signature(generation)?;
        }
        Ok(killed)
    }

    fn verify_signature(&self, generation: &SignedEvent) -> Result<(), Refusal> {
        let body = self.text.get(self.body.clone()).unwrap_or_default();
        generation.key().verify(body.as_bytes(), &self.signature)
    }

    fn verify_subject(&self, expected: Expected<'_>) -> Result<(), Refusal> {
        let wrong = |because| Err(Refusal::new(Code::WrongPurpose, because));
        if self.subject.purpose != expected.purpose {
            return wrong("the endorsement is for another purpose");
        }
        if self.subject.public_key != *expected.public_key {
            return wrong("the endorsement is for another key");
        }
        if expected.service.is_some() && self.service.as_deref() != expected.service {
            return wrong("the endorsement is for another service");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        chain::{self, Settings},
        key::SigningKey,
    };

    fn key(number: u8) -> SigningKey {
        SigningKey::from_seed(&[number; 32]).unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_millis(seconds * 1000)
    }

    fn endorsed() -> (Chain, SignRequest, String) {
        let draft = chain::Draft::first(&key(1).public_key(), &key(2).public_key().digest(), at(0));
        let signature = key(1).sign(draft.payload().as_bytes()).unwrap();
        let event = draft.seal(&signature).unwrap();
        let mut chain = Chain::new(event.id(), Settings::default());
        let request =
            SignRequest { purpose: Purpose::Response, public_key: key(9).public_key(), expiration: at(100) };
        let draft = Draft::new(&request, "authd", &event.id(), &event.id());
        let text = draft.seal(&key(1).sign(draft.body().as_bytes()).unwrap());
        chain.merge([event], at(1));
        (chain, request, text)
    }

    #[test]
    fn a_request_reads_as_written() {
        let (_, request, text) = endorsed();
        assert_eq!(SignRequest::parse(request.to_json().as_bytes()), Ok(request));
        assert!(SignRequest::parse(text.as_bytes()).is_err());
        assert_eq!(Endorsement::parse(&(text.clone() + "\n")).unwrap().text(), text);
    }

    #[test]
    fn each_rule_has_its_code() {
        let (chain, request, text) = endorsed();
        let endorsement = Endorsement::parse(&text).unwrap();
        let good =
            Expected { purpose: Purpose::Response, public_key: &request.public_key, service: Some("authd") };
        let other = key(8).public_key();
        let check = |endorsement: &Endorsement, expected, now| {
            endorsement
                .verify(&chain, expected, chain::windows::DEVICE, now)
                .map_err(|refusal| refusal.code())
        };
        assert_eq!(check(&endorsement, good, at(99)), Ok(()));
        assert_eq!(check(&endorsement, Expected { service: None, ..good }, at(99)), Ok(()));
        for (expected, now, code) in [
            (good, at(100), Code::DeadKey),
            (Expected { purpose: Purpose::Access, ..good }, at(1), Code::WrongPurpose),
            (Expected { public_key: &other, ..good }, at(1), Code::WrongPurpose),
            (Expected { service: Some("edge:a"), ..good }, at(1), Code::WrongPurpose),
        ] {
            assert_eq!(check(&endorsement, expected, now), Err(code));
        }
        let as_of = |expected, then| {
            let verified = endorsement.verify_as_of(&chain, expected, chain::windows::DEVICE, then);
            verified.map_err(|refusal| refusal.code())
        };
        for (then, holds) in [(-1, false), (0, true), (99, true), (100, false)] {
            assert_eq!(as_of(good, at(then)), if holds { Ok(()) } else { Err(Code::DeadKey) }, "{then}");
        }
        assert_eq!(as_of(Expected { public_key: &other, ..good }, at(1)), Err(Code::WrongPurpose));
        let later = text.replace("1970-01-01T00:01:40.000Z", "1970-01-01T00:01:41.000Z");
        assert_eq!(check(&Endorsement::parse(&later).unwrap(), good, at(1)), Err(Code::BadSignature));
        let elsewhere = Chain::new(Digest::of("other"), Settings::default());
        let refusal = endorsement.verify(&elsewhere, good, chain::windows::DEVICE, at(1)).unwrap_err();
        assert_eq!(refusal.code(), Code::DeadKey);
        let refusal = endorsement.verify_as_of(&elsewhere, good, chain::windows::DEVICE, at(1)).unwrap_err();
        assert_eq!(refusal.code(), Code::DeadKey);
    }

    #[test]
    fn what_was_signed_before_a_taint_was_signed() {
        let (mut chain, request, text) = endorsed();
        let first = chain.head().unwrap().clone();
        let next = key(3).public_key().digest();
        let draft = chain::Draft::next(first.event(), &key(2).public_key(), &next, at(50), true);
        let signature = key(2).sign(draft.payload().as_bytes()).unwrap();
        chain.merge([draft.seal(&signature).unwrap()], at(60));
        let endorsement = Endorsement::parse(&text).unwrap();
        let good =
            Expected { purpose: Purpose::Response, public_key: &request.public_key, service: Some("authd") };
        let window = Duration::from_secs(20);
        assert!(endorsement.verify(&chain, good, window, at(40)).is_err());
        for (then, holds) in [(40, true), (69, true), (70, false)] {
            assert_eq!(endorsement.verify_as_of(&chain, good, window, at(then)).is_ok(), holds, "{then}");
        }
    }
}
