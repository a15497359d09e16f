//! Every rule that an account operation can break: its code, its status, and that nothing changed.

use keychain::{Code, Digest};
use tests::craft::{Device, Keys, key, message, payload, seal};

use crate::stage::{Stage, gated};

crate::on_both!(
    names_are_derived_from_first_keys,
    commitments_to_oneself_are_refused,
    signatures_are_by_the_key_that_the_operation_names,
    what_fails_its_rotation_step_changes_nothing,
    a_stranger_cannot_link_a_device_of_his_own,
    a_container_is_for_one_account_and_for_one_time,
    devices_of_other_accounts_are_unknown,
    names_that_differ_in_case_are_two,
    recovery_takes_the_committed_key_once,
    no_account_commits_to_a_recovery_key_that_it_has_spent,
    a_thief_cannot_recover_onto_a_device_of_another,
    a_device_that_a_thief_recovered_onto_is_nobody_elses,
    a_banned_identity_is_refused_by_every_operation_that_proves_a_key,
);

/// A device with one name replaced by another digest.
fn with(device: Device, change: impl FnOnce(&mut Device)) -> Device {
    let mut device = device;
    change(&mut device);
    device
}

async fn names_are_derived_from_first_keys(stage: Stage) {
    let create = |device: &Device| message(&device.create_request(), &device.keys.current);
    let wrong = Digest::of("wrong");
    let device = with(Device::draw(), |device| device.device = wrong);
    stage.refuses("/account/create", create(&device), Code::InvalidDevice).await;
    let device = with(Device::draw(), |device| device.identity = wrong);
    stage.refuses("/account/create", create(&device), Code::InvalidIdentity).await;
    let device = with(Device::draw(), |device| device.recovery = key());
    stage.refuses("/account/create", create(&device), Code::InvalidIdentity).await;

    let mut device = Device::create(&stage.auth).await;
    let other = with(device.another(), |other| other.device = wrong);
    let recover = message(&other.recover_request(&key()), &other.recovery);
    stage.refuses("/account/recover", recover, Code::InvalidDevice).await;
    let container = other.link_container();
    let (link, _, _) = gated(&device, |by, keys| by.link_request(keys, &container));
    stage.refuses("/device/link", link, Code::InvalidDevice).await;
    assert_eq!(device.rotate(&stage.auth).await.status, 200);
}

async fn commitments_to_oneself_are_refused(stage: Stage) {
    let itself = |keys: &Keys| Keys { current: copy(&keys.current), next: copy(&keys.current) };
    let device = Device::draw();
    let own = itself(&device.keys);
    let founder = Device { device: own.device(), keys: own, ..device };
    let create = message(&founder.create_request(), &founder.keys.current);
    stage.refuses("/account/create", create, Code::InvalidHash).await;

    let device = Device::create(&stage.auth).await;
    let own = itself(&device.keys.ahead());
    for (path, request) in [
        ("/device/rotate", device.rotate_request(&own)),
        ("/account/delete", device.rotate_request(&own)),
        ("/recovery/change", device.change_request(&own, &key())),
        ("/device/unlink", device.unlink_request(&own, &device.device)),
        ("/device/link", device.link_request(&own, &device.another().link_container())),
    ] {
        stage.refuses(path, message(&request, &own.current), Code::InvalidHash).await;
    }
    let other = device.another();
    let own = itself(&other.keys);
    let other = Device { device: own.device(), keys: own, ..other };
    let container = other.link_container();
    let (link, _, _) = gated(&device, |by, keys| by.link_request(keys, &container));
    stage.refuses("/device/link", link, Code::InvalidHash).await;
    let other = device.another();
    let recover = message(&other.recover_request(&other.recovery), &other.recovery);
    stage.refuses("/account/recover", recover, Code::InvalidHash).await;
}

