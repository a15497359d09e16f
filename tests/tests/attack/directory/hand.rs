//! What an attacker holds who has the directory: everything that ever stood there, keys of its own that hsmd endorsed
//! for another service, and a chain of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use keychain::chain::{self, SignedEvent};
use keychain::endorsement::{self, Endorsement, Purpose, SignRequest};
use keychain::feed::{Content, Draft, Position, Signers};
use keychain::statement::{Entries, NewHead};
use keychain::{Digest, PublicKey, SigningKey};
use tests::World;
use tests::craft::{key, now};
use tests::http::Http;

use super::cells::{How, Kind};

const HOUR: Duration = Duration::from_hours(1);

/// Longer than anything that is read.
const TOO_LONG: usize = 300_000;

/// A value, and where it is put.
#[derive(Clone, Debug)]
pub(super) struct Blow {
    pub(super) database: u8,
    pub(super) name: String,
    pub(super) value: String,
}

/// What stands in the directory of one kind: under which name, and as what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) name: String,
    pub(super) text: String,
}

/// What honest services wrote, now and before a taint or a later word.
#[derive(Clone, Debug, Default)]
pub(super) struct Honest {
    pub(super) event: Found,
    pub(super) first_event: Found,
    pub(super) head: Found,
    pub(super) older_head: String,
    pub(super) access: Found,
    pub(super) older_access: Found,
    pub(super) response: Found,
    pub(super) older_response: Found,
    pub(super) authd_response: Found,
    pub(super) feed: Found,
    pub(super) older_feed: String,
    pub(super) snapshot: String,
    pub(super) older_acknowledgements: BTreeMap<String, String>,
}

pub(super) struct Hand {
    pub(super) honest: Honest,
    /// A key for each thing to try: what one reader remembers of a name must not answer for the next.
    pub(super) keys: BTreeMap<How, SigningKey>,
    /// What hsmd said of them, for a service of its laboratory.
    endorsements: BTreeMap<How, String>,
    other: OtherChain,
}

impl Hand {
    pub(super) async fn take(world: &World, honest: Honest) -> Self {
        let laboratory = Http::to(world.endpoints().hsm.as_ref().unwrap());
        let (mut keys, mut endorsements) = (BTreeMap::new(), BTreeMap::new());
        for how in How::ALL {
            let own = key();
            let (purpose, expiration) = (Purpose::Response, now().plus(HOUR));
            let request = SignRequest { purpose, public_key: own.public_key(), expiration };
            let text = laboratory.post("/sign", request.to_json()).await.body.trim_end().to_owned();
            keys.insert(how, own);
            endorsements.insert(how, text);
        }
        Self { honest, keys, endorsements, other: OtherChain::new() }
    }

    /// The name of the key for one thing to try.
    pub(super) fn key(&self, how: How) -> PublicKey {
        self.keys[&how].public_key()
    }

    /// The value to try; none where there can be none.
    pub(super) fn blow(&self, kind: Kind, how: How) -> Option<Blow> {
        match kind {
            Kind::Event => self.event(how),
            Kind::Head => self.head(how),
            Kind::Access => self.access(how),
            Kind::Response => Some(self.response(how)),
            Kind::Feed => Some(self.feed(how)),
            Kind::Spent | Kind::Revocation | Kind::Nonce | Kind::Acknowledgement => None,
        }
    }

    fn event(&self, how: How) -> Option<Blow> {
        let Honest { event, first_event, head, .. } = &self.honest;
        let value = match how {
            How::Forged => with_signature_of(&event.text, &first_event.text),
            How::Swapped | How::Replayed => event.text.clone(),
            How::Truncated => truncated(&event.text),
            How::Oversized => "x".repeat(TOO_LONG),
            How::OtherChain => self.other.event.text().to_owned(),
            How::OtherPurpose => head.text.clone(),
            How::Older | How::OtherService => return None,
        };
        let name = if how == How::Replayed { event.name.clone() } else { junk(how) };
        Some(Blow { database: 4, name, value })
    }

    /// Heads are read under the names of events: the publisher keeps that of the newest alone.
    fn head(&self, how: How) -> Option<Blow> {
        let Honest { first_event, head, older_head, response, .. } = &self.honest;
        let value = match how {
            How::Forged => head.text.replacen("\"number\":2", "\"number\":9", 1),
            How::Swapped | How::Replayed => head.text.clone(),
            How::Truncated => truncated(&head.text),
            How::Older => older_head.clone(),
            How::Oversized => "x".repeat(TOO_LONG),
            How::OtherChain => self.other.head.clone(),
            How::OtherPurpose => response.text.clone(),
            How::OtherService => return None,
        };
        let name = if how == How::Replayed { &head.name } else { &first_event.name };
        Some(Blow { database: 5, name: name.clone(), value })
    }

