//! The audit trail of a running hsmd: what is in it, and what happens while it cannot be written.

use std::{
    os::unix::process::ExitStatusExt as _,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use hsmd::failure_point::LABELS;
use keychain::{
    Digest,
    audit::{Kind, Record},
    chain::SignedEvent,
    endorsement::{Endorsement, Purpose},
};
use p11fault::{Mode, Plan, Rule};

use crate::faults::{self, Fixture};
use crate::support::{
    daemon::{Answer, Daemon, request, try_request},
    eventually, in_parallel,
    trail::{self, Line},
    world::{Database, World, read_chain, service_key, sign_request, verify},
};

fn endorse(world: &World, key: u8) -> Answer {
    let body = sign_request(Purpose::Response, service_key(key), Duration::from_mins(5));
    try_request(&world.socket("edge"), "POST", "/sign", body.as_bytes())
        .unwrap_or(Answer { status: 0, body: String::new() })
}

fn admin(world: &World, path: &str, body: &str) -> Answer {
    try_request(&world.socket("admin"), "POST", path, body.as_bytes())
        .unwrap_or(Answer { status: 0, body: String::new() })
}

/// What came of an operation, by the lines about it.
fn outcome<'a>(lines: &'a [Line], operation: &str) -> (&'a Line, &'a Line) {
    let outcome = lines.iter().rfind(|line| line.is(Kind::Outcome, operation)).expect(operation);
    let intent = lines.iter().find(|line| line.number.to_string() == outcome.raw("intent")).expect(operation);
    assert!(intent.is(Kind::Intent, operation) && intent.number < outcome.number);
    (intent, outcome)
}

#[test]
fn everything_that_was_done_is_in_the_trail() {
    let world = World::new(Database::Sqlite);
    let mut hsmd = world.start();
    let caller = format!("uid {}", rustix::process::geteuid().as_raw());
    let first = world.chain()[0].id().to_string();
    let endorsement = endorse(&world, 3).ok();
    for _ in 0..3 {
        assert_eq!(request(&world.socket("other"), "POST", "/sign", "{}").status, 403);
    }
    let taint = format!("{{\"generationId\":\"{first}\",\"reason\":\"stolen \\\"disk\\\" of Zoë\"}}");
    admin(&world, "/taint", &taint).ok();
    let key = service_key(9).to_string();
    admin(&world, "/revoke-keys", &format!("{{\"publicKeys\":[\"{key}\"],\"reason\":\"drill\"}}")).ok();
    assert_eq!(admin(&world, "/rotate", &format!("{{\"from\":\"{}\"}}", Digest::of("nobody"))).status, 409);
    world.write_policy(&format!("{}\n# changed", world.policy()));
    hsmd.reload();
    let chain = world.chain();
    hsmd.stop();

    let lines = trail::read(&world.ledger);
    let kinds: Vec<_> = lines.iter().map(|line| line.kind).collect();
    assert_eq!((kinds[0], kinds[1], kinds[kinds.len() - 1]), (Kind::Trail, Kind::Start, Kind::Stop));

    let begun = lines.iter().find(|line| line.kind == Kind::Chain).unwrap();
    assert_eq!((begun.text("generation"), begun.text("identity")), (first.clone(), first.clone()));

    let endorsed = lines.iter().find(|line| line.kind == Kind::Endorsement).unwrap();
    let shown = Endorsement::parse(&endorsement).unwrap();
    for (name, value) in [
        ("caller", caller.clone()),
        ("purpose", "response".to_owned()),
        ("service", "edge:demo".to_owned()),
        ("key", service_key(3).to_string()),
        ("generation", shown.generation_id.to_string()),
        ("expiration", shown.subject.expiration.to_string()),
        ("outcome", "ok".to_owned()),
    ] {
        assert_eq!(endorsed.text(name), value, "{name}");
    }
    let (intent, done) = outcome(&lines, "taint");
    assert_eq!((intent.text("caller"), intent.text("reason")), (caller, "stolen \"disk\" of Zoë".to_owned()));
    assert!(done.raw("details").contains(&chain[1].id().to_string()) && done.raw("details").contains(&first));
    let (intent, _) = outcome(&lines, "revoke-keys");
    assert_eq!(intent.raw("details"), format!("{{\"keys\":[\"{key}\"]}}"));
    let (intent, done) = outcome(&lines, "rotate");
    assert_eq!(done.text("outcome"), "BA602");
    assert_eq!(intent.text("reason"), "");
    let (intent, _) = outcome(&lines, "policy");
    assert_eq!(intent.text("caller"), "SIGHUP");
    let refused = lines.iter().find(|line| line.is(Kind::Refused, "sign")).unwrap();
    assert_eq!((refused.raw("count"), refused.text("code").as_str()), ("3", "BA303"));

    // After a restart the trail goes on.
    world.start().stop();
    let more = trail::read(&world.ledger);
    assert_eq!(more[lines.len()].kind, Kind::Start);
    assert_eq!(more[lines.len()].text("generation"), chain.last().unwrap().id().to_string());
}

