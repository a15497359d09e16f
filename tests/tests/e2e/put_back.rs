//! authd's database is put back to an earlier state, or reset: what the page says leads out of each.

use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use keychain::Digest;
use serde_json::Value;
use tests::craft::Device;
use tests::process::command;
use tests::world::binary;
use tests::{World, until};

use crate::page::{commands, run_in};

const PAGE: &str = include_str!("../../../authd/RECOVERY.md");

const REQUEST: &str = r#"{"foo":"a","bar":"b"}"#;

/// On a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(40);

fn opsctl(world: &World, arguments: &[&str]) -> Output {
    let mut program = command(binary("opsctl"));
    program.args(arguments).args(["--reason", "drill"]).arg("--endpoints").arg(world.endpoints_file());
    program.output().unwrap()
}

fn done(world: &World, arguments: &[&str]) {
    let output = opsctl(world, arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", said(&output));
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Waits until every edge answers so.
async fn answered(world: &World, device: &Device, status: u16) {
    for app in world.endpoints().apps.keys() {
        until(&format!("{app} to answer {status}"), SOON, async || {
            let request = device.session().access(REQUEST);
            let answer = world.app(app).try_post("/foo/bar", request).await.ok()?;
            (answer.status == status).then_some(())
        })
        .await;
    }
}

/// Runs a block of the page.
fn run_page(world: &World, mark: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(world.endpoints_file(), folder.path().join("dev.json")).unwrap();
    run_in(folder.path(), commands(PAGE, mark))
}

/// Waits until every edge has on disk what it acknowledged: it is in force before.
async fn on_disk(world: &World) {
    let mut show = command(binary("opsctl"));
    show.args(["feed", "show", "--endpoints"]).arg(world.endpoints_file());
    let shown = String::from_utf8(show.output().unwrap().stdout).unwrap();
    let (epoch, position) =
        shown.lines().next().unwrap().rsplit(' ').next().unwrap().split_once(':').unwrap();
    let wanted = format!(r#""epoch":{epoch},"position":{position},"#);
    let dev = world.endpoints_file().with_file_name("dev");
    until("every edge to keep the feed", SOON, async || {
        let folders = std::fs::read_dir(&dev).unwrap().map(|entry| entry.unwrap().path());
        let kept =
            folders.filter_map(|folder| std::fs::read_to_string(folder.join("state/denials.json")).ok());
        (kept.filter(|text| text.contains(&wanted)).count() == 4).then_some(())
    })
    .await;
}

/// The files of authd's database.
fn copy_database(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(to).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("accounts.db") {
            std::fs::remove_file(path).unwrap();
        }
    }
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_owned();
        if name.to_string_lossy().starts_with("accounts.db") {
            std::fs::copy(&path, to.join(name)).unwrap();
        }
    }
}

/// Restored beside a directory that has everything, then beside an empty one.
#[tokio::test]
async fn a_database_that_was_put_back_un_bans_nobody_before_an_operators_word() {
    let mut world = World::start().await;
    let mut device = Device::create(&world.auth()).await;
    device.open_session(&world.auth()).await;
    let identity = device.identity.to_string();
    let backup = tempfile::tempdir().unwrap();
    world.restart_after(|dev| copy_database(&dev.join("authd"), backup.path())).await;
    answered(&world, &device, 200).await;

    done(&world, &["ban", &identity, "--wait", "30s"]);
    world.restart_after(|dev| copy_database(backup.path(), &dev.join("authd"))).await;
    answered(&world, &device, 403).await;
    let held = until("the denials to be held", SOON, async || {
        Some(run_page(&world, "held-show")).filter(|held| held.contains("held        2"))
    })
    .await;
    assert!(held.contains(&identity) && held.contains(&device.device.to_string()), "{held}");
    run_page(&world, "held-lift");
    answered(&world, &device, 200).await;

    done(&world, &["ban", &identity, "--wait", "30s"]);
    on_disk(&world).await;
    world
        .restart_after(|dev| {
            copy_database(backup.path(), &dev.join("authd"));
            std::fs::remove_dir_all(dev.join("redis/appendonlydir")).unwrap();
        })
        .await;
    // authd knows of no ban, and issues a token; no edge takes it.
    device.open_session(&world.auth()).await;
    answered(&world, &device, 403).await;
    // Each order is a message by which an edge can see it; no order is said to have arrived.
    let numbers = AtomicU32::new(0);
    let other = |number: u32| Digest::of(number.to_string()).to_string();
    until("every edge to say that authd went back", SOON, async || {
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        let banned = opsctl(&world, &["ban", &other(number), "--wait", "1s"]);
        assert_eq!(banned.status.code(), Some(2), "{}", said(&banned));
        assert_eq!(said(&banned).matches("opsctl feed reopen").count(), 4, "{}", said(&banned));
        let mut status = command(binary("opsctl"));
        status.args(["status", "--json", "--endpoints"]).arg(world.endpoints_file());
        let output = status.output().unwrap();
        let status: Value = serde_json::from_slice(&output.stdout).unwrap();
        let rows = status["verifiers"].as_array().unwrap();
        let went_back = rows.iter().filter(|row| row["feed"]["wentBack"] == true).count();
        (went_back == 4 && output.status.code() == Some(1)).then_some(())
    })
    .await;
    let plan = opsctl(&world, &["feed", "reopen", "--dry-run"]);
    assert!(said(&plan).contains("edge:ruby has applied"), "{}", said(&plan));
    answered(&world, &device, 403).await;

    run_page(&world, "behind-reopen");
    // Its entry of database 3 was lost with the directory: only authd's word about the same denial ends that.
    done(&world, &["ban", &identity, "--wait", "30s"]);
    done(&world, &["unban", &identity, "--wait", "30s"]);
    answered(&world, &device, 200).await;
    done(&world, &["unban", &other(0), "--wait", "30s"]);
}

/// Accounts end, and their tokens with them; the identity stays, and whoever registers anew gets in.
#[tokio::test]
async fn a_reset_leaves_a_system_that_works() {
    let world = World::start().await;
    let auth = world.auth();
    let events = async || world.endorse().get("/chain").await.json().as_array().unwrap().clone();
    let (mut device, banned) = (Device::create(&auth).await, Device::create(&auth).await);
    device.open_session(&auth).await;
    answered(&world, &device, 200).await;
    done(&world, &["ban", &banned.identity.to_string(), "--wait", "30s"]);

    let plan = opsctl(&world, &["reset", "database", "--dry-run"]);
    assert!(plan.status.success() && said(&plan).contains("This costs:"), "{}", said(&plan));
    answered(&world, &device, 200).await;
    let before = events().await;
    // Run again, as after an interruption, it ends the same way.
    for _ in 0..2 {
        let reset = opsctl(&world, &["reset", "database", "--yes", "--wait", "30s"]);
        assert_eq!(reset.status.code(), Some(0), "{}", said(&reset));
        assert_eq!(reset.stdout, b"database\n");
    }
    answered(&world, &device, 403).await;
    assert_eq!(events().await, before, "the chain went on");
    let mut anew = Device::create(&auth).await;
    anew.open_session(&auth).await;
    answered(&world, &anew, 200).await;

    let reset = opsctl(&world, &["reset", "everything", "--yes", "--wait", "30s"]);
    assert_eq!(reset.status.code(), Some(0), "{}", said(&reset));
    answered(&world, &anew, 401).await;
    let after = events().await;
    assert_eq!((after.len(), &after[0]), (before.len() + 1, &before[0]), "another identity");
    let mut third = Device::create(&auth).await;
    third.open_session(&auth).await;
    answered(&world, &third, 200).await;
    // Whom an operator shut out stays out.
    let mut show = command(binary("opsctl"));
    show.args(["feed", "show", "--endpoints"]).arg(world.endpoints_file());
    let shown = String::from_utf8(show.output().unwrap().stdout).unwrap();
    assert!(shown.contains(&banned.identity.to_string()), "{shown}");
}
