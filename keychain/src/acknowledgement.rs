//! What a verifier says of the head that it applied, signed by its response key (`PROTOCOL.md#acknowledgement`).
//!
//! It proves that a holder of the service's live key knew this very head, and nothing about a host that an intruder
//! holds. Whether the head is the one that was waited for is for the reader, who has it from the HSM service.

use std::{ops::Range, time::Duration};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    cesr::{Digest, Signature},
    chain::Chain,
    endorsement::{Endorsement, Expected, Purpose},
    error::{Code, Refusal},
    feed::Position,
    json::{self, Object},
    key::{SigningKey, VerifyingKey},
    limits, number,
    statement::HeadPlace,
    time::Timestamp,
};

/// The purpose of every acknowledgement.
const PURPOSE: &str = "acknowledgement";

/// What stands before the payload in the signed bytes. Those of an answer begin with `{`, so neither is the other.
const DOMAIN: &str = "keelson acknowledgement\n";

/// Longest version of a program.
const VERSION_MAX: usize = 32;

/// Which of several processes of one service it is, as its configuration and the policy of the HSM service name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Instance(String);

impl Instance {
    /// The name of the only process of a service.
    pub fn only() -> Self {
        Self("main".to_owned())
    }

    /// Reads a name: 1 to 64 letters, digits, `-`, `.`, `_`.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if !text.is_empty() && text.len() <= limits::INSTANCE_MAX && text.bytes().all(plain) {
            return Ok(Self(text.to_owned()));
        }
        Err(Refusal::new(Code::InvalidMessage, "an instance is 1 to 64 letters, digits, `-`, `.`, `_`"))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Instance {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).map_err(|refusal| refusal.because())
    }
}

/// What ends the time for which a service goes on with everything else down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetEnd {
    /// The access key's endorsement expires.
    AccessKey,
    /// The generation that endorsed the keys leaves its window.
    Generation,
    /// The newest head gets too old.
    Head,
    /// The response key's endorsement expires.
    ResponseKey,
    /// The newest reading of the revocations gets too old.
    Revocations,
}

impl BudgetEnd {
    const ALL: [Self; 5] =
        [Self::AccessKey, Self::Generation, Self::Head, Self::ResponseKey, Self::Revocations];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AccessKey => "access-key",
            Self::Generation => "generation",
            Self::Head => "head",
            Self::ResponseKey => "response-key",
            Self::Revocations => "revocations",
        }
    }
}

/// Until when a service goes on with everything else down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The moment.
    pub until: Timestamp,
    /// What ends it.
    pub ended_by: BudgetEnd,
}

/// How much of the auth server's denial feed a verifier applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Up to which batch.
    pub position: Position,
    /// Whether the auth server has spoken from an earlier position since, so that its lifts are not applied.
    pub went_back: bool,
}

/// What a new acknowledgement is to say.
#[derive(Clone, Copy, Debug)]
pub struct NewAcknowledgement<'a> {
    /// The service, as the endorsements of its keys name it.
    pub service: &'a str,
    /// Which of its processes.
    pub instance: &'a Instance,
    /// The head that it applied.
    pub head: HeadPlace,
    /// How far it applied the auth server's denial feed, if it follows that.
    pub feed: Option<Applied>,
    /// When it is made.
    pub issued_at: Timestamp,
    /// How long the service would go on by itself.
    pub budget: Budget,
    /// The version of the program.
    pub version: &'a str,
    /// The endorsements of its keys in use, that of the key which signs first.
    pub endorsements: &'a [&'a Endorsement],
}

impl Applied {
    fn to_json(self) -> String {
        let Position { epoch, number } = self.position;
        let went_back = if self.went_back { ",\"wentBack\":true" } else { "" };
        format!("\"feed\":{{\"epoch\":{epoch},\"position\":{number}{went_back}}},")
    }

