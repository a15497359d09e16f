//! What must hold for all inputs: one spelling a value, no change of a signed thing that goes unseen, and a
//! chain that comes out the same however its events arrive.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests assert by panicking")]

use std::{collections::BTreeMap, sync::LazyLock, time::Duration};

use keychain::{
    Digest, Nonce, PublicKey, Refusal, Signature, SigningKey, Timestamp, VerifyingKey,
    access::{self, AccessRequest, Response},
    chain::{self, Chain, Settings, SignedEvent},
    endorsement::{self, Endorsement, Expected, Purpose, SignRequest},
    message::{self, AccessKeys, Authentication, Operation, body},
    token::{Attributes, Claims, Token},
};
use proptest::{array, collection::vec, prelude::*, sample::Index};

const SKEW: Duration = Duration::from_secs(5);
const NOW: i64 = 1_767_323_045_678;

proptest! {
    #[test]
    fn primitives_come_back_as_they_went(
        half in array::uniform32(any::<u8>()),
        other in array::uniform32(any::<u8>()),
        nonce in array::uniform16(any::<u8>()),
        millis in -62_167_219_200_000_i64..253_402_300_800_000,
    ) {
        let signature = Signature::from_bytes([half, other].concat().try_into().unwrap());
        prop_assert_eq!(Signature::parse(&signature.to_string()), Ok(signature));
        let nonce = Nonce::from_bytes(nonce);
        prop_assert_eq!(Nonce::parse(&nonce.to_string()), Ok(nonce));
        let digest = Digest::of(half);
        prop_assert_eq!(Digest::parse(&digest.to_string()), Ok(digest));
        if let Ok(key) = SigningKey::from_seed(&half) {
            let key = key.public_key();
            prop_assert_eq!(PublicKey::parse(&key.to_string()), Ok(key));
            prop_assert_eq!(PublicKey::from_sec1(key.sec1()), Ok(key));
        }
        let at = Timestamp::from_unix_millis(millis);
        prop_assert_eq!((Timestamp::parse(&at.to_string()), at.unix_millis()), (Ok(at), millis));
    }

    #[test]
    fn whatever_parses_is_written_as_it_was_read(text in near_primitives()) {
        same(&text, PublicKey::parse(&text))?;
        same(&text, Signature::parse(&text))?;
        same(&text, Digest::parse(&text))?;
        same(&text, Nonce::parse(&text))?;
    }

    #[test]
    fn timestamps_keep_their_order(one in timestamp(), two in timestamp()) {
        let (first, second) = (Timestamp::parse(&one).unwrap(), Timestamp::parse(&two).unwrap());
        prop_assert_eq!(first.cmp(&second), one.cmp(&two), "{} {}", one, two);
        prop_assert_eq!(Timestamp::parse(&first.to_string()), Ok(first.to_millis()));
    }

    #[test]
    fn no_input_makes_a_reader_panic(bytes in vec(any::<u8>(), 0..512), text in ".{0,200}") {
        read_all(&bytes);
        read_all(text.as_bytes());
    }

    #[test]
    fn no_change_of_a_good_message_makes_a_reader_panic(
        which in any::<Index>(), at in any::<Index>(), junk in vec(any::<u8>(), 0..4), cut in 0_usize..4,
    ) {
        let (_, text, _) = which.get(&THINGS).clone();
        let mut bytes = text.into_bytes();
        let start = at.index(bytes.len());
        let end = (start + cut).min(bytes.len());
        bytes.splice(start..end, junk);
        read_all(&bytes);
    }

    #[test]
    fn attributes_survive_a_token(
        roles in prop::collection::btree_map("[a-z][a-z-]{0,9}", vec("[a-z:. ]{1,9}", 0..4), 0..6),
    ) {
        let attributes = Attributes::new(roles.clone()).unwrap();
        let claims = Claims { attributes, ..claims() };
        let token = Token::parse(&claims.issue(&key(5)).unwrap()).unwrap();
        prop_assert_eq!(token.claims(), &claims);
        for (role, permissions) in &roles {
            for permission in permissions {
                prop_assert!(token.claims().attributes.allows(role, permission));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn a_changed_character_of_a_signed_thing_is_refused(
        which in any::<Index>(), at in any::<Index>(), character in prop_oneof![
            prop::char::range('!', '~'), any::<char>(),
        ],
    ) {
        let (name, text, holds) = which.get(&THINGS).clone();
        prop_assert_eq!(holds(text.as_bytes()).map_err(|refusal| refusal.to_string()), Ok(()), "{}", name);
        let place = at.index(text.chars().count());
        prop_assume!(text.chars().nth(place) != Some(character));
        let changed: String =
            text.chars().enumerate().map(|(n, old)| if n == place { character } else { old }).collect();
        prop_assert!(holds(changed.as_bytes()).is_err(), "{}: {}", name, changed);
    }

    #[test]
    fn a_changed_byte_of_a_signed_thing_is_refused(
        which in any::<Index>(), at in any::<Index>(), flip in 1_u8..=255,
    ) {
        let (name, text, holds) = which.get(&THINGS).clone();
        let mut bytes = text.into_bytes();
        *at.get_mut(bytes.as_mut_slice()) ^= flip;
        prop_assert!(holds(&bytes).is_err(), "{}: {:?}", name, bytes);
    }

    #[test]
    fn a_character_left_out_of_a_signed_thing_is_refused(which in any::<Index>(), at in any::<Index>()) {
        let (name, mut text, holds) = which.get(&THINGS).clone();
        text.remove(at.index(text.len()));
        prop_assert!(holds(text.as_bytes()).is_err(), "{}: {}", name, text);
    }

    #[test]
    fn a_changed_token_is_refused_or_says_the_same(at in any::<Index>(), character in "[A-Za-z0-9_-]") {
        let issued = claims().issue(&key(5)).unwrap();
        let place = at.index(issued.len());
        let mut changed = issued.clone();
        changed.replace_range(place..=place, &character);
        let read = Token::parse(&changed).and_then(|token| {
            token.verify(&VerifyingKey::new(&key(5).public_key())?)?;
            Ok(token.claims().clone())
        });
        if let Ok(read) = read {
            prop_assert_eq!(read, claims(), "the header of gzip is not signed, the claims are");
            prop_assert!(changed == issued || place >= Signature::TEXT_LEN);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_walk_refuses_any_other_order(order in Just((0..6).collect::<Vec<usize>>()).prop_shuffle()) {
        let events = events(6);
        let turned: Vec<_> = order.iter().map(|place| events[*place].clone()).collect();
        prop_assert_eq!(walk(&turned).is_ok(), order.is_sorted());
    }

    #[test]
    fn a_walk_refuses_an_event_left_out_or_repeated(place in 0_usize..6, again in 0_usize..6) {
        let events = events(6);
        let mut fewer = events.clone();
        fewer.remove(place);
        let only_the_end_is_missing = place == 5;
        prop_assert_eq!(walk(&fewer).is_ok(), only_the_end_is_missing);
        let mut more = events.clone();
        more.insert(again, events[place].clone());
        prop_assert!(walk(&more).is_err());
    }

    #[test]
    fn a_verifier_comes_to_the_same_chain_however_events_arrive(
        order in vec(0_usize..6, 0..12).prop_flat_map(|more| {
            Just((0..6).chain(more).collect::<Vec<_>>()).prop_shuffle()
        }),
        cuts in vec(1_usize..4, 18),
    ) {
        let events = events(6);
        let mut chain = Chain::new(events[0].id(), settings());
        let mut rest = order.as_slice();
        for cut in cuts {
            let (now, later) = rest.split_at(cut.min(rest.len()));
            let batch: Vec<_> = now.iter().map(|place| events[*place].clone()).collect();
            prop_assert!(chain.merge(batch, at(100)).rivals.is_empty());
            rest = later;
        }
        prop_assert_eq!(ids(&chain), events.iter().map(SignedEvent::id).collect::<Vec<_>>());
        for event in &events {
            let live = chain.live(&event.id(), chain::windows::EDGE, at(100));
            prop_assert!(live.is_ok(), "event {}", event.event().sequence_number);
        }
    }

    #[test]
    fn a_verifier_goes_as_far_as_the_first_hole(seen in vec(any::<bool>(), 6)) {
        let events = events(6);
        let given: Vec<_> =
            events.iter().zip(&seen).filter(|(_, seen)| **seen).map(|(event, _)| event.clone()).collect();
        let mut chain = Chain::new(events[0].id(), settings());
        chain.merge(given, at(100));
        let whole = seen.iter().take_while(|seen| **seen).count();
        let expected: Vec<_> = events.iter().take(whole).map(SignedEvent::id).collect();
        prop_assert_eq!(ids(&chain), expected);
        chain.merge(events.clone(), at(100));
        prop_assert_eq!(chain.events().count(), 6);
    }

    #[test]
    fn a_verifier_never_leaves_what_it_accepted(
        known in 1_usize..6, fork in 1_usize..6, length in 1_usize..5, order in any::<bool>(),
    ) {
        prop_assume!(fork < known);
        let events = events(6);
        let theirs = rivals(&events, fork, length);
        let mut chain = Chain::new(events[0].id(), settings());
        chain.merge(events[..known].to_vec(), at(100));
        let before = ids(&chain);
        chain.merge(theirs.clone(), at(100));
        prop_assert_eq!(ids(&chain), before, "no rival moves it");
        let rest = events[known..].to_vec();
        chain.merge(if order { [rest, theirs.clone()] } else { [theirs.clone(), rest] }.concat(), at(100));
        prop_assert_eq!(chain.events().count(), 6, "its own branch goes on");
        for rival in &theirs {
            prop_assert!(chain.live(&rival.id(), chain::windows::AUTHD, at(100)).is_err());
        }
    }
}

type Check = fn(&[u8]) -> Result<(), Refusal>;

/// Made once: signing costs more than reading.
static THINGS: LazyLock<Vec<(&str, String, Check)>> = LazyLock::new(signed_things);
static EVENTS: LazyLock<Vec<SignedEvent>> = LazyLock::new(|| grow(Vec::new(), 6, |generation| generation, 0));

/// One of each thing that is signed, and what a reader of it does.
fn signed_things() -> Vec<(&'static str, String, Check)> {
    let nonce = Nonce::from_bytes([7; 16]);
    let token = claims().issue(&key(5)).unwrap();
    let request =
        access::seal_request(&key(20), &nonce, at(0), &token, Some("https://a/b"), "{\"foo\":[1,\"b\"]}");
    vec![
        ("event 0", events(1)[0].text().to_owned(), |bytes| SignedEvent::parse(utf8(bytes)?).map(|_| ())),
        ("event 1", events(2)[1].text().to_owned(), |bytes| SignedEvent::parse(utf8(bytes)?).map(|_| ())),
        ("endorsement", endorsement(), check_endorsement),
        ("rotation", rotation(), check_rotation),
        ("link", link(), check_link),
        ("access request", request.unwrap(), check_access),
        ("answer", access::seal_response(&key(21), &nonce, "{\"a\":\"b\"}").unwrap(), check_answer),
    ]
}

fn endorsement() -> String {
    let head = &events(3)[2];
    let draft = endorsement::Draft::new(&sign_request(), "edge:demo", &head.event().prefix, &head.id());
    draft.seal(&key(2).sign(draft.body().as_bytes()).unwrap())
}

fn sign_request() -> SignRequest {
    SignRequest { purpose: Purpose::Response, public_key: key(21).public_key(), expiration: at(200) }
}

fn check_endorsement(bytes: &[u8]) -> Result<(), Refusal> {
    let events = events(3);
    let mut chain = Chain::new(events[0].id(), settings());
    chain.merge(events, at(100));
    let request = sign_request();
    let expected =
        Expected { purpose: request.purpose, public_key: &request.public_key, service: Some("edge:demo") };
    Endorsement::parse(utf8(bytes)?)?.verify(&chain, expected, chain::windows::EDGE, at(100))
}

fn device(first: u8, second: u8) -> Authentication {
    let (public_key, rotation_hash) = (key(first).public_key(), key(second).public_key().digest());
    let device = Digest::of_parts(&[&public_key.to_string(), &rotation_hash.to_string()]);
    Authentication { device, identity: Digest::of("identity"), public_key, rotation_hash }
}

fn rotation() -> String {
    let request = body::of_device(&device(30, 31));
    message::request(&key(30), &Nonce::from_bytes([1; 16]), &request).unwrap()
}

fn check_rotation(bytes: &[u8]) -> Result<(), Refusal> {
    message::parse(Operation::DeviceRotate, bytes)?.verify().map(|_| ())
}

fn link() -> String {
    let container = message::link_container(&key(32), &device(32, 33)).unwrap();
    let request = body::link(&device(30, 31), &container);
    message::request(&key(30), &Nonce::from_bytes([1; 16]), &request).unwrap()
}

fn check_link(bytes: &[u8]) -> Result<(), Refusal> {
    message::parse(Operation::DeviceLink, bytes)?.verify().map(|_| ())
}

fn check_access(bytes: &[u8]) -> Result<(), Refusal> {
    let request = AccessRequest::parse(bytes)?;
    let token = Token::parse(request.token)?;
    token.verify(&VerifyingKey::new(&key(5).public_key())?)?;
    token.claims().check_access_times(at(0), SKEW)?;
    request.check_time(at(0), SKEW)?;
    request.verify(&VerifyingKey::new(&token.claims().public_key)?)
}

fn check_answer(bytes: &[u8]) -> Result<(), Refusal> {
    let answer = Response::parse(bytes)?;
    answer.verify(&Nonce::from_bytes([7; 16]))?;
    if answer.server_identity != key(21).public_key() {
        return Err(Refusal::new(keychain::Code::UnknownKey, "another server"));
    }
    Ok(())
}

/// Every reader on the same bytes; what they say does not matter here.
fn read_all(bytes: &[u8]) {
    for operation in Operation::ALL {
        message::parse(operation, bytes).ok();
    }
    message::parse(Operation::SessionCreate, bytes).and_then(|it| it.verify_with(&key(1).public_key())).ok();
    AccessRequest::parse(bytes).ok();
    Response::parse(bytes).ok();
    SignRequest::parse(bytes).ok();
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    SignedEvent::parse(text).ok();
    Endorsement::parse(text).ok();
    Token::parse(text).ok();
    Timestamp::parse(text).ok();
    PublicKey::parse(text).ok();
    Signature::parse(text).ok();
    Digest::parse(text).ok();
    Nonce::parse(text).ok();
}

fn claims() -> Claims {
    let roles = BTreeMap::from([("user".to_owned(), vec!["read".to_owned(), "write".to_owned()])]);
    let access =
        AccessKeys { public_key: key(20).public_key(), rotation_hash: key(22).public_key().digest() };
    Claims {
        server_identity: key(5).public_key(),
        device: Digest::of("device"),
        identity: Digest::of("identity"),
        public_key: access.public_key,
        rotation_hash: access.rotation_hash,
        issued_at: at(0),
        expiry: at(900),
        refresh_expiry: at(43_200),
        attributes: Attributes::new(roles).unwrap(),
    }
}

/// A chain of `count` generations, one a second.
fn events(count: usize) -> Vec<SignedEvent> {
    EVENTS[..count].to_vec()
}

/// A thief's branch: he holds the key of generation `fork` and signs on from there with keys of his own.
fn rivals(events: &[SignedEvent], fork: usize, length: usize) -> Vec<SignedEvent> {
    let theirs = |generation: u8| if usize::from(generation) > fork { generation + 100 } else { generation };
    grow(events[..fork].to_vec(), fork + length, theirs, 500).split_off(fork)
}

fn grow(
    mut events: Vec<SignedEvent>,
    count: usize,
    number: impl Fn(u8) -> u8,
    millis: i64,
) -> Vec<SignedEvent> {
    while events.len() < count {
        let generation = u8::try_from(events.len()).unwrap();
        let signer = key(number(generation));
        let next = key(number(generation + 1)).public_key().digest();
        let created = Timestamp::from_unix_millis(NOW + i64::from(generation) * 1000 + millis);
        let draft = match events.last() {
            None => chain::Draft::first(&signer.public_key(), &next, created),
            Some(last) => chain::Draft::next(last.event(), &signer.public_key(), &next, created, false),
        };
        let signature = signer.sign(draft.payload().as_bytes()).unwrap();
        events.push(draft.seal(&signature).unwrap());
    }
    events
}

fn walk(events: &[SignedEvent]) -> Result<(), Refusal> {
    let prefix = events.iter().map(|event| event.event().prefix).next().unwrap();
    chain::verify_whole(events, &prefix, at(100), SKEW)
}

fn ids(chain: &Chain) -> Vec<Digest> {
    chain.events().map(SignedEvent::id).collect()
}

fn settings() -> Settings {
    Settings { skew: SKEW, ..Settings::default() }
}

fn key(number: u8) -> SigningKey {
    SigningKey::from_seed(&[number + 1; 32]).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_millis(NOW + seconds * 1000)
}

fn utf8(bytes: &[u8]) -> Result<&str, Refusal> {
    std::str::from_utf8(bytes).map_err(|_| Refusal::new(keychain::Code::InvalidMessage, "not UTF-8"))
}

fn same<T: ToString>(text: &str, read: Result<T, Refusal>) -> Result<(), TestCaseError> {
    if let Ok(value) = read {
        prop_assert_eq!(value.to_string(), text);
    }
    Ok(())
}

/// Texts of the right length and lead, so that many of them parse.
fn near_primitives() -> impl Strategy<Value = String> {
    prop_oneof![
        "1AAI[AB][A-Za-z0-9_-]{43}",
        "1AAIA[gw][A-Za-z0-9_-]{42}",
        "0I[A-Za-z0-9_-]{86}",
        "0I[A-D][A-Za-z0-9_-]{85}",
        "E[A-Za-z0-9_-]{43}",
        "E[A-P][A-Za-z0-9_-]{42}",
        "0A[A-Za-z0-9_-]{22}",
        "0A[A-D][A-Za-z0-9_-]{21}",
        "[A-Za-z0-9_=+/ -]{0,90}",
    ]
}

/// Timestamps with nine digits, so that text and time sort alike.
fn timestamp() -> impl Strategy<Value = String> {
    (0..10_000, 1..13, 1..29, 0..24, 0..60, 0..60, 0..1_000_000_000).prop_map(
        |(year, month, day, hour, minute, second, nano)| {
            format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nano:09}Z")
        },
    )
}