/// Whether an outcome tells of the event.
fn tells(lines: &[Line], event: &SignedEvent) -> bool {
    let id = event.id().to_string();
    lines.iter().any(|line| line.kind == Kind::Outcome && line.raw("details").contains(&id))
}

/// Passes at a point of an ordinary day.
const PASSES: usize = 12;

/// Every point where the ledger is written, to be killed at and to fail at, at each pass of an ordinary day; in the short
/// form at three of them, others from point to point.
fn plans() -> Vec<String> {
    let labels = LABELS.iter().filter(|label| label.name.starts_with("ledger/"));
    let actions = labels.flat_map(|label| ["kill", "fail"].map(|action| format!("{}:{action}", label.name)));
    let passes = |row: usize| {
        let tried = move |pass: &usize| faults::everything() || (pass + row).is_multiple_of(PASSES / 3);
        (1..=PASSES).filter(tried)
    };
    let plans =
        actions.enumerate().flat_map(|(row, plan)| passes(row).map(move |pass| format!("{plan}:{pass}")));
    plans.collect()
}

/// At the places where the ledger is written: the process killed, and the write failing, whether it came to the disk or
/// not.
#[test]
fn whatever_the_disk_does_nothing_answered_is_lost() {
    let (plans, met) = (plans(), AtomicUsize::new(0));
    let tried = plans.len();
    in_parallel(plans, |plan| {
        met.fetch_add(usize::from(a_day(&World::new(Database::Sqlite), &plan)), Ordering::Relaxed);
    });
    let met = met.into_inner();
    println!("{tried} plans tried, {met} carried out");
    assert!(met >= tried / 2, "{met} of {tried} plans were carried out");
}

/// The same on PostgreSQL: each point once, at one pass or another, on one ledger after the other.
#[test]
fn whatever_postgres_does_nothing_answered_is_lost() {
    in_parallel(["kill", "fail"], |action| {
        let world = World::new(Database::Postgres);
        let labels = LABELS.iter().filter(|label| label.name.starts_with("ledger/"));
        let mut met = 0;
        for (pass, label) in (3..).zip(labels) {
            met += usize::from(a_day(&world, &format!("{}:{action}:{pass}", label.name)));
            std::fs::remove_file(world.path().join("hsmd.log")).unwrap();
        }
        assert!(met >= 4, "{action}: {met} plans were carried out");
    });
}

