//! The verifier's pipeline in virtual time.

use std::io::Write as _;
use std::time::Duration;

use edge::trust::{Denied, TrustState};
use edge::verifier::issuers::Issuer;
use edge::verifier::{AccessVerifier, Audience, Demand, Held, Settings};
use flate2::Compression;
use flate2::write::GzEncoder;
use keychain::chain::Chain;
use keychain::endorsement::Purpose;
use keychain::statement::{Entries, Head};
use keychain::{Code, Digest, Nonce, SigningKey, Timestamp, signed};

use crate::support::fixture::{Hsm, Session, at, base64, denying, key, nonce, revoking, revoking_service};

const SKEW: Duration = Duration::from_secs(5);
const DEMAND: Demand<'_> = Demand { place: "/foo", permission: Some(("user", "read")) };
const INNER: &str = r#"{"foo":1,"bar":"x"}"#;

/// A verifier that knows one authd, whose access key is number 100.
struct World {
    hsm: Hsm,
    authd: SigningKey,
    verifier: AccessVerifier,
    denied: std::sync::Mutex<Denied>,
}

impl World {
    fn new() -> Self {
        Self::with(Audience::default())
    }

    fn with(audience: Audience) -> Self {
        let hsm = Hsm::new(0, at(-1_000));
        let settings = Settings { clock_skew: SKEW, audience, nonce_capacity: 10_000 };
        let verifier = AccessVerifier::new(settings);
        let world = Self { hsm, authd: key(100), verifier, denied: std::sync::Mutex::default() };
        world.learn(&world.authd, at(12 * 3_600));
        world
    }

    fn learn(&self, issuer: &SigningKey, expiration: Timestamp) {
        let text = self.hsm.endorse(Purpose::Access, issuer.public_key(), expiration);
        let issuer_key = issuer.public_key();
        let issuer = Issuer::verify(&text, issuer_key, &self.hsm.trust(at(0)), at(0)).unwrap();
        self.verifier.issuers().keep(issuer_key, issuer);
    }

    fn check(&self, body: &str, now: Timestamp) -> Result<bool, Held> {
        let trust = self.hsm.trust(now).denying(self.denied.lock().unwrap().clone());
        self.verifier.check(body.as_bytes(), DEMAND, &trust, now).map(|admitted| admitted.warm())
    }

    /// Writes or deletes an entry of database 3.
    fn set_denied(&self, who: Digest, denied: bool) {
        let mut entries = self.denied.lock().unwrap();
        if denied { entries.hold(&who, None) } else { entries.miss(&who, true, at(0)) }
    }

    #[track_caller]
    fn refused(&self, body: &str, now: Timestamp, code: Code) {
        match self.check(body, now) {
            Err(Held::Refused(refusal)) => assert_eq!(refusal.code(), code, "{refusal}"),
            other => panic!("expected {code}, found {other:?}"),
        }
    }
}

#[test]
fn a_genuine_request_is_admitted_once_and_its_token_kept() {
    let world = World::new();
    let session = Session::open(&world.authd, 200, at(0));
    let first = session.request(nonce(1), at(1), INNER);
    assert_eq!(world.check(&first, at(1)), Ok(false));
    world.refused(&first, at(2), Code::Replay);
    assert_eq!(world.check(&session.request(nonce(2), at(2), INNER), at(2)), Ok(true));
    world.refused(&session.request(nonce(2), at(3), INNER), at(3), Code::Replay);
    let trust = world.hsm.trust(at(4));
    let third = session.request(nonce(3), at(4), INNER);
    let admitted = world.verifier.check(third.as_bytes(), DEMAND, &trust, at(4)).unwrap();
    assert_eq!((admitted.request(), admitted.nonce()), (INNER, nonce(3)));
    assert_eq!(admitted.claims(), &session.claims);
}