    fn access(&self, how: How) -> Option<Blow> {
        let Honest { access, older_access, .. } = &self.honest;
        let own = &self.endorsements[&how];
        let named = |found: &Found| Blow { database: 0, name: found.name.clone(), value: found.text.clone() };
        let value = match how {
            How::Forged => as_authds(own).replacen("\"purpose\":\"response\"", "\"purpose\":\"access\"", 1),
            How::Swapped => access.text.clone(),
            How::Truncated => truncated(&access.text),
            How::Replayed => return Some(named(access)),
            How::Older => return Some(named(older_access)),
            How::Oversized => "x".repeat(TOO_LONG),
            How::OtherChain => self.other.endorse(Purpose::Access, self.key(how)),
            How::OtherPurpose => own.clone(),
            How::OtherService => return None,
        };
        Some(Blow { database: 0, name: self.key(how).to_string(), value })
    }

    fn response(&self, how: How) -> Blow {
        let Honest { access, response, older_response, .. } = &self.honest;
        let own = &self.endorsements[&how];
        let named = |found: &Found| Blow { database: 1, name: found.name.clone(), value: found.text.clone() };
        let value = match how {
            How::Forged => as_authds(own),
            How::Swapped => response.text.clone(),
            How::Truncated => truncated(&response.text),
            How::Replayed => return named(response),
            How::Older => return named(older_response),
            How::Oversized => "x".repeat(TOO_LONG),
            How::OtherChain => self.other.endorse(Purpose::Response, self.key(how)),
            How::OtherPurpose => return Blow { database: 1, ..named(access) },
            How::OtherService => own.clone(),
        };
        Blow { database: 1, name: self.key(how).to_string(), value }
    }

    fn feed(&self, how: How) -> Blow {
        let Honest { feed, older_feed, snapshot, head, authd_response, .. } = &self.honest;
        let value = match how {
            How::Forged => feed.text.replacen("\"position\":", "\"position\":1", 1),
            How::Swapped => snapshot.clone(),
            How::Truncated => truncated(&feed.text),
            How::Replayed => feed.text.clone(),
            How::Older => older_feed.clone(),
            How::Oversized => "x".repeat(TOO_LONG),
            How::OtherChain => self.other.feed(),
            How::OtherPurpose => head.text.clone(),
            How::OtherService => {
                let swapped = feed.text.replacen(&authd_response.text, &self.endorsements[&how], 1);
                assert_ne!(swapped, feed.text, "the message has authd's endorsement in it");
                swapped
            }
        };
        Blow { database: 6, name: feed.name.clone(), value }
    }

    /// The chain of the attacker, for what is not a [`Blow`].
    pub(super) const fn other_chain(&self) -> &OtherChain {
        &self.other
    }
}

/// An endorsement that says it is of a key of authd's; its signature does not hold any more.
fn as_authds(text: &str) -> String {
    let (before, rest) = text.split_once("\"service\":\"").unwrap();
    let (_, after) = rest.split_once('"').unwrap();
    format!("{before}\"service\":\"authd\"{after}")
}

/// A name that nothing else has.
fn junk(how: How) -> String {
    Digest::of(format!("{how:?}")).to_string()
}

pub(super) fn truncated(text: &str) -> String {
    text[..text.len() - 2].to_owned()
}

/// `text` with the signature of another one: well-formed, and wrong.
pub(super) fn with_signature_of(text: &str, other: &str) -> String {
    let signature = |text: &str| text[text.rfind("\"signature\":\"").unwrap()..].to_owned();
    text.replace(&signature(text), &signature(other))
}

/// A chain of the attacker's own, with all that an HSM signs.
pub(super) struct OtherChain {
    generation: SigningKey,
    pub(super) event: SignedEvent,
    pub(super) head: String,
}

impl OtherChain {
    fn new() -> Self {
        let (generation, next) = (key(), key());
        let created = now().minus(HOUR);
        let draft = chain::Draft::first(&generation.public_key(), &next.public_key().digest(), created);
        let signature = generation.sign(draft.payload().as_bytes()).unwrap();
        let event = draft.seal(&signature).unwrap();
        let entries = Entries::default();
        let (issued_at, expiration) = (now(), now().plus(HOUR));
        let head = NewHead {
            event: event.event(),
            number: 1,
            issued_at,
            expiration,
            entries: &entries,
            audit: None,
        };
        let draft = head.draft().unwrap();
        let head = draft.seal(&generation.sign(draft.body().as_bytes()).unwrap());
        Self { generation, event, head }
    }

    /// Its word for a key, as authd's.
    pub(super) fn endorse(&self, purpose: Purpose, public_key: PublicKey) -> String {
        let request = SignRequest { purpose, public_key, expiration: now().plus(HOUR) };
        let id = self.event.id();
        let draft = endorsement::Draft::numbered(&request, "authd", 1, &id, &id);
        draft.seal(&self.generation.sign(draft.body().as_bytes()).unwrap())
    }

    fn feed(&self) -> String {
        let endorsed = |purpose| {
            let own = key();
            let text = self.endorse(purpose, own.public_key());
            (own, Endorsement::parse(&text).unwrap())
        };
        let (access, response) = (endorsed(Purpose::Access), endorsed(Purpose::Response));
        let position = Position { epoch: 1, number: 1 };
        let content = Content::Batch(Vec::new());
        let draft = Draft { identity: self.event.id(), position, issued_at: now(), content: &content };
        draft.seal(Signers { access: (&access.0, &access.1), response: (&response.0, &response.1) }).unwrap()
    }
}
