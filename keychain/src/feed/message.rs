//! The signed texts of the feed: batches and snapshots (`PROTOCOL.md#feed-message`).

use std::ops::Range;

use super::entry::{Entry, parse_entries, write_entries};
use crate::{
    cesr::{Digest, Signature},
    chain::{Chain, windows},
    endorsement::{Endorsement, Expected, Purpose},
    error::{Code, Refusal},
    json::{self, Object},
    key::{SigningKey, VerifyingKey},
    limits, number,
    time::Timestamp,
};

/// What both signatures begin with. The same keys sign tokens, answers and operators' records: none of those has a
/// text that begins so.
const DOMAIN: &str = "keelson denial feed\n";

const BATCH: &str = "denial-batch";
const SNAPSHOT: &str = "denial-snapshot";

/// The name under which the newest message of a chain's feed stands in the directory. It has the form of a digest, so
/// that its changes are pushed.
pub fn name(identity: &Digest) -> Digest {
    Digest::of_parts(&[DOMAIN, &identity.to_string()])
}

/// A place in the feed. A later epoch is later than any position of an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// When the epoch was opened, in milliseconds since 1970.
    pub epoch: u64,
    /// How many batches of the epoch there were.
    pub number: u64,
}

impl Position {
    /// The place of the batch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self { epoch: self.epoch, number: self.number.saturating_add(1) }
    }
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// What changed with this position.
    Batch(Vec<Entry>),
    /// What holds at this position: so many entries, in chunks with these digests.
    Snapshot {
        /// The number of entries in all chunks.
        count: u64,
        /// The digests of the chunks' texts.
        chunks: Vec<Digest>,
    },
}

/// Who signs: the two keys of one auth server, with what the HSM says of each.
#[derive(Clone, Copy, Debug)]
pub struct Signers<'a> {
    /// The key that also signs tokens.
    pub access: (&'a SigningKey, &'a Endorsement),
    /// The key that also signs answers.
    pub response: (&'a SigningKey, &'a Endorsement),
}

/// A message to be signed.
#[derive(Clone, Copy, Debug)]
pub struct Draft<'a> {
    /// The chain's prefix.
    pub identity: Digest,
    /// Where it stands.
    pub position: Position,
    /// When it is made.
    pub issued_at: Timestamp,
    /// What it says.
    pub content: &'a Content,
}

impl Draft<'_> {
    /// The text that is published. It errs for one that would not be read.
    pub fn seal(&self, signers: Signers<'_>) -> Result<String, Refusal> {
        let payload = self.payload(signers);
        let signed = [DOMAIN, &payload].concat();
        let access = signers.access.0.sign(signed.as_bytes())?;
        let response = signers.response.0.sign(signed.as_bytes())?;
        let text = format!(
            "{{\"payload\":{payload},\"accessSignature\":\"{access}\",\"responseSignature\":\"{response}\"}}"
        );
        Message::parse(&text).map(|_| text)
    }

    fn payload(&self, signers: Signers<'_>) -> String {
        let (purpose, content) = match self.content {
            Content::Batch(entries) => (BATCH, format!("\"entries\":{}", write_entries(entries))),
            Content::Snapshot { count, chunks } => {
                let chunks: Vec<_> = chunks.iter().map(|chunk| format!("\"{chunk}\"")).collect();
                (SNAPSHOT, format!("\"count\":{count},\"chunks\":[{}]", chunks.join(",")))
            }
        };
        format!(
            "{{\"purpose\":\"{purpose}\",\"identity\":\"{}\",\"epoch\":{},\"position\":{},\"issuedAt\":\"{}\",\
             \"access\":{},\"response\":{},{content}}}",
            self.identity,
            self.position.epoch,
            self.position.number,
            self.issued_at,
            signers.access.1.text(),
            signers.response.1.text(),
        )
    }
}

/// A message as received. It proves nothing until [`Self::verify`] has passed.
#[derive(Clone, Debug)]
pub struct Message {
    identity: Digest,
    position: Position,
    issued_at: Timestamp,
    content: Content,
    access: (Endorsement, Signature),
    response: (Endorsement, Signature),
    text: Box<str>,
    payload: Range<usize>,
}