/// Each refusal has its code, and leaves the nonce for the genuine request.
#[test]
fn no_refused_request_burns_its_nonce() {
    let world = World::new();
    let session = Session::open(&world.authd, 200, at(0));
    let now = at(60);
    let genuine = |number| session.request(nonce(number), now, INNER);
    let other = Session { key: key(201), claims: session.claims.clone(), token: session.token.clone() };
    let forged = Session::open(&key(101), 200, at(0));
    let forged_token = {
        let mut claims = session.claims.clone();
        claims.server_identity = world.authd.public_key();
        Session { key: key(200), token: claims.issue(&key(101)).unwrap(), claims }
    };
    let late = Session::open(&world.authd, 202, at(-14 * 60));
    let future = Session::open(&world.authd, 203, at(60 + 6));
    let weak = {
        let mut claims = session.claims.clone();
        claims.attributes = keychain::token::Attributes::default();
        Session { key: key(200), token: claims.issue(&world.authd).unwrap(), claims }
    };
    let mut number = 0;
    let mut case = |body: &dyn Fn(Nonce) -> String, when: Timestamp, code: Code| {
        number += 1;
        world.refused(&body(nonce(number)), when, code);
        assert!(world.check(&genuine(number), now).is_ok(), "{code} burnt its nonce");
    };
    case(
        &|n| session.request(n, now, INNER).replace("\"request\"", "\"requests\""),
        now,
        Code::InvalidMessage,
    );
    case(&|n| session.request(n, now, INNER).replace("foo", "fop"), now, Code::BadSignature);
    case(&|n| other.request(n, now, INNER), now, Code::BadSignature);
    case(&|n| forged_token.request(n, now, INNER), now, Code::BadSignature);
    case(&|n| session.request(n, at(29), INNER), now, Code::StaleRequest);
    case(&|n| session.request(n, at(66), INNER), now, Code::FutureRequest);
    case(&|n| late.request(n, now, INNER), now, Code::ExpiredToken);
    case(&|n| future.request(n, now, INNER), now, Code::FutureToken);
    case(&|n| weak.request(n, now, INNER), now, Code::Forbidden);
    case(&|n| session.request_to("https://elsewhere/foo", n, now, INNER), now, Code::AudienceMismatch);
    let body = forged.request(nonce(900), now, INNER);
    assert_eq!(world.check(&body, now), Err(Held::UnknownIssuer(key(101).public_key())));
    world.verifier.issuers().note_absent(key(101).public_key());
    world.refused(&body, now, Code::UnknownKey);
    assert!(world.check(&genuine(900), now).is_ok());
}

#[test]
fn times_hold_to_the_millisecond() {
    let world = World::new();
    let session = Session::open(&world.authd, 200, at(0));
    let tick = Duration::from_millis(1);
    let oldest = session.request(nonce(1), at(10), INNER);
    world.refused(&oldest, at(40).plus(tick), Code::StaleRequest);
    assert!(world.check(&oldest, at(40)).is_ok());
    let newest = session.request(nonce(2), at(10), INNER);
    world.refused(&newest, at(5).minus(tick), Code::FutureRequest);
    assert!(world.check(&newest, at(5)).is_ok());
    let expiry = at(15 * 60);
    let last = session.request(nonce(3), expiry.minus(tick), INNER);
    world.refused(&last, expiry, Code::ExpiredToken);
    assert!(world.check(&last, expiry.minus(tick)).is_ok());
}

#[test]
fn a_taint_bites_at_once_though_everything_is_cached() {
    let mut world = World::new();
    let session = Session::open(&world.authd, 200, at(0));
    assert_eq!(world.check(&session.request(nonce(1), at(1), INNER), at(1)), Ok(false));
    world.hsm.rotate(at(2), true);
    world.refused(&session.request(nonce(2), at(3), INNER), at(3), Code::DeadKey);
    let fresh = key(102);
    world.learn(&fresh, at(12 * 3_600));
    let session = Session::open(&fresh, 200, at(3));
    assert!(world.check(&session.request(nonce(2), at(4), INNER), at(4)).is_ok());
}

#[test]
fn a_generation_merely_left_lives_on_for_its_window() {
    let mut world = World::new();
    world.learn(&world.authd, at(24 * 3_600));
    world.hsm.rotate(at(2), false);
    let end = at(2).plus(keychain::chain::windows::EDGE);
    let session = Session::open(&world.authd, 200, end.minus(Duration::from_mins(1)));
    let last = end.minus(Duration::from_millis(1));
    assert!(world.check(&session.request(nonce(1), last, INNER), last).is_ok());
    world.refused(&session.request(nonce(2), end, INNER), end, Code::DeadKey);
}

