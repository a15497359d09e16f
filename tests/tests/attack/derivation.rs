//! Names that are not the digest of what they claim to be made of (`PROTOCOL.md#derivations`).

use keychain::cesr::Digest;
use keychain::error::Code;
use tests::World;
use tests::craft::{Device, Keys, key, message, random, same, seal};

use crate::unharmed;

fn some_digest() -> Digest {
    Digest::of(random::<16>())
}

#[tokio::test]
async fn an_account_is_named_by_its_keys() {
    let world = World::shared().await;
    let auth = world.auth();
    let mut chosen = Device::draw();
    chosen.identity = some_digest();
    auth.post("/account/create", message(&chosen.create_request(), &chosen.keys.current))
        .await
        .refused(Code::InvalidIdentity);

    let mut victim = Device::create(&auth).await;
    let mut squatter = Device::draw();
    squatter.identity = victim.identity;
    auth.post("/account/create", message(&squatter.create_request(), &squatter.keys.current))
        .await
        .refused(Code::InvalidIdentity);
    unharmed(&mut victim, &auth).await;
}

#[tokio::test]
async fn a_device_is_named_by_its_first_keys() {
    let world = World::shared().await;
    let auth = world.auth();
    let mut chosen = Device::draw();
    chosen.device = some_digest();
    auth.post("/account/create", message(&chosen.create_request(), &chosen.keys.current))
        .await
        .refused(Code::InvalidDevice);

    let mut victim = Device::create(&auth).await;
    let mut other = victim.another();
    other.device = some_digest();
    let recover = message(&other.recover_request(&key()), &other.recovery);
    auth.post("/account/recover", recover).await.refused(Code::InvalidDevice);
    let container = other.link_container();
    let link = |device: &Device, keys: &Keys| device.link_request(keys, &container);
    victim.gated(&auth, "/device/link", link).await.refused(Code::InvalidDevice);
    unharmed(&mut victim, &auth).await;
}

/// A key that commits to itself could be revealed twice: whoever saw the message once would own the
/// device.
#[tokio::test]
async fn no_key_commits_to_itself() {
    let world = World::shared().await;
    let auth = world.auth();
    let mut victim = Device::create(&auth).await;
    let to_itself = |keys: &Keys| Keys { current: same(&keys.current), next: same(&keys.current) };

    for (path, request) in [
        ("/device/rotate", (|device, keys| device.rotate_request(keys)) as fn(&Device, &Keys) -> String),
        ("/account/delete", |device, keys| device.rotate_request(keys)),
        ("/recovery/change", |device, keys| device.change_request(keys, &key())),
        ("/device/unlink", |device, keys| device.unlink_request(keys, &device.device)),
        ("/device/link", |device, keys| device.link_request(keys, &device.another().link_container())),
    ] {
        let keys = to_itself(&victim.keys.ahead());
        let refused = auth.post(path, message(&request(&victim, &keys), &keys.current)).await;
        refused.refused(Code::InvalidHash);
    }

    let mut founder = Device::draw();
    founder.keys = to_itself(&founder.keys);
    auth.post("/account/create", message(&founder.create_request(), &founder.keys.current))
        .await
        .refused(Code::InvalidHash);

    let mut joining = victim.another();
    joining.keys = to_itself(&joining.keys);
    joining.device = joining.keys.device();
    let container = joining.link_container();
    let link = |device: &Device, keys: &Keys| device.link_request(keys, &container);
    victim.gated(&auth, "/device/link", link).await.refused(Code::InvalidHash);

    let access = to_itself(&Keys::draw());
    let challenge = victim.challenge(&auth).await;
    let session = message(&victim.session_request(&access, &challenge), &victim.keys.current);
    auth.post("/session/create", session).await.refused(Code::InvalidHash);
    unharmed(&mut victim, &auth).await;
}

#[tokio::test]
async fn no_recovery_key_commits_to_itself() {
    let world = World::shared().await;
    let auth = world.auth();
    let mut victim = Device::create(&auth).await;
    let other = victim.another();
    let request = other.recover_request(&victim.recovery);
    auth.post("/account/recover", message(&request, &victim.recovery)).await.refused(Code::InvalidHash);
    unharmed(&mut victim, &auth).await;
}

/// A container whose signature is another key's than the one it names.
#[tokio::test]
async fn a_link_container_is_signed_by_the_key_that_it_names() {
    let world = World::shared().await;
    let auth = world.auth();
    let mut victim = Device::create(&auth).await;
    let other = victim.another();
    let container = seal(&other.rotate_request(&other.keys), &key());
    let link = |device: &Device, keys: &Keys| device.link_request(keys, &container);
    victim.gated(&auth, "/device/link", link).await.refused(Code::BadSignature);
    unharmed(&mut victim, &auth).await;
}
