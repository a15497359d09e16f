use std::time::Duration;

use super::*;
use crate::{
    Code, Digest, Refusal, SigningKey, Timestamp,
    chain::{self, Chain, Settings},
    endorsement::{self, Endorsement, Purpose, SignRequest},
    limits,
    statement::{Entries, Head, NewHead},
    token::{Attributes, Claims},
};

const EPOCH: u64 = 50_000;

fn key(number: u8) -> SigningKey {
    SigningKey::from_seed(&[number; 32]).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_millis(seconds * 1000)
}

/// A chain of one event by key 1, and what its generation endorses.
struct Hsm {
    chain: Chain,
    event: chain::SignedEvent,
}

impl Hsm {
    fn new() -> Self {
        let draft = chain::Draft::first(&key(1).public_key(), &key(2).public_key().digest(), at(0));
        let signature = key(1).sign(draft.payload().as_bytes()).unwrap();
        let event = draft.seal(&signature).unwrap();
        let settings = Settings { skew: Duration::from_secs(5), ..Settings::default() };
        let mut chain = Chain::new(event.id(), settings);
        chain.merge([event.clone()], at(1));
        Self { chain, event }
    }

    /// What it says of the key of that number, until second 1,000.
    fn endorse(&self, number: u8, purpose: Purpose, service: &str) -> Endorsement {
        let request = SignRequest { purpose, public_key: key(number).public_key(), expiration: at(1_000) };
        let draft = endorsement::Draft::new(&request, service, &self.event.id(), &self.event.id());
        Endorsement::parse(&draft.seal(&key(1).sign(draft.body().as_bytes()).unwrap())).unwrap()
    }

    /// A head that revokes the key of that number.
    fn revoke(&mut self, number: u8) {
        let entries =
            Entries { keys: [(key(number).public_key().name(), at(1_000))].into(), ..Entries::default() };
        let event = self.event.event();
        let (issued_at, expiration) = (at(100), at(40_000));
        let head = NewHead { event, number: 1, issued_at, expiration, entries: &entries, audit: None };
        let draft = head.draft().unwrap();
        let head = Head::parse(&draft.seal(&key(1).sign(draft.body().as_bytes()).unwrap())).unwrap();
        self.chain.hear(&head.verify(&self.chain, chain::windows::EDGE, at(100)).unwrap(), at(100));
    }

    fn seal_as(&self, position: Position, content: &Content, services: [&str; 2]) -> String {
        let access = self.endorse(11, Purpose::Access, services[0]);
        let response = self.endorse(12, Purpose::Response, services[1]);
        let signers = Signers { access: (&key(11), &access), response: (&key(12), &response) };
        let draft = Draft { identity: self.chain.prefix(), position, issued_at: at(90), content };
        draft.seal(signers).unwrap()
    }

    fn seal(&self, number: u64, content: &Content) -> String {
        self.seal_as(place(EPOCH, number), content, ["authd", "authd"])
    }

    fn batch(&self, number: u64, entries: &[Entry]) -> Message {
        Message::parse(&self.seal(number, &Content::Batch(entries.to_vec()))).unwrap()
    }

    fn take(&self, state: &mut State, message: &Message) -> Taken {
        state.take(message.verify(&self.chain, at(100)).unwrap())
    }

    /// The state of a reader that has read a snapshot of these entries.
    fn joined(&self, position: Position, entries: &[Entry]) -> State {
        let chunks = Chunks::of(entries).unwrap();
        let message = Message::parse(&self.seal_as(position, &chunks.content, ["authd", "authd"])).unwrap();
        let loading = Loading::begin(message.verify(&self.chain, at(100)).unwrap()).unwrap();
        let texts: Vec<_> = chunks.texts.into_iter().map(|(_, text)| text).collect();
        loading.finish(&texts).unwrap()
    }
}

const fn place(epoch: u64, number: u64) -> Position {
    Position { epoch, number }
}

fn entry(subject: &str, account: &str, standing: Standing) -> Entry {
    let place = Place { subject: Digest::of(subject), account: Digest::of(account), cause: Cause::Ban };
    Entry { place, standing }
}

fn denied(subject: &str) -> Entry {
    entry(subject, "account", Standing::Denied(None))
}

fn lifted(subject: &str) -> Entry {
    entry(subject, "account", Standing::Lifted)
}

fn code<T>(outcome: Result<T, Refusal>) -> Result<T, Code> {
    outcome.map_err(|refusal| refusal.code())
}