#[test]
fn an_expired_endorsement_bites_though_the_token_is_cached() {
    let world = World::new();
    let end = at(12 * 3_600);
    let session = Session::open(&world.authd, 200, end.minus(Duration::from_mins(5)));
    let before = end.minus(Duration::from_millis(1));
    assert_eq!(world.check(&session.request(nonce(1), before, INNER), before), Ok(false));
    world.refused(&session.request(nonce(2), end, INNER), end, Code::DeadKey);
}

/// What a head denies or revokes is refused at once, whatever was verified before; until its own end, where it has one.
#[test]
fn what_a_head_lists_bites_at_once_though_everything_is_cached() {
    type Listed = fn(&World) -> Entries;
    let until = at(600);
    let cases: [(&str, Listed, Code, Timestamp); 3] = [
        ("an older generation", |world| denying(world.hsm.prefix()), Code::DeadKey, until),
        ("authd's key", |world| revoking(&world.authd, at(600)), Code::Revoked, until),
        ("authd's first endorsement", |_| revoking_service("authd", 1, at(600)), Code::Revoked, until),
    ];
    for (what, listed, code, end) in cases {
        let mut world = World::new();
        let session = Session::open(&world.authd, 200, at(0));
        world.hsm.rotate(at(1), false);
        world.hsm.state(&Entries::default(), at(1));
        assert_eq!(world.check(&session.request(nonce(1), at(2), INNER), at(2)), Ok(false), "{what}");
        assert_eq!(world.check(&session.request(nonce(2), at(2), INNER), at(2)), Ok(true), "{what}");
        let entries = listed(&world);
        world.hsm.state(&entries, at(2));
        world.refused(&session.request(nonce(3), at(3), INNER), at(3), code);
        let last = end.minus(Duration::from_millis(1));
        world.refused(&session.request(nonce(3), last, INNER), last, code);
        if code == Code::Revoked {
            assert!(world.check(&session.request(nonce(3), end, INNER), end).is_ok(), "{what}");
        }
        let fresh = key(102);
        world.learn(&fresh, at(12 * 3_600));
        let session = Session::open(&fresh, 200, at(3));
        assert!(world.check(&session.request(nonce(4), at(3), INNER), at(3)).is_ok(), "{what}");
    }
}

/// What the heads of a tainted generation listed is void once the next one speaks, and not before.
#[test]
fn a_taint_ends_what_the_tainted_generation_denied_without_a_gap() {
    let mut world = World::new();
    let session = Session::open(&world.authd, 200, at(0));
    world.hsm.rotate(at(1), false);
    world.hsm.state(&denying(world.hsm.prefix()), at(1));
    world.refused(&session.request(nonce(1), at(2), INNER), at(2), Code::DeadKey);
    let mut heard = world.hsm.trust(at(2)).chain().clone();
    world.hsm.rotate(at(3), true);
    heard.merge(world.hsm.events().to_vec(), at(4));
    let body = session.request(nonce(1), at(4), INNER);
    let check = |chain: &Chain| {
        let verdict = world.verifier.check(body.as_bytes(), DEMAND, &TrustState::new(chain.clone()), at(4));
        verdict.map(drop).map_err(|held| held.into_refusal().code())
    };
    assert_eq!(check(&heard), Err(Code::DeadKey), "the head of the taint is not there yet");
    let head = Head::parse(&world.hsm.head(1, &Entries::default(), at(3))).unwrap();
    let proven = head.verify(&heard, keychain::chain::windows::AUTHD, at(4)).unwrap();
    let mut after = heard.clone();
    after.hear(&proven, at(4));
    assert_eq!(check(&after), Ok(()), "a thief's denial does not outlive the taint");
}

