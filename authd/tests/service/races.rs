//! Many requests at once: one wins, and whoever may be answered again is.

use futures_util::future::join_all;
use keychain::Code;
use keychain::token::{Claims, Token};
use tests::craft::{Device, Keys, key, message};
use tests::http::{Answer, Http};

use crate::stage::{Stage, gated};

crate::on_both!(
    of_a_hundred_refreshes_one_wins,
    a_hundred_copies_of_one_refresh_get_one_answer,
    one_creation_of_many_registers_the_account,
    of_two_links_of_one_container_one_wins,
    of_a_link_and_a_recovery_onto_one_device_one_wins,
    of_many_rotations_to_different_keys_one_wins,
    a_challenge_opens_one_session,
    a_revocation_ends_refreshes_for_good,
);

/// How many at once.
const MANY: usize = 100;

async fn at_once(auth: &Http, path: &str, bodies: Vec<String>) -> Vec<Answer> {
    join_all(bodies.into_iter().map(|body| auth.post(path, body))).await
}

/// Asserts that one was answered and all others were refused with one of these codes.
#[track_caller]
fn one_wins(answers: &[Answer], codes: &[Code]) {
    let won = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(won, 1, "{won} of {} won", answers.len());
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        assert!(codes.iter().any(|code| answer.body.contains(code.as_str())), "{}", answer.body);
    }
}

fn token(answer: &Answer) -> Token {
    Token::parse(answer.response()["access"]["token"].as_str().unwrap()).unwrap()
}

async fn of_a_hundred_refreshes_one_wins(stage: Stage) {
    let (_second, other_auth) = stage.another("second").await;
    let mut device = Device::create(&stage.auth).await;
    device.open_session(&stage.auth).await;
    let session = device.session();
    let bodies = (0..MANY).map(|_| {
        let keys = session.keys.ahead();
        message(&session.refresh_request(&keys), &keys.current)
    });
    let bodies: Vec<_> = bodies.collect();
    // Half of them at another instance.
    let (here, there) = bodies.split_at(MANY / 2);
    let (here, there) = tokio::join!(
        at_once(&stage.auth, "/session/refresh", here.to_vec()),
        at_once(&other_auth, "/session/refresh", there.to_vec()),
    );
    let answers = [here, there].concat();
    one_wins(&answers, &[Code::RefreshSpent]);
    // The winner, and only it, may repeat.
    let winner = answers.iter().position(|answer| answer.status == 200).unwrap();
    let again = at_once(&stage.auth, "/session/refresh", bodies).await;
    one_wins(&again, &[Code::RefreshSpent]);
    // The other instance may have answered first: its name on the token is its own, the rest is the same.
    let (repeated, first) = (token(&again[winner]), token(&answers[winner]));
    let server_identity = first.claims().server_identity;
    assert_eq!(Claims { server_identity, ..repeated.claims().clone() }, *first.claims());
}

async fn a_hundred_copies_of_one_refresh_get_one_answer(stage: Stage) {
    let mut device = Device::create(&stage.auth).await;
    device.open_session(&stage.auth).await;
    let session = device.session();
    let keys = session.keys.ahead();
    let inner = session.refresh_request(&keys);
    let bodies = (0..MANY).map(|_| message(&inner, &keys.current)).collect();
    let answers = at_once(&stage.auth, "/session/refresh", bodies).await;
    let first = token(&answers[0]);
    for answer in &answers {
        assert_eq!(token(answer).claims(), first.claims());
    }
    assert_eq!(stage.dump().await.matches("refreshes: ").count(), 1);
}

async fn one_creation_of_many_registers_the_account(stage: Stage) {
    let device = Device::draw();
    let bodies = (0..20).map(|_| message(&device.create_request(), &device.keys.current)).collect();
    for answer in at_once(&stage.auth, "/account/create", bodies).await {
        answer.response();
    }
    let dump = stage.dump().await;
    assert_eq!(dump.matches("account_records: ").count(), 1, "{dump}");
    assert_eq!(dump.matches("device_records: ").count(), 1, "{dump}");
}

async fn of_two_links_of_one_container_one_wins(stage: Stage) {
    let (device, other) = stage.couple().await;
    let container = device.another().link_container();
    let (one, _, _) = gated(&device, |by, keys| by.link_request(keys, &container));
    let (two, _, _) = gated(&other, |by, keys| by.link_request(keys, &container));
    one_wins(&at_once(&stage.auth, "/device/link", vec![one, two]).await, &[Code::Conflict]);
    assert_eq!(stage.dump().await.matches("/device/link").count(), 4, "two records for each of two links");
}

async fn of_a_link_and_a_recovery_onto_one_device_one_wins(stage: Stage) {
    let (_second, other_auth) = stage.another("second").await;
    for _ in 0..10 {
        let (device, thief) = (Device::create(&stage.auth).await, Device::create(&stage.auth).await);
        let new = device.another();
        let (link, _, _) = gated(&device, |by, keys| by.link_request(keys, &new.link_container()));
        let onto = Device { identity: thief.identity, recovery: thief.recovery, ..new };
        let recover = message(&onto.recover_request(&key()), &onto.recovery);
        let (linked, recovered) =
            tokio::join!(stage.auth.post("/device/link", link), other_auth.post("/account/recover", recover));
        one_wins(&[linked, recovered], &[Code::Conflict]);
    }
}

async fn of_many_rotations_to_different_keys_one_wins(stage: Stage) {
    let device = Device::create(&stage.auth).await;
    let current = &device.keys.next;
    let bodies = (0..20).map(|_| {
        let keys = Keys { current: keychain::SigningKey::from_seed(current.seed()).unwrap(), next: key() };
        message(&device.rotate_request(&keys), &keys.current)
    });
    let answers = at_once(&stage.auth, "/device/rotate", bodies.collect()).await;
    one_wins(&answers, &[Code::Replay]);
    assert_eq!(stage.dump().await.matches("device_records: ").count(), 2);
}

async fn a_challenge_opens_one_session(stage: Stage) {
    let device = Device::create(&stage.auth).await;
    let challenge = device.challenge(&stage.auth).await;
    let bodies = (0..20)
        .map(|_| message(&device.session_request(&Keys::draw(), &challenge), &device.keys.current))
        .collect();
    one_wins(&at_once(&stage.auth, "/session/create", bodies).await, &[Code::UnknownChallenge]);
}

async fn a_revocation_ends_refreshes_for_good(stage: Stage) {
    let auth = &stage.auth;
    for _ in 0..5 {
        let (device, mut other) = stage.couple().await;
        other.open_session(auth).await;
        let (unlink, _, _) = gated(&device, |by, keys| by.unlink_request(keys, &other.device));
        // Whoever comes first, once the unlink is answered nothing more is to be had.
        let (unlinked, raced) = tokio::join!(auth.post("/device/unlink", unlink), other.try_refresh(auth));
        unlinked.response();
        assert!(raced.status == 200 || raced.body.contains(Code::UnknownDevice.as_str()), "{}", raced.body);
        other.try_refresh(auth).await.refused(Code::UnknownDevice);
        other.try_session(auth).await.refused(Code::UnknownDevice);
    }
}