#[test]
fn entries_read_as_written_and_in_no_other_form() {
    let entries = [
        denied("a"),
        entry("b", "account", Standing::Denied(Some(at(7)))),
        lifted("c"),
        Entry { place: Place { cause: Cause::Revocation, ..denied("a").place }, ..denied("a") },
    ];
    let text = write_entries(&entries);
    assert_eq!(parse_entries(&text).unwrap(), entries);
    for (from, to) in [
        ("\"ban\"", "\"hatred\""),
        ("\"lifted\":true", "\"lifted\":false"),
        ("\"lifted\":true", "\"lifted\":true,\"until\":\"2026-01-01T00:00:00.000Z\""),
        ("\"account\"", "\"acount\""),
        ("[{", "[[],{"),
        ("}]", "}"),
    ] {
        let other = text.replace(from, to);
        assert!(other != text && parse_entries(&other).is_err(), "{other}");
    }
    let most = vec![denied("a"); limits::FEED_ENTRIES_MAX];
    assert!(parse_entries(&write_entries(&most)).is_ok());
    let more = vec![denied("a"); limits::FEED_ENTRIES_MAX + 1];
    assert_eq!(code(parse_entries(&write_entries(&more))), Err(Code::TooLarge));
}

#[test]
fn a_batch_of_the_longest_entries_is_carried() {
    let hsm = Hsm::new();
    let longest = Entry {
        place: Place { cause: Cause::Revocation, ..denied("a").place },
        standing: Standing::Denied(Some(at(7))),
    };
    let text = hsm.seal(limits::NUMBER_MAX, &Content::Batch(vec![longest; limits::FEED_ENTRIES_MAX]));
    assert!(text.len() < limits::FEED_VALUE_MAX, "{}", text.len());
    assert_eq!(
        code(Message::parse(&(text + &" ".repeat(limits::FEED_VALUE_MAX)))).err(),
        Some(Code::TooLarge)
    );
    let digest = Digest::of("chunk");
    let snapshot = Content::Snapshot {
        count: limits::FEED_DENIALS_MAX as u64,
        chunks: vec![digest; limits::FEED_CHUNKS_MAX],
    };
    assert!(hsm.seal(1, &snapshot).len() < limits::FEED_VALUE_MAX);
}

#[test]
fn a_message_that_is_not_wholly_an_auth_servers_is_refused() {
    let mut hsm = Hsm::new();
    let text = hsm.seal(3, &Content::Batch(vec![denied("a")]));
    let check = |hsm: &Hsm, text: &str, now| {
        let message = Message::parse(text)?;
        message.verify(&hsm.chain, now).map(Proven::position)
    };
    assert_eq!(check(&hsm, &text, at(100)), Ok(place(EPOCH, 3)));
    assert_eq!(code(check(&hsm, &text, at(1_000))), Err(Code::DeadKey));
    assert_eq!(code(check(&hsm, &text, at(44))), Err(Code::FutureRequest));
    assert!(check(&hsm, &text, at(45)).is_ok());
    let replaced = |from: &str, to: &str| {
        let other = text.replacen(from, to, 1);
        assert_ne!(other, text);
        other
    };
    let signature = |name: &str| {
        let start = text.find(name).unwrap() + name.len() + 3;
        text[start..start + 88].to_owned()
    };
    let (access, response) = (signature("accessSignature"), signature("responseSignature"));
    for (other, expected) in [
        (replaced("\"position\":3", "\"position\":4"), Code::BadSignature),
        (replaced("denial-batch", "denial-bitch"), Code::WrongPurpose),
        (replaced("\"ban\"", "\"deletion\""), Code::BadSignature),
        // The thief of one of the two keys.
        (replaced(&access, &response), Code::BadSignature),
        (replaced(&response, &access), Code::BadSignature),
        (text[..text.len() - 1].to_owned(), Code::InvalidMessage),
        (text.clone() + "}", Code::InvalidMessage),
        (hsm.seal_as(place(EPOCH, 1), &Content::Batch(Vec::new()), ["edge:a", "authd"]), Code::WrongPurpose),
        (hsm.seal_as(place(EPOCH, 1), &Content::Batch(Vec::new()), ["authd", "edge:a"]), Code::WrongPurpose),
    ] {
        assert_eq!(code(check(&hsm, &other, at(100))), Err(expected), "{other}");
    }
    let elsewhere = Chain::new(Digest::of("other"), Settings::default());
    let message = Message::parse(&text).unwrap();
    assert_eq!(code(message.verify(&elsewhere, at(100)).map(drop)), Err(Code::DeadKey));
    hsm.revoke(12);
    assert_eq!(code(check(&hsm, &text, at(100))), Err(Code::Revoked));
}

#[test]
fn the_two_endorsements_are_for_their_own_uses() {
    let hsm = Hsm::new();
    let response = hsm.endorse(12, Purpose::Response, "authd");
    // An app server's key, or the response key twice, is no access key.
    let signers = Signers { access: (&key(12), &response), response: (&key(12), &response) };
    let content = Content::Batch(Vec::new());
    let draft = Draft {
        identity: hsm.chain.prefix(),
        position: place(EPOCH, 1),
        issued_at: at(90),
        content: &content,
    };
    let message = Message::parse(&draft.seal(signers).unwrap()).unwrap();
    assert_eq!(code(message.verify(&hsm.chain, at(100)).map(drop)), Err(Code::WrongPurpose));
}

