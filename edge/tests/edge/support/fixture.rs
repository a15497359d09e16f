//! The parties around an edge, in memory and in virtual time: an HSM with its chain, an authd, a device.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use edge::trust::TrustState;
use keychain::chain::{self, Chain, Draft, SignedEvent, windows};
use keychain::endorsement::{self, Purpose, SignRequest};
use keychain::statement::{Entries, Head, NewHead, ServiceRevocation};
use keychain::token::{Attributes, Claims};
use keychain::{Digest, Nonce, PublicKey, SigningKey, Timestamp, access};

/// When everything begins.
pub(crate) const START: i64 = 1_700_000_000_000;

/// `seconds` after the start.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_millis(START + seconds * 1_000)
}

/// The key of that number.
pub(crate) fn key(number: u32) -> SigningKey {
    let mut seed = [1; 32];
    seed[28..].copy_from_slice(&number.to_be_bytes());
    SigningKey::from_seed(&seed).unwrap()
}

/// The nonce of that number.
pub(crate) fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    Nonce::from_bytes(bytes)
}

/// What a head lists that denies one generation.
pub(crate) fn denying(generation: Digest) -> Entries {
    Entries { denied: [generation].into(), ..Entries::default() }
}

/// One that revokes a key.
pub(crate) fn revoking(key: &SigningKey, until: Timestamp) -> Entries {
    Entries { keys: [(key.public_key().name(), until)].into(), ..Entries::default() }
}

/// One that revokes a service's endorsements up to a number.
pub(crate) fn revoking_service(name: &str, endorsed_up_to: u64, until: Timestamp) -> Entries {
    let revocation = ServiceRevocation { endorsed_up_to, until };
    Entries { services: [(name.to_owned(), revocation)].into(), ..Entries::default() }
}

/// An HSM: its generations' keys and what it published.
pub(crate) struct Hsm {
    first_key: u32,
    events: Vec<SignedEvent>,
    /// The heads of all events, in the order in which they were made.
    heads: Vec<String>,
    endorsed: AtomicU64,
}

impl Hsm {
    /// One whose first event was made at `created`; its keys are numbered from `first_key`.
    pub(crate) fn new(first_key: u32, created: Timestamp) -> Self {
        let (current, next) = (key(first_key), key(first_key + 1));
        let draft = Draft::first(&current.public_key(), &next.public_key().digest(), created);
        let mut hsm = Self { first_key, events: Vec::new(), heads: Vec::new(), endorsed: AtomicU64::new(0) };
        hsm.publish(draft, &current);
        hsm
    }

    /// Goes on to the next generation, tainting the one before or not.
    pub(crate) fn rotate(&mut self, created: Timestamp, taint: bool) {
        let number = self.first_key + u32::try_from(self.events.len()).unwrap();
        let (current, next) = (key(number), key(number + 1));
        let head = self.events.last().unwrap().event().clone();
        let draft = Draft::next(&head, &current.public_key(), &next.public_key().digest(), created, taint);
        self.publish(draft, &current);
    }

    fn publish(&mut self, draft: Draft, key: &SigningKey) {
        let signature = key.sign(draft.payload().as_bytes()).unwrap();
        self.events.push(draft.seal(&signature).unwrap());
    }

    /// The identity.
    pub(crate) fn prefix(&self) -> Digest {
        self.events[0].event().prefix
    }

    /// What was published.
    pub(crate) fn events(&self) -> &[SignedEvent] {
        &self.events
    }

    /// The chain as a verifier holds it at `now`.
    pub(crate) fn chain(&self, now: Timestamp) -> Chain {
        let settings = chain::Settings { skew: Duration::from_secs(5), ..chain::Settings::default() };
        let mut chain = Chain::new(self.prefix(), settings);
        chain.merge(self.events.iter().map(|event| SignedEvent::parse(event.text()).unwrap()), now);
        chain
    }

    /// The chain as a verifier holds it at `now`, all heads heard.
    pub(crate) fn trust(&self, now: Timestamp) -> TrustState {
        let mut chain = self.chain(now);
        for text in &self.heads {
            let head = Head::parse(text).unwrap();
            let Ok(proven) = head.verify(&chain, windows::AUTHD, now) else { continue };
            chain.hear(&proven, now);
        }
        TrustState::new(chain)
    }

