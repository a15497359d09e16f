//! Names are compared exactly, case included (`PROTOCOL.md#primitives`).

use keychain::cesr::Digest;
use keychain::error::Code;
use tests::World;
use tests::craft::{Device, Keys, message};

use crate::unharmed;

/// Another digest that differs from `digest` in the case of its letters only.
fn other_case(digest: Digest) -> Digest {
    let text = digest.to_string();
    // The first two characters say what it is and carry pad bits; the others are free.
    let other: String = text[2..].chars().map(flip).collect();
    let other = Digest::parse(&format!("{}{other}", &text[..2])).unwrap();
    assert!(other != digest && other.to_string().eq_ignore_ascii_case(&text));
    other
}

fn flip(letter: char) -> char {
    if letter.is_ascii_lowercase() { letter.to_ascii_uppercase() } else { letter.to_ascii_lowercase() }
}

#[tokio::test]
async fn an_identity_in_another_case_is_another_identity() {
    let world = World::shared().await;
    let auth = world.auth();
    let mut victim = Device::create(&auth).await;
    let real = victim.identity;

    victim.identity = other_case(real);
    victim.rotate(&auth).await.refused(Code::UnknownDevice);
    // Any identity gets a challenge; it is good for that identity alone.
    let challenge = victim.challenge(&auth).await;
    let session = message(&victim.session_request(&Keys::draw(), &challenge), &victim.keys.current);
    auth.post("/session/create", session).await.refused(Code::UnknownDevice);

    victim.identity = real;
    unharmed(&mut victim, &auth).await;
}

#[tokio::test]
async fn a_device_in_another_case_is_another_device() {
    let world = World::shared().await;
    let auth = world.auth();
    let mut victim = Device::create(&auth).await;
    let real = victim.device;

    victim.device = other_case(real);
    victim.rotate(&auth).await.refused(Code::UnknownDevice);
    victim.try_session(&auth).await.refused(Code::UnknownDevice);
    victim.device = real;
    let named_otherwise = other_case(real);
    let unlink = |device: &Device, keys: &Keys| device.unlink_request(keys, &named_otherwise);
    victim.gated(&auth, "/device/unlink", unlink).await.refused(Code::UnknownDevice);

    unharmed(&mut victim, &auth).await;
}