#[test]
fn batches_count_in_order_and_denials_at_once() {
    let hsm = Hsm::new();
    let mut state = State::default();
    let now = at(100);
    let denies = |state: &State, subject: &str| state.denials().denies(&Digest::of(subject), now);
    // Before any snapshot: whom a batch denies is denied, and no place is reached.
    assert_eq!(hsm.take(&mut state, &hsm.batch(7, &[denied("early")])), Taken::Ahead);
    assert!(denies(&state, "early") && state.position().is_none());

    let mut state = hsm.joined(place(EPOCH, 3), &[denied("a"), denied("b")]);
    assert_eq!(state.position(), Some(place(EPOCH, 3)));
    for (number, entries, taken, denied_now) in [
        (3, vec![lifted("a")], Taken::Old, "ab"),
        (2, vec![lifted("a"), denied("c")], Taken::Old, "ab"),
        (4, vec![lifted("a"), denied("c")], Taken::Next, "bc"),
        (4, vec![lifted("b")], Taken::Old, "bc"),
        (6, vec![lifted("b"), denied("d")], Taken::Ahead, "bcd"),
        (5, vec![lifted("c")], Taken::Next, "bd"),
        (6, vec![lifted("b"), denied("d")], Taken::Next, "d"),
    ] {
        assert_eq!(hsm.take(&mut state, &hsm.batch(number, &entries)), taken, "{number}");
        for subject in ["a", "b", "c", "d"] {
            assert_eq!(denies(&state, subject), denied_now.contains(subject), "{number} {subject}");
        }
    }
    // A later epoch begins with a snapshot: its batches lift nothing before it.
    let later = Content::Batch(vec![lifted("d"), denied("e")]);
    let later = Message::parse(&hsm.seal_as(place(EPOCH + 1, 7), &later, ["authd", "authd"])).unwrap();
    assert_eq!(hsm.take(&mut state, &later), Taken::Ahead);
    assert!(denies(&state, "d") && denies(&state, "e"));
    for (position, wanted) in [
        (place(EPOCH, 6), false),
        (place(EPOCH, 7), true),
        (place(EPOCH - 1, 9), false),
        (place(EPOCH + 1, 0), true),
    ] {
        assert_eq!(state.wants(position), wanted);
    }
}

/// Ended sessions deny tokens that were issued before, of that account and device; nothing later, and nobody else.
#[test]
fn ended_sessions_deny_what_was_issued_before() {
    let (device, account) = (Digest::of("device"), Digest::of("account"));
    let place = Place { subject: device, account, cause: Cause::Sessions };
    let ended = |last, until| {
        let standing = Standing::Ended { issued_up_to: at(last), until: at(until) };
        Entry { place, standing }
    };
    let claims = |device, identity, issued| Claims {
        server_identity: key(1).public_key(),
        device,
        identity,
        public_key: key(2).public_key(),
        rotation_hash: Digest::of("next"),
        issued_at: at(issued),
        expiry: at(issued + 900),
        refresh_expiry: at(issued + 43_200),
        attributes: Attributes::default(),
    };
    let mut denials = Denials::default();
    denials.set(&ended(100, 1_000));
    for (device, account, issued, now, expected) in [
        (device, account, 99, 101, true),
        (device, account, 100, 101, true),
        (device, account, 101, 101, false),
        (device, account, 100, 999, true),
        (device, account, 100, 1_000, false),
        (Digest::of("another"), account, 99, 101, false),
        (device, Digest::of("another"), 99, 101, false),
    ] {
        assert_eq!(denials.ends(&claims(device, account, issued), at(now)), expected, "{issued} {now}");
        assert!(!denials.denies(&device, at(now)), "the device itself is denied");
    }
    // A later end counts alone; a ban beside it stays.
    denials.set(&ended(200, 1_100));
    denials.set(&Entry { place: Place { cause: Cause::Ban, ..place }, standing: Standing::Denied(None) });
    assert!(denials.ends(&claims(device, account, 200), at(1_050)) && denials.denies(&device, at(1_050)));
    denials.set(&Entry { place, standing: Standing::Lifted });
    assert!(!denials.ends(&claims(device, account, 1), at(300)) && denials.denies(&device, at(300)));

    let entries = [ended(100, 1_000)];
    let text = write_entries(&entries);
    assert_eq!(parse_entries(&text), Ok(entries.to_vec()));
    for (from, to) in [
        ("sessions", "revocation"),
        ("sessions", "ban"),
        ("issuedUpTo", "issued"),
        ("\"until\"", "\"untill\""),
        ("}", ",\"lifted\":true}"),
    ] {
        assert_eq!(code(parse_entries(&text.replace(from, to))), Err(Code::InvalidMessage), "{to}");
    }
}

