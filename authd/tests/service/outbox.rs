//! Revocations reach the directory, whatever is killed or forgotten in between.

use std::path::Path;
use std::time::Duration;

use keychain::{Digest, SigningKey};
use tests::craft::{Device, Keys, key, message};
use tests::http::Http;
use tests::port::Port;
use tests::process::{Process, command};
use tests::until;

use crate::stage::{Stage, gated};

crate::on_both!(
    every_revocation_reaches_the_directory_for_sixteen_minutes,
    a_kill_between_decision_and_directory_loses_nothing,
    an_emptied_directory_is_told_again,
    a_lifted_ban_leaves_the_denial_of_a_deletion,
    a_lifted_ban_leaves_another_accounts_denial_of_the_same_device,
);

const PATIENCE: Duration = Duration::from_secs(20);

async fn denied(stage: &Stage, who: &Digest) {
    let name = who.to_string();
    until("a denial of 16 minutes in DB 3", PATIENCE, || async {
        let redis::Value::Int(left) = stage.redis(3, &["TTL", &name]).await else { panic!("no TTL") };
        assert!(left <= 960, "{left} s are more than 16 minutes");
        (left > 900).then_some(())
    })
    .await;
}

async fn every_revocation_reaches_the_directory_for_sixteen_minutes(stage: Stage) {
    let auth = &stage.auth;
    let (mut device, other) = stage.couple().await;
    device.link(auth).await;
    let gone = other.device;
    device.gated(auth, "/device/unlink", |by, keys| by.unlink_request(keys, &gone)).await.response();
    denied(&stage, &other.device).await;
    assert_eq!(stage.names(3).await.len(), 1);

    let (device, other) = stage.couple().await;
    let fresh = device.another();
    let recover = message(&fresh.recover_request(&key()), &fresh.recovery);
    auth.post("/account/recover", recover).await.response();
    denied(&stage, &device.device).await;
    denied(&stage, &other.device).await;

    let (delete, _, _) = gated(&fresh, Device::rotate_request);
    auth.post("/account/delete", delete).await.response();
    denied(&stage, &fresh.device).await;
    assert_eq!(stage.names(3).await.len(), 4);
}

async fn a_kill_between_decision_and_directory_loses_nothing(mut stage: Stage) {
    let (device, other) = stage.couple().await;
    stage.dismiss().await;
    let (mut killed, auth) = start(&stage, "killed").await;
    // The directory reads, but takes no writes.
    stage.redis(0, &["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
    let (unlink, _, _) = gated(&device, |by, keys| by.unlink_request(keys, &other.device));
    auth.post("/device/unlink", unlink).await.response();
    killed.signal(rustix::process::Signal::KILL);
    killed.stop();
    assert!(stage.names(3).await.is_empty());
    let store = stage.open_store().await;
    assert_eq!(store.count_unsent(tests::craft::now()).await.unwrap(), 1);

    stage.redis(0, &["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
    let (_restarted, _) = start(&stage, "restarted").await;
    denied(&stage, &other.device).await;
    until("nothing to wait", PATIENCE, || async {
        (store.count_unsent(tests::craft::now()).await.unwrap() == 0).then_some(())
    })
    .await;
}

async fn an_emptied_directory_is_told_again(stage: Stage) {
    let auth = &stage.auth;
    let (mut device, other) = stage.couple().await;
    let gone = other.device;
    device.gated(auth, "/device/unlink", |by, keys| by.unlink_request(keys, &gone)).await.response();
    denied(&stage, &other.device).await;
    stage.redis(0, &["FLUSHALL"]).await;
    denied(&stage, &other.device).await;
    let keys = stage.service();
    for (database, key) in [(0, keys.access.current()), (1, keys.response.current())] {
        until("own keys to be put back", PATIENCE, || async {
            stage.names(database).await.contains(&key.public_key().to_string()).then_some(())
        })
        .await;
    }
}

async fn a_lifted_ban_leaves_the_denial_of_a_deletion(stage: Stage) {
    let device = Device::create(&stage.auth).await;
    let (delete, _, _) = gated(&device, Device::rotate_request);
    stage.auth.post("/account/delete", delete).await.response();
    denied(&stage, &device.device).await;
    let identity = device.identity.to_string();
    for banned in [true, false, true, false] {
        assert!(stage.set_banned(&device.identity, banned).await);
        until("the ban or its end in DB 3", PATIENCE, || async {
            (stage.names(3).await.contains(&identity) == banned).then_some(())
        })
        .await;
    }
    denied(&stage, &device.device).await;
    stage.redis(0, &["FLUSHALL"]).await;
    denied(&stage, &device.device).await;
}

async fn a_lifted_ban_leaves_another_accounts_denial_of_the_same_device(stage: Stage) {
    let (one, shared) = stage.couple().await;
    let mut other = Device::create(&stage.auth).await;
    let copy = |key: &SigningKey| SigningKey::from_seed(key.seed()).unwrap();
    let keys = Keys { current: copy(&shared.keys.current), next: copy(&shared.keys.next) };
    let container = Device { device: shared.device, keys, ..other.another() }.link_container();
    other.gated(&stage.auth, "/device/link", |by, keys| by.link_request(keys, &container)).await.response();
    let shared = shared.device.to_string();
    let told = |banned: &'static [bool]| {
        let names = [&one.identity, &other.identity].map(Digest::to_string);
        let (stage, shared) = (&stage, &shared);
        async move {
            until("the bans in DB 3", PATIENCE, || async {
                let denied = stage.names(3).await;
                let so = names.iter().zip(banned).all(|(name, banned)| denied.contains(name) == *banned);
                so.then_some(())
            })
            .await;
            stage.dump().await; // all is told
            stage.redis(3, &["TTL", shared]).await
        }
    };
    let (for_ever, gone) = (redis::Value::Int(-1), redis::Value::Int(-2));
    assert!(stage.set_banned(&one.identity, true).await && stage.set_banned(&other.identity, true).await);
    assert_eq!(told(&[true, true]).await, for_ever);
    assert!(stage.set_banned(&one.identity, false).await);
    assert_eq!(told(&[false, true]).await, for_ever, "the other account's denial was lifted as well");
    stage.redis(0, &["FLUSHALL"]).await;
    assert_eq!(told(&[false, true]).await, for_ever);
    assert!(stage.set_banned(&other.identity, false).await);
    assert_eq!(told(&[false, false]).await, gone);
}

/// The real program, and where it listens.
async fn start(stage: &Stage, name: &str) -> (Process, Http) {
    let reserved = Port::reserve();
    let port = reserved.number();
    let path = stage.configuration(name);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(
        &path,
        text.replace("listen = \"127.0.0.1:0\"", &format!("listen = \"127.0.0.1:{port}\"")),
    )
    .unwrap();
    let mut program = command(env!("CARGO_BIN_EXE_authd"));
    program.arg("--config").arg(&path);
    let process = Process::start(name, program, Path::new(stage.folder.path()));
    let auth = Http::to(&format!("http://127.0.0.1:{port}"));
    until("authd to answer", PATIENCE, || async {
        std::net::TcpStream::connect(("127.0.0.1", port)).ok().map(drop)
    })
    .await;
    until("authd to be ready", PATIENCE, || async {
        (auth.get("/health").await.status == 200).then_some(())
    })
    .await;
    (process, auth)
}