    fn parse(raw: &str) -> Result<Self, Refusal> {
        let mut object = Object::parse(raw)?;
        let mut member = |name| number::parse(object.raw(name)?);
        let position = Position { epoch: member("epoch")?, number: member("position")? };
        let went_back = match object.take("wentBack") {
            None => false,
            Some("true") => true,
            Some(_) => return Err(Refusal::new(Code::InvalidMessage, "`wentBack` is not `true`")),
        };
        Ok(Self { position, went_back })
    }
}

impl NewAcknowledgement<'_> {
    /// Signs it with the response key.
    pub fn sign(&self, key: &SigningKey) -> Result<String, Refusal> {
        let HeadPlace { event_id, sequence_number, number, digest } = self.head;
        let feed = self.feed.map_or_else(String::new, Applied::to_json);
        let payload = format!(
            "{{\"purpose\":\"{PURPOSE}\",\"service\":{},\"instance\":\"{}\",\"eventId\":\"{event_id}\",\
             \"sequenceNumber\":{sequence_number},\"number\":{number},\"headDigest\":\"{digest}\",{feed}\"issuedAt\":\"{}\",\
             \"budget\":{{\"until\":\"{}\",\"endedBy\":\"{}\"}},\"version\":{}}}",
            json::string(self.service),
            self.instance.as_str(),
            self.issued_at,
            self.budget.until,
            self.budget.ended_by.as_str(),
            json::string(self.version),
        );
        let signature = key.sign(signed(&payload).as_bytes())?;
        let endorsements: Vec<_> = self.endorsements.iter().map(|one| one.text()).collect();
        Ok(format!(
            "{{\"payload\":{payload},\"endorsements\":[{}],\"signature\":\"{signature}\"}}",
            endorsements.join(",")
        ))
    }
}

/// An acknowledgement as received. It proves nothing until [`Self::verify`] has passed.
#[derive(Clone, Debug)]
pub struct Acknowledgement {
    service: String,
    instance: Instance,
    head: HeadPlace,
    feed: Option<Applied>,
    issued_at: Timestamp,
    budget: Budget,
    version: String,
    endorsements: Vec<Endorsement>,
    signature: Signature,
    text: Box<str>,
    payload: Range<usize>,
}

