use std::time::Duration;

use super::*;
use crate::{
    Code, PublicKey, Refusal, SigningKey, Timestamp,
    chain::{self, Chain, Event, Settings, SignedEvent, windows},
    endorsement::{self, Endorsement, Purpose, SignRequest},
    limits,
};

const SKEW: Duration = Duration::from_secs(5);
const HOUR: i64 = 3600;

fn key(number: u8) -> SigningKey {
    SigningKey::from_seed(&[number; 32]).unwrap()
}

fn public(number: u8) -> PublicKey {
    key(number).public_key()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_millis(seconds * 1000)
}

/// Three generations, an hour each, whose keys are 1, 2 and 3, and a fourth that taints the third.
fn events() -> Vec<SignedEvent> {
    let mut events: Vec<SignedEvent> = Vec::new();
    for number in 0..4_u8 {
        let (own, next) = (key(number + 1), key(number + 2).public_key().digest());
        let created = at(i64::from(number) * HOUR);
        let draft = match events.last() {
            None => chain::Draft::first(&own.public_key(), &next, created),
            Some(last) => chain::Draft::next(last.event(), &own.public_key(), &next, created, number == 3),
        };
        let signature = own.sign(draft.payload().as_bytes()).unwrap();
        events.push(draft.seal(&signature).unwrap());
    }
    events
}

fn chain_of(events: &[SignedEvent]) -> Chain {
    let mut chain = Chain::new(events[0].id(), Settings { skew: SKEW, ..Settings::default() });
    chain.merge(events.to_vec(), at(3 * HOUR));
    chain
}

fn seal(draft: &Draft, signer: u8) -> String {
    draft.seal(&key(signer).sign(draft.body().as_bytes()).unwrap())
}

fn head(event: &Event, signer: u8, number: u64, entries: &Entries) -> Head {
    head_of(event, signer, number, entries, at(2 * HOUR))
}

fn head_of(event: &Event, signer: u8, number: u64, entries: &Entries, issued_at: Timestamp) -> Head {
    let expiration = at(14 * HOUR);
    let new = NewHead { event, number, issued_at, expiration, entries, audit: None };
    Head::parse(&seal(&new.draft().unwrap(), signer)).unwrap()
}

fn denying(denied: &[Digest]) -> Entries {
    Entries { denied: denied.iter().copied().collect(), ..Entries::default() }
}

fn revoking(number: u8, until: i64) -> Entries {
    Entries { keys: [(public(number).name(), at(until))].into(), ..Entries::default() }
}

fn service(name: &str, endorsed_up_to: u64, until: i64) -> Entries {
    let revocation = ServiceRevocation { endorsed_up_to, until: at(until) };
    Entries { services: [(name.to_owned(), revocation)].into(), ..Entries::default() }
}

fn joined(lists: &[&Entries]) -> Entries {
    let mut all = Entries::default();
    for one in lists {
        all.join(one);
    }
    all
}

fn code<T>(outcome: Result<T, Refusal>) -> Result<T, Code> {
    outcome.map_err(|refusal| refusal.code())
}

#[test]
fn a_head_reads_as_written() {
    let events = events();
    let entries =
        joined(&[&denying(&[events[0].id()]), &revoking(9, 20 * HOUR), &service("edge:a", 7, 21 * HOUR)]);
    let audit = Some(LastLine { number: 41, digest: Digest::of("line") });
    let (issued_at, expiration) = (at(2 * HOUR), at(14 * HOUR));
    let new =
        NewHead { event: events[2].event(), number: 3, issued_at, expiration, entries: &entries, audit };
    let text = seal(&new.draft().unwrap(), 3);
    let expected = format!(
        "{{\"body\":{{\"payload\":{{\"purpose\":\"chain-head\",\"eventId\":\"{id}\",\"sequenceNumber\":2,\"number\":3,\
         \"issuedAt\":\"1970-01-01T02:00:00.000Z\",\"expiration\":\"1970-01-01T14:00:00.000Z\",\
         \"denied\":[\"{zero}\"],\"revoked\":[{{\"publicKey\":\"{key}\",\"until\":\"1970-01-01T20:00:00.000Z\"}},\
         {{\"service\":\"edge:a\",\"endorsedUpTo\":7,\"until\":\"1970-01-01T21:00:00.000Z\"}}],\
         \"audit\":{{\"number\":41,\"digest\":\"{line}\"}}}},\
         \"hsm\":{{\"identity\":\"{zero}\",\"generationId\":\"{id}\"}}}},\"signature\":\"0I",
        id = events[2].id(),
        zero = events[0].id(),
        key = public(9),
        line = Digest::of("line"),
    );
    assert!(text.starts_with(&expected), "{text}");
    let read = Head::parse(&text).unwrap();
    assert_eq!((read.text(), read.event_id(), read.sequence_number()), (text.as_str(), events[2].id(), 2));
    assert_eq!((read.number(), read.issued_at(), read.expiration()), (3, issued_at, expiration));
    assert_eq!((read.entries(), read.audit()), (&entries, audit));
}

