//! Each operation as it should go, and its exact repeats.

use keychain::access::Response;
use keychain::{Code, Nonce};
use serde_json::json;
use tests::craft::{Device, key, message, nonce, seal};

use crate::stage::{Stage, gated};

/// What a device makes of the keys one step ahead.
type Request = fn(&Device, &tests::craft::Keys) -> String;

crate::on_both!(
    an_account_lives_through_every_operation,
    answers_are_bound_to_their_requests_and_signed_by_the_endorsed_key,
    a_lost_answer_strands_nobody,
    a_repeat_that_comes_too_late_is_refused,
    rotating_to_the_head_is_answered_whatever_made_the_head,
    deletion_and_rotation_have_the_same_bytes_and_are_kept_apart,
);

async fn an_account_lives_through_every_operation(stage: Stage) {
    let auth = &stage.auth;
    let (mut device, mut other) = stage.couple().await;
    assert_eq!(device.rotate(auth).await.response(), json!({}));
    device.open_session(auth).await;
    assert_eq!(device.try_refresh(auth).await.status, 200);
    assert_eq!(device.try_refresh(auth).await.status, 200);
    assert_eq!(other.rotate(auth).await.response(), json!({}));

    let gone = device.device;
    let answer = other.gated(auth, "/device/unlink", |by, keys| by.unlink_request(keys, &gone)).await;
    assert_eq!(answer.response(), json!({}));
    device.try_session(auth).await.refused(Code::UnknownDevice);
    device.try_refresh(auth).await.refused(Code::UnknownDevice);

    let recovery = key();
    let change = other.gated(auth, "/recovery/change", |by, keys| by.change_request(keys, &recovery)).await;
    assert_eq!(change.response(), json!({}));
    let mut fresh = other.another();
    fresh.recovery = recovery;
    let next = key();
    let answer = auth.post("/account/recover", message(&fresh.recover_request(&next), &fresh.recovery)).await;
    assert_eq!(answer.response(), json!({}));
    other.rotate(auth).await.refused(Code::UnknownDevice);
    fresh.open_session(auth).await;

    assert_eq!(fresh.gated(auth, "/account/delete", Device::rotate_request).await.response(), json!({}));
    fresh.try_session(auth).await.refused(Code::UnknownDevice);
    fresh.try_refresh(auth).await.refused(Code::UnknownDevice);
    fresh.rotate(auth).await.refused(Code::UnknownDevice);
}

async fn answers_are_bound_to_their_requests_and_signed_by_the_endorsed_key(stage: Stage) {
    let device = Device::draw();
    for nonce in [nonce(), nonce(), Nonce::from_bytes([0; 16])] {
        let payload = format!(r#"{{"access":{{"nonce":"{nonce}"}},"request":{}}}"#, device.create_request());
        let answer = stage.auth.post("/account/create", seal(&payload, &device.keys.current)).await;
        assert_eq!(answer.response(), json!({}));
        assert_eq!(answer.headers.get("content-type").unwrap(), "application/json");
        let response = Response::parse(answer.body.as_bytes()).unwrap();
        response.verify(&nonce).unwrap();
        assert_eq!(response.server_identity, stage.response_key());
    }
}

async fn a_lost_answer_strands_nobody(stage: Stage) {
    let auth = &stage.auth;
    let mut device = Device::create(auth).await;
    stage.repeats("/account/create", message(&device.create_request(), &device.keys.current)).await;

    let requests: [(&str, Request); 4] = [
        ("/device/rotate", Device::rotate_request),
        ("/recovery/change", |by, keys| by.change_request(keys, &by.recovery)),
        ("/device/link", |by, keys| by.link_request(keys, &by.another().link_container())),
        ("/account/delete", Device::rotate_request),
    ];
    for (path, request) in requests {
        let (body, inner, keys) = gated(&device, request);
        assert_eq!(auth.post(path, body.clone()).await.response(), json!({}), "{path}");
        stage.repeats(path, body).await;
        stage.repeats(path, message(&inner, &keys.current)).await;
        device.keys = keys;
    }
}

async fn a_repeat_that_comes_too_late_is_refused(stage: Stage) {
    let auth = &stage.auth;
    let mut device = Device::create(auth).await;
    let created = message(&device.create_request(), &device.keys.current);
    let other = device.link(auth).await;
    stage.refuses("/account/create", created, Code::Conflict).await;
    let (rotation, _, _) = gated(&device, Device::rotate_request);
    assert_eq!(auth.post("/device/rotate", rotation.clone()).await.status, 200);
    // The kit's device has not moved: its next request reveals the same key for something else.
    let (unlink, _, _) = gated(&device, |by, keys| by.unlink_request(keys, &other.device));
    stage.refuses("/device/unlink", unlink, Code::Replay).await;

    let (mut device, other) = stage.couple().await;
    let (itself, inner, keys) = gated(&device, |by, keys| by.unlink_request(keys, &by.device));
    assert_eq!(auth.post("/device/unlink", itself.clone()).await.status, 200);
    stage.repeats("/device/unlink", itself).await;
    stage.repeats("/device/unlink", message(&inner, &keys.current)).await;
    device.keys = keys;
    let (after, _, _) = gated(&device, |by, keys| by.unlink_request(keys, &other.device));
    stage.refuses("/device/unlink", after, Code::UnknownDevice).await;

    let recovering = other.another();
    let recovered = message(&recovering.recover_request(&key()), &recovering.recovery);
    assert_eq!(auth.post("/account/recover", recovered.clone()).await.status, 200);
    stage.repeats("/account/recover", recovered.clone()).await;
    let (rotation, _, _) = gated(&recovering, Device::rotate_request);
    assert_eq!(auth.post("/device/rotate", rotation).await.status, 200);
    stage.refuses("/account/recover", recovered, Code::Replay).await;
}

async fn rotating_to_the_head_is_answered_whatever_made_the_head(stage: Stage) {
    let auth = &stage.auth;
    let mut device = Device::create(auth).await;
    let here = |device: &Device| message(&device.rotate_request(&device.keys), &device.keys.current);
    stage.repeats("/device/rotate", here(&device)).await;
    let other = device.link(auth).await;
    stage.repeats("/device/rotate", here(&device)).await;
    stage.repeats("/device/rotate", here(&other)).await;
    device.gated(auth, "/recovery/change", |by, keys| by.change_request(keys, &by.recovery)).await.response();
    stage.repeats("/device/rotate", here(&device)).await;

    let gone = other.device;
    device.gated(auth, "/device/unlink", |by, keys| by.unlink_request(keys, &gone)).await.response();
    stage.refuses("/device/rotate", here(&other), Code::UnknownDevice).await;
}

async fn deletion_and_rotation_have_the_same_bytes_and_are_kept_apart(stage: Stage) {
    let device = Device::create(&stage.auth).await;
    let (body, _, _) = gated(&device, Device::rotate_request);
    assert_eq!(stage.auth.post("/device/rotate", body.clone()).await.status, 200);
    stage.refuses("/account/delete", body, Code::Replay).await;

    let device = Device::create(&stage.auth).await;
    let (body, _, _) = gated(&device, Device::rotate_request);
    assert_eq!(stage.auth.post("/account/delete", body.clone()).await.status, 200);
    stage.refuses("/device/rotate", body.clone(), Code::UnknownDevice).await;
    stage.repeats("/account/delete", body).await;
}
