//! What this crate writes is, byte for byte, what the second implementation wrote into the vectors.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests assert by panicking")]

use keychain::{
    Digest, Nonce, PublicKey, Signature, SigningKey, VerifyingKey,
    access::{self, AccessRequest, Response},
    chain::{Draft, SignedEvent},
    endorsement::{self, Endorsement},
    message::{self, Operation, Request, body},
    signed::Envelope,
    statement::{Head, NewHead},
    token::Token,
};
use serde_json::Value;

#[test]
fn events() {
    let first = SignedEvent::parse(&good("event", "event 0", "event")).unwrap();
    for name in ["event 0", "event 1", "event 1, taint"] {
        let text = good("event", name, "event");
        let read = SignedEvent::parse(&text).unwrap();
        let event = read.event();
        let (key, rotation, created) = (&event.public_key, &event.rotation_hash, event.created_at);
        let draft = match event.previous {
            None => Draft::first(key, rotation, created),
            Some(_) => Draft::next(first.event(), key, rotation, created, event.taint_previous),
        };
        assert_eq!((draft.payload(), draft.id()), (payload(&text), event.id));
        let sealed = draft.seal(&Envelope::parse(&text).unwrap().signature.unwrap()).unwrap();
        assert_eq!(sealed.text(), text);
    }
}

#[test]
fn endorsements() {
    let text = good("endorsement", "by the newest generation", "endorsement");
    let read = Endorsement::parse(&text).unwrap();
    let service = read.service.as_deref().unwrap();
    let draft = endorsement::Draft::new(&read.subject, service, &read.identity, &read.generation_id);
    let signature = text.rsplit('"').nth(1).unwrap();
    assert_eq!(draft.seal(&Signature::parse(signature).unwrap()), text);
    let text = good("endorsement", "with a number", "endorsement");
    let read = Endorsement::parse(&text).unwrap();
    let (service, number) = (read.service.as_deref().unwrap(), read.number.unwrap());
    let draft =
        endorsement::Draft::numbered(&read.subject, service, number, &read.identity, &read.generation_id);
    let signature = text.rsplit('"').nth(1).unwrap();
    assert_eq!(draft.seal(&Signature::parse(signature).unwrap()), text);
}

#[test]
fn statements() {
    let chain = cases("head")[0]["chain"].clone();
    let newest = SignedEvent::parse(chain[3].as_str().unwrap()).unwrap();
    let sealed = |draft: keychain::statement::Draft, text: &str| {
        draft.seal(&Signature::parse(text.rsplit('"').nth(1).unwrap()).unwrap())
    };
    for name in ["by the newest generation", "all that can be listed"] {
        let cases = cases("head");
        let case = cases.iter().find(|case| case["name"] == name).unwrap();
        let text = case["heads"][0].as_str().unwrap();
        let read = Head::parse(text).unwrap();
        read.verify_signature(&newest).unwrap();
        let new = NewHead {
            event: newest.event(),
            number: read.number(),
            issued_at: read.issued_at(),
            expiration: read.expiration(),
            entries: read.entries(),
            audit: read.audit(),
        };
        assert_eq!(sealed(new.draft().unwrap(), text), text);
    }
}

#[test]
fn tokens() {
    let text = good("token", "without padding", "token");
    let token = Token::parse(&text).unwrap();
    let issuer = VerifyingKey::new(&token.claims().server_identity).unwrap();
    let signature = Signature::parse(&text[..Signature::TEXT_LEN]).unwrap();
    issuer.verify(token.claims().to_json().as_bytes(), &signature).unwrap();
}

#[test]
fn messages() {
    for operation in Operation::ALL {
        let path = operation.path();
        let text = good("message", &format!("{path}: a good one"), "body");
        let read = message::parse(operation, text.as_bytes()).unwrap();
        let (request, nonce) = (written(read.request(), &text), read.nonce());
        let unsigned = message::unsigned_request(&nonce, &request);
        if operation == Operation::SessionRequest {
            assert_eq!(unsigned, text);
            continue;
        }
        assert_eq!(payload(&unsigned), payload(&text), "{path}");
        let signed = message::request(&key(), &nonce, &request).unwrap();
        assert_eq!(payload(&signed), payload(&text), "{path}");
    }
}

#[test]
fn access_requests_and_answers() {
    for name in ["a good one", "an audience"] {
        let text = good("access", name, "body");
        let read = AccessRequest::parse(text.as_bytes()).unwrap();
        let (nonce, at) = (&read.nonce, read.timestamp);
        let made = access::seal_request(&key(), nonce, at, read.token, read.audience, read.request);
        assert_eq!(payload(&made.unwrap()), payload(&text));
    }
    let text = good("response", "a good one", "body");
    let read = Response::parse(text.as_bytes()).unwrap();
    let made = access::seal_response(&key(), &read.nonce, read.response).unwrap();
    let ours = key().public_key().to_string();
    assert_eq!(payload(&made).replace(&ours, &read.server_identity.to_string()), payload(&text));
}

/// The `request` of a message, written from what was read of it.
fn written(request: &Request, text: &str) -> String {
    match request {
        Request::AccountCreate { authentication, recovery_hash }
        | Request::RecoveryChange { authentication, recovery_hash } => {
            body::with_recovery_hash(authentication, recovery_hash)
        }
        Request::AccountRecover { authentication, recovery_hash, recovery_key } => {
            body::recover(authentication, recovery_hash, recovery_key)
        }
        Request::AccountDelete { authentication } | Request::DeviceRotate { authentication } => {
            body::of_device(authentication)
        }
        Request::SessionRequest { identity } => body::session_request(identity),
        Request::SessionCreate { access, device, challenge } => {
            body::session_create(access, device, challenge)
        }
        Request::SessionRefresh { access, .. } => {
            let token = text.split("\"token\":\"").nth(1).unwrap().split('"').next().unwrap();
            body::session_refresh(access, token)
        }
        Request::DeviceLink { authentication, link } => {
            let by_us = message::link_container(&key(), &link.authentication).unwrap();
            assert_eq!(payload(&by_us), &*link.payload);
            let container = keychain::signed::seal(&link.payload, &link.signature);
            body::link(authentication, &container)
        }
        Request::DeviceUnlink { authentication, device } => body::unlink(authentication, device),
    }
}

fn key() -> SigningKey {
    SigningKey::from_seed(&[9; 32]).unwrap()
}

fn payload(message: &str) -> &str {
    Envelope::parse(message).unwrap().payload
}

/// A text of the vector with that name, which is an accepted one.
fn cases(file: &str) -> Vec<Value> {
    let path = format!("{}/tests/vectors/{file}.json", env!("CARGO_MANIFEST_DIR"));
    let mut whole: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    serde_json::from_value(whole["vectors"].take()).unwrap()
}

fn good(file: &str, name: &str, member: &str) -> String {
    let cases = cases(file);
    let case = cases.iter().find(|case| case["name"] == name).unwrap();
    assert!(case["expect"].get("ok").is_some(), "{name}");
    case[member].as_str().unwrap().to_owned()
}

#[test]
fn primitives_are_written_alike_everywhere() {
    let key = key().public_key();
    let (digest, nonce) = (Digest::of("x"), Nonce::from_bytes([1; 16]));
    for (json, text) in [
        (serde_json::to_string(&key), key.to_string()),
        (serde_json::to_string(&digest), digest.to_string()),
        (serde_json::to_string(&nonce), nonce.to_string()),
    ] {
        assert_eq!(json.unwrap(), format!("\"{text}\""));
    }
    assert_eq!(serde_json::from_str::<PublicKey>(&format!("\"{key}\"")).unwrap(), key);
}
