//! Access requests that are stale, replayed, forged or meant for another place, at the edge
//! (`PROTOCOL.md#access-request`).

use std::time::Duration;

use keychain::error::Code;
use keychain::time::Timestamp;
use tests::World;
use tests::craft::{Device, Session, key, nonce, now, seal};

const REQUEST: &str = r#"{"foo":"a","bar":"b"}"#;

async fn device(world: &World) -> Device {
    let auth = world.auth();
    let mut device = Device::create(&auth).await;
    device.open_session(&auth).await;
    device
}

/// A request whose timestamp and the rest are good, made at `timestamp`.
fn at(session: &Session, timestamp: Timestamp) -> String {
    session.access_with(REQUEST, &nonce(), &timestamp.to_string(), &session.token)
}

#[tokio::test]
async fn a_request_is_accepted_once() {
    let world = World::shared().await;
    let device = device(&world).await;
    let request = device.session().access(REQUEST);
    let app = world.app("rust");
    app.post("/foo/bar", request.clone()).await.response();
    for _ in 0..3 {
        app.post("/foo/bar", request.clone()).await.refused(Code::Replay);
    }
}

/// The same request sent a hundred times at once is let through once.
#[tokio::test]
async fn of_racing_replays_one_is_accepted() {
    let world = World::shared().await;
    let device = device(&world).await;
    let request = device.session().access(REQUEST);
    let racers: Vec<_> = (0..100)
        .map(|_| {
            let (app, request) = (world.app("rust"), request.clone());
            tokio::spawn(async move { app.post("/foo/bar", request).await })
        })
        .collect();
    let mut accepted = 0;
    for racer in racers {
        let answer = racer.await.unwrap();
        if answer.status == 200 {
            accepted += 1;
        } else {
            answer.refused(Code::Replay);
        }
    }
    assert_eq!(accepted, 1);
}

#[tokio::test]
async fn a_request_is_of_now() {
    let world = World::shared().await;
    let device = device(&world).await;
    let (app, session) = (world.app("rust"), device.session());
    let seconds = Duration::from_secs;
    app.post("/foo/bar", at(session, now().minus(seconds(40)))).await.refused(Code::StaleRequest);
    app.post("/foo/bar", at(session, now().minus(seconds(86_400)))).await.refused(Code::StaleRequest);
    app.post("/foo/bar", at(session, now().plus(seconds(60)))).await.refused(Code::FutureRequest);
    app.post("/foo/bar", at(session, now().minus(seconds(20)))).await.response();
    // Clocks may differ a little.
    app.post("/foo/bar", at(session, now().plus(seconds(2)))).await.response();
}

/// Timestamps in any other spelling than the protocol's.
#[tokio::test]
async fn a_timestamp_has_one_form() {
    let world = World::shared().await;
    let device = device(&world).await;
    let (app, session) = (world.app("rust"), device.session());
    let good = now().to_string();
    let zone = good.replace('Z', "+00:00");
    let lower = good.to_lowercase();
    let space = good.replace('T', " ");
    let long = good.replace('Z', "0000000Z");
    for timestamp in ["", "0", "now", &zone, &lower, &space, &long, "2026-02-30T00:00:00.000Z"] {
        let request = session.access_with(REQUEST, &nonce(), timestamp, &session.token);
        println!("{timestamp}");
        app.post("/foo/bar", request).await.refused(Code::InvalidMessage);
    }
}