#[test]
fn a_head_of_the_newest_event_shows_how_fresh_the_chain_is() {
    let events = events();
    let whole = chain_of(&events[..3]);
    let newest = head(events[2].event(), 3, 1, &Entries::default());
    let proven = newest.verify(&whole, windows::EDGE, at(3 * HOUR)).unwrap();
    for (now, age) in [
        (2 * HOUR - 6, Err(Code::FutureRequest)),
        (2 * HOUR - 5, Ok(Duration::ZERO)),
        (2 * HOUR + 7, Ok(Duration::from_secs(7))),
        (14 * HOUR - 1, Ok(Duration::from_secs(12 * 3600 - 1))),
        (14 * HOUR, Err(Code::DeadKey)),
    ] {
        assert_eq!(code(proven.age(&whole, at(now))), age, "{now}");
    }
    // Whoever knows a newer event learns nothing about freshness from the head of an older one.
    let older = head(events[1].event(), 2, 1, &Entries::default());
    let proven = older.verify(&whole, windows::EDGE, at(3 * HOUR)).unwrap();
    assert_eq!(code(proven.age(&whole, at(3 * HOUR))), Err(Code::DeadKey));
    assert!(proven.age(&chain_of(&events[..2]), at(3 * HOUR)).is_ok());
}

#[test]
fn the_fullest_head_is_read_and_no_fuller_one_is_made() {
    let events = events();
    let mark = |number: usize| {
        let endorsed_up_to = limits::NUMBER_MAX;
        (format!("edge:{number:064}"), ServiceRevocation { endorsed_up_to, until: at(20 * HOUR) })
    };
    let full = |denied: usize, keys: u8, services: usize, rolls: usize| Entries {
        denied: (0..denied).map(|number| Digest::of(number.to_string())).collect(),
        keys: (1..=keys).map(|number| (public(number).name(), at(20 * HOUR))).collect(),
        services: (0..services).map(mark).collect(),
        rolls: (0..rolls).map(mark).collect(),
    };
    let audit = Some(LastLine { number: limits::NUMBER_MAX, digest: Digest::of("line") });
    let draft = |entries: &Entries, number| {
        let (event, issued_at, expiration) = (events[2].event(), at(2 * HOUR), at(14 * HOUR));
        NewHead { event, number, issued_at, expiration, entries, audit }.draft()
    };
    let text = seal(&draft(&full(64, 64, 32, 32), limits::NUMBER_MAX).unwrap(), 3);
    assert!(text.len() < limits::HEAD_MAX, "{}", text.len());
    assert_eq!(Head::parse(&text).unwrap().entries(), &full(64, 64, 32, 32));
    for (denied, keys, services, rolls) in [(65, 0, 0, 0), (0, 65, 0, 0), (0, 0, 33, 0), (0, 0, 0, 33)] {
        assert_eq!(code(draft(&full(denied, keys, services, rolls), 1).map(drop)), Err(Code::TooLarge));
    }
    for number in [0, limits::NUMBER_MAX + 1] {
        assert_eq!(code(draft(&full(0, 0, 0, 0), number).map(drop)), Err(Code::InvalidMessage));
    }
}

#[test]
fn lists_are_joined_and_never_subtracted() {
    let (a, b) = (Digest::of("a"), Digest::of("b"));
    for (held, heard, expected) in [
        (denying(&[a]), denying(&[b]), denying(&[a, b])),
        (denying(&[a]), Entries::default(), denying(&[a])),
        (revoking(1, 10), revoking(1, 9), revoking(1, 10)),
        (revoking(1, 10), revoking(1, 11), revoking(1, 11)),
        (service("edge:a", 7, 10), service("edge:a", 6, 11), service("edge:a", 7, 11)),
        (service("edge:a", 7, 10), service("edge:a", 8, 9), service("edge:a", 8, 10)),
    ] {
        let mut all = held.clone();
        assert_eq!(all.join(&heard), expected != held);
        assert_eq!(all, expected);
    }
}