async fn signatures_are_by_the_key_that_the_operation_names(stage: Stage) {
    let stranger = key();
    let founder = Device::draw();
    let create = message(&founder.create_request(), &stranger);
    stage.refuses("/account/create", create, Code::BadSignature).await;
    let create = message(&founder.create_request(), &founder.recovery);
    stage.refuses("/account/create", create, Code::BadSignature).await;

    let device = Device::create(&stage.auth).await;
    let ahead = device.keys.ahead();
    for (path, request) in [
        ("/device/rotate", device.rotate_request(&ahead)),
        ("/account/delete", device.rotate_request(&ahead)),
        ("/recovery/change", device.change_request(&ahead, &key())),
        ("/device/unlink", device.unlink_request(&ahead, &device.device)),
        ("/device/link", device.link_request(&ahead, &device.another().link_container())),
    ] {
        for signer in [&stranger, &device.keys.current, &ahead.next] {
            stage.refuses(path, message(&request, signer), Code::BadSignature).await;
        }
        // A good signature over other bytes than those sent.
        let (one, two) = (payload(&request), payload(&request));
        let swapped = seal(&one, &ahead.current).replace(&one, &two);
        stage.refuses(path, swapped, Code::BadSignature).await;
        stage.refuses(path, format!(r#"{{"payload":{one}}}"#), Code::InvalidMessage).await;
    }
    let other = device.another();
    let recover = message(&other.recover_request(&key()), &other.keys.current);
    stage.refuses("/account/recover", recover, Code::BadSignature).await;
    // The container's signature is the new device's own.
    let forged = seal(&other.rotate_request(&other.keys), &ahead.current);
    let link = message(&device.link_request(&ahead, &forged), &ahead.current);
    stage.refuses("/device/link", link, Code::BadSignature).await;
}

async fn what_fails_its_rotation_step_changes_nothing(stage: Stage) {
    let (device, other) = stage.couple().await;
    let keys = Keys::draw();
    for (path, request) in [
        ("/device/rotate", device.rotate_request(&keys)),
        ("/account/delete", device.rotate_request(&keys)),
        ("/recovery/change", device.change_request(&keys, &key())),
        ("/device/unlink", device.unlink_request(&keys, &other.device)),
        ("/device/link", device.link_request(&keys, &device.another().link_container())),
    ] {
        stage.refuses(path, message(&request, &keys.current), Code::RotationMismatch).await;
    }
}

async fn a_stranger_cannot_link_a_device_of_his_own(stage: Stage) {
    // He knows the victim's identity and device, and has keys of his own only.
    let victim = Device::create(&stage.auth).await;
    let his = victim.another();
    let keys = Keys::draw();
    let link = message(&victim.link_request(&keys, &his.link_container()), &keys.current);
    stage.refuses("/device/link", link, Code::RotationMismatch).await;
    let mut his = his;
    his.try_session(&stage.auth).await.refused(Code::UnknownDevice);
    // Nor through a device that the account never had.
    let link = message(&his.link_request(&his.keys, &his.another().link_container()), &his.keys.current);
    stage.refuses("/device/link", link, Code::UnknownDevice).await;
}

async fn a_container_is_for_one_account_and_for_one_time(stage: Stage) {
    let auth = &stage.auth;
    let (mut device, other) = stage.couple().await;
    let foreign = Device::create(auth).await.another().link_container();
    let (link, _, _) = gated(&device, |by, keys| by.link_request(keys, &foreign));
    stage.refuses("/device/link", link, Code::MismatchedIdentities).await;

    let container = other.link_container();
    let (link, _, _) = gated(&device, |by, keys| by.link_request(keys, &container));
    stage.refuses("/device/link", link, Code::Conflict).await;
    let gone = other.device;
    device.gated(auth, "/device/unlink", |by, keys| by.unlink_request(keys, &gone)).await.response();
    let (link, _, _) = gated(&device, |by, keys| by.link_request(keys, &container));
    stage.refuses("/device/link", link, Code::Conflict).await;
    // Nor does recovery bring its first keys back.
    let recover = message(&other.recover_request(&key()), &other.recovery);
    stage.refuses("/account/recover", recover, Code::Conflict).await;
}

async fn devices_of_other_accounts_are_unknown(stage: Stage) {
    let (mine, _) = stage.couple().await;
    let (theirs, their_other) = stage.couple().await;
    let (reach, _, _) = gated(&mine, |by, keys| by.unlink_request(keys, &their_other.device));
    stage.refuses("/device/unlink", reach, Code::UnknownDevice).await;
    let (reach, _, _) = gated(&mine, |by, keys| by.unlink_request(keys, &Digest::of("nobody")));
    stage.refuses("/device/unlink", reach, Code::UnknownDevice).await;

    // A device row of one account used under another's identity, whichever way.
    let identity = theirs.identity;
    let borrowed = with(mine, |device| device.identity = identity);
    for (path, request) in [
        ("/device/rotate", Device::rotate_request as fn(&Device, &Keys) -> String),
        ("/account/delete", Device::rotate_request),
        ("/recovery/change", |by, keys| by.change_request(keys, &by.recovery)),
        ("/device/link", |by, keys| by.link_request(keys, &by.another().link_container())),
    ] {
        let (body, _, _) = gated(&borrowed, request);
        stage.refuses(path, body, Code::UnknownDevice).await;
    }
}

async fn names_that_differ_in_case_are_two(stage: Stage) {
    let device = Device::create(&stage.auth).await;
    let (text, flipped) = (device.identity.to_string(), flip_case(&device.identity.to_string()));
    assert!(text.eq_ignore_ascii_case(&flipped) && text != flipped);
    let keys = device.keys.ahead();
    let request = device.rotate_request(&keys).replace(&text, &flipped);
    stage.refuses("/device/rotate", message(&request, &keys.current), Code::UnknownDevice).await;
    let (text, flipped) = (device.device.to_string(), flip_case(&device.device.to_string()));
    let request = device.rotate_request(&keys).replace(&text, &flipped);
    stage.refuses("/device/rotate", message(&request, &keys.current), Code::UnknownDevice).await;
}

async fn recovery_takes_the_committed_key_once(stage: Stage) {
    let auth = &stage.auth;
    let (device, other) = stage.couple().await;
    let wrong = with(device.another(), |fresh| fresh.recovery = key());
    let recover = message(&wrong.recover_request(&key()), &wrong.recovery);
    stage.refuses("/account/recover", recover, Code::RotationMismatch).await;
    let nobody = Device::draw().another();
    let recover = message(&nobody.recover_request(&key()), &nobody.recovery);
    stage.refuses("/account/recover", recover, Code::UnknownDevice).await;

    let fresh = device.another();
    let recover = message(&fresh.recover_request(&key()), &fresh.recovery);
    assert_eq!(auth.post("/account/recover", recover).await.status, 200);
    for gone in [&device, &other] {
        let (rotate, _, _) = gated(gone, Device::rotate_request);
        stage.refuses("/device/rotate", rotate, Code::UnknownDevice).await;
    }
    let again = device.another();
    let recover = message(&again.recover_request(&key()), &again.recovery);
    stage.refuses("/account/recover", recover, Code::Replay).await;
}

async fn no_account_commits_to_a_recovery_key_that_it_has_spent(stage: Stage) {
    let auth = &stage.auth;
    let first = Device::create(auth).await;
    let (mut fresh, next) = (first.another(), key());
    let recover = message(&fresh.recover_request(&next), &fresh.recovery);
    auth.post("/account/recover", recover).await.response();
    let (change, _, _) = gated(&fresh, |by, keys| by.change_request(keys, &first.recovery));
    stage.refuses("/recovery/change", change, Code::InvalidHash).await;
    fresh.recovery = next;
    let another = fresh.another();
    let recover = message(&another.recover_request(&first.recovery), &another.recovery);
    stage.refuses("/account/recover", recover, Code::InvalidHash).await;
    // It was not locked out.
    let recover = message(&another.recover_request(&key()), &another.recovery);
    auth.post("/account/recover", recover).await.response();
}

async fn a_thief_cannot_recover_onto_a_device_of_another(stage: Stage) {
    let auth = &stage.auth;
    let (mut victim, thief) = (Device::create(auth).await, Device::create(auth).await);
    let founder = onto(&thief, &victim);
    // He has seen the public halves of their first keys: a container has them in clear.
    let linked = victim.link(auth).await;
    for seen in [&founder, &linked] {
        let recover = message(&onto(&thief, seen).recover_request(&key()), &thief.recovery);
        stage.refuses("/account/recover", recover, Code::Conflict).await;
    }
    let gone = linked.device;
    victim.gated(auth, "/device/unlink", |by, keys| by.unlink_request(keys, &gone)).await.response();
    tests::until("the denial in DB 3", std::time::Duration::from_secs(10), || async {
        stage.names(3).await.contains(&gone.to_string()).then_some(())
    })
    .await;
    let recover = message(&onto(&thief, &linked).recover_request(&key()), &thief.recovery);
    stage.refuses("/account/recover", recover, Code::Conflict).await;
}

async fn a_device_that_a_thief_recovered_onto_is_nobody_elses(stage: Stage) {
    let auth = &stage.auth;
    let victim = Device::create(auth).await;
    let (seen, founder, mut thief) = (victim.another(), Device::draw(), Device::create(auth).await);
    for device in [&seen, &founder] {
        let next = key();
        let recover = message(&onto(&thief, device).recover_request(&next), &thief.recovery);
        auth.post("/account/recover", recover).await.response();
        thief.recovery = next;
    }
    tests::until("the thief's denial in DB 3", std::time::Duration::from_secs(10), || async {
        stage.names(3).await.contains(&seen.device.to_string()).then_some(())
    })
    .await;
    let (link, _, _) = gated(&victim, |by, keys| by.link_request(keys, &seen.link_container()));
    stage.refuses("/device/link", link, Code::Conflict).await;
    let create = message(&founder.create_request(), &founder.keys.current);
    stage.refuses("/account/create", create, Code::Conflict).await;
}

/// The thief's account, with the first keys of a device that is not his.
fn onto(thief: &Device, seen: &Device) -> Device {
    let keys = Keys { current: copy(&seen.keys.current), next: copy(&seen.keys.next) };
    Device { device: seen.device, keys, ..thief.another() }
}

async fn a_banned_identity_is_refused_by_every_operation_that_proves_a_key(stage: Stage) {
    let auth = &stage.auth;
    let (mut device, other) = stage.couple().await;
    device.open_session(auth).await;
    let challenge = device.challenge(auth).await;
    assert!(stage.set_banned(&device.identity, true).await);
    assert!(!stage.set_banned(&device.identity, true).await);
    for subject in [device.identity, device.device, other.device] {
        let name = subject.to_string();
        tests::until("the ban in DB 3", std::time::Duration::from_secs(10), || async {
            (stage.redis(3, &["TTL", &name]).await == redis::Value::Int(-1)).then_some(())
        })
        .await;
    }
    let refused = [
        ("/device/rotate", gated(&device, Device::rotate_request).0),
        ("/account/delete", gated(&device, Device::rotate_request).0),
        ("/recovery/change", gated(&device, |by, keys| by.change_request(keys, &by.recovery)).0),
        ("/device/unlink", gated(&device, |by, keys| by.unlink_request(keys, &other.device)).0),
        ("/device/link", gated(&device, |by, keys| by.link_request(keys, &by.another().link_container())).0),
        ("/account/recover", message(&device.another().recover_request(&key()), &device.recovery)),
        (
            "/session/create",
            message(&device.session_request(&Keys::draw(), &challenge), &device.keys.current),
        ),
        ("/session/refresh", {
            let keys = device.session().keys.ahead();
            message(&device.session().refresh_request(&keys), &keys.current)
        }),
    ];
    for (path, body) in refused {
        stage.refuses(path, body, Code::Revoked).await;
    }
    // Being unsigned, the request for a challenge is told nothing.
    assert_eq!(auth.post("/session/request", session_request(&device)).await.status, 200);
    // The tenth, on an identity that has no account yet.
    let founder = Device::draw();
    assert!(stage.set_banned(&founder.identity, true).await);
    let create = message(&founder.create_request(), &founder.keys.current);
    stage.refuses("/account/create", create, Code::Revoked).await;

    assert!(stage.set_banned(&device.identity, false).await);
    assert_eq!(device.rotate(auth).await.status, 200);
    tests::until("the ban's end in DB 3", std::time::Duration::from_secs(10), || async {
        let names = stage.names(3).await;
        (!names.contains(&device.identity.to_string())).then_some(())
    })
    .await;
}

fn session_request(device: &Device) -> String {
    let request = format!(r#"{{"authentication":{{"identity":"{}"}}}}"#, device.identity);
    format!(r#"{{"payload":{}}}"#, payload(&request))
}

fn copy(key: &keychain::SigningKey) -> keychain::SigningKey {
    keychain::SigningKey::from_seed(key.seed()).unwrap()
}

/// The same letters, the last of them in the other case.
fn flip_case(text: &str) -> String {
    let place = text.rfind(|letter: char| letter.is_ascii_alphabetic()).unwrap();
    let flip = |(at, letter): (usize, char)| match letter {
        letter if at != place => letter,
        letter if letter.is_ascii_lowercase() => letter.to_ascii_uppercase(),
        letter => letter.to_ascii_lowercase(),
    };
    text.chars().enumerate().map(flip).collect()
}