/// A public auth server has the key that it holds endorsed again after a taint.
#[test]
fn the_same_key_endorsed_again_is_good_again() {
    let mut world = World::new();
    let session = Session::open(&world.authd, 200, at(0));
    assert_eq!(world.check(&session.request(nonce(1), at(1), INNER), at(1)), Ok(false));
    let issuer = world.authd.public_key();
    let old = world.hsm.endorse(Purpose::Access, issuer, at(20 * 3_600));
    world.hsm.rotate(at(2), true);
    world.refused(&session.request(nonce(2), at(3), INNER), at(3), Code::DeadKey);
    let trust = world.hsm.trust(at(3));
    let learn = |text: &str| {
        let outcome = world.verifier.issuers().learn(issuer, text, &trust, at(3));
        outcome.map_err(|refusal| refusal.code())
    };
    assert_eq!(learn(&old), Err(Code::DeadKey));
    let (short, long) = (3_600, 7_200);
    let endorse = |seconds| world.hsm.endorse(Purpose::Access, issuer, at(seconds));
    assert_eq!(learn(&endorse(long)), Ok(true));
    assert_eq!(learn(&endorse(short)), Ok(false), "an earlier end takes nothing away");
    assert_eq!(
        world.check(&session.request(nonce(2), at(3), INNER), at(3)),
        Ok(true),
        "the token is still known"
    );
    let late = Session::open(&world.authd, 200, at(short));
    assert!(world.check(&late.request(nonce(3), at(short + 1), INNER), at(short + 1)).is_ok());
}

/// What is denied for certain is told so even then; and no nonce is burnt.
#[test]
fn what_cannot_be_known_is_told_last() {
    let world = World::new();
    let session = Session::open(&world.authd, 200, at(0));
    let most = Some(Duration::from_mins(10));
    let trust = TrustState::with_heads(world.hsm.chain(at(0)), Some(at(0)), most);
    let check_by = |trust: &TrustState, body: &str, now| {
        let verdict = world.verifier.check(body.as_bytes(), DEMAND, trust, now);
        verdict.map(drop).map_err(|held| held.into_refusal().code())
    };
    let check = |body: &str, now| check_by(&trust, body, now);
    let end = at(600);
    let last = end.minus(Duration::from_millis(1));
    assert_eq!(check(&session.request(nonce(1), last, INNER), last), Ok(()));
    let body = session.request(nonce(2), last, INNER);
    assert_eq!(check(&body, end), Err(Code::StaleHead));
    assert_eq!(check(&body, last), Ok(()));
    let banned = session.request(nonce(3), end, INNER);
    let mut denied = Denied::default();
    denied.hold(&session.claims.device, None);
    assert_eq!(check_by(&trust.clone().denying(denied), &banned, end), Err(Code::Revoked));
}

/// A denial of a device ends after 16 minutes: no token may outlive it.
#[test]
fn a_token_that_lives_too_long_is_refused() {
    let world = World::new();
    let mut claims = Session::open(&world.authd, 200, at(0)).claims;
    for (lives, code) in [(15 * 60_000 + 5_000, None), (15 * 60_000 + 5_001, Some(Code::InvalidToken))] {
        claims.expiry = at(0).plus(Duration::from_millis(lives));
        let token = claims.issue(&world.authd).unwrap();
        let session = Session { key: key(200), claims: claims.clone(), token };
        let body = session.request(nonce(lives), at(1), INNER);
        match code {
            None => assert!(world.check(&body, at(1)).is_ok()),
            Some(code) => world.refused(&body, at(1), code),
        }
    }
}

#[test]
fn a_ban_bites_at_once_and_lifts_at_once() {
    let world = World::new();
    let session = Session::open(&world.authd, 200, at(0));
    assert!(world.check(&session.request(nonce(1), at(1), INNER), at(1)).is_ok());
    for who in [session.claims.device, session.claims.identity] {
        world.set_denied(who, true);
        world.refused(&session.request(nonce(2), at(1), INNER), at(1), Code::Revoked);
        world.set_denied(who, false);
    }
    world.set_denied(Digest::of("another"), true);
    assert!(world.check(&session.request(nonce(2), at(1), INNER), at(1)).is_ok());
}

#[test]
fn an_endorsement_for_answers_issues_no_tokens() {
    let world = World::new();
    let (trust, other) = (world.hsm.trust(at(0)), key(103).public_key());
    let text = world.hsm.endorse(Purpose::Response, other, at(100));
    assert_eq!(Issuer::verify(&text, other, &trust, at(0)).unwrap_err().code(), Code::WrongPurpose);
    let text = world.hsm.endorse(Purpose::Access, other, at(100));
    let wrong_key = Issuer::verify(&text, key(104).public_key(), &trust, at(0)).unwrap_err();
    assert_eq!(wrong_key.code(), Code::WrongPurpose);
    let stranger = Hsm::new(50, at(-1_000)).endorse(Purpose::Access, other, at(100));
    assert_eq!(Issuer::verify(&stranger, other, &trust, at(0)).unwrap_err().code(), Code::DeadKey);
}

