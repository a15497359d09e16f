//! Sessions with challenges that are not one's own (`PROTOCOL.md#operations`).

use keychain::error::Code;
use tests::World;
use tests::craft::{Device, Keys, key, message, nonce};

use crate::unharmed;

#[tokio::test]
async fn a_challenge_is_issued_answered_once_and_bound_to_its_identity() {
    let world = World::shared().await;
    let auth = world.auth();
    let mut device = Device::create(&auth).await;
    let mut other = Device::create(&auth).await;
    let session = |device: &Device, challenge: &str| {
        message(&device.session_request(&Keys::draw(), challenge), &device.keys.current)
    };

    let made_up = nonce().to_string();
    auth.post("/session/create", session(&device, &made_up)).await.refused(Code::UnknownChallenge);
    let foreign = other.challenge(&auth).await;
    auth.post("/session/create", session(&device, &foreign)).await.refused(Code::UnknownDevice);
    let own = device.challenge(&auth).await;
    auth.post("/session/create", session(&device, &own)).await.response();
    auth.post("/session/create", session(&device, &own)).await.refused(Code::UnknownChallenge);

    unharmed(&mut device, &auth).await;
    unharmed(&mut other, &auth).await;
}

/// A wrong signature spends nothing, or anybody could spend another's challenges.
#[tokio::test]
async fn a_challenge_is_spent_by_its_device_only() {
    let world = World::shared().await;
    let auth = world.auth();
    let mut device = Device::create(&auth).await;
    let challenge = device.challenge(&auth).await;
    let request = device.session_request(&Keys::draw(), &challenge);
    auth.post("/session/create", message(&request, &key())).await.refused(Code::BadSignature);
    auth.post("/session/create", message(&request, &device.keys.next)).await.refused(Code::BadSignature);
    auth.post("/session/create", message(&request, &device.keys.current)).await.response();
    unharmed(&mut device, &auth).await;
}

/// Whether an account or a device exists, was unlinked or was deleted: the answers are the same, byte for
/// byte.
#[tokio::test]
async fn absence_looks_like_revocation() {
    let world = World::shared().await;
    let auth = world.auth();
    let mut owner = Device::create(&auth).await;
    let mut unlinked = owner.link(&auth).await;
    let gone = unlinked.device;
    owner.gated(&auth, "/device/unlink", |device, keys| device.unlink_request(keys, &gone)).await.response();
    let mut deleted = Device::create(&auth).await;
    deleted.gated(&auth, "/account/delete", Device::rotate_request).await.response();
    let mut never_linked = owner.another();
    let mut stranger = Device::draw();

    let mut bodies = Vec::new();
    for device in [&mut unlinked, &mut deleted, &mut never_linked, &mut stranger] {
        let answer = device.try_session(&auth).await;
        answer.refused(Code::UnknownDevice);
        bodies.push(answer.body);
    }
    assert!(bodies.iter().all(|body| *body == bodies[0]), "{bodies:?}");
}

/// Challenges for accounts that do not exist look like all others and lock nobody out.
#[tokio::test]
async fn a_flood_of_challenges_locks_nobody_out() {
    let world = World::shared().await;
    let auth = world.auth();
    let mut victim = Device::create(&auth).await;
    let challenge = victim.challenge(&auth).await;
    for _ in 0..500 {
        victim.challenge(&auth).await;
        Device::draw().challenge(&auth).await;
    }
    let request = victim.session_request(&Keys::draw(), &challenge);
    auth.post("/session/create", message(&request, &victim.keys.current)).await.response();
    unharmed(&mut victim, &auth).await;
}
