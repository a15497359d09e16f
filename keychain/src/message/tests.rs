//! Each message read back, and each rule that a message can break by itself.

use super::*;
use crate::key::SigningKey;

fn key(number: u8) -> SigningKey {
    SigningKey::from_seed(&[number; 32]).unwrap()
}

fn nonce() -> Nonce {
    Nonce::from_bytes([7; 16])
}

/// A device's first authentication, derived as the protocol says.
fn device(own: u8, next: u8, recovery_hash: &Digest) -> Authentication {
    let (public_key, rotation_hash) = (key(own).public_key(), key(next).public_key().digest());
    let parts = [public_key.to_string(), rotation_hash.to_string(), recovery_hash.to_string()];
    Authentication {
        device: Digest::of_parts(&[&parts[0], &parts[1]]),
        identity: Digest::of_parts(&[&parts[0], &parts[1], &parts[2]]),
        public_key,
        rotation_hash,
    }
}

fn code(operation: Operation, signer: u8, request_body: &str) -> Result<(), Code> {
    let message = request(&key(signer), &nonce(), request_body).unwrap();
    parse(operation, message.as_bytes())
        .and_then(Unverified::verify)
        .map(|_| ())
        .map_err(|refusal| refusal.code())
}

#[test]
fn every_rule_of_a_lone_message_has_its_code() {
    use Operation::{AccountCreate, AccountRecover, DeviceLink, DeviceRotate, SessionRefresh};
    let recovery = key(90).public_key().digest();
    let good = device(1, 2, &recovery);
    let container = |new: &Authentication, signer| link_container(&key(signer), new).unwrap();
    let joining = Authentication { identity: good.identity, ..device(3, 4, &recovery) };
    let own_digest = |of: Authentication| Authentication { rotation_hash: of.public_key.digest(), ..of };
    for (case, operation, signer, text, expected) in [
        ("create", AccountCreate, 1, body::with_recovery_hash(&good, &recovery), Ok(())),
        (
            "signed by another",
            AccountCreate,
            2,
            body::with_recovery_hash(&good, &recovery),
            Err(Code::BadSignature),
        ),
        (
            "device",
            AccountCreate,
            1,
            body::with_recovery_hash(&Authentication { device: good.identity, ..good }, &recovery),
            Err(Code::InvalidDevice),
        ),
        (
            "identity",
            AccountCreate,
            1,
            body::with_recovery_hash(&Authentication { identity: good.device, ..good }, &recovery),
            Err(Code::InvalidIdentity),
        ),
        (
            "own hash",
            AccountCreate,
            1,
            body::with_recovery_hash(&own_digest(good), &recovery),
            Err(Code::InvalidHash),
        ),
        ("missing member", AccountCreate, 1, body::of_device(&good), Err(Code::InvalidMessage)),
        (
            "recover",
            AccountRecover,
            90,
            body::recover(&good, &Digest::of("next"), &key(90).public_key()),
            Ok(()),
        ),
        (
            "recovery own hash",
            AccountRecover,
            90,
            body::recover(&good, &recovery, &key(90).public_key()),
            Err(Code::InvalidHash),
        ),
        (
            "recover by the device",
            AccountRecover,
            1,
            body::recover(&good, &Digest::of("next"), &key(90).public_key()),
            Err(Code::BadSignature),
        ),
        ("rotate", DeviceRotate, 1, body::of_device(&good), Ok(())),
        ("rotate to itself", DeviceRotate, 1, body::of_device(&own_digest(good)), Err(Code::InvalidHash)),
        (
            "extra member",
            DeviceRotate,
            1,
            body::with_recovery_hash(&good, &recovery),
            Err(Code::InvalidMessage),
        ),
        ("link", DeviceLink, 1, body::link(&good, &container(&joining, 3)), Ok(())),
        (
            "link elsewhere",
            DeviceLink,
            1,
            body::link(&good, &container(&device(3, 4, &recovery), 3)),
            Err(Code::MismatchedIdentities),
        ),
        ("link forged", DeviceLink, 1, body::link(&good, &container(&joining, 1)), Err(Code::BadSignature)),
        (
            "link device",
            DeviceLink,
            1,
            body::link(&good, &container(&Authentication { device: good.device, ..joining }, 3)),
            Err(Code::InvalidDevice),
        ),
        (
            "link own hash",
            DeviceLink,
            1,
            body::link(&good, &container(&own_digest(joining), 3)),
            Err(Code::InvalidHash),
        ),
        (
            "no token",
            SessionRefresh,
            1,
            body::session_refresh(&AccessKeys { public_key: good.public_key, rotation_hash: recovery }, ""),
            Err(Code::InvalidToken),
        ),
    ] {
        assert_eq!(code(operation, signer, &text), expected, "{case}");
    }
}

