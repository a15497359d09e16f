//! Whom authd denies stays denied, whatever becomes of the directory.

use std::process::Command;
use std::time::Duration;

use tests::craft::Device;
use tests::world::binary;
use tests::{World, until};

const REQUEST: &str = r#"{"foo":"a","bar":"b"}"#;

/// Until a daemon that was killed answers again, on a machine that is busy with other tests.
const BACK: Duration = Duration::from_secs(30);

fn opsctl(world: &World, words: &[&str]) {
    let mut command = Command::new(binary("opsctl"));
    let output = command.args(words).arg("--endpoints").arg(world.endpoints_file()).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", output.stderr.escape_ascii());
}

/// Waits until every edge answers so.
async fn answered(world: &World, device: &Device, status: u16) {
    for app in world.endpoints().apps.keys() {
        until("the edge's answer", BACK, async || {
            let request = device.session().access(REQUEST);
            let answer = world.app(app).try_post("/foo/bar", request).await.ok()?;
            (answer.status == status).then_some(())
        })
        .await;
    }
}

/// Every edge refuses, or cannot answer yet; none lets in, for as long as `until_back` takes.
async fn never_admitted(world: &World, device: &Device, until_back: impl Future<Output = ()>) {
    let asked = async {
        loop {
            for app in world.endpoints().apps.keys() {
                let request = device.session().access(REQUEST);
                if let Ok(answer) = world.app(app).try_post("/foo/bar", request).await {
                    assert_ne!(answer.status, 200, "{app} admits a banned device");
                }
            }
        }
    };
    tokio::select! {
        () = until_back => {}
        never = asked => never,
    }
}

async fn command(world: &World, database: u8, words: &[&str]) {
    let mut connection = world.directory(database).await;
    redis::cmd(words[0]).arg(&words[1..]).exec_async(&mut connection).await.unwrap();
}

#[tokio::test]
async fn nothing_that_befalls_the_directory_un_bans_anybody() {
    let mut world = World::start().await;
    let auth = world.auth();
    let mut device = Device::create(&auth).await;
    device.open_session(&auth).await;
    answered(&world, &device, 200).await;
    let identity = device.identity.to_string();
    opsctl(&world, &["ban", &identity, "--reason", "spam"]);
    answered(&world, &device, 403).await;

    command(&world, 3, &["DEL", &identity, &device.device.to_string()]).await;
    answered(&world, &device, 403).await;
    command(&world, 0, &["FLUSHALL"]).await;
    answered(&world, &device, 403).await;
    for daemon in ["edge", "redis-server", "authd"] {
        let before = world.children(daemon);
        world.kill(daemon);
        never_admitted(
            &world,
            &device,
            until("it to be restarted", BACK, async || {
                let now = world.children(daemon);
                (now.len() == before.len() && now.iter().all(|id| !before.contains(id))).then_some(())
            }),
        )
        .await;
        answered(&world, &device, 403).await;
    }
    world.restart().await;
    answered(&world, &device, 403).await;
    opsctl(&world, &["unban", &identity, "--reason", "appeal"]);
    answered(&world, &device, 200).await;
}
