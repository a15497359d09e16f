//! A message seen once: an exact repeat is answered and does nothing, everything else that reveals a
//! spent key is refused (`PROTOCOL.md#exact-repeats`).

use keychain::error::Code;
use tests::World;
use tests::craft::{Device, Keys, key, message, same};
use tests::http::Http;

use crate::unharmed;

/// A path, and what is asked for there with the keys one step ahead.
type Step<'a> = (&'a str, &'a dyn Fn(&Device, &Keys) -> String);

/// The same `payload.request` under a fresh nonce, as a device sends it that got no answer.
async fn repeat(auth: &Http, path: &str, request: &str, signer: &keychain::key::SigningKey) {
    let answer = auth.post(path, message(request, signer)).await;
    assert_eq!(answer.response(), serde_json::json!({}), "{path}");
}

#[tokio::test]
async fn a_repeat_is_answered_and_applied_once() {
    let world = World::shared().await;
    let auth = world.auth();
    let mut device = Device::draw();
    for _ in 0..3 {
        repeat(&auth, "/account/create", &device.create_request(), &device.keys.current).await;
    }
    let (other, recovery) = (device.another(), key());
    let container = other.link_container();
    let steps: [Step<'_>; 4] = [
        ("/device/rotate", &|device, keys| device.rotate_request(keys)),
        ("/device/link", &|device, keys| device.link_request(keys, &container)),
        ("/recovery/change", &|device, keys| device.change_request(keys, &recovery)),
        ("/device/unlink", &|device, keys| device.unlink_request(keys, &other.device)),
    ];
    for (path, request) in steps {
        let keys = device.keys.ahead();
        let request = request(&device, &keys);
        for _ in 0..3 {
            repeat(&auth, path, &request, &keys.current).await;
        }
        device.keys = keys;
    }
    unharmed(&mut device, &auth).await;

    // The recovery key was changed once, to what was asked for.
    let mut fresh = device.another();
    fresh.recovery = recovery;
    let request = fresh.recover_request(&key());
    for _ in 0..3 {
        repeat(&auth, "/account/recover", &request, &fresh.recovery).await;
    }
    unharmed(&mut fresh, &auth).await;
    device.try_session(&auth).await.refused(Code::UnknownDevice);
}

/// A repeat is answered also when its own effect was that the device is gone.
#[tokio::test]
async fn a_repeat_that_revoked_its_device_is_answered() {
    let world = World::shared().await;
    let auth = world.auth();
    for (path, request) in [
        (
            "/device/unlink",
            (|device, keys| device.unlink_request(keys, &device.device)) as fn(&Device, &Keys) -> String,
        ),
        ("/account/delete", |device, keys| device.rotate_request(keys)),
    ] {
        let mut device = Device::create(&auth).await;
        let keys = device.keys.ahead();
        let request = request(&device, &keys);
        for _ in 0..3 {
            repeat(&auth, path, &request, &keys.current).await;
        }
        device.keys = keys;
        device.rotate(&auth).await.refused(Code::UnknownDevice);
        device.try_session(&auth).await.refused(Code::UnknownDevice);
    }
}

/// A captured rotation, after the device went on: neither it nor its key is good for anything.
#[tokio::test]
async fn an_old_message_is_refused_once_the_device_went_on() {
    let world = World::shared().await;
    let auth = world.auth();
    let mut device = Device::create(&auth).await;
    let keys = device.keys.ahead();
    let captured = message(&device.rotate_request(&keys), &keys.current);
    auth.post("/device/rotate", captured.clone()).await.response();
    device.keys = keys;
    device.rotate(&auth).await.response();
    auth.post("/device/rotate", captured).await.refused(Code::Replay);
    unharmed(&mut device, &auth).await;
}

/// The same key with another commitment is another request.
#[tokio::test]
async fn a_spent_key_commits_to_nothing_else() {
    let world = World::shared().await;
    let auth = world.auth();
    let mut device = Device::create(&auth).await;
    let keys = device.keys.ahead();
    let mut fork = device.keys.ahead();
    fork.current = same(&keys.current);
    auth.post("/device/rotate", message(&device.rotate_request(&keys), &keys.current)).await.response();
    device.keys = keys;
    for path in ["/device/rotate", "/account/delete"] {
        auth.post(path, message(&device.rotate_request(&fork), &fork.current)).await.refused(Code::Replay);
    }
    unharmed(&mut device, &auth).await;
}

/// A rotation and a deletion have the same signed bytes: what was sent to the one is not taken by the other.
#[tokio::test]
async fn a_captured_rotation_deletes_nothing() {
    let world = World::shared().await;
    let auth = world.auth();
    let mut device = Device::create(&auth).await;
    let keys = device.keys.ahead();
    let captured = message(&device.rotate_request(&keys), &keys.current);
    auth.post("/device/rotate", captured.clone()).await.response();
    device.keys = keys;
    auth.post("/account/delete", captured).await.refused(Code::Replay);
    unharmed(&mut device, &auth).await;
}

/// A recovery key reveals itself once. A second recovery with it, by whoever saw it, is refused.
#[tokio::test]
async fn a_recovery_key_is_good_once() {
    let world = World::shared().await;
    let auth = world.auth();
    let owner = Device::create(&auth).await;
    let mut fresh = owner.another();
    let next = key();
    auth.post("/account/recover", message(&fresh.recover_request(&next), &owner.recovery)).await.response();
    fresh.recovery = next;
    let thief = owner.another();
    auth.post("/account/recover", message(&thief.recover_request(&key()), &owner.recovery))
        .await
        .refused(Code::Replay);
    unharmed(&mut fresh, &auth).await;
}

/// An account is created once; its creation, repeated after the device went on, undoes nothing.
#[tokio::test]
async fn an_account_is_created_once() {
    let world = World::shared().await;
    let auth = world.auth();
    let mut device = Device::draw();
    let create = message(&device.create_request(), &device.keys.current);
    auth.post("/account/create", create.clone()).await.response();
    device.rotate(&auth).await.response();
    auth.post("/account/create", create).await.refused(Code::Conflict);
    unharmed(&mut device, &auth).await;
}
