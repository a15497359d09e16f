//! What surrounds a device in these tests: an HSM chain, an auth server with its keys, and a clock.

use std::time::Duration;

use super::server::Server;
use crate::{
    cesr::Digest,
    chain::{self, Chain, Settings, SignedEvent},
    device::{Device, Outgoing, Trust},
    endorsement::{self, Endorsement, Purpose, SignRequest},
    error::Refusal,
    key::SigningKey,
    limits,
    statement::{Entries, NewHead},
    time::Timestamp,
};

pub(super) struct World {
    pub(super) now: Timestamp,
    pub(super) chain: Chain,
    pub(super) response_key: SigningKey,
    pub(super) access_key: SigningKey,
    pub(super) endorsement: Endorsement,
    generations: Vec<SigningKey>,
    drawn: u64,
}

impl World {
    pub(super) fn new() -> Self {
        let generations: Vec<_> = (1..=4).map(key).collect();
        let now = Timestamp::from_unix_millis(1_800_000_000_000);
        let commitment = generations[1].public_key().digest();
        let draft = chain::Draft::first(&generations[0].public_key(), &commitment, now);
        let event = sealed(draft, &generations[0]);
        let mut chain = Chain::new(event.id(), Settings::default());
        let first = event.id();
        chain.merge([event], now);
        let mut world = Self {
            now,
            endorsement: endorse(&generations[0], &chain, &first, &key(20), Purpose::Response, "authd", now),
            chain,
            response_key: key(20),
            access_key: key(21),
            generations,
            drawn: 0,
        };
        world.pass(Duration::from_secs(1));
        world
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now = self.now.plus(time);
    }

    /// The HSM rotates once, tainting or not.
    pub(super) fn rotate(&mut self, taint: bool) {
        let head = self.chain.head().unwrap().event().clone();
        let place = usize::try_from(head.sequence_number).unwrap() + 1;
        let commitment = self.generations[place + 1].public_key().digest();
        let public_key = self.generations[place].public_key();
        let draft = chain::Draft::next(&head, &public_key, &commitment, self.now, taint);
        let event = sealed(draft, &self.generations[place]);
        self.chain.merge([event], self.now);
    }

    /// The endorsement of another key, by the current generation.
    pub(super) fn endorse(&self, key: &SigningKey, purpose: Purpose, service: &str) -> Endorsement {
        let head = self.chain.head().unwrap().event();
        let place = usize::try_from(head.sequence_number).unwrap();
        endorse(&self.generations[place], &self.chain, &head.id, key, purpose, service, self.now)
    }

    /// A head of the newest event, as keysd tells it.
    pub(super) fn head(&self, number: u64, entries: &Entries) -> String {
        let event = self.chain.head().unwrap().event();
        let place = usize::try_from(event.sequence_number).unwrap();
        let (issued_at, expiration) = (self.now, self.now.plus(limits::HEAD_LIFETIME));
        let draft = NewHead { event, number, issued_at, expiration, entries, audit: None }.draft().unwrap();
        draft.seal(&self.generations[place].sign(draft.body().as_bytes()).unwrap())
    }

    pub(super) fn trust(&self) -> Trust<'_> {
        Trust { chain: &self.chain, endorsement: &self.endorsement }
    }

    /// Random bytes that are never the same twice.
    pub(super) fn entropy(&mut self) -> impl FnMut(&mut [u8]) + use<> {
        self.drawn += 1;
        let mut reader = blake3::Hasher::new().update(&self.drawn.to_be_bytes()).finalize_xof();
        move |bytes: &mut [u8]| reader.fill(bytes)
    }

    /// Sends and takes the answer: nothing is lost.
    pub(super) fn exchange(
        &self,
        server: &mut Server,
        device: &mut Device,
        outgoing: &Outgoing,
    ) -> Result<(), Refusal> {
        let answer = server.answer(self, outgoing.operation, outgoing.body.as_bytes())?;
        let done = device.handle_response(answer.as_bytes(), &self.trust(), self.now)?;
        assert_eq!(done, outgoing.operation);
        Ok(())
    }
}

pub(super) fn key(number: u8) -> SigningKey {
    SigningKey::from_seed(&[number; 32]).unwrap()
}

pub(super) fn recovery_hash(number: u8) -> Digest {
    key(number).public_key().digest()
}

fn sealed(draft: chain::Draft, key: &SigningKey) -> SignedEvent {
    let signature = key.sign(draft.payload().as_bytes()).unwrap();
    draft.seal(&signature).unwrap()
}

fn endorse(
    generation: &SigningKey,
    chain: &Chain,
    generation_id: &Digest,
    key: &SigningKey,
    purpose: Purpose,
    service: &str,
    now: Timestamp,
) -> Endorsement {
    let expiration = now.plus(limits::RESPONSE_KEY_LIFETIME);
    let request = SignRequest { purpose, public_key: key.public_key(), expiration };
    let draft = endorsement::Draft::new(&request, service, &chain.prefix(), generation_id);
    let signature = generation.sign(draft.body().as_bytes()).unwrap();
    Endorsement::parse(&draft.seal(&signature)).unwrap()
}