#[test]
fn only_the_session_request_is_unsigned() {
    let text = body::session_request(&Digest::of("identity"));
    let unsigned = unsigned_request(&nonce(), &text);
    assert!(parse(Operation::SessionRequest, unsigned.as_bytes()).and_then(Unverified::verify).is_ok());
    assert!(parse(Operation::SessionRequest, request(&key(1), &nonce(), &text).unwrap().as_bytes()).is_err());
    let create = body::session_create(
        &AccessKeys { public_key: key(1).public_key(), rotation_hash: Digest::of("next") },
        &Digest::of("device"),
        &nonce(),
    );
    assert!(parse(Operation::SessionCreate, unsigned_request(&nonce(), &create).as_bytes()).is_err());
    let message = request(&key(5), &nonce(), &create).unwrap();
    let unverified = parse(Operation::SessionCreate, message.as_bytes()).unwrap();
    assert!(unverified.clone().verify().is_err(), "its key is looked up");
    assert!(unverified.clone().verify_with(&key(5).public_key()).is_ok());
    assert_eq!(unverified.verify_with(&key(6).public_key()).unwrap_err().code(), Code::BadSignature);
}

#[test]
fn the_cause_leaves_the_nonce_out_and_the_path_in() {
    let good = device(1, 2, &Digest::of("recovery"));
    let cause = |operation, nonce: [u8; 16]| {
        let message = request(&key(1), &Nonce::from_bytes(nonce), &body::of_device(&good)).unwrap();
        parse(operation, message.as_bytes()).unwrap().verify().unwrap().cause()
    };
    assert_eq!(cause(Operation::DeviceRotate, [1; 16]), cause(Operation::DeviceRotate, [2; 16]));
    assert_ne!(cause(Operation::DeviceRotate, [1; 16]), cause(Operation::AccountDelete, [1; 16]));
}

#[test]
fn hostile_bytes_are_values_not_panics() {
    let good = request(&key(1), &nonce(), &body::of_device(&device(1, 2, &Digest::of("r")))).unwrap();
    let payload = Envelope::parse(&good).unwrap().payload.to_owned();
    let short = good.replace("\"signature\":\"0I", "\"signature\":\"0");
    let twice = good.replacen('{', &format!("{{\"payload\":{payload},"), 1);
    let array = format!("[{payload},\"x\"]");
    for bad in [
        &b""[..],
        b"\0",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b"null",
        short.as_bytes(),
        twice.as_bytes(),
        array.as_bytes(),
        good.replace("1AAI", "1AAJ").as_bytes(),
        good.replace("0A", "0B").as_bytes(),
        &good.as_bytes()[..good.len() - 1],
        [good.as_bytes(), b"x"].concat().as_slice(),
    ] {
        assert_eq!(parse(Operation::DeviceRotate, bad).unwrap_err().code(), Code::InvalidMessage);
    }
    let huge = vec![b' '; limits::MESSAGE_MAX + 1];
    assert_eq!(parse(Operation::DeviceRotate, &huge).unwrap_err().code(), Code::TooLarge);
    for operation in Operation::ALL {
        assert_eq!(Operation::from_path(operation.path()), Some(operation));
    }
    assert_eq!(Operation::from_path("/account/Create"), None);
}
