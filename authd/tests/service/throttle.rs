//! Limits: who asks too often is told when to come again, and is let in then.

use std::time::Duration;

use keychain::message::Operation;
use keychain::{Code, Timestamp};
use tests::craft::{Device, Keys, Session, message, now};

use crate::stage::{Stage, gated};

/// A request that the service itself is given, at a time of the test's choice. Returns what it is told to wait, in
/// seconds.
async fn wait(stage: &Stage, operation: Operation, body: &str, at: Timestamp) -> Option<u64> {
    let refusal = stage.service().answer(operation, body.as_bytes(), at).await.err()?.into_refusal();
    assert_eq!(refusal.code(), Code::TooMany, "{}", refusal.because());
    Some(refusal.context("retryAfter").unwrap().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_asks_too_often_is_told_when_to_come_again_and_not_locked_out() {
    let stage = Stage::prepared("[limits]\ndevice = \"3/min\"", |_| {}).await;
    let mut device = Device::create(&stage.auth).await;
    device.open_session(&stage.auth).await;
    let begun = now();
    let mut wait_at = Duration::ZERO;
    for turn in 0..6 {
        let (rotate, _, keys) = gated(&device, Device::rotate_request);
        let access = device.session().keys.ahead();
        let refresh = message(&device.session().refresh_request(&access), &access.current);
        let (operation, body) = if turn % 2 == 0 {
            (Operation::DeviceRotate, &rotate)
        } else {
            (Operation::SessionRefresh, &refresh)
        };
        let told = wait(&stage, operation, body, begun.plus(wait_at)).await;
        // One of three was taken by the session.
        assert_eq!(told.is_some(), turn >= 2, "turn {turn}");
        if let Some(seconds) = told {
            assert!((1..=20).contains(&seconds), "{seconds}");
            let before = stage.dump().await;
            let early = wait_at + Duration::from_secs(seconds.saturating_sub(1));
            assert_eq!(wait(&stage, operation, body, begun.plus(early)).await, Some(1));
            assert_eq!(stage.dump().await, before, "what is refused changes nothing");
            wait_at += Duration::from_secs(seconds);
            assert_eq!(wait(&stage, operation, body, begun.plus(wait_at)).await, None, "turn {turn}");
        }
        // A lost answer is given again, whatever the limit says.
        let again = stage.service().answer(operation, body.as_bytes(), begun.plus(wait_at)).await.unwrap();
        assert!(again.repeated);
        if operation == Operation::DeviceRotate {
            device.keys = keys;
        } else {
            let answer: serde_json::Value = serde_json::from_str(&again.response).unwrap();
            let token = answer["access"]["token"].as_str().unwrap().to_owned();
            device.session = Some(Session { keys: access, token });
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_says_when_to_come_again_in_its_header_too() {
    let stage = Stage::prepared("[limits]\ndevice = \"1/h\"", |_| {}).await;
    let mut device = Device::create(&stage.auth).await;
    device.rotate(&stage.auth).await.response();
    let answer = device.rotate(&stage.auth).await;
    answer.refused(Code::TooMany);
    let header: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((3_590..=3_600).contains(&header), "{header}");
    assert!(answer.body.contains(&format!(r#""retryAfter":"{header}""#)), "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_proves_nothing_uses_up_nothing() {
    let stage = Stage::prepared("[limits]\ndevice = \"1/h\"\nidentity = \"1/h\"", |_| {}).await;
    let mut device = Device::create(&stage.auth).await;
    let stranger = Keys::draw();
    for _ in 0..5 {
        let junk = message(&device.rotate_request(&stranger), &stranger.current);
        stage.auth.post("/device/rotate", junk).await.refused(Code::RotationMismatch);
        let challenge = device.challenge(&stage.auth).await;
        let request = device.session_request(&Keys::draw(), &challenge);
        let junk = message(&request, &stranger.current);
        stage.auth.post("/session/create", junk).await.refused(Code::BadSignature);
    }
    device.rotate(&stage.auth).await.response();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_is_counted_that_a_trusted_proxy_names_and_no_other() {
    let limits = "[limits]\naddress = \"2/min\"";
    let named = Stage::prepared(&format!("trusted_proxies = [\"127.0.0.1\"]\n{limits}"), |_| {}).await;
    let unnamed = Stage::prepared(limits, |_| {}).await;
    let client = reqwest::Client::new();
    let ask = async |stage: &Stage, address: &str| {
        let identity = keychain::Digest::of("identity");
        let request = format!(r#"{{"authentication":{{"identity":"{identity}"}}}}"#);
        let body = format!(r#"{{"payload":{}}}"#, tests::craft::payload(&request));
        let request = client.post(stage.url() + "/session/request").header("x-forwarded-for", address);
        let answer = request.body(body).send().await.unwrap();
        (answer.status().as_u16(), answer.headers().contains_key("retry-after"))
    };
    for (address, expected) in [
        ("192.0.2.1", (200, false)),
        ("198.51.100.9, 192.0.2.1", (200, false)),
        ("203.0.113.5, 192.0.2.1", (429, true)),
        ("192.0.2.2", (200, false)),
    ] {
        assert_eq!(ask(&named, address).await, expected, "{address}");
    }
    for _ in 0..4 {
        assert_eq!(ask(&unnamed, "192.0.2.1").await, (200, false));
    }
}