    /// Makes the next head of the newest event.
    pub(crate) fn state(&mut self, entries: &Entries, issued_at: Timestamp) -> &str {
        let event = self.events.last().unwrap().event().clone();
        let own = |text: &&String| Head::parse(text).unwrap().event_id() == event.id;
        let number = self.heads.iter().filter(own).count() as u64 + 1;
        let text = self.head(number, entries, issued_at);
        self.heads.push(text);
        self.heads.last().unwrap()
    }

    /// A head of the newest event with that number, which nobody has seen yet.
    pub(crate) fn head(&self, number: u64, entries: &Entries, issued_at: Timestamp) -> String {
        let event = self.events.last().unwrap().event();
        let expiration = issued_at.plus(Duration::from_hours(12));
        let head = NewHead { event, number, issued_at, expiration, entries, audit: None };
        let draft = head.draft().unwrap();
        draft.seal(&self.signer().sign(draft.body().as_bytes()).unwrap())
    }

    /// The newest head of the newest event; its first one, which lists nothing, if none was made.
    pub(crate) fn newest_head(&mut self) -> &str {
        let event = self.events.last().unwrap().event().clone();
        let is_there =
            self.heads.last().is_some_and(|head| Head::parse(head).unwrap().event_id() == event.id);
        if !is_there {
            self.state(&Entries::default(), event.created_at);
        }
        self.heads.last().unwrap()
    }

    /// How many heads were made.
    pub(crate) fn heads(&self) -> usize {
        self.heads.len()
    }

    /// The key of the newest generation.
    fn signer(&self) -> SigningKey {
        key(self.first_key + u32::try_from(self.events.len()).unwrap() - 1)
    }

    /// The newest generation's word for a key.
    pub(crate) fn endorse(&self, purpose: Purpose, public_key: PublicKey, expiration: Timestamp) -> String {
        self.endorse_as(&SignRequest { purpose, public_key, expiration }, "authd")
    }

    /// The same for a service by name. Endorsements are numbered from 1 on.
    pub(crate) fn endorse_as(&self, request: &SignRequest, service: &str) -> String {
        let head = self.events.last().unwrap();
        let number = self.endorsed.fetch_add(1, Ordering::Relaxed) + 1;
        let (prefix, id) = (self.prefix(), head.event().id);
        let draft = endorsement::Draft::numbered(request, service, number, &prefix, &id);
        draft.seal(&self.signer().sign(draft.body().as_bytes()).unwrap())
    }
}

/// A device's session as it stands: the key that signs requests, and the token that names it.
pub(crate) struct Session {
    pub(crate) key: SigningKey,
    pub(crate) claims: Claims,
    pub(crate) token: String,
}

impl Session {
    /// A session that `issuer` opens at `issued` for the device of that number, with role `user`: `read`.
    pub(crate) fn open(issuer: &SigningKey, number: u32, issued: Timestamp) -> Self {
        let key = key(number);
        let roles = BTreeMap::from([("user".to_owned(), vec!["read".to_owned()])]);
        let claims = Claims {
            server_identity: issuer.public_key(),
            device: Digest::of(format!("device {number}")),
            identity: Digest::of(format!("identity {number}")),
            public_key: key.public_key(),
            rotation_hash: Digest::of(format!("next {number}")),
            issued_at: issued,
            expiry: issued.plus(Duration::from_mins(15)),
            refresh_expiry: issued.plus(Duration::from_hours(12)),
            attributes: Attributes::new(roles).unwrap(),
        };
        Self { token: claims.issue(issuer).unwrap(), key, claims }
    }

    /// The request with that nonce, made at `made`.
    pub(crate) fn request(&self, nonce: Nonce, made: Timestamp, inner: &str) -> String {
        access::seal_request(&self.key, &nonce, made, &self.token, None, inner).unwrap()
    }

    /// The same, bound to a place.
    pub(crate) fn request_to(&self, audience: &str, nonce: Nonce, made: Timestamp, inner: &str) -> String {
        access::seal_request(&self.key, &nonce, made, &self.token, Some(audience), inner).unwrap()
    }
}

/// base64url without padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let block =
            chunk.iter().fold(0_u32, |block, byte| block << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(block >> (18 - 6 * place) & 63) as usize]));
        }
    }
    text
}
