use super::*;
use crate::{
    PublicKey, SigningKey,
    chain::{self, Event, Settings, windows},
    endorsement::{self, Endorsement, Expected, Purpose, SignRequest},
};

const SKEW: Duration = Duration::from_secs(5);
const HOUR: i64 = 3600;

fn key(number: u8) -> SigningKey {
    SigningKey::from_seed(&[number; 32]).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_millis(seconds * 1000)
}

/// Three generations, an hour each, whose keys are 1, 2 and 3.
fn events() -> Vec<SignedEvent> {
    let mut events: Vec<SignedEvent> = Vec::new();
    for number in 0..3_u8 {
        let (own, next) = (key(number + 1), key(number + 2).public_key().digest());
        let created = at(i64::from(number) * HOUR);
        let draft = match events.last() {
            None => chain::Draft::first(&own.public_key(), &next, created),
            Some(last) => chain::Draft::next(last.event(), &own.public_key(), &next, created, false),
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

fn head(event: &Event, signer: u8, denied: &[Digest]) -> String {
    let new = NewHead { event, issued_at: at(2 * HOUR), expiration: at(26 * HOUR), denied };
    seal(&new.draft().unwrap(), signer)
}

fn revocation(event: &Event, signer: u8, keys: &[PublicKey]) -> String {
    let new =
        NewKeyRevocation { event, public_keys: keys, issued_at: at(2 * HOUR), expiration: at(26 * HOUR) };
    seal(&new.draft().unwrap(), signer)
}

fn code<T>(outcome: Result<T, Refusal>) -> Result<T, Code> {
    outcome.map_err(|refusal| refusal.code())
}

#[test]
fn a_head_reads_as_written() {
    let events = events();
    let text = head(events[2].event(), 3, &[events[0].id()]);
    let expected = format!(
        "{{\"body\":{{\"payload\":{{\"purpose\":\"chain-head\",\"eventId\":\"{id}\",\"sequenceNumber\":2,\
         \"issuedAt\":\"1970-01-01T02:00:00.000Z\",\"expiration\":\"1970-01-02T02:00:00.000Z\",\
         \"denied\":[\"{zero}\"]}},\"hsm\":{{\"identity\":\"{zero}\",\"generationId\":\"{id}\"}}}},\"signature\":\"0I",
        id = events[2].id(),
        zero = events[0].id()
    );
    assert!(text.starts_with(&expected), "{text}");
    let read = Head::parse(&text).unwrap();
    assert_eq!((read.text(), read.event_id()), (text.as_str(), events[2].id()));
    assert_eq!((read.issued_at(), read.expiration()), (at(2 * HOUR), at(26 * HOUR)));
}

#[test]
fn a_head_of_the_newest_event_shows_how_fresh_the_chain_is() {
    let events = events();
    let whole = chain_of(&events);
    let newest = Head::parse(&head(events[2].event(), 3, &[])).unwrap();
    let proven = newest.verify(&whole, windows::EDGE, at(3 * HOUR)).unwrap();
    for (now, age) in [
        (2 * HOUR - 6, Err(Code::FutureRequest)),
        (2 * HOUR - 5, Ok(Duration::ZERO)),
        (2 * HOUR + 7, Ok(Duration::from_secs(7))),
        (26 * HOUR - 1, Ok(Duration::from_secs(24 * 3600 - 1))),
        (26 * HOUR, Err(Code::DeadKey)),
    ] {
        assert_eq!(code(proven.age(&whole, at(now))), age, "{now}");
    }
    // Whoever knows a newer event learns nothing about freshness from the head of an older one.
    let older = Head::parse(&head(events[1].event(), 2, &[])).unwrap();
    let proven = older.verify(&whole, windows::EDGE, at(3 * HOUR)).unwrap();
    assert_eq!(code(proven.age(&whole, at(3 * HOUR))), Err(Code::DeadKey));
    assert!(proven.age(&chain_of(&events[..2]), at(3 * HOUR)).is_ok());
}

#[test]
fn each_rule_of_a_head_has_its_code() {
    let events = events();
    let whole = chain_of(&events);
    let (newest, older) = (events[2].event(), events[1].event());
    let good = head(newest, 3, &[]);
    let foreign = Event { prefix: Digest::of("other"), ..newest.clone() };
    let misnumbered = Event { sequence_number: 1, ..newest.clone() };
    let resealed = |text: &str, from: &str, to: &str| {
        let body = text.split(",\"signature\"").next().unwrap().strip_prefix("{\"body\":").unwrap();
        let body = body.replacen(from, to, 1);
        format!("{{\"body\":{body},\"signature\":\"{}\"}}", key(3).sign(body.as_bytes()).unwrap())
    };
    let names_another = resealed(&good, &newest.id.to_string(), &older.id.to_string());
    let verify = |text: &str, now| Head::parse(text)?.verify(&whole, windows::EDGE, now).map(|_| ());
    for (text, now, expected) in [
        (&good, at(3 * HOUR), Ok(())),
        (&head(older, 2, &[]), at(3 * HOUR), Ok(())),
        (&head(older, 2, &[]), at(15 * HOUR), Err(Code::DeadKey)),
        (&head(&foreign, 3, &[]), at(3 * HOUR), Err(Code::DeadKey)),
        (&head(&misnumbered, 3, &[]), at(3 * HOUR), Err(Code::BadChain)),
        (&names_another, at(3 * HOUR), Err(Code::BadChain)),
        (&head(newest, 2, &[]), at(3 * HOUR), Err(Code::BadSignature)),
        (&good.replace("\"denied\":[]", "\"denied\": []"), at(3 * HOUR), Err(Code::BadSignature)),
        (&head(newest, 3, &[newest.id]), at(3 * HOUR), Err(Code::InvalidMessage)),
        (&head(newest, 3, &[older.id, older.id]), at(3 * HOUR), Err(Code::InvalidMessage)),
        (&good.replace("\"denied\":[]", "\"denied\":{}"), at(3 * HOUR), Err(Code::InvalidMessage)),
        (&good.replace("\"denied\":[]", "\"denied\":[1]"), at(3 * HOUR), Err(Code::InvalidMessage)),
        (
            &good.replace("\"sequenceNumber\":2", "\"sequenceNumber\":02"),
            at(3 * HOUR),
            Err(Code::InvalidMessage),
        ),
        (&good.replace("1970-01-02T02", "1970-01-01T02"), at(3 * HOUR), Err(Code::InvalidMessage)),
        (&good.replace("chain-head", "chain-heads"), at(3 * HOUR), Err(Code::WrongPurpose)),
        (&good.replace("{\"body\"", &format!("{}{{\"body\"", " ".repeat(4096))), at(0), Err(Code::TooLarge)),
    ] {
        assert_eq!(code(verify(text, now)), expected, "{text}");
    }
}

#[test]
fn lists_are_bounded_on_both_ends() {
    let events = events();
    let newest = events[2].event();
    let many: Vec<_> = (0..=64).map(|number| Digest::of(number.to_string())).collect();
    let text = head(newest, 3, &many[..64]);
    assert!(Head::parse(&text).is_ok());
    let one_more = text.replacen("\"denied\":[", &format!("\"denied\":[\"{}\",", many[64]), 1);
    assert!(one_more.len() < limits::DIRECTORY_VALUE_MAX);
    assert_eq!(code(Head::parse(&one_more).map(drop)), Err(Code::TooLarge));
    let new = NewHead { event: newest, issued_at: at(0), expiration: at(1), denied: &many };
    assert_eq!(code(new.draft().map(drop)), Err(Code::TooLarge));

    let keys: Vec<_> = (1..=65).map(|number| key(number).public_key()).collect();
    let text = revocation(newest, 3, &keys[..64]);
    assert!(KeyRevocation::parse(&text).is_ok());
    let one_more = text.replacen("\"publicKeys\":[", &format!("\"publicKeys\":[\"{}\",", keys[64]), 1);
    assert!(one_more.len() < limits::DIRECTORY_VALUE_MAX);
    assert_eq!(code(KeyRevocation::parse(&one_more).map(drop)), Err(Code::TooLarge));
    for keys in [&keys[..], &[]] {
        let new = NewKeyRevocation { event: newest, public_keys: keys, issued_at: at(0), expiration: at(1) };
        assert_eq!(code(new.draft().map(drop)), Err(Code::TooLarge));
    }
}

#[test]
fn what_a_head_denies_is_not_live_and_stays_so() {
    let events = events();
    let mut chain = chain_of(&events);
    let now = at(3 * HOUR);
    let is_live = |chain: &Chain, place: usize| chain.live(&events[place].id(), windows::EDGE, now).is_ok();
    let deny = |chain: &mut Chain, place: usize, denied: &[Digest]| {
        let text = head(events[place].event(), u8::try_from(place).unwrap() + 1, denied);
        let head = Head::parse(&text).unwrap();
        let before = chain.epoch();
        let changed = chain.deny(&head.verify(&chain.clone(), windows::EDGE, now).unwrap());
        assert_eq!(changed, chain.epoch() > before);
        changed
    };
    assert!([0, 1, 2].iter().all(|place| is_live(&chain, *place)));
    // Not its own, not a later one, none of another chain.
    assert!(!deny(&mut chain, 1, &[events[2].id(), Digest::of("other")]));
    assert!(deny(&mut chain, 2, &[events[0].id()]));
    assert_eq!([0, 1, 2].map(|place| is_live(&chain, place)), [false, true, true]);
    assert_eq!(code(chain.live_until(&events[0].id(), windows::EDGE)), Err(Code::DeadKey));
    // Said again, or left out by a later head: it stays.
    assert!(!deny(&mut chain, 2, &[events[0].id()]));
    assert!(!deny(&mut chain, 2, &[]));
    assert!(!is_live(&chain, 0));
    // What the denied generation states does not count either.
    let text = revocation(events[0].event(), 1, &[key(9).public_key()]);
    let refused = KeyRevocation::parse(&text).unwrap().verify(&chain, windows::EDGE, now).map(<[_]>::len);
    assert_eq!(code(refused), Err(Code::DeadKey));
}

#[test]
fn each_rule_of_a_key_revocation_has_its_code() {
    let events = events();
    let whole = chain_of(&events);
    let (newest, older) = (events[2].event(), events[1].event());
    let keys = [key(8).public_key(), key(9).public_key()];
    let good = revocation(newest, 3, &keys);
    assert!(good.contains(&format!(
        "{{\"purpose\":\"key-revocation\",\"publicKeys\":[\"{}\",\"{}\"],\"issuedAt\":\"1970-01-01T02:00:00.000Z\",\
         \"expiration\":\"1970-01-02T02:00:00.000Z\"}}",
        keys[0], keys[1]
    )));
    let read = KeyRevocation::parse(&good).unwrap();
    assert_eq!((read.text(), read.claimed_keys()), (good.as_str(), keys.as_slice()));
    assert_eq!((read.issued_at(), read.expiration()), (at(2 * HOUR), at(26 * HOUR)));
    let foreign = Event { prefix: Digest::of("other"), ..newest.clone() };
    let twice = revocation(newest, 3, &[keys[0], keys[0]]);
    let listed = format!("[\"{}\",\"{}\"]", keys[0], keys[1]);
    let verify =
        |text: &str, now| KeyRevocation::parse(text)?.verify(&whole, windows::EDGE, now).map(<[_]>::to_vec);
    for (text, now, expected) in [
        (&good, 3 * HOUR, Ok(keys.to_vec())),
        // A clock that is ahead delays no denial.
        (&good, 0, Ok(keys.to_vec())),
        (&good, 26 * HOUR, Err(Code::DeadKey)),
        (&revocation(older, 2, &keys), 14 * HOUR, Ok(keys.to_vec())),
        (&revocation(older, 2, &keys), 15 * HOUR, Err(Code::DeadKey)),
        (&revocation(&foreign, 3, &keys), 3 * HOUR, Err(Code::DeadKey)),
        (&revocation(newest, 2, &keys), 3 * HOUR, Err(Code::BadSignature)),
        (&twice, 3 * HOUR, Err(Code::InvalidMessage)),
        (&good.replace(&listed, "[]"), 3 * HOUR, Err(Code::InvalidMessage)),
        (&good.replace(&listed, "\"\""), 3 * HOUR, Err(Code::InvalidMessage)),
        (&good.replace("1970-01-02T02", "1970-01-01T02"), 3 * HOUR, Err(Code::InvalidMessage)),
        (&good.replace("key-revocation", "revocation"), 3 * HOUR, Err(Code::WrongPurpose)),
        (&good.replace("{\"body\"", &format!("{}{{\"body\"", " ".repeat(4096))), 0, Err(Code::TooLarge)),
    ] {
        assert_eq!(code(verify(text, at(now))), expected, "{now} {text}");
    }
}

/// Endorsements, heads and key revocations have one shape: none is ever taken for another, nor is a request
/// for an endorsement that names a statement's purpose.
#[test]
fn no_reader_takes_anothers_text() {
    let events = events();
    let newest = events[2].event();
    let request = SignRequest {
        purpose: Purpose::Response,
        public_key: key(9).public_key(),
        expiration: at(26 * HOUR),
    };
    let draft = endorsement::Draft::new(&request, "authd", &newest.prefix, &newest.id);
    let endorsement = draft.seal(&key(3).sign(draft.body().as_bytes()).unwrap());
    let texts = [endorsement, head(newest, 3, &[]), revocation(newest, 3, &[key(9).public_key()])];
    for (place, text) in texts.iter().enumerate() {
        let read = [
            code(Endorsement::parse(text).map(drop)),
            code(Head::parse(text).map(drop)),
            code(KeyRevocation::parse(text).map(drop)),
        ];
        for (reader, outcome) in read.into_iter().enumerate() {
            let expected = if reader == place { Ok(()) } else { Err(Code::WrongPurpose) };
            assert_eq!(outcome, expected, "reader {reader}: {text}");
        }
        assert!(SignedEvent::parse(text).is_err());
    }
    for purpose in ["chain-head", "key-revocation"] {
        let body = request.to_json().replace("\"response\"", &format!("\"{purpose}\""));
        assert_eq!(code(SignRequest::parse(body.as_bytes())), Err(Code::WrongPurpose));
    }
    let expected =
        Expected { purpose: Purpose::Response, public_key: &key(9).public_key(), service: Some("authd") };
    let read = Endorsement::parse(&texts[0]).unwrap();
    assert_eq!(read.verify(&chain_of(&events), expected, windows::DEVICE, at(3 * HOUR)), Ok(()));
}
