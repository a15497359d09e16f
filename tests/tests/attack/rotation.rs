//! Everything that is gated by a rotation stays shut without one (`PROTOCOL.md#operations`).

use keychain::error::Code;
use tests::World;
use tests::craft::{Device, Keys, key, message, same};
use tests::http::Http;

use crate::unharmed;

type Request = fn(&Device, &Keys) -> String;

/// The five operations that a rotation gates. The unlinked and linked devices are the attacker's gain.
const GATED: [(&str, Request); 5] = [
    ("/device/rotate", |device, keys| device.rotate_request(keys)),
    ("/device/link", |device, keys| device.link_request(keys, &device.another().link_container())),
    ("/device/unlink", |device, keys| device.unlink_request(keys, &device.device)),
    ("/recovery/change", |device, keys| device.change_request(keys, &key())),
    ("/account/delete", |device, keys| device.rotate_request(keys)),
];

async fn refused_everywhere(device: &Device, keys: &Keys, code: Code, auth: &Http) {
    for (path, request) in GATED {
        println!("{path}");
        auth.post(path, message(&request(device, keys), &keys.current)).await.refused(code);
    }
}

/// A stranger names the victim's identity and device, and signs with keys of his own. A public server
/// ignores that the rotation step failed at a link, and links his device.
#[tokio::test]
async fn a_stranger_without_the_next_key_changes_nothing() {
    let world = World::shared().await;
    let auth = world.auth();
    let mut victim = Device::create(&auth).await;
    refused_everywhere(&victim, &Keys::draw(), Code::RotationMismatch, &auth).await;
    unharmed(&mut victim, &auth).await;
}

/// A stranger's device, as linked by the attack above, has no session.
#[tokio::test]
async fn a_device_whose_link_failed_is_nobody() {
    let world = World::shared().await;
    let auth = world.auth();
    let mut victim = Device::create(&auth).await;
    let mut intruder = victim.another();
    let (keys, container) = (Keys::draw(), intruder.link_container());
    let link = message(&victim.link_request(&keys, &container), &keys.current);
    auth.post("/device/link", link).await.refused(Code::RotationMismatch);
    intruder.try_session(&auth).await.refused(Code::UnknownDevice);
    intruder.rotate(&auth).await.refused(Code::UnknownDevice);
    unharmed(&mut victim, &auth).await;
}

/// The current key alone, as a thief of a running device has it, is not the next one.
#[tokio::test]
async fn the_key_in_use_gates_nothing() {
    let world = World::shared().await;
    let auth = world.auth();
    let mut victim = Device::create(&auth).await;
    victim.rotate(&auth).await.response();
    let stolen = Keys { current: same(&victim.keys.current), next: key() };
    refused_everywhere(&victim, &stolen, Code::Replay, &auth).await;
    unharmed(&mut victim, &auth).await;
}

/// A device of one account named under another's identity.
#[tokio::test]
async fn a_device_acts_for_its_own_account_only() {
    let world = World::shared().await;
    let auth = world.auth();
    let mut victim = Device::create(&auth).await;
    let mut attacker = Device::create(&auth).await;
    let own = attacker.identity;
    attacker.identity = victim.identity;
    refused_everywhere(&attacker, &attacker.keys.ahead(), Code::UnknownDevice, &auth).await;
    attacker.identity = own;
    unharmed(&mut attacker, &auth).await;
    unharmed(&mut victim, &auth).await;
}

/// The recovery key of another account, or one that was replaced.
#[tokio::test]
async fn a_recovery_takes_the_key_committed_to() {
    let world = World::shared().await;
    let auth = world.auth();
    let mut victim = Device::create(&auth).await;
    let mut intruder = victim.another();
    intruder.recovery = key();
    let recover = message(&intruder.recover_request(&key()), &intruder.recovery);
    auth.post("/account/recover", recover).await.refused(Code::RotationMismatch);

    let next = key();
    let change = |device: &Device, keys: &Keys| device.change_request(keys, &next);
    victim.gated(&auth, "/recovery/change", change).await.response();
    let replaced = victim.another();
    let recover = message(&replaced.recover_request(&key()), &replaced.recovery);
    auth.post("/account/recover", recover).await.refused(Code::RotationMismatch);
    unharmed(&mut victim, &auth).await;
}

/// Signed by somebody else than the key that it reveals.
#[tokio::test]
async fn the_revealed_key_signs() {
    let world = World::shared().await;
    let auth = world.auth();
    let mut victim = Device::create(&auth).await;
    let keys = victim.keys.ahead();
    for (path, request) in GATED {
        auth.post(path, message(&request(&victim, &keys), &key())).await.refused(Code::BadSignature);
    }
    unharmed(&mut victim, &auth).await;
}