impl Acknowledgement {
    /// Reads an acknowledgement.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        if text.len() > limits::ACKNOWLEDGEMENT_MAX {
            return Err(Refusal::new(Code::TooLarge, "the acknowledgement is longer than 12 KiB"));
        }
        let mut outer = Object::parse(text)?;
        let raw = outer.raw("payload")?;
        let signature = outer.parsed("signature", Signature::parse)?;
        let endorsements = read_endorsements(outer.raw("endorsements")?)?;
        let mut payload = Object::parse(raw)?;
        if payload.string("purpose")? != PURPOSE {
            return Err(Refusal::new(Code::WrongPurpose, "the message is for another purpose"));
        }
        let start = raw.as_ptr().addr().saturating_sub(text.as_ptr().addr());
        Ok(Self {
            service: payload.parsed("service", plain::<{ limits::SERVICE_MAX }>)?.to_owned(),
            instance: payload.parsed("instance", Instance::parse)?,
            head: HeadPlace {
                event_id: payload.parsed("eventId", Digest::parse)?,
                sequence_number: number::parse(payload.raw("sequenceNumber")?)?,
                number: number::parse(payload.raw("number")?)?,
                digest: payload.parsed("headDigest", Digest::parse)?,
            },
            feed: payload.take("feed").map(Applied::parse).transpose()?,
            issued_at: payload.parsed("issuedAt", Timestamp::parse)?,
            budget: read_budget(payload.object("budget")?)?,
            version: payload.parsed("version", plain::<VERSION_MAX>)?.to_owned(),
            endorsements,
            signature,
            text: text.into(),
            payload: start..start.saturating_add(raw.len()),
        })
    }

    /// Verifies that a live key of `service` signed this for `instance`, and that each key that it names is live at
    /// `now`, under what `chain` has heard, for a verifier whose window is `window`.
    pub fn verify(
        &self,
        service: &str,
        instance: &Instance,
        chain: &Chain,
        window: Duration,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        if self.service != service || self.instance != *instance {
            return Err(Refusal::new(Code::WrongPurpose, "the acknowledgement is of another instance"));
        }
        let signer = self.signer()?;
        let payload = self.text.get(self.payload.clone()).unwrap_or_default();
        VerifyingKey::new(&signer.subject.public_key)?.verify(signed(payload).as_bytes(), &self.signature)?;
        for endorsement in &self.endorsements {
            let subject = &endorsement.subject;
            let expected = Expected {
                purpose: subject.purpose,
                public_key: &subject.public_key,
                service: Some(service),
            };
            endorsement.verify(chain, expected, window, now)?;
        }
        Ok(())
    }

    /// The head that it says was applied.
    pub const fn head(&self) -> HeadPlace {
        self.head
    }

    /// How far it says that the denial feed was applied; nothing of a service that does not follow it.
    pub const fn feed(&self) -> Option<Applied> {
        self.feed
    }

    /// When it says that it was made.
    pub const fn issued_at(&self) -> Timestamp {
        self.issued_at
    }

    /// How long the service says that it would go on by itself.
    pub const fn budget(&self) -> Budget {
        self.budget
    }

    /// The version of the program, as it says.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The endorsements of its keys, that of the signer first; none has a purpose twice.
    pub fn endorsements(&self) -> &[Endorsement] {
        &self.endorsements
    }

    /// The endorsement of the key that signed it.
    fn signer(&self) -> Result<&Endorsement, Refusal> {
        let signer = self.endorsements.first();
        signer
            .filter(|signer| signer.subject.purpose == Purpose::Response)
            .ok_or(Refusal::new(Code::WrongPurpose, "the first endorsement is not of a response key"))
    }
}

fn signed(payload: &str) -> String {
    format!("{DOMAIN}{payload}")
}

fn plain<const MOST: usize>(text: &str) -> Result<&str, Refusal> {
    let fits = !text.is_empty() && text.len() <= MOST && !text.chars().any(char::is_control);
    if fits { Ok(text) } else { Err(Refusal::new(Code::InvalidMessage, "a text is empty or too long")) }
}

/// One endorsement for each purpose at most.
fn read_endorsements(raw: &str) -> Result<Vec<Endorsement>, Refusal> {
    let bad = || Refusal::new(Code::InvalidMessage, "`endorsements` is not a list of one for each purpose");
    let texts = serde_json::from_str::<Vec<&RawValue>>(raw).map_err(|_| bad())?;
    let mut found: Vec<Endorsement> = Vec::new();
    for text in texts {
        let endorsement = Endorsement::parse(text.get())?;
        if found.iter().any(|known| known.subject.purpose == endorsement.subject.purpose) {
            return Err(bad());
        }
        found.push(endorsement);
    }
    if found.is_empty() { Err(bad()) } else { Ok(found) }
}

