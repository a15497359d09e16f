//! hsmd with a wrong clock, at its start and while it runs: what is signed by it, and how it is trusted again.

use std::{fs, path::Path, process::Command, time::Duration};

use keychain::{
    Timestamp,
    chain::SignedEvent,
    endorsement::{Purpose, SignRequest},
};
use serde_json::Value;

use crate::support::{
    daemon::{Daemon, request},
    eventually, listens, trail,
    world::{Database, World, now, service_key, sign_request, verify},
};

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
const SOON: Duration = Duration::from_secs(20);

/// An hsmd with a chain of one event, stopped; its time service has not set the clock.
fn world() -> World {
    let world = World::new(Database::Sqlite);
    world.configure("clock_synchronized = \"/nonexistent\"");
    world.set_clock(0);
    let mut hsmd = world.spawn_off();
    hsmd.ready().unwrap();
    hsmd.stop();
    world
}

/// Starts hsmd, which is not ready while its clock is wrong.
fn start(world: &World) -> Daemon {
    let hsmd = world.spawn_off();
    eventually("the token", SOON, || {
        listens(&world.socket("admin")) && health(world).contains("\"state\":{\"name\":\"ready\"")
    });
    hsmd
}

fn health(world: &World) -> String {
    request(&world.socket("admin"), "GET", "/health", "").body
}

fn sign(world: &World) -> (u16, String) {
    let body = sign_request(Purpose::Response, service_key(1), Duration::from_mins(30));
    let answer = request(&world.socket("edge"), "POST", "/sign", &body);
    (answer.status, answer.body)
}

/// Endorses as soon as hsmd is asked again, by a clock that is right.
fn endorses(world: &World) {
    let (status, body) = sign(world);
    assert_eq!(status, 200, "{body}");
    verify(&body, &world.chain(), Purpose::Response, &service_key(1), "edge:demo");
}

/// Nothing that is dated is signed but a taint.
fn dates_nothing(world: &World, cause: &str) {
    let (status, body) = sign(world);
    assert!(status == 503 && body.contains(&format!("\"clock\":\"{cause}\"")), "{status} {body}");
    let admin = world.socket("admin");
    let key = service_key(9);
    let revoke = format!("{{\"publicKeys\":[\"{key}\"]}}");
    for (path, body) in [("/rotate", "{}"), ("/revoke-keys", revoke.as_str())] {
        let answer = request(&admin, "POST", path, body);
        assert_eq!((answer.status, answer.code()), (503, "BA603"), "{path}: {}", answer.body);
    }
    eventually("the health", SOON, || {
        let health = request(&admin, "GET", "/health", "");
        health.status == 503 && health.body.contains("\"clock\":\"the clock is not trusted: it ")
    });
    let page = request(&world.socket("metrics"), "GET", "/metrics", "").ok();
    assert!(page.contains("hsmd_clock_trusted 0"), "{page}");
    let report = report(world);
    assert_eq!((&report["trusted"], &report["doubt"]["cause"]), (&Value::Bool(false), &Value::from(cause)));
}

/// Taints the newest generation; its successor is live for verifiers at once.
fn taints(world: &World) {
    let before = world.chain().len();
    let answer = request(&world.socket("admin"), "POST", "/taint", "{}").ok();
    let chain = world.chain();
    let newest = chain.last().unwrap().event();
    assert_eq!((chain.len(), newest.taint_previous), (before + 1, true));
    assert!(newest.created_at <= now(), "{}", newest.created_at);
    assert!(answer.contains(&format!("\"liveFrom\":\"{}\"", newest.created_at)), "{answer}");
    // Its head voids what the heads of the generation before it denied: it is there, dated by the taint.
    eventually("the head of the taint", SOON, || {
        let stated = request(&world.socket("edge"), "GET", "/statements", "").ok();
        stated.contains(&newest.id.to_string()) && stated.contains(&newest.created_at.to_string())
    });
}

fn report(world: &World) -> Value {
    serde_json::from_str(&request(&world.socket("admin"), "GET", "/clock", "").ok()).unwrap()
}

