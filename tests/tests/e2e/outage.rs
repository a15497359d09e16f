//! Daemons that die, and the database that goes away.

use std::time::Duration;

use tests::craft::Device;
use tests::{World, until};

const REQUEST: &str = r#"{"foo":"a","bar":"b"}"#;

/// From the kill to the first good answer, on a machine that is busy with other tests.
const BACK: Duration = Duration::from_secs(30);

/// A device opens a session and is let in, as soon as that works again; then the whole of it does.
async fn works_again(world: &World, app: &str) {
    let (auth, edge) = (world.auth(), world.app(app));
    let device = until("an account to be created", BACK, async || {
        let device = Device::draw();
        let request = tests::craft::message(&device.create_request(), &device.keys.current);
        let answer = auth.try_post("/account/create", request).await.ok()?;
        (answer.status == 200).then_some(device)
    });
    let mut device = device.await;
    device.open_session(&auth).await;
    until("the edge to let it in", BACK, async || {
        let answer = edge.try_post("/foo/bar", device.session().access(REQUEST)).await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
    device.try_refresh(&auth).await.response();
}

#[tokio::test]
async fn a_killed_daemon_comes_back_and_everything_works() {
    let world = World::start().await;
    for daemon in ["hsmd", "hsm-publisher", "authd", "keysd", "edge", "redis-server", "app-rust"] {
        println!("killing {daemon}");
        let before = world.children(daemon);
        world.kill(daemon);
        until("it to be restarted", BACK, async || {
            let now = world.children(daemon);
            (now.len() == before.len() && now.iter().all(|id| !before.contains(id))).then_some(())
        })
        .await;
        works_again(&world, "rust").await;
        until("the public directory to answer", BACK, async || {
            let answer = world.keys().try_get("/hsm/keys").await.ok()?;
            (answer.status == 200 && answer.json().as_array().is_some_and(|events| !events.is_empty()))
                .then_some(())
        })
        .await;
    }
}

/// hsmd gone: whoever has a session goes on, and no session is lost when it comes back.
#[tokio::test]
async fn sessions_outlive_the_signer_and_the_directory() {
    let world = World::start().await;
    let auth = world.auth();
    let mut device = Device::create(&auth).await;
    device.open_session(&auth).await;
    let edge = world.app("rust");
    edge.post("/foo/bar", device.session().access(REQUEST)).await.response();
    // Killed again and again, as fast as they come back.
    for _ in 0..3 {
        for daemon in ["hsmd", "redis-server"] {
            for id in world.children(daemon) {
                tests::process::send(id, rustix::process::Signal::KILL);
            }
            edge.post("/foo/bar", device.session().access(REQUEST)).await.response();
        }
    }
    works_again(&world, "rust").await;
    device.try_refresh(&auth).await.response();
}

/// Stopped and started on the same folder it is the same system: identity, accounts and sessions.
#[tokio::test]
async fn a_restart_of_everything_keeps_everything() {
    let mut world = World::start().await;
    let identity = world.endpoints().identity.clone();
    let mut device = Device::create(&world.auth()).await;
    device.open_session(&world.auth()).await;
    world.restart().await;
    assert_eq!(world.endpoints().identity, identity);
    device.rotate(&world.auth()).await.response();
    device.try_refresh(&world.auth()).await.response();
    works_again(&world, "rust").await;
}

/// A revocation is kept with the account's change: authd, killed before it could tell anybody, tells when
/// it is back.
#[tokio::test]
async fn a_revocation_survives_the_death_of_authd() {
    let world = World::start().await;
    let auth = world.auth();
    let edge = world.app("rust");
    for _ in 0..5 {
        let mut owner = Device::create(&auth).await;
        let mut other = owner.link(&auth).await;
        other.open_session(&auth).await;
        let gone = other.device;
        let keys = owner.keys.ahead();
        let unlink = tests::craft::message(&owner.unlink_request(&keys, &gone), &keys.current);
        // As soon as the answer is there, if it comes at all.
        let answered = auth.try_post("/device/unlink", unlink.clone()).await.is_ok();
        world.kill("authd");
        if !answered {
            until("the unlink to be answered", BACK, async || {
                let answer = auth.try_post("/device/unlink", unlink.clone()).await.ok()?;
                (answer.status == 200).then_some(())
            })
            .await;
        }
        until("the edge to deny the unlinked device", BACK, async || {
            let answer = edge.post("/foo/bar", other.session().access(REQUEST)).await;
            (answer.status == 403).then_some(())
        })
        .await;
        until("authd to be back", BACK, async || {
            auth.try_get("/health").await.ok().filter(|answer| answer.status == 200)
        })
        .await;
    }
}