#[test]
fn an_audience_binds_a_request_to_one_place() {
    let world = World::with(Audience::new("https://app.example", true));
    let session = Session::open(&world.authd, 200, at(0));
    world.refused(&session.request(nonce(1), at(1), INNER), at(1), Code::AudienceMismatch);
    let elsewhere = session.request_to("https://app.example/bar", nonce(1), at(1), INNER);
    world.refused(&elsewhere, at(1), Code::AudienceMismatch);
    let here = session.request_to("https://app.example/foo", nonce(1), at(1), INNER);
    assert!(world.check(&here, at(1)).is_ok());
}

/// 100 MB in 100 KB: refused, and inflated no further than its bound.
#[test]
fn a_bomb_for_a_token_is_refused() {
    let world = World::new();
    let session = Session::open(&world.authd, 200, at(0));
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    let zeros = vec![b' '; 1 << 20];
    for _ in 0..100 {
        gzip.write_all(&zeros).unwrap();
    }
    let bomb = gzip.finish().unwrap();
    for length in [bomb.len(), 20_000] {
        let packed = base64(&bomb[..length]);
        let token = format!("{}{packed}", &session.token[..88]);
        let bomb = Session { key: key(200), claims: session.claims.clone(), token };
        world.refused(&bomb.request(nonce(1), at(1), INNER), at(1), Code::InvalidToken);
    }
    assert!(world.check(&session.request(nonce(1), at(1), INNER), at(1)).is_ok());
}

/// Whatever single character of a request changes, it is not admitted.
#[test]
fn no_character_of_a_request_can_change() {
    let world = World::new();
    let session = Session::open(&world.authd, 200, at(0));
    let body = session.request(nonce(1), at(1), INNER);
    let trust = world.hsm.trust(at(1));
    for place in 0..body.len() {
        let mut changed = body.clone().into_bytes();
        changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
        let verdict = world.verifier.check(&changed, DEMAND, &trust, at(1));
        assert!(verdict.is_err(), "character {place} of {body}");
    }
    assert!(world.check(&body, at(1)).is_ok());
}

#[test]
fn malformed_bodies_are_refused_with_their_code() {
    let world = World::new();
    let session = Session::open(&world.authd, 200, at(0));
    let good = session.request(nonce(1), at(1), INNER);
    let access = good.find("\"access\":{").unwrap() + "\"access\":{".len();
    let with = |member: &str| format!("{}{member},{}", &good[..access], &good[access..]);
    for body in [
        String::new(),
        "{}".to_owned(),
        "[]".to_owned(),
        "null".to_owned(),
        "\0".to_owned(),
        "[".repeat(100_000),
        good.replace("0I", ""),
        good.replace("\"nonce\":\"0A", "\"nonce\":\"0B"),
        good.replace("\"signature\":\"0I", "\"signature\":\"\\u0030I"),
        with("\"nonce\":\"0AAAAAAAAAAAAAAAAAAAAAAA\""),
        with("\"extra\":1"),
        with("\"audience\":1"),
        format!("{good}x"),
        good.replace("\"payload\"", "\"payload\":1,\"payload\""),
        signed::seal("{\"access\":{}}", &session.key.sign(b"").unwrap()),
        signed::seal("{\"access\":{},\"request\":{}}", &session.key.sign(b"").unwrap()),
    ] {
        world.refused(&body, at(1), Code::InvalidMessage);
    }
    let trust = world.hsm.trust(at(1));
    let not_text = world.verifier.check(b"{\"payload\":\"\xff\"}", DEMAND, &trust, at(1)).unwrap_err();
    assert_eq!(not_text.into_refusal().code(), Code::InvalidMessage);
    for token in ["", "0I", "ä", &"A".repeat(100_000)] {
        let odd = Session { key: key(200), claims: session.claims.clone(), token: token.to_owned() };
        world.refused(&odd.request(nonce(1), at(1), INNER), at(1), Code::InvalidToken);
    }
    assert!(world.check(&good, at(1)).is_ok());
}