fn trusted(world: &World) -> bool {
    report(world)["trusted"] == Value::Bool(true)
}

#[test]
fn a_start_with_a_clock_ahead_taints_and_goes_on_when_it_is_right() {
    for ahead in [HOUR, 400 * DAY] {
        let world = world();
        world.set_clock(ahead);
        let mut hsmd = start(&world);
        dates_nothing(&world, "ahead");
        taints(&world);
        dates_nothing(&world, "ahead");
        world.set_clock(0);
        // Without a wait: no more than it takes to ask.
        endorses(&world);
        hsmd.ready().unwrap();
        // The trail was not dated by the wrong clock either.
        let lines = trail::read(&world.ledger);
        let tainted = lines.iter().find(|line| line.text("operation") == "taint").unwrap();
        assert!(tainted.at <= now(), "{}", tainted.at);
        world.rotate("{}");
        assert!(world.chain().last().unwrap().event().created_at <= now());
        endorses(&world);
        hsmd.stop();
        // Nothing of the wrong time is left: the next start trusts the right one.
        let mut hsmd = world.spawn_off();
        hsmd.ready().unwrap();
        endorses(&world);
        hsmd.stop();
    }
}

#[test]
fn a_start_with_a_clock_behind_dates_nothing() {
    let world = world();
    world.set_clock(-3 * DAY);
    let mut hsmd = start(&world);
    dates_nothing(&world, "behind");
    taints(&world);
    world.set_clock(0);
    endorses(&world);
    hsmd.stop();
}

#[test]
fn a_clock_that_jumps_dates_nothing_until_it_is_right() {
    for jump in [400 * DAY, -3 * DAY, HOUR, -HOUR] {
        let world = world();
        let mut hsmd = world.spawn_off();
        hsmd.ready().unwrap();
        endorses(&world);
        world.set_clock(jump);
        dates_nothing(&world, "jumped");
        hsmd.notified("STATUS=not ready: clock: the clock is not trusted: it moved ").unwrap();
        taints(&world);
        world.set_clock(0);
        endorses(&world);
        world.rotate("{}");
        endorses(&world);
        eventually("readiness", SOON, || request(&world.socket("edge"), "GET", "/health", "").status == 200);
        hsmd.stop();
    }
}

/// A fleet that was off for weeks, or a time service that nothing tells of: an operator says that the clock is right.
#[test]
fn an_operator_accepts_the_clock() {
    let world = world();
    let ahead = 30 * DAY;
    world.set_clock(ahead);
    let mut hsmd = start(&world);
    dates_nothing(&world, "ahead");
    let accept = |socket: &str, time: Timestamp| {
        request(
            &world.socket(socket),
            "POST",
            "/clock",
            &format!("{{\"time\":\"{time}\",\"reason\":\"holidays\"}}"),
        )
    };
    let shown = now().plus(Duration::from_millis(ahead.unsigned_abs())).to_millis();
    for (socket, time, status, code) in [
        ("edge", shown, 405, "BA107"),
        ("other-admin", shown, 403, "BA303"),
        ("admin", now().to_millis(), 409, "BA602"),
    ] {
        let answer = accept(socket, time);
        assert_eq!((answer.status, answer.code()), (status, code), "{socket}: {}", answer.body);
    }
    assert!(!trusted(&world));
    let answer = accept("admin", shown).ok();
    assert!(answer.starts_with("{\"before\":\"") && trusted(&world), "{answer}");
    hsmd.ready().unwrap();
    // Keys are asked for by the same time now.
    let expiration = shown.plus(Duration::from_mins(30));
    let body = SignRequest { purpose: Purpose::Response, public_key: service_key(1), expiration }.to_json();
    assert_eq!(request(&world.socket("edge"), "POST", "/sign", &body).status, 200);
    hsmd.stop();
    // The word is kept.
    let mut hsmd = world.spawn_off();
    hsmd.ready().unwrap();
    assert!(trusted(&world));
    hsmd.stop();
}