#[test]
fn a_later_head_must_list_what_has_not_ended() {
    let (a, ended) = (Digest::of("a"), Digest::of("ended"));
    let none = Entries::default();
    for (earlier, later, lost) in [
        (denying(&[a, ended]), none.clone(), denying(&[a])),
        (denying(&[a]), denying(&[a, ended]), none.clone()),
        (revoking(1, 11), none.clone(), revoking(1, 11)),
        (revoking(1, 10), none.clone(), none.clone()),
        (revoking(1, 11), revoking(1, 9), none.clone()),
        (service("edge:a", 7, 11), service("edge:b", 9, 11), service("edge:a", 7, 11)),
        (service("edge:a", 7, 11), service("edge:a", 6, 99), service("edge:a", 7, 11)),
        (service("edge:a", 7, 11), service("edge:a", 7, 9), none.clone()),
        (service("edge:a", 7, 10), none.clone(), none.clone()),
    ] {
        assert_eq!(earlier.missing_from(&later, at(10), |id| *id == ended), lost, "{earlier:?} {later:?}");
    }
}

/// Two heads of one event in both orders: how the second stands to the first, and that nothing is lost.
#[test]
fn the_order_of_heads_is_by_number() {
    let events = events();
    let newest = events[2].event();
    let said = revoking(9, 20 * HOUR);
    let (one, two) = (head(newest, 3, 1, &said), head(newest, 3, 2, &Entries::default()));
    let other = head(newest, 3, 1, &denying(&[events[0].id()]));
    let none = Entries::default();
    let both = joined(&[&said, other.entries()]);
    // A revocation that ended between the two is not lost, whichever is read first.
    let brief = revoking(9, 5 * HOUR / 2);
    let before = head(newest, 3, 1, &brief);
    let after = head_of(newest, 3, 2, &none, at(11 * HOUR / 4));
    for (first, second, order, lost, stated) in [
        (&one, &two, Order::Newer, &said, &said),
        (&two, &one, Order::Older, &said, &said),
        (&before, &after, Order::Newer, &none, &none),
        (&after, &before, Order::Older, &none, &none),
        (&one, &one, Order::Same, &none, &said),
        (&one, &other, Order::Theft, &none, &both),
        (&other, &one, Order::Theft, &none, &both),
    ] {
        let mut chain = chain_of(&events[..3]);
        let mut outcome = None;
        for head in [first, second] {
            let known = chain.clone();
            let before = chain.epoch();
            let heard = chain.hear(&head.verify(&known, windows::EDGE, at(3 * HOUR)).unwrap(), at(3 * HOUR));
            assert_eq!(heard.changed, chain.epoch() > before);
            outcome = Some(heard);
        }
        let heard = outcome.unwrap();
        assert_eq!((heard.order, &heard.lost, chain.stated()), (order, lost, stated));
    }
}

/// A thief of the third key denies everything; the fourth event taints the third.
#[test]
fn a_taint_voids_what_the_tainted_generation_stated_once_it_is_stated_anew() {
    let events = events();
    let now = at(3 * HOUR);
    let mut chain = chain_of(&events[..3]);
    let forged = joined(&[&denying(&[events[0].id(), events[1].id()]), &service("authd", 99, 20 * HOUR)]);
    let hear = |chain: &mut Chain, head: &Head| {
        let known = chain.clone();
        chain.hear(&head.verify(&known, windows::EDGE, now).unwrap(), now)
    };
    let live =
        |chain: &Chain| [0, 1, 2, 3].map(|place| chain.live(&events[place].id(), windows::EDGE, now).is_ok());
    hear(&mut chain, &head(events[2].event(), 3, 1, &forged));
    assert_eq!(live(&chain), [false, false, true, false]);
    // No moment in which nothing is denied: the event alone changes no denial.
    chain.merge([events[3].clone()], now);
    assert_eq!((live(&chain), chain.stated()), ([false, false, false, true], &forged));
    let anew = denying(&[events[0].id()]);
    assert!(hear(&mut chain, &head(events[3].event(), 4, 1, &anew)).changed);
    assert_eq!((live(&chain), chain.stated()), ([false, true, false, true], &anew));
    // Nor does a head of the tainted generation count that is heard now.
    let late = head(events[2].event(), 3, 2, &forged);
    assert_eq!(code(late.verify(&chain, windows::EDGE, now).map(drop)), Err(Code::DeadKey));
}