/// Three endorsements and rotations. Whether the plan was carried out.
fn a_day(world: &World, plan: &str) -> bool {
    let mut hsmd = world.spawn_to_fail(plan);
    if let Err(status) = hsmd.ready() {
        assert_eq!(status.signal(), Some(9), "{plan}: {}", hsmd.log());
        hsmd = world.start();
    }
    let before = chain(world, &mut hsmd, plan).len();
    let mut answered = Vec::new();
    for key in 1..=3 {
        let body = sign_request(Purpose::Response, service_key(key), Duration::from_mins(5));
        let endorsed = insist(world, &mut hsmd, plan, "edge", ("POST", "/sign"), &body);
        answered.push((key, endorsed));
        let from = chain(world, &mut hsmd, plan).last().unwrap().id();
        insist(world, &mut hsmd, plan, "admin", ("POST", "/rotate"), &format!("{{\"from\":\"{from}\"}}"));
    }
    let chain = chain(world, &mut hsmd, plan);
    assert_eq!(chain.len(), before + 3, "{plan}: one command, one event");
    let met = hsmd.log().contains("failure point");
    hsmd.stop();
    let lines = trail::read(&world.ledger);
    for (key, endorsed) in answered {
        verify(&endorsed, &chain, Purpose::Response, &service_key(key), "edge:demo");
        let key = service_key(key).to_string();
        let shown = lines.iter().any(|line| line.kind == Kind::Endorsement && line.text("key") == key);
        assert!(shown, "{plan}: no word of an endorsement");
    }
    for event in &chain[1..] {
        assert!(tells(&lines, event), "{plan}: no word of generation {}", event.id());
    }
    assert_eq!(lines.last().unwrap().kind, Kind::Stop, "{plan}");
    met
}

/// The chain as published, from an hsmd that may die at any moment.
fn chain(world: &World, hsmd: &mut Daemon, plan: &str) -> Vec<SignedEvent> {
    read_chain(&insist(world, hsmd, plan, "edge", ("GET", "/chain"), ""))
}

/// Asks until the answer is a success, starting hsmd again when it has died.
fn insist(
    world: &World,
    hsmd: &mut Daemon,
    plan: &str,
    socket: &str,
    (method, path): (&str, &str),
    body: &str,
) -> String {
    for _ in 0..100 {
        match try_request(&world.socket(socket), method, path, body.as_bytes()) {
            Ok(answer) if answer.status == 200 => return answer.body,
            Ok(answer) => {
                assert_eq!(answer.status, 503, "{plan}: {}", answer.body);
                std::thread::park_timeout(Duration::from_millis(100));
            }
            Err(_) => {
                assert_eq!(hsmd.ended().signal(), Some(9), "{plan}: {}", hsmd.log());
                *hsmd = world.start();
            }
        }
    }
    panic!("{plan}: no success: {}", hsmd.log());
}

/// Killed after each commit around a denial and revocations: what was changed has its line, for both are one transaction.
#[test]
fn no_declaration_is_without_its_line() {
    let rows =
        [("taint", "denials"), ("revoke-keys", "revoked_keys"), ("revoke-service", "revoked_services")];
    in_parallel(rows, |(operation, table)| {
        let world = World::new(Database::Sqlite);
        let mut changed_and_killed = 0;
        for pass in 1..=COMMITS {
            let mut hsmd = world.start();
            world.rotate("{}");
            let chain = world.chain();
            hsmd.stop();
            let before = count(&world, table);
            let body = match operation {
                "taint" => format!("{{\"generationId\":\"{}\"}}", chain[chain.len() - 2].id()),
                "revoke-keys" => format!("{{\"publicKeys\":[\"{}\"]}}", service_key(pass)),
                _ => format!("{{\"service\":\"edge:s{pass}\"}}"),
            };
            let mut hsmd = world.spawn_to_fail(&format!("ledger/after-commit:kill:{pass}"));
            if hsmd.ready().is_ok() {
                let answer = admin(&world, &format!("/{operation}"), &body);
                assert!([0, 200].contains(&answer.status), "{operation} {pass}: {}", answer.body);
            }
            hsmd.kill();
            let after = count(&world, table);
            let lines = trail::read(&world.ledger);
            let shown = lines.iter().filter(|line| line.is(Kind::Outcome, operation));
            let shown = shown.filter(|line| line.text("outcome") == "ok").count();
            assert_eq!(after, shown, "{operation} {pass}: each change has its line");
            changed_and_killed += usize::from(after > before && hsmd.log().contains("failure point"));
            std::fs::remove_file(world.path().join("hsmd.log")).unwrap();
        }
        assert!(changed_and_killed > 0, "{operation}: never killed after the change");
    });
}

