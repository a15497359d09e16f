//! One request to each sample app, in four languages, through the edge before it.

use keychain::error::Code;
use serde_json::json;
use tests::World;
use tests::craft::Device;

/// Fails when an app is left out: a missing interpreter is no excuse.
const APPS: [&str; 4] = ["python", "ruby", "rust", "typescript"];

#[tokio::test]
async fn every_app_answers_through_its_edge() {
    let world = World::shared().await;
    let mut device = Device::create(&world.auth()).await;
    device.open_session(&world.auth()).await;
    for name in APPS {
        let request = r#"{"foo":"Füße","bar":"🦀 < & >"}"#;
        let answer = world.app(name).post("/foo/bar", device.session().access(request)).await;
        let expected = json!({"wasFoo": "Füße", "wasBar": "🦀 < & >", "serverName": name});
        assert_eq!(answer.response(), expected, "{name}");
    }
}

/// The device verifies the answer over the bytes that its own `JSON.stringify` makes.
#[tokio::test]
async fn answers_are_bound_to_their_request_and_signed_by_their_edge() {
    let world = World::shared().await;
    let mut device = Device::create(&world.auth()).await;
    device.open_session(&world.auth()).await;
    for name in APPS {
        let request = device.session().access(r#"{"foo":"a","bar":"b"}"#);
        let nonce =
            serde_json::from_str::<serde_json::Value>(&request).unwrap()["payload"]["access"]["nonce"]
                .clone();
        let answer = world.app(name).post("/foo/bar", request).await;
        let sent = keychain::access::Response::parse(answer.body.as_bytes()).unwrap();
        assert_eq!(json!(sent.nonce.to_string()), nonce);
        sent.verify(&sent.nonce).unwrap();
        let published = world.keys().get(&format!("/keys/{}", sent.server_identity)).await.json();
        assert_eq!(published["body"]["payload"]["service"], json!(format!("edge:{name}")));
    }
}

/// What the app refuses reaches the device signed, with the app's status.
#[tokio::test]
async fn an_apps_refusal_reaches_the_device() {
    let world = World::shared().await;
    let mut device = Device::create(&world.auth()).await;
    device.open_session(&world.auth()).await;
    for name in APPS {
        let answer = world.app(name).post("/foo/bar", device.session().access(r#"{"foo":1}"#)).await;
        assert_eq!(answer.status, 400, "{name}: {}", answer.body);
        let sent = keychain::access::Response::parse(answer.body.as_bytes()).unwrap();
        sent.verify(&sent.nonce).unwrap();
    }
}

/// An app cannot be reached around its edge: it wants the secret that only the edge knows.
#[tokio::test]
async fn a_session_is_good_at_every_app_and_nothing_else_is() {
    let world = World::shared().await;
    let mut device = Device::create(&world.auth()).await;
    device.open_session(&world.auth()).await;
    for name in APPS {
        world.app(name).post("/foo/bar", r#"{"foo":"a","bar":"b"}"#).await.refused(Code::InvalidMessage);
        world
            .app(name)
            .post("/foo/bar", device.session().access(r#"{"foo":"a","bar":"b"}"#))
            .await
            .response();
    }
}