impl Message {
    /// Reads a message.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        if text.len() > limits::FEED_VALUE_MAX {
            return Err(Refusal::new(Code::TooLarge, "the message of the feed is longer than 256 KiB"));
        }
        let mut outer = Object::parse(text)?;
        let raw_payload = outer.raw("payload")?;
        let signatures = (
            outer.parsed("accessSignature", Signature::parse)?,
            outer.parsed("responseSignature", Signature::parse)?,
        );
        let mut payload = Object::parse(raw_payload)?;
        let content = content(&mut payload)?;
        let start = raw_payload.as_ptr().addr().saturating_sub(text.as_ptr().addr());
        Ok(Self {
            identity: payload.parsed("identity", Digest::parse)?,
            position: Position {
                epoch: number::parse(payload.raw("epoch")?)?,
                number: number::parse(payload.raw("position")?)?,
            },
            issued_at: payload.parsed("issuedAt", Timestamp::parse)?,
            content,
            access: (Endorsement::parse(payload.raw("access")?)?, signatures.0),
            response: (Endorsement::parse(payload.raw("response")?)?, signatures.1),
            text: text.into(),
            payload: start..start.saturating_add(raw_payload.len()),
        })
    }

    /// The message as received.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Where it says that it stands.
    pub const fn position(&self) -> Position {
        self.position
    }

    /// When it says that it was made.
    pub const fn issued_at(&self) -> Timestamp {
        self.issued_at
    }

    /// What it says, unproven.
    pub const fn content(&self) -> &Content {
        &self.content
    }

    /// Verifies that an auth server whose keys are both live at `now` signed this, for this chain.
    pub fn verify(&self, chain: &Chain, now: Timestamp) -> Result<Proven<'_>, Refusal> {
        if self.identity != chain.prefix() {
            return Err(Refusal::new(Code::DeadKey, "the message is of another chain's feed"));
        }
        // Or a thief could name an epoch that no honest one comes after.
        let latest = now.plus(chain.skew()).unix_millis();
        if !i64::try_from(self.position.epoch).is_ok_and(|epoch| epoch <= latest) {
            return Err(Refusal::new(Code::FutureRequest, "the epoch is from the future"));
        }
        let service = self.access.0.service.as_deref();
        if service.is_none() || service != self.response.0.service.as_deref() {
            return Err(Refusal::new(Code::WrongPurpose, "the two keys are not of one service"));
        }
        let payload = self.text.get(self.payload.clone()).unwrap_or_default();
        let signed = [DOMAIN, payload].concat();
        let keys = [(Purpose::Access, &self.access), (Purpose::Response, &self.response)];
        for (purpose, (endorsement, signature)) in keys {
            let public_key = &endorsement.subject.public_key;
            let expected = Expected { purpose, public_key, service };
            endorsement.verify(chain, expected, windows::EDGE, now)?;
            VerifyingKey::new(public_key)?.verify(signed.as_bytes(), signature)?;
        }
        Ok(Proven(self))
    }
}

/// A message that an auth server signed whose keys were live when it was verified.
#[derive(Clone, Copy, Debug)]
pub struct Proven<'a>(&'a Message);

impl<'a> Proven<'a> {
    /// Where it stands.
    pub const fn position(self) -> Position {
        self.0.position
    }

    /// When it was made.
    pub const fn issued_at(self) -> Timestamp {
        self.0.issued_at
    }

    /// What it says.
    pub const fn content(self) -> &'a Content {
        &self.0.content
    }
}

fn content(payload: &mut Object<'_>) -> Result<Content, Refusal> {
    match payload.string("purpose")? {
        BATCH => Ok(Content::Batch(parse_entries(payload.raw("entries")?)?)),
        SNAPSHOT => {
            let count = number::parse(payload.raw("count")?)?;
            let chunks = json::plain_strings(payload.raw("chunks")?)?;
            if chunks.len() > limits::FEED_CHUNKS_MAX {
                return Err(Refusal::new(Code::TooLarge, "the snapshot has too many chunks"));
            }
            let chunks = chunks.into_iter().map(Digest::parse).collect::<Result<_, _>>()?;
            Ok(Content::Snapshot { count, chunks })
        }
        _ => Err(Refusal::new(Code::WrongPurpose, "the message is for another purpose")),
    }
}
