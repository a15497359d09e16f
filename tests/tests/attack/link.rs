//! Linking and unlinking what is somebody else's (`PROTOCOL.md#operations`).

use keychain::error::Code;
use tests::World;
use tests::craft::{Device, Keys};

use crate::unharmed;

/// A container carries no nonce; the identity in it says for which account it was made.
#[tokio::test]
async fn a_container_is_for_one_account() {
    let world = World::shared().await;
    let auth = world.auth();
    let mut attacker = Device::create(&auth).await;
    let mut victim = Device::create(&auth).await;
    let container = victim.another().link_container();
    let link = |device: &Device, keys: &Keys| device.link_request(keys, &container);
    attacker.gated(&auth, "/device/link", link).await.refused(Code::MismatchedIdentities);
    unharmed(&mut attacker, &auth).await;
    unharmed(&mut victim, &auth).await;
}

/// A container seen once is of no use again, not even after its device was unlinked.
#[tokio::test]
async fn a_container_is_good_once() {
    let world = World::shared().await;
    let auth = world.auth();
    let mut owner = Device::create(&auth).await;
    let mut other = owner.another();
    let container = other.link_container();
    let link = |device: &Device, keys: &Keys| device.link_request(keys, &container);
    owner.gated(&auth, "/device/link", link).await.response();
    owner.gated(&auth, "/device/link", link).await.refused(Code::Conflict);
    other.open_session(&auth).await;

    let gone = other.device;
    let unlink = |device: &Device, keys: &Keys| device.unlink_request(keys, &gone);
    owner.gated(&auth, "/device/unlink", unlink).await.response();
    owner.gated(&auth, "/device/link", link).await.refused(Code::Conflict);
    other.try_session(&auth).await.refused(Code::UnknownDevice);
    unharmed(&mut owner, &auth).await;
}

/// An account cannot have another account's device revoked; nothing of it reaches the edges.
#[tokio::test]
async fn only_own_devices_are_unlinked() {
    let world = World::shared().await;
    let auth = world.auth();
    let mut attacker = Device::create(&auth).await;
    let mut victim = Device::create(&auth).await;
    victim.open_session(&auth).await;
    let target = victim.device;
    let unlink = |device: &Device, keys: &Keys| device.unlink_request(keys, &target);
    attacker.gated(&auth, "/device/unlink", unlink).await.refused(Code::UnknownDevice);

    let mut revoked = world.directory(3).await;
    let entry: Option<String> =
        redis::cmd("GET").arg(target.to_string()).query_async(&mut revoked).await.unwrap();
    assert_eq!(entry, None);
    let access = victim.session().access(r#"{"foo":"a","bar":"b"}"#);
    world.app("rust").post("/foo/bar", access).await.response();
    unharmed(&mut victim, &auth).await;
    unharmed(&mut attacker, &auth).await;
}
