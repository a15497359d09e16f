//! What is revoked stays revoked, at authd at once and at every edge within moments
//! (`PROTOCOL.md#operations`).

use std::time::Duration;

use keychain::error::Code;
use tests::World;
use tests::craft::{Device, key, message};
use tests::until;

const REQUEST: &str = r#"{"foo":"a","bar":"b"}"#;

/// Far above what it takes; the point is that it happens without anybody asking.
const PROMPTLY: Duration = Duration::from_secs(2);

async fn denied_at_the_edge(world: &World, device: &Device) {
    let app = world.app("rust");
    let answer = until("the edge to deny the device", PROMPTLY, async || {
        let answer = app.post("/foo/bar", device.session().access(REQUEST)).await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    answer.refused(Code::Revoked);
}

#[tokio::test]
async fn an_unlinked_device_is_denied_everywhere() {
    let world = World::shared().await;
    let auth = world.auth();
    let mut owner = Device::create(&auth).await;
    let mut other = owner.link(&auth).await;
    other.open_session(&auth).await;
    world.app("rust").post("/foo/bar", other.session().access(REQUEST)).await.response();
    let gone = other.device;
    owner.gated(&auth, "/device/unlink", |device, keys| device.unlink_request(keys, &gone)).await.response();
    other.rotate(&auth).await.refused(Code::UnknownDevice);
    denied_at_the_edge(&world, &other).await;
}

/// Whoever holds the recovery key cuts every device off.
#[tokio::test]
async fn a_recovery_cuts_every_device_off() {
    let world = World::shared().await;
    let auth = world.auth();
    let mut lost = Device::create(&auth).await;
    let mut second = lost.link(&auth).await;
    lost.open_session(&auth).await;
    second.open_session(&auth).await;
    let mut fresh = lost.another();
    auth.post("/account/recover", message(&fresh.recover_request(&key()), &lost.recovery)).await.response();
    for device in [&mut lost, &mut second] {
        device.rotate(&auth).await.refused(Code::UnknownDevice);
        device.try_refresh(&auth).await.refused(Code::UnknownDevice);
        device.try_session(&auth).await.refused(Code::UnknownDevice);
        denied_at_the_edge(&world, device).await;
    }
    fresh.open_session(&auth).await;
    world.app("rust").post("/foo/bar", fresh.session().access(REQUEST)).await.response();
}

#[tokio::test]
async fn a_deleted_account_is_gone() {
    let world = World::shared().await;
    let auth = world.auth();
    let mut device = Device::create(&auth).await;
    let create = message(&device.create_request(), &device.keys.current);
    device.open_session(&auth).await;
    device.gated(&auth, "/account/delete", Device::rotate_request).await.response();
    device.rotate(&auth).await.refused(Code::UnknownDevice);
    device.try_refresh(&auth).await.refused(Code::UnknownDevice);
    denied_at_the_edge(&world, &device).await;
    // Neither its creation nor its recovery brings it back.
    auth.post("/account/create", create).await.refused(Code::Conflict);
    let other = device.another();
    auth.post("/account/recover", message(&other.recover_request(&key()), &device.recovery))
        .await
        .refused(Code::UnknownDevice);
}