#[tokio::test]
async fn a_request_is_signed_by_the_key_in_its_token() {
    let world = World::shared().await;
    let (device, other) = (device(&world).await, device(&world).await);
    let (app, session) = (world.app("rust"), device.session());
    // Another device's token under one's own signature.
    let stolen = session.access_with(REQUEST, &nonce(), &now().to_string(), &other.session().token);
    app.post("/foo/bar", stolen).await.refused(Code::BadSignature);
    // What was signed is what counts.
    let tampered = session.access(REQUEST).replace(r#""foo":"a""#, r#""foo":"c""#);
    app.post("/foo/bar", tampered).await.refused(Code::BadSignature);
    // The device's authentication key is not its access key.
    let payload = session.access(REQUEST);
    let payload = payload.strip_prefix("{\"payload\":").unwrap().rsplit_once(",\"signature\"").unwrap().0;
    app.post("/foo/bar", seal(payload, &device.keys.current)).await.refused(Code::BadSignature);
}

/// A forged request does not burn the nonce that it names.
#[tokio::test]
async fn a_forged_request_burns_no_nonce() {
    let world = World::shared().await;
    let device = device(&world).await;
    let (app, session) = (world.app("rust"), device.session());
    let request = session.access(REQUEST);
    let payload = request.strip_prefix("{\"payload\":").unwrap().rsplit_once(",\"signature\"").unwrap().0;
    app.post("/foo/bar", seal(payload, &key())).await.refused(Code::BadSignature);
    app.post("/foo/bar", request).await.response();
}

#[tokio::test]
async fn a_forged_token_opens_nothing() {
    let world = World::shared().await;
    let device = device(&world).await;
    let (app, session) = (world.app("rust"), device.session());
    let claims = keychain::token::Token::parse(&session.token).unwrap().claims().clone();
    let forger = key();
    let with = |token: &str| session.access_with(REQUEST, &nonce(), &now().to_string(), token);

    let forged = keychain::token::Claims { server_identity: forger.public_key(), ..claims.clone() };
    app.post("/foo/bar", with(&forged.issue(&forger).unwrap())).await.refused(Code::UnknownKey);
    app.post("/foo/bar", with(&claims.issue(&forger).unwrap())).await.refused(Code::BadSignature);
    // A service's response key is endorsed, but not to issue tokens.
    let answer = app.post("/foo/bar", session.access(REQUEST)).await.json();
    let response_key = answer["payload"]["access"]["serverIdentity"].as_str().unwrap();
    let named = keychain::cesr::PublicKey::parse(response_key).unwrap();
    let misused = keychain::token::Claims { server_identity: named, ..claims };
    app.post("/foo/bar", with(&misused.issue(&forger).unwrap())).await.refused(Code::UnknownKey);
    for malformed in ["", "0I", &session.token[..88], &session.token[..session.token.len() - 4]] {
        app.post("/foo/bar", with(malformed)).await.refused(Code::InvalidToken);
    }
    app.post("/foo/bar", session.access(REQUEST)).await.response();
}

/// A response key of a service, slipped into the place of an issuing key by somebody who can write to the
/// directory, is not one.
#[tokio::test]
async fn an_endorsement_for_answers_issues_no_tokens() {
    let world = World::start().await;
    let device = device(&world).await;
    let (app, session) = (world.app("rust"), device.session());
    let impostor = key();
    let expiration = now().plus(Duration::from_hours(1));
    let public_key = impostor.public_key();
    let body = format!(
        r#"{{"payload":{{"purpose":"response","publicKey":"{public_key}","expiration":"{expiration}"}}}}"#
    );
    let endorsement = world.endorse().post("/sign", body).await;
    assert_eq!(endorsement.status, 200, "{}", endorsement.body);
    let mut access_keys = world.directory(0).await;
    let stored: () = redis::cmd("SET")
        .arg(public_key.to_string())
        .arg(endorsement.body.trim_end())
        .query_async(&mut access_keys)
        .await
        .unwrap();
    let () = stored;
    let claims = keychain::token::Token::parse(&session.token).unwrap().claims().clone();
    let forged = keychain::token::Claims { server_identity: public_key, ..claims };
    let token = forged.issue(&impostor).unwrap();
    let request = session.access_with(REQUEST, &nonce(), &now().to_string(), &token);
    let answer = app.post("/foo/bar", request).await;
    assert!(
        [Code::WrongPurpose.as_str(), Code::UnknownKey.as_str()]
            .contains(&answer.json()["error"]["code"].as_str().unwrap()),
        "{}",
        answer.body
    );
    assert_eq!(answer.status, 401);
    app.post("/foo/bar", session.access(REQUEST)).await.response();
}

/// A request that names an audience is for that place; this edge was not told that it is one.
#[tokio::test]
async fn a_request_for_another_place_is_refused() {
    let world = World::shared().await;
    let device = device(&world).await;
    let session = device.session();
    let access = format!(
        r#"{{"nonce":"{}","timestamp":"{}","token":"{}","audience":"https://other.example/foo/bar"}}"#,
        nonce(),
        now(),
        session.token
    );
    let request = seal(&format!(r#"{{"access":{access},"request":{REQUEST}}}"#), &session.keys.current);
    world.app("rust").post("/foo/bar", request).await.refused(Code::AudienceMismatch);
}

/// Nothing of the device's own header fields can pass for the edge's.
#[tokio::test]
async fn identity_headers_of_the_device_are_dropped() {
    let world = World::shared().await;
    let device = device(&world).await;
    let url = format!("{}/foo/bar", world.endpoints().apps["rust"]);
    let client = reqwest::Client::new();
    let forged = client
        .post(&url)
        .header("keelson-identity", "E".repeat(44))
        .header("keelson-edge-secret", "guessed")
        .header("content-type", "application/json")
        .body(device.session().access(REQUEST))
        .send()
        .await
        .unwrap();
    assert_eq!(forged.status(), 200);
    let unsigned =
        client.post(&url).header("keelson-identity", device.identity.to_string()).body(REQUEST).send();
    assert_eq!(unsigned.await.unwrap().status(), 400);
}
