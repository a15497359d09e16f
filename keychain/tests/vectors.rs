//! Every vector of `keychain/tests/vectors`, made by the second implementation, against this crate: what must
//! come out comes out, and what must be refused is refused with exactly the code named.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests assert by panicking"
)]

use std::{fmt::Display, time::Duration};

use keychain::{
    Code, Digest, Nonce, PublicKey, Refusal, Signature, SigningKey, Timestamp, VerifyingKey,
    access::{AccessRequest, Response},
    chain::{self, Chain, Highest, Settings, SignedEvent},
    endorsement::{Endorsement, Expected, Purpose, SignRequest},
    message::{self, Operation, Request},
    recovery,
    statement::{Entries, Head},
    token::Token,
};
use serde_json::{Value, json};

#[test]
fn cesr() {
    check("cesr", |case| {
        let text = text(case, "text");
        match self::text(case, "kind") {
            "publicKey" => PublicKey::parse(text).map(|it| spelt(text, it, it.sec1())),
            "signature" => Signature::parse(text).map(|it| spelt(text, it, it.bytes())),
            "digest" => Digest::parse(text).map(|it| spelt(text, it, it.bytes())),
            "nonce" => Nonce::parse(text).map(|it| spelt(text, it, it.bytes())),
            other => panic!("no such kind: {other}"),
        }
    });
}

#[test]
fn digest() {
    check("digest", |case| {
        let parts: Vec<_> = list(case, "parts").iter().map(|part| part.as_str().unwrap()).collect();
        assert_eq!(Digest::of(parts.concat()), Digest::of_parts(&parts));
        Ok(json!(Digest::of_parts(&parts)))
    });
}

#[test]
fn time() {
    check("time", |case| {
        let at = Timestamp::parse(text(case, "text"))?;
        Ok(json!({"unixMillis": at.unix_millis(), "written": at.to_string()}))
    });
}

#[test]
fn errors() {
    let cases = cases("errors");
    assert_eq!(cases.len(), Code::ALL.len());
    for (case, code) in cases.iter().zip(Code::ALL) {
        assert_eq!(text(case, "name"), code.name());
        assert_eq!(case["expect"], json!({"code": code.as_str(), "status": code.status()}));
    }
}

#[test]
fn event() {
    check("event", |case| {
        let signed = SignedEvent::parse(text(case, "event"))?;
        assert_eq!(signed.text(), text(case, "event"));
        let event = signed.event();
        Ok(json!({
            "id": event.id,
            "prefix": event.prefix,
            "sequenceNumber": event.sequence_number,
            "previous": event.previous,
            "createdAt": event.created_at,
            "taintPrevious": event.taint_previous,
            "publicKey": event.public_key,
            "rotationHash": event.rotation_hash,
        }))
    });
}

#[test]
fn whole_chains() {
    check_some(
        "chain",
        |case| case.get("whole").is_some(),
        |case| {
            let whole = events(case, "whole");
            chain::verify_whole(&whole, &prefix(case), time_of(case, "now"), skew(case))?;
            Ok(json!(true))
        },
    );
}