#[test]
fn places_are_lifted_one_by_one_and_end_by_the_clock() {
    let mut denials = Denials::default();
    let subject = Digest::of("device");
    for account in ["A", "B"] {
        denials.set(&entry("device", account, Standing::Denied(Some(at(10)))));
    }
    denials.set(&entry("device", "B", Standing::Denied(Some(at(20)))));
    assert_eq!((denials.count(), denials.entries().count()), (1, 2));
    let before = denials.clone();
    denials.set(&entry("device", "A", Standing::Lifted));
    assert!(denials.denies(&subject, at(19)), "B's denial was lifted with A's");
    assert!(!denials.denies(&subject, at(20)));
    denials.set(&entry("stranger", "A", Standing::Lifted));
    denials.drop_ended(at(19));
    assert_eq!(denials.count(), 1);
    denials.drop_ended(at(20));
    assert_eq!(denials.count(), 0);
    assert!(before.denies(&subject, at(19)) && before.entries().count() == 2, "a copy changed");
}

#[test]
fn a_snapshot_counts_whole_or_not_at_all() {
    let hsm = Hsm::new();
    let names: Vec<String> = (0..limits::FEED_ENTRIES_MAX + 5).map(|number| number.to_string()).collect();
    let entries: Vec<Entry> = names.iter().map(|name| denied(name)).collect();
    let chunks = Chunks::of(&entries).unwrap();
    let texts: Vec<String> = chunks.texts.iter().map(|(_, text)| text.clone()).collect();
    assert_eq!(texts.len(), 2);
    let load = |content: &Content, texts: &[String]| {
        let message = Message::parse(&hsm.seal(9, content)).unwrap();
        let loading = Loading::begin(message.verify(&hsm.chain, at(100)).unwrap()).unwrap();
        loading.finish(texts).map(|state| state.denials().count())
    };
    assert_eq!(load(&chunks.content, &texts), Ok(entries.len()));
    let swapped = [texts[1].clone(), texts[0].clone()];
    let cut = [texts[0].clone(), texts[1][..texts[1].len() - 1].to_owned()];
    for wrong in [&texts[..1], &swapped, &cut, &[]] {
        assert_eq!(code(load(&chunks.content, wrong)), Err(Code::InvalidMessage));
    }
    let with_lift = Chunks::of(&[lifted("a")]).unwrap();
    assert!(load(&with_lift.content, &[with_lift.texts[0].1.clone()]).is_err());
    let Content::Snapshot { count, chunks } = chunks.content else { panic!("no snapshot") };
    let miscounted = Content::Snapshot { count: count - 1, chunks };
    assert_eq!(code(load(&miscounted, &texts)), Err(Code::InvalidMessage));
    let batch = hsm.batch(9, &[]);
    assert!(Loading::begin(batch.verify(&hsm.chain, at(100)).unwrap()).is_none());
}

/// Made later than all that was taken, and at an earlier position: only then the auth server went back. From there on
/// whom a batch denies is denied, and nothing is lifted.
#[test]
fn an_auth_server_that_went_back_is_seen_by_time_and_position() {
    let hsm = Hsm::new();
    let skew = Duration::from_secs(5);
    let taken_at = |seconds| {
        let denials = hsm.joined(place(EPOCH, 7), &[denied("a")]).denials().clone();
        State::new(place(EPOCH, 7), at(seconds), denials)
    };
    // Every message here is made at second 90.
    for (taken, position, expected) in [
        (84, place(EPOCH, 6), true),
        (84, place(EPOCH - 1, 900), true),
        (85, place(EPOCH, 6), false),
        (90, place(EPOCH, 6), false),
        (84, place(EPOCH, 7), false),
        (84, place(EPOCH, 8), false),
        (84, place(EPOCH + 1, 0), false),
    ] {
        let content = Content::Batch(vec![lifted("a"), denied("b")]);
        let message = Message::parse(&hsm.seal_as(position, &content, ["authd", "authd"])).unwrap();
        let proven = message.verify(&hsm.chain, at(100)).unwrap();
        let mut state = taken_at(taken);
        assert_eq!(state.went_back(proven, skew), expected, "{taken} {position:?}");
        assert_eq!(state.take_denials(proven), Taken::Ahead);
        let denies = |name: &str| state.denials().denies(&Digest::of(name), at(100));
        assert!(denies("a") && denies("b") && state.position() == Some(place(EPOCH, 7)));
    }
    assert!(!State::default().went_back(hsm.batch(1, &[]).verify(&hsm.chain, at(100)).unwrap(), skew));
}