fn read_budget(mut budget: Object<'_>) -> Result<Budget, Refusal> {
    let until = budget.parsed("until", Timestamp::parse)?;
    let word = budget.string("endedBy")?;
    let ended_by = BudgetEnd::ALL.into_iter().find(|end| end.as_str() == word);
    let ended_by = ended_by.ok_or(Refusal::new(Code::InvalidMessage, "`endedBy` is no end of a budget"))?;
    Ok(Budget { until, ended_by })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        chain::{self, Settings, windows},
        endorsement::{self, SignRequest},
        statement::{Entries, Head, NewHead},
    };

    const APPLIED: Applied =
        Applied { position: Position { epoch: 1_790_000_000_000, number: 42 }, went_back: false };

    fn key(number: u8) -> SigningKey {
        SigningKey::from_seed(&[number; 32]).unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_millis(seconds * 1000)
    }

    fn endorse(chain: &Chain, signer: u8, service: &str, purpose: Purpose, owner: u8) -> Endorsement {
        let head = chain.head().unwrap().id();
        let request = SignRequest { purpose, public_key: key(owner).public_key(), expiration: at(100) };
        let draft = endorsement::Draft::numbered(&request, service, 7, &chain.prefix(), &head);
        Endorsement::parse(&draft.seal(&key(signer).sign(draft.body().as_bytes()).unwrap())).unwrap()
    }

    /// A chain whose only generation has the key 1, with one head.
    fn chain() -> Chain {
        let draft = chain::Draft::first(&key(1).public_key(), &key(2).public_key().digest(), at(0));
        let signature = key(1).sign(draft.payload().as_bytes()).unwrap();
        let event = draft.seal(&signature).unwrap();
        let mut chain = Chain::new(event.id(), Settings::default());
        chain.merge([event], at(1));
        hear(&mut chain, 1, &Entries::default());
        chain
    }

    fn hear(chain: &mut Chain, number: u64, entries: &Entries) {
        let event = chain.head().unwrap().event().clone();
        let head =
            NewHead { event: &event, number, issued_at: at(1), expiration: at(1000), entries, audit: None };
        let draft = head.draft().unwrap();
        let head = Head::parse(&draft.seal(&key(1).sign(draft.body().as_bytes()).unwrap())).unwrap();
        let proven = head.verify(chain, windows::AUTHD, at(2)).unwrap();
        chain.hear(&proven, at(2));
    }

    fn sign(chain: &Chain, signer: u8, endorsements: &[&Endorsement]) -> String {
        let new = NewAcknowledgement {
            service: "edge:shop",
            instance: &Instance::only(),
            head: chain.newest_head().unwrap(),
            feed: Some(APPLIED),
            issued_at: at(3),
            budget: Budget { until: at(50), ended_by: BudgetEnd::ResponseKey },
            version: "1.2.3",
            endorsements,
        };
        new.sign(&key(signer)).unwrap()
    }

    fn judge(chain: &Chain, text: &str) -> Result<(), Code> {
        let read = Acknowledgement::parse(text).map_err(|refusal| refusal.code())?;
        let verdict = read.verify("edge:shop", &Instance::only(), chain, windows::DEVICE, at(4));
        verdict.map_err(|refusal| refusal.code())
    }

    #[test]
    fn an_acknowledgement_reads_as_written() {
        let chain = chain();
        let own = endorse(&chain, 1, "edge:shop", Purpose::Response, 9);
        let text = sign(&chain, 9, &[&own]);
        assert_eq!(judge(&chain, &text), Ok(()));
        let read = Acknowledgement::parse(&text).unwrap();
        assert_eq!(Some(read.head()), chain.newest_head());
        assert_eq!((read.issued_at(), read.version()), (at(3), "1.2.3"));
        assert_eq!(read.feed(), Some(APPLIED));
        // As a verifier writes it that follows no feed.
        let without = text.replace("\"feed\":{\"epoch\":1790000000000,\"position\":42},", "");
        assert_eq!(Acknowledgement::parse(&without).unwrap().feed(), None);
        for went_back in [false, true] {
            let applied = Applied { went_back, ..APPLIED };
            let json = applied.to_json();
            let raw = json.strip_prefix("\"feed\":").unwrap().strip_suffix(',').unwrap();
            assert_eq!(Applied::parse(raw), Ok(applied));
        }
        assert_eq!(read.budget(), Budget { until: at(50), ended_by: BudgetEnd::ResponseKey });
        assert_eq!(read.endorsements().len(), 1);
        let head = chain.newest_head().unwrap();
        assert_eq!((head.event_id, head.sequence_number, head.number), (chain.prefix(), 0, 1));
    }

    #[test]
    fn each_rule_has_its_code() {
        let chain = chain();
        let own = endorse(&chain, 1, "edge:shop", Purpose::Response, 9);
        let access = endorse(&chain, 1, "edge:shop", Purpose::Access, 8);
        let foreign = endorse(&chain, 1, "edge:other", Purpose::Response, 9);
        let forged = endorse(&chain, 3, "edge:shop", Purpose::Response, 9);
        let text = sign(&chain, 9, &[&own]);
        for (text, expected) in [
            (sign(&chain, 9, &[&own, &access]), Ok(())),
            (sign(&chain, 8, &[&own]), Err(Code::BadSignature)),
            (sign(&chain, 9, &[&foreign]), Err(Code::WrongPurpose)),
            (sign(&chain, 9, &[&forged]), Err(Code::BadSignature)),
            (sign(&chain, 9, &[&own, &forged]), Err(Code::InvalidMessage)),
            (sign(&chain, 8, &[&access, &own]), Err(Code::WrongPurpose)),
            (sign(&chain, 9, &[]), Err(Code::InvalidMessage)),
            (text.replace("\"number\":1,", "\"number\":2,"), Err(Code::BadSignature)),
            (text.replace("\"instance\":\"main\"", "\"instance\":\"b\""), Err(Code::WrongPurpose)),
            (text.replace("\"acknowledgement\"", "\"chain-head\""), Err(Code::WrongPurpose)),
            (text.replace("response-key", "boredom"), Err(Code::InvalidMessage)),
            (text.replace("\"position\":42", "\"position\":43"), Err(Code::BadSignature)),
            (text.replace("\"position\":42", "\"position\":-1"), Err(Code::InvalidMessage)),
            (text.replace("{\"epoch\":1790000000000,\"position\":42}", "7"), Err(Code::InvalidMessage)),
            (text.replace("\"position\":42", "\"position\":42,\"wentBack\":1"), Err(Code::InvalidMessage)),
            (text.replace("\"1.2.3\"", &format!("\"{}\"", "9".repeat(33))), Err(Code::InvalidMessage)),
            (format!("{text}{}", " ".repeat(limits::ACKNOWLEDGEMENT_MAX)), Err(Code::TooLarge)),
            (own.text().to_owned(), Err(Code::InvalidMessage)),
            (String::new(), Err(Code::InvalidMessage)),
        ] {
            assert_eq!(judge(&chain, &text), expected, "{text}");
        }
    }

    #[test]
    fn a_key_that_the_head_revokes_acknowledges_nothing() {
        let mut chain = chain();
        let own = endorse(&chain, 1, "edge:shop", Purpose::Response, 9);
        let mut revoked = Entries::default();
        revoked.keys.insert(key(9).public_key().name(), at(90));
        hear(&mut chain, 2, &revoked);
        let text = sign(&chain, 9, &[&own]);
        assert_eq!(judge(&chain, &text), Err(Code::Revoked));
    }

    #[test]
    fn a_payload_signed_without_its_domain_is_none() {
        let chain = chain();
        let own = endorse(&chain, 1, "edge:shop", Purpose::Response, 9);
        let text = sign(&chain, 9, &[&own]);
        let read = Acknowledgement::parse(&text).unwrap();
        let payload = text.get(read.payload.clone()).unwrap();
        let bare = key(9).sign(payload.as_bytes()).unwrap();
        let text = text.replace(&read.signature.to_string(), &bare.to_string());
        assert_eq!(judge(&chain, &text), Err(Code::BadSignature));
    }

    #[test]
    fn instances_have_plain_names() {
        for (text, good) in [("main", true), ("eu-1.a_B", true), ("", false), ("a b", false), ("a/b", false)]
        {
            assert_eq!(Instance::parse(text).is_ok(), good, "{text}");
        }
        assert!(Instance::parse(&"a".repeat(limits::INSTANCE_MAX + 1)).is_err());
    }
}
