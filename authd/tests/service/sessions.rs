//! Challenges and the tokens they lead to.

use std::time::Duration;

use keychain::message::Operation;
use keychain::token::Token;
use keychain::{Code, Nonce};
use tests::craft::{Device, Keys, message, now, payload};

use crate::stage::Stage;

crate::on_both!(
    a_token_says_what_the_protocol_says,
    anyone_gets_a_challenge_and_nothing_is_kept_of_it,
    a_challenge_is_answered_once_in_its_minute_for_its_identity,
    only_a_correctly_signed_request_spends_a_challenge,
    unknown_revoked_and_deleted_look_alike,
    a_challenge_is_good_at_every_instance,
);

fn request(identity: &impl std::fmt::Display) -> String {
    let request = format!(r#"{{"authentication":{{"identity":"{identity}"}}}}"#);
    format!(r#"{{"payload":{}}}"#, payload(&request))
}

async fn a_token_says_what_the_protocol_says(stage: Stage) {
    let mut device = Device::create(&stage.auth).await;
    let session = device.open_session(&stage.auth).await;
    let text = &session.token;
    assert!(!text.contains('='));
    let token = Token::parse(text).unwrap();
    let claims = token.claims();
    let issuer = stage.service().access.current().public_key();
    token.verify(&keychain::VerifyingKey::new(&issuer).unwrap()).unwrap();
    assert_eq!(claims.server_identity, issuer);
    assert_eq!(claims.public_key, session.keys.public_key());
    assert_eq!(claims.rotation_hash, session.keys.rotation_hash());
    assert_eq!(claims.expiry.since(claims.issued_at), Duration::from_mins(15));
    assert_eq!(claims.refresh_expiry.since(claims.issued_at), Duration::from_hours(12));
    assert_eq!(claims.attributes.to_json(), r#"{"permissionsByRole":{"user":["read","write"]}}"#);
    assert!(now().since(claims.issued_at) < Duration::from_mins(1));
    assert_eq!((claims.device, claims.identity), (device.device, device.identity));
}

async fn anyone_gets_a_challenge_and_nothing_is_kept_of_it(stage: Stage) {
    let device = Device::create(&stage.auth).await;
    let before = stage.dump().await;
    for identity in [device.identity, keychain::Digest::of("nobody")] {
        for _ in 0..50 {
            let answer = stage.auth.post("/session/request", request(&identity)).await;
            let response = answer.response();
            Nonce::parse(response["authentication"]["nonce"].as_str().unwrap()).unwrap();
        }
    }
    assert_eq!(stage.dump().await, before);
    for bad in [
        request(&"E"),
        request(&device.identity.to_string().to_lowercase().replacen('e', "X", 1)),
        request(&""),
        request(&"\u{0}"),
    ] {
        stage.refuses("/session/request", bad, Code::InvalidMessage).await;
    }
    let signed = message(
        &format!(r#"{{"authentication":{{"identity":"{}"}}}}"#, device.identity),
        &device.keys.current,
    );
    stage.refuses("/session/request", signed, Code::InvalidMessage).await;
}

async fn a_challenge_is_answered_once_in_its_minute_for_its_identity(stage: Stage) {
    let auth = &stage.auth;
    let (device, other) = stage.couple().await;
    let create = |device: &Device, challenge: &str| {
        message(&device.session_request(&Keys::draw(), challenge), &device.keys.current)
    };
    let challenge = device.challenge(auth).await;
    assert_eq!(auth.post("/session/create", create(&device, &challenge)).await.status, 200);
    stage.refuses("/session/create", create(&device, &challenge), Code::UnknownChallenge).await;
    stage.refuses("/session/create", create(&other, &challenge), Code::UnknownChallenge).await;
    let never = tests::craft::nonce().to_string();
    stage.refuses("/session/create", create(&device, &never), Code::UnknownChallenge).await;

    // Another identity's challenge: this device is unknown there.
    let theirs = Device::create(auth).await.challenge(auth).await;
    stage.refuses("/session/create", create(&device, &theirs), Code::UnknownDevice).await;

    // Another device of the same identity may answer.
    let challenge = device.challenge(auth).await;
    assert_eq!(auth.post("/session/create", create(&other, &challenge)).await.status, 200);

    // The minute, by the service's own word.
    let challenge = device.challenge(auth).await;
    let body = create(&device, &challenge);
    let at = |seconds| now().plus(Duration::from_secs(seconds));
    let service = stage.service();
    let late = service.answer(Operation::SessionCreate, body.as_bytes(), at(61)).await.unwrap_err();
    assert_eq!(late.into_refusal().code(), Code::UnknownChallenge);
    service.answer(Operation::SessionCreate, body.as_bytes(), at(55)).await.unwrap();
    let spent = service.answer(Operation::SessionCreate, body.as_bytes(), at(56)).await.unwrap_err();
    assert_eq!(spent.into_refusal().code(), Code::UnknownChallenge);
    // What is spent is forgotten when it would have expired anyhow.
    service.store.prune(at(600)).await.unwrap();
    assert!(!stage.dump().await.contains("spent_challenges"));
}

async fn only_a_correctly_signed_request_spends_a_challenge(stage: Stage) {
    let auth = &stage.auth;
    let (device, other) = stage.couple().await;
    let challenge = device.challenge(auth).await;
    let access = Keys::draw();
    let request = device.session_request(&access, &challenge);
    for signer in [&device.keys.next, &other.keys.current, &access.current] {
        stage.refuses("/session/create", message(&request, signer), Code::BadSignature).await;
    }
    let itself = Keys { next: keychain::SigningKey::from_seed(access.current.seed()).unwrap(), ..access };
    let own = message(&device.session_request(&itself, &challenge), &device.keys.current);
    stage.refuses("/session/create", own, Code::InvalidHash).await;
    assert_eq!(auth.post("/session/create", message(&request, &device.keys.current)).await.status, 200);
}

async fn unknown_revoked_and_deleted_look_alike(stage: Stage) {
    let auth = &stage.auth;
    let (mut device, mut revoked) = stage.couple().await;
    let gone = revoked.device;
    device.gated(auth, "/device/unlink", |by, keys| by.unlink_request(keys, &gone)).await.response();
    let mut deleted = Device::create(auth).await;
    deleted.gated(auth, "/account/delete", Device::rotate_request).await.response();
    let mut unknown = device.another();
    let mut nobody = Device::draw();
    let mut answers = Vec::new();
    for device in [&mut revoked, &mut deleted, &mut unknown, &mut nobody] {
        let before = stage.dump().await;
        let answer = device.try_session(auth).await;
        answer.refused(Code::UnknownDevice);
        assert_eq!(stage.dump().await, before);
        let mut headers: Vec<_> =
            answer.headers.iter().filter(|(name, _)| *name != "date" && *name != "x-request-id").collect();
        headers.sort_by_key(|(name, _)| name.as_str());
        answers.push((answer.status, answer.body.clone(), format!("{headers:?}")));
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
}

async fn a_challenge_is_good_at_every_instance(stage: Stage) {
    let (_second, other_auth) = stage.another("second").await;
    let device = Device::create(&stage.auth).await;
    let challenge = device.challenge(&stage.auth).await;
    let create = || message(&device.session_request(&Keys::draw(), &challenge), &device.keys.current);
    assert_eq!(other_auth.post("/session/create", create()).await.status, 200);
    stage.refuses("/session/create", create(), Code::UnknownChallenge).await;
}