#[test]
fn a_denial_voids_what_the_denied_generation_stated() {
    let events = events();
    let now = at(3 * HOUR);
    for order in [[0, 1], [1, 0]] {
        let mut chain = chain_of(&events[..3]);
        let by_second = joined(&[&denying(&[events[0].id(), events[2].id()]), &revoking(9, 20 * HOUR)]);
        let heads = [
            head(events[1].event(), 2, 5, &by_second),
            head(events[2].event(), 3, 1, &denying(&[events[1].id()])),
        ];
        for place in order {
            let known = chain.clone();
            let verified = heads[place].verify_signature(&events[place + 1]).unwrap();
            chain.hear(&verified, now);
            assert!(known.epoch() < chain.epoch() || place == 0);
        }
        assert_eq!(
            chain.stated(),
            &denying(&[events[1].id()]),
            "only generations before the signer's, by whom counts"
        );
    }
}

#[test]
fn an_endorsement_of_a_revoked_key_or_service_is_refused_until_the_end() {
    let events = events();
    let newest = events[2].event();
    let endorsed = |name: &str, number: Option<u64>| {
        let request =
            SignRequest { purpose: Purpose::Response, public_key: public(9), expiration: at(13 * HOUR) };
        let (prefix, id) = (&newest.prefix, &newest.id);
        let draft = match number {
            Some(number) => endorsement::Draft::numbered(&request, name, number, prefix, id),
            None => endorsement::Draft::new(&request, name, prefix, id),
        };
        Endorsement::parse(&draft.seal(&key(3).sign(draft.body().as_bytes()).unwrap())).unwrap()
    };
    let (key_revoked, other_key) = (revoking(9, 10), revoking(8, 10));
    let revoked = service("edge:a", 7, 10);
    for (entries, name, number, now, expected) in [
        (&key_revoked, "edge:b", Some(99), 9, Err(Code::Revoked)),
        (&key_revoked, "edge:b", Some(99), 10, Ok(())),
        (&other_key, "edge:b", Some(1), 9, Ok(())),
        (&revoked, "edge:a", Some(7), 9, Err(Code::Revoked)),
        (&revoked, "edge:a", Some(7), 10, Ok(())),
        (&revoked, "edge:a", Some(8), 9, Ok(())),
        (&revoked, "edge:a", None, 9, Err(Code::Revoked)),
        (&revoked, "edge:b", Some(7), 9, Ok(())),
    ] {
        let outcome = entries.demand_not_revoked(&endorsed(name, number), at(now));
        assert_eq!(code(outcome), expected, "{name} {number:?} {now}");
        // An order to roll means the same keys, and refuses none of them.
        let ordered = Entries { rolls: entries.services.clone(), ..Entries::default() };
        let endorsement = endorsed(name, number);
        assert_eq!(ordered.demand_not_revoked(&endorsement, at(now)), Ok(()));
        let is_covered = !entries.services.is_empty() && expected.is_err();
        assert_eq!(ordered.orders_roll(&endorsement, at(now)), is_covered, "{name} {number:?} {now}");
        assert!(!entries.orders_roll(&endorsement, at(now)));
    }
}

/// Endorsements and heads have one shape: neither is ever taken for the other, nor is a request for an endorsement
/// that names a head's purpose.
#[test]
fn no_reader_takes_anothers_text() {
    let events = events();
    let newest = events[2].event();
    let request =
        SignRequest { purpose: Purpose::Response, public_key: public(9), expiration: at(26 * HOUR) };
    let draft = endorsement::Draft::new(&request, "authd", &newest.prefix, &newest.id);
    let endorsement = draft.seal(&key(3).sign(draft.body().as_bytes()).unwrap());
    let head = head(newest, 3, 1, &Entries::default()).text().to_owned();
    assert_eq!(code(Endorsement::parse(&head).map(drop)), Err(Code::WrongPurpose));
    assert_eq!(code(Head::parse(&endorsement).map(drop)), Err(Code::WrongPurpose));
    for text in [&endorsement, &head] {
        assert!(SignedEvent::parse(text).is_err());
    }
    for purpose in ["chain-head", "key-revocation"] {
        let body = request.to_json().replace("\"response\"", &format!("\"{purpose}\""));
        assert_eq!(code(SignRequest::parse(body.as_bytes())), Err(Code::InvalidMessage));
    }
}