#[test]
fn chains_as_verifiers_see_them() {
    let mut wrong = Vec::new();
    for case in cases("chain").iter().filter(|case| case.get("steps").is_some()) {
        let mut chain = Chain::new(prefix(case), settings(case));
        for (number, step) in list(case, "steps").iter().enumerate() {
            let now = time_of(step, "now");
            chain.merge(events(step, "events"), now);
            let asked = if step.get("at").is_some() { time_of(step, "at") } else { now };
            let mut got = json!({"live": live(&chain, case, asked)});
            let want = &step["expect"]["ok"];
            if want.get("accepted").is_some() {
                got["accepted"] = chain.events().map(|event| json!(event.id())).collect();
            }
            if got != *want {
                wrong.push(format!("{}, step {number}: want {want}, got {got}", text(case, "name")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn endorsement() {
    check("endorsement", |case| {
        let (chain, now) = (chain_of(case), time_of(case, "now"));
        let endorsement = Endorsement::parse(text(case, "endorsement"))?;
        let public_key = PublicKey::parse(text(case, "publicKey")).unwrap();
        let expected = Expected {
            purpose: Purpose::parse(text(case, "purpose")).unwrap(),
            public_key: &public_key,
            service: case.get("service").map(|service| service.as_str().unwrap()),
        };
        endorsement.verify(&chain, expected, window(text(case, "window")), now)?;
        Ok(json!({
            "purpose": endorsement.subject.purpose.as_str(),
            "publicKey": endorsement.subject.public_key,
            "expiration": endorsement.subject.expiration,
            "service": endorsement.service,
            "number": endorsement.number,
            "identity": endorsement.identity,
            "generationId": endorsement.generation_id,
        }))
    });
}

#[test]
fn head() {
    check("head", |case| {
        let (mut chain, now) = (chain_of(case), time_of(case, "now"));
        let window = window(text(case, "window"));
        let mut heard = Vec::new();
        let mut fresh = Value::Null;
        // Each is heard in turn; `later` is merged before the last of them.
        let heads = list(case, "heads");
        for (place, head) in heads.iter().enumerate() {
            if place + 1 == heads.len() && case.get("later").is_some() {
                chain.merge(events(case, "later"), now);
            }
            let head = Head::parse(head.as_str().unwrap())?;
            let known = chain.clone();
            let proven = head.verify(&known, window, now)?;
            let outcome = chain.hear(&proven, now);
            heard.push(json!({"order": format!("{:?}", outcome.order), "lost": written(&outcome.lost)}));
            fresh = match proven.age(&chain, now) {
                Ok(age) => json!({"ageMillis": age.as_millis()}),
                Err(refusal) => json!({"code": refusal.code().as_str()}),
            };
        }
        let live = chain.events().map(SignedEvent::id).filter(|id| chain.live(id, window, now).is_ok());
        let live = live.collect::<Vec<_>>();
        Ok(json!({"live": live, "fresh": fresh, "heard": heard, "stated": written(chain.stated())}))
    });
}

fn written(entries: &Entries) -> Value {
    let keys = entries.keys.iter().map(|(key, until)| json!([key, until]));
    let services = entries.services.iter();
    let services = services.map(|(name, one)| json!([name, one.endorsed_up_to, one.until]));
    json!({
        "denied": sorted(entries.denied.iter().map(|id| json!(id))),
        "keys": sorted(keys),
        "services": sorted(services),
    })
}

fn sorted(values: impl Iterator<Item = Value>) -> Vec<Value> {
    let mut values: Vec<_> = values.collect();
    values.sort_by_key(Value::to_string);
    values
}

#[test]
fn signing() {
    check("signing", |case| {
        let request = SignRequest::parse(&body(case))?;
        assert_eq!(SignRequest::parse(request.to_json().as_bytes()).unwrap().purpose, request.purpose);
        Ok(json!({
            "purpose": request.purpose.as_str(),
            "publicKey": request.public_key,
            "expiration": request.expiration,
        }))
    });
}

#[test]
fn token() {
    check("token", |case| {
        let token = Token::parse(text(case, "token"))?;
        let issuer = PublicKey::parse(text(case, "publicKey")).unwrap();
        token.verify(&VerifyingKey::new(&issuer).unwrap())?;
        match case.get("check").map(|check| check.as_str().unwrap()) {
            Some("access") => token.claims().check_access_times(time_of(case, "now"), skew(case))?,
            Some("refresh") => token.claims().check_refresh_times(time_of(case, "now"), skew(case))?,
            _ => return Ok(serde_json::from_str(&token.claims().to_json()).unwrap()),
        }
        Ok(json!(true))
    });
}

#[test]
fn message() {
    check("message", |case| {
        let operation = Operation::from_path(text(case, "path")).unwrap();
        let message = message::parse(operation, &body(case))?;
        let verified = match message.request() {
            Request::SessionCreate { .. } => {
                message.verify_with(&PublicKey::parse(text(case, "key")).unwrap())?
            }
            _ => message.verify()?,
        };
        Ok(json!(verified.cause()))
    });
}

#[test]
fn access() {
    check("access", |case| {
        let now = time_of(case, "now");
        let body = body(case);
        let request = AccessRequest::parse(&body)?;
        let token = Token::parse(request.token)?;
        token.claims().check_access_times(now, skew(case))?;
        request.check_time(now, skew(case))?;
        request.verify(&VerifyingKey::new(&token.claims().public_key)?)?;
        Ok(json!({
            "nonce": request.nonce,
            "timestamp": request.timestamp,
            "token": request.token,
            "audience": request.audience,
            "request": request.request,
        }))
    });
}

#[test]
fn response() {
    check("response", |case| {
        let body = body(case);
        let response = Response::parse(&body)?;
        response.verify(&Nonce::parse(text(case, "nonce")).unwrap())?;
        Ok(json!({"serverIdentity": response.server_identity, "response": response.response}))
    });
}

#[test]
fn passphrase() {
    check("passphrase", |case| {
        let seed = recovery::seed_from_passphrase(text(case, "passphrase"))?;
        let public_key = SigningKey::from_seed(&seed)?.public_key();
        Ok(json!({"seed": hex(seed.as_slice()), "publicKey": public_key}))
    });
}

/// Holds every case of a file against what `attempt` makes of it, and names all that differ.
fn check(file: &str, attempt: impl Fn(&Value) -> Result<Value, Refusal>) {
    check_some(file, |_| true, attempt);
}

fn check_some(
    file: &str,
    which: impl Fn(&Value) -> bool,
    attempt: impl Fn(&Value) -> Result<Value, Refusal>,
) {
    let cases: Vec<_> = cases(file).into_iter().filter(which).collect();
    assert!(!cases.is_empty(), "{file}.json has no such vector");
    let wrong: Vec<_> = cases.iter().filter_map(|case| difference(case, attempt(case))).collect();
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

fn difference(case: &Value, got: Result<Value, Refusal>) -> Option<String> {
    let shown = match &got {
        Ok(value) => json!({"ok": value}),
        Err(refusal) => json!({"code": refusal.code().as_str()}),
    };
    (shown != case["expect"]).then(|| {
        let because = got.err().map(|refusal| refusal.because()).unwrap_or_default();
        format!("{}: want {}, got {shown} {because}", text(case, "name"), case["expect"])
    })
}

fn cases(file: &str) -> Vec<Value> {
    let path = format!("{}/tests/vectors/{file}.json", env!("CARGO_MANIFEST_DIR"));
    let mut whole: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    serde_json::from_value(whole["vectors"].take()).unwrap()
}

/// The bytes of a primitive in hex, after a look at its text form.
fn spelt(text: &str, value: impl Display, bytes: &[u8]) -> Value {
    assert_eq!(value.to_string(), text, "a value has one spelling");
    json!(hex(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

fn live(chain: &Chain, case: &Value, now: Timestamp) -> Value {
    let known: Vec<_> = list(case, "steps")
        .iter()
        .flat_map(|step| events(step, "events"))
        .map(|event| event.event().clone())
        .collect();
    let mut seen = serde_json::Map::new();
    for name in ["edge", "authd", "device"] {
        let mut live: Vec<_> =
            known.iter().filter(|event| chain.live(&event.id, window(name), now).is_ok()).collect();
        live.sort_by_key(|event| event.sequence_number);
        live.dedup_by_key(|event| event.id);
        seen.insert(name.to_owned(), live.iter().map(|event| json!(event.id)).collect());
    }
    Value::Object(seen)
}

/// What the verifier of a case has accepted.
fn chain_of(case: &Value) -> Chain {
    let mut chain = Chain::new(prefix(case), settings(case));
    chain.merge(events(case, "chain"), time_of(case, "now"));
    chain
}

fn settings(case: &Value) -> Settings {
    let pin = |of: &Value| of.get("pin").map(|pin| Digest::parse(pin.as_str().unwrap()).unwrap());
    let highest = case.get("highest").map(|highest| Highest {
        id: Digest::parse(text(highest, "id")).unwrap(),
        sequence_number: highest["sequenceNumber"].as_u64().unwrap(),
        pin: pin(highest),
    });
    Settings { skew: skew(case), pin: pin(case), highest }
}

fn window(name: &str) -> Duration {
    match name {
        "edge" => chain::windows::EDGE,
        "authd" => chain::windows::AUTHD,
        "device" => chain::windows::DEVICE,
        other => panic!("no such window: {other}"),
    }
}

fn events(case: &Value, name: &str) -> Vec<SignedEvent> {
    let texts = list(case, name).iter().map(|event| event.as_str().unwrap());
    texts.map(|event| SignedEvent::parse(event).unwrap()).collect()
}

fn prefix(case: &Value) -> Digest {
    Digest::parse(text(case, "prefix")).unwrap()
}

fn skew(case: &Value) -> Duration {
    Duration::from_millis(case["skewMillis"].as_u64().unwrap())
}

fn time_of(case: &Value, name: &str) -> Timestamp {
    Timestamp::parse(text(case, name)).unwrap()
}

fn body(case: &Value) -> Vec<u8> {
    let Some(hex) = case.get("bodyHex").map(|hex| hex.as_str().unwrap()) else {
        return text(case, "body").as_bytes().to_vec();
    };
    let digits = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

fn text<'a>(case: &'a Value, name: &str) -> &'a str {
    case[name].as_str().unwrap_or_else(|| panic!("no text `{name}` in {case}"))
}

fn list<'a>(case: &'a Value, name: &str) -> &'a [Value] {
    case[name].as_array().expect("a list")
}
