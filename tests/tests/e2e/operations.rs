//! All ten operations and access, by a device that knows only the protocol.

use keychain::error::Code;
use serde_json::json;
use tests::World;
use tests::craft::{Device, key, message};
use tests::http::Http;

const REQUEST: &str = r#"{"foo":"a","bar":"b"}"#;

#[tokio::test]
async fn an_account_lives_its_whole_life() {
    let world = World::shared().await;
    walk(&world.auth(), &world.app("rust")).await;
}

/// From creation to deletion, every operation at least once, with access in between.
pub(crate) async fn walk(auth: &Http, app: &Http) {
    let mut phone = Device::create(auth).await;
    phone.open_session(auth).await;
    app.post("/foo/bar", phone.session().access(REQUEST)).await.response();

    let mut laptop = phone.link(auth).await;
    laptop.open_session(auth).await;
    app.post("/foo/bar", laptop.session().access(REQUEST)).await.response();
    laptop.rotate(auth).await.response();
    laptop.try_refresh(auth).await.response();
    app.post("/foo/bar", laptop.session().access(REQUEST)).await.response();

    let recovery = key();
    let change = phone.gated(auth, "/recovery/change", |device, keys| device.change_request(keys, &recovery));
    change.await.response();
    let gone = phone.device;
    let unlink = laptop.gated(auth, "/device/unlink", |device, keys| device.unlink_request(keys, &gone));
    unlink.await.response();
    phone.try_session(auth).await.refused(Code::UnknownDevice);

    let mut tablet = phone.another();
    tablet.recovery = recovery;
    let next = key();
    auth.post("/account/recover", message(&tablet.recover_request(&next), &tablet.recovery)).await.response();
    tablet.recovery = next;
    laptop.rotate(auth).await.refused(Code::UnknownDevice);
    tablet.open_session(auth).await;
    app.post("/foo/bar", tablet.session().access(REQUEST)).await.response();

    tablet.gated(auth, "/account/delete", Device::rotate_request).await.response();
    tablet.try_session(auth).await.refused(Code::UnknownDevice);
}

/// What an answer is made of, so that a device can believe it (`PROTOCOL.md#signed-messages`).
#[tokio::test]
async fn answers_are_signed_by_a_key_that_the_hsm_endorsed() {
    let world = World::shared().await;
    let auth = world.auth();
    let device = Device::draw();
    let body = message(&device.create_request(), &device.keys.current);
    let nonce =
        serde_json::from_str::<serde_json::Value>(&body).unwrap()["payload"]["access"]["nonce"].clone();
    let answer = auth.post("/account/create", body).await;
    answer.response();
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(answer.json()["payload"]["access"]["nonce"], nonce);

    let sent = keychain::access::Response::parse(answer.body.as_bytes()).unwrap();
    sent.verify(&sent.nonce).unwrap();
    let published = world.keys().get(&format!("/keys/{}", sent.server_identity)).await;
    assert_eq!(published.status, 200, "{}", published.body);
    let endorsement = published.json();
    assert_eq!(endorsement["body"]["payload"]["purpose"], "response");
    assert_eq!(endorsement["body"]["payload"]["service"], "authd");
    assert_eq!(endorsement["body"]["hsm"]["identity"], json!(world.endpoints().identity));
}
