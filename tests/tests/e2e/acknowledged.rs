//! A declaration ends when every verifier has acknowledged it, or names those that have not.

use std::collections::BTreeSet;
use std::process::Output;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tests::craft::Device;
use tests::process::{command, send};
use tests::world::binary;
use tests::{World, until};

const SOON: Duration = Duration::from_secs(20);

/// Every verifier of a laboratory.
const VERIFIERS: [&str; 6] =
    ["authd", "edge:python", "edge:ruby", "edge:rust", "edge:typescript", "keysd:dev"];

fn opsctl(world: &World, arguments: &[&str]) -> Output {
    let mut program = command(binary("opsctl"));
    program.args(arguments).arg("--endpoints").arg(world.endpoints_file());
    program.output().unwrap()
}

fn declare(world: &World, arguments: &[&str]) -> Output {
    opsctl(world, &[arguments, &["--reason", "drill", "--yes"]].concat())
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A process of a laboratory, stopped as a host is that swaps itself to death; it goes on when this is dropped.
struct Stopped(u32);

impl Stopped {
    fn edge(world: &World, name: &str) -> Self {
        let file = world.endpoints_file().with_file_name(format!("dev/run/edge-{name}.pid"));
        let id = std::fs::read_to_string(file).unwrap().parse().unwrap();
        send(id, Signal::STOP);
        Self(id)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        send(self.0, Signal::CONT);
    }
}

/// The states of the verifiers, as `opsctl status` prints them.
fn states(world: &World) -> Vec<(String, String)> {
    let output = opsctl(world, &["status", "--json"]);
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |row: &Value, member: &str| row[member].as_str().unwrap().to_owned();
    let rows = status["verifiers"].as_array().unwrap();
    rows.iter().map(|row| (text(row, "service"), text(row, "state"))).collect()
}

/// A taint, a revoked key and a revoked service end with 0 once all have acknowledged them; a service that is revoked
/// itself is not waited for.
#[tokio::test]
async fn a_declaration_ends_when_every_verifier_has_acknowledged_it() {
    let world = World::start().await;
    let tainted = declare(&world, &["taint", "--wait", "30s"]);
    assert_eq!(tainted.status.code(), Some(0), "{}", said(&tainted));
    let generation = String::from_utf8(tainted.stdout.clone()).unwrap();
    let generation = generation.trim().get(..8).unwrap();
    for verifier in VERIFIERS {
        let line = said(&tainted).lines().find(|line| line.starts_with(verifier)).unwrap().to_owned();
        assert!(line.contains("acknowledged") && line.contains(generation), "{line}");
    }
    assert!(said(&tainted).contains("acknowledged by all"), "{}", said(&tainted));
    assert_eq!(states(&world), VERIFIERS.map(|one| (one.to_owned(), "acknowledged".to_owned())));

    let revoked = declare(&world, &["revoke-service", "edge:ruby", "--wait", "30s"]);
    assert_eq!(revoked.status.code(), Some(0), "{}", said(&revoked));
    let ruby = said(&revoked).lines().find(|line| line.starts_with("edge:ruby")).unwrap().to_owned();
    assert!(ruby.contains("revoked"), "{ruby}");

    let unasked = declare(&world, &["taint", "--no-wait"]);
    assert_eq!(unasked.status.code(), Some(0), "{}", said(&unasked));
    for output in [&tainted, &unasked] {
        assert!(!said(output).contains("denied"), "{}", said(output));
    }
}

/// An edge that does not run on is named, also when somebody puts back what it acknowledged before; once it runs again
/// it catches up by itself.
#[tokio::test]
async fn a_verifier_that_has_not_acknowledged_is_named() {
    let world = World::start().await;
    let stopped = Stopped::edge(&world, "ruby");
    let tainted = declare(&world, &["taint", "--wait", "5s"]);
    assert_eq!(tainted.status.code(), Some(2), "{}", said(&tainted));
    let last = said(&tainted).lines().last().unwrap().to_owned();
    assert!(
        last.contains("1 of 6 verifiers") && last.contains("edge:ruby (") && last.contains("tainted"),
        "{last}"
    );
    for verifier in VERIFIERS.iter().filter(|one| **one != "edge:ruby") {
        assert!(!last.contains(verifier), "{last}");
    }
    drop(stopped);
    let declared = declare(&world, &["taint", "--wait", "30s"]);
    assert_eq!(declared.status.code(), Some(0), "{}", said(&declared));
}

/// A ban and its end, a revoked device and a deletion end with 0 once every edge has applied them; an edge that does not
/// run on is named, and `status` shows how far each is.
#[tokio::test]
async fn what_the_denial_feed_carries_is_acknowledged_by_every_edge() {
    let world = World::start().await;
    let auth = world.auth();
    let device = Device::create(&auth).await;
    let (identity, name) = (device.identity.to_string(), device.device.to_string());
    let reason = ["--reason", "drill", "--wait", "30s"];
    let order = |words: &[&str]| opsctl(&world, &[words, &reason].concat());
    for words in [
        &["ban", &identity][..],
        &["ban", &identity],
        &["unban", &identity],
        &["account", "delete", &identity, "--yes"],
        &["account", "restore", &identity],
        &["device", "revoke", &identity, &name, "--yes"],
    ] {
        let done = order(words);
        assert_eq!(done.status.code(), Some(0), "{words:?}: {}", said(&done));
        assert!(said(&done).contains("acknowledged by all"), "{words:?}: {}", said(&done));
        // authd judges by its store, and keysd admits nobody: only edges are waited for.
        let rows = said(&done).lines().filter(|line| line.contains(" acknowledged ")).count();
        assert_eq!(rows, 4, "{}", said(&done));
    }
    let output = opsctl(&world, &["status", "--json"]);
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    for row in status["verifiers"].as_array().unwrap() {
        let follows = row["service"].as_str().unwrap().starts_with("edge:");
        assert_eq!(row["feed"]["position"].as_u64().is_some_and(|position| position >= 5), follows, "{row}");
    }

    let stopped = Stopped::edge(&world, "ruby");
    let ban = ["ban", &identity, "--reason", "drill", "--wait", "3s"];
    let banned = opsctl(&world, &ban);
    assert_eq!(banned.status.code(), Some(2), "{}", said(&banned));
    let last = said(&banned).lines().last().unwrap().to_owned();
    let named = "edge:ruby (it has applied the denial feed up to ";
    assert!(last.contains("1 of 4 verifiers") && last.contains(named), "{last}");
    let unasked = opsctl(&world, &["unban", &identity, "--reason", "drill", "--no-wait"]);
    assert_eq!(unasked.status.code(), Some(0), "{}", said(&unasked));
    drop(stopped);
    let again = order(&["ban", &identity]);
    assert_eq!(again.status.code(), Some(0), "{}", said(&again));
}

/// The red button: with all there it ends with 0 and the table; with one edge stopped it names it and ends with 2; run
/// again it goes on with the same taint.
#[tokio::test]
async fn the_red_button_re_keys_everything_and_names_who_is_missing() {
    let world = World::start().await;
    let access: BTreeSet<String> = published(&world, 0).await;
    let pressed = declare(&world, &["red-button", "--wait", "30s"]);
    assert_eq!(pressed.status.code(), Some(0), "{}", said(&pressed));
    for verifier in VERIFIERS {
        let line = said(&pressed).lines().find(|line| line.starts_with(verifier)).unwrap().to_owned();
        assert!(line.contains("acknowledged"), "{line}");
    }
    assert!(said(&pressed).contains("6 services make 7 new keys"), "{}", said(&pressed));
    assert!(said(&pressed).contains("measured)"), "{}", said(&pressed));
    // Public peers, which know of no head, find none of the dead keys.
    assert!(published(&world, 0).await.is_disjoint(&access));
    assert_eq!(published(&world, 1).await.len(), 5);

    let stopped = Stopped::edge(&world, "ruby");
    let pressed = declare(&world, &["red-button", "--wait", "5s"]);
    assert_eq!(pressed.status.code(), Some(2), "{}", said(&pressed));
    let last = said(&pressed).lines().last().unwrap().to_owned();
    assert!(last.contains("1 of 6 verifiers") && last.contains("edge:ruby ("), "{last}");
    drop(stopped);
    let again = declare(&world, &["red-button", "--wait", "30s"]);
    assert_eq!(again.status.code(), Some(0), "{}", said(&again));
    // The edge may have caught up before it was asked; then the button means another taint.
    let events = world.endorse().get("/chain").await.json().as_array().unwrap().len();
    let went_on = said(&again).contains("going on with the taint");
    assert_eq!(events, if went_on { 3 } else { 4 }, "{}", said(&again));
}

/// An emptied directory is filled again by its owners, and acknowledged in.
#[tokio::test]
async fn a_reset_of_redis_heals_by_itself() {
    let world = World::start().await;
    let keys = published(&world, 1).await;
    let mut redis = world.directory(3).await;
    let () = redis::cmd("SET").arg("Ejunk").arg("1").query_async(&mut redis).await.unwrap();
    let reset = opsctl(&world, &["reset", "redis", "--yes", "--wait", "30s"]);
    assert_eq!(reset.status.code(), Some(0), "{}", said(&reset));
    let gone: Option<String> = redis::cmd("GET").arg("Ejunk").query_async(&mut redis).await.unwrap();
    assert_eq!(gone, None);
    until("the keys to be back", SOON, async || (published(&world, 1).await == keys).then_some(())).await;
}

/// The names of a database of endorsements.
async fn published(world: &World, database: u8) -> BTreeSet<String> {
    let mut directory = world.directory(database).await;
    redis::cmd("KEYS").arg("1AAI*").query_async(&mut directory).await.unwrap()
}

/// A directory that hangs acknowledges nothing: the declaration is made, and not said to have arrived.
#[tokio::test]
async fn without_the_directory_nothing_is_said_to_have_arrived() {
    let world = World::start().await;
    let mut redis = world.directory(0).await;
    let () = redis::cmd("CLIENT").arg(&["PAUSE", "60000", "ALL"]).query_async(&mut redis).await.unwrap();
    let tainted = declare(&world, &["taint", "--wait", "4s"]);
    assert_eq!(tainted.status.code(), Some(2), "{}", said(&tainted));
    assert!(said(&tainted).contains("not known who has acknowledged"), "{}", said(&tainted));
    let chain = world.endorse().get("/chain").await.json();
    assert_eq!(chain[1]["payload"]["taintPrevious"], true);
}