/// Commits of a start and one operation, and a few more.
const COMMITS: u8 = 10;

fn count(world: &World, table: &str) -> usize {
    use sea_orm::{ConnectionTrait as _, Database, Statement};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let database = Database::connect(&world.ledger).await.unwrap();
        let all = format!("SELECT * FROM {table}");
        let rows = database.query_all_raw(Statement::from_string(database.get_database_backend(), all));
        let count = rows.await.unwrap().len();
        database.close().await.unwrap();
        count
    })
}

/// A declaration stands before the head that lists it is signed: while no key signs the trail has one outcome, which is
/// that of the declaration, and that its head is late.
#[test]
fn a_declaration_whose_head_is_late_has_one_outcome() {
    let fixture = Fixture::new();
    let world = &fixture.world;
    let mut hsmd = fixture.start();
    world.rotate("{}");
    let left = world.chain()[0].id().to_string();
    fixture.plan(Plan::of(Rule::new("*", "CKR_DEVICE_REMOVED", Mode::Before)));
    let key = service_key(1).to_string();
    let asked = [
        ("taint", format!("{{\"generationId\":\"{left}\"}}")),
        ("revoke-keys", format!("{{\"publicKeys\":[\"{key}\"]}}")),
        ("revoke-service", "{\"service\":\"edge:gone\"}".to_owned()),
    ];
    for (operation, body) in &asked {
        let answer = admin(world, &format!("/{operation}"), body);
        assert_eq!((answer.status, answer.code()), (503, "BA603"), "{operation}: {}", answer.body);
        assert!(answer.body.contains("it is durable"), "{operation}: {}", answer.body);
    }
    let lines = trail::read(&world.ledger);
    for (operation, _) in &asked {
        let (intent, done) = outcome(&lines, operation);
        assert_eq!(done.text("outcome"), "ok", "{operation}");
        let of_intent = lines.iter().filter(|line| line.raw("intent") == intent.number.to_string());
        let kinds: Vec<_> = of_intent.map(|line| line.kind).collect();
        assert_eq!(kinds, [Kind::Outcome, Kind::HeadLate], "{operation}");
    }
    fixture.lift();
    let head = || request(&world.socket("edge"), "GET", "/statements", "").body;
    let listed = [left.as_str(), key.as_str(), "edge:gone"];
    eventually("a head that lists them", Duration::from_secs(30), || {
        let head = head();
        listed.iter().all(|entry| head.contains(entry))
    });
    hsmd.stop();
}

/// A line of the longest caller, reason and list of keys that hsmd takes has room in a trail.
#[test]
fn the_longest_request_has_room() {
    let world = World::new(Database::Sqlite);
    let mut hsmd = world.start();
    let keys: Vec<_> = (1..=64).map(|number| format!("\"{}\"", service_key(number))).collect();
    let reason = "\"".repeat(250);
    let reason = serde_json::to_string(&reason).unwrap();
    let body = format!("{{\"publicKeys\":[{}],\"reason\":{reason}}}", keys.join(","));
    admin(&world, "/revoke-keys", &body).ok();
    hsmd.stop();
    let lines = trail::read(&world.ledger);
    let (intent, _) = outcome(&lines, "revoke-keys");
    assert!(intent.raw("details").contains(&service_key(64).to_string()));
    let longest = Record::new(Kind::Intent).text("reason", &"\"".repeat(500));
    assert!(longest.line_length_max() < 2048);
}