/// Ledger, head and clock are those of a backup, and the published chain knows better.
#[test]
fn a_clock_behind_the_published_chain_dates_nothing() {
    let world = World::new(Database::Sqlite);
    world.configure("clock_synchronized = \"/nonexistent\"");
    world.set_clock(-3 * HOUR);
    let mut hsmd = world.spawn_off();
    hsmd.ready().unwrap();
    hsmd.stop();
    let backup = world.back_up_ledger();
    world.set_clock(0);
    let hsmd = start(&world);
    let accepted = format!("{{\"time\":\"{}\",\"reason\":\"drill\"}}", now().to_millis());
    request(&world.socket("admin"), "POST", "/clock", &accepted).ok();
    world.rotate("{}");
    let chain = world.chain();
    drop(hsmd);

    world.restore_ledger(Some(&backup));
    fs::remove_dir_all(world.path().join("copy")).unwrap();
    world.set_clock(-3 * HOUR);
    let mut hsmd = world.spawn_off();
    let is_behind = || {
        eventually("the state", SOON, || {
            listens(&world.socket("admin")) && health(&world).contains("\"name\":\"ledger-behind\"")
        });
    };
    is_behind();
    assert!(trusted(&world), "{}", report(&world));
    assert_eq!(world.report_with(&[&chain[1]], &[]), "ahead");
    let found = report(&world);
    assert_eq!(found["doubt"]["cause"], "behind", "{found}");
    assert_eq!(found["sources"]["published"], chain[1].event().created_at.to_string());

    // A restart with the right clock is too far ahead of this ledger, until the published date speaks for it.
    hsmd.kill();
    world.set_clock(0);
    let mut hsmd = world.spawn_off();
    is_behind();
    assert_eq!(report(&world)["doubt"]["cause"], "ahead");
    assert_eq!(world.report_with(&[&chain[1]], &[]), "ahead");
    assert!(trusted(&world), "{}", report(&world));
    let texts: Vec<_> = chain.iter().map(SignedEvent::text).collect();
    world.recover("", &format!("[{}]", texts.join(","))).ok();
    hsmd.ready().unwrap();
    endorses(&world);
    hsmd.stop();
}

/// The time service's word lets a clock be a day ahead at the start, and no more.
#[test]
fn the_time_service_confirms_a_day() {
    let world = world();
    let synchronized = world.path().join("synchronized");
    world.configure(&format!("clock_synchronized = \"{}\"", synchronized.display()));
    world.set_clock(12 * HOUR);
    let mut hsmd = start(&world);
    dates_nothing(&world, "ahead");
    fs::write(&synchronized, "").unwrap();
    eventually("trust", SOON, || trusted(&world));
    hsmd.ready().unwrap();
    hsmd.stop();
    world.set_clock(3 * DAY);
    let mut hsmd = start(&world);
    dates_nothing(&world, "ahead");
    hsmd.kill();
}

/// A release build holds nothing of the clock that tests set: the module compiled as a release is has no variable,
/// and the daemon that the tests run has it.
#[test]
fn a_release_has_no_clock_to_be_set() {
    let folder = tempfile::tempdir().unwrap();
    let module = concat!(env!("CARGO_MANIFEST_DIR"), "/src/clock/offset.rs");
    let source = format!(
        "#[path = {module:?}] pub mod offset;\nfn main() {{ assert_eq!(offset::offset_ms(), 0); }}\n"
    );
    fs::write(folder.path().join("main.rs"), source).unwrap();
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let release = folder.path().join("release");
    let built = Command::new(rustc)
        .args(["--edition", "2024", "-O", "-C", "strip=debuginfo", "-A", "warnings", "main.rs", "-o"])
        .arg(&release)
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8(built.stderr).unwrap());
    let variable = hsmd::clock::offset::VARIABLE;
    assert_eq!(variable, crate::support::world::CLOCK_OFFSET);
    assert!(!holds(&release, variable));
    assert!(holds(env!("CARGO_BIN_EXE_hsmd").as_ref(), variable));
    let ran = Command::new(release).env(variable, "/dev/null").status().unwrap();
    assert!(ran.success());
}

fn holds(program: &Path, text: &str) -> bool {
    fs::read(program).unwrap().windows(text.len()).any(|window| window == text.as_bytes())
}
