//! A start without its token: what needs no token is answered at once, and hsmd endorses without a restart once the token
//! is there.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use p11fault::{Mode, Plan, Rule};

use crate::{
    faults::{Fixture, SOON},
    publisher::{Published, spawn as spawn_publisher},
    support::{
        daemon::{Daemon, try_request},
        eventually,
        softhsm::PIN,
        world::World,
    },
};

/// Within this after its start hsmd tells its chain, whatever the token does.
const TOLD_MAX: Duration = Duration::from_secs(10);

/// A token that is tried on each two seconds is found within this.
const FOUND_MAX: Duration = Duration::from_secs(20);

/// What keeps the token from being there, and how that ends.
struct Absence {
    name: &'static str,
    begin: fn(&Fixture),
    end: fn(&Fixture),
    /// The state that the chain is in meanwhile, and a word of its cause.
    state: (&'static str, &'static str),
}

const ABSENCES: [Absence; 4] = [
    Absence {
        name: "the folder of the tokens is not there",
        begin: |fixture| fs::rename(fixture.world.softhsm.tokens(), aside(fixture)).unwrap(),
        end: |fixture| fs::rename(aside(fixture), fixture.world.softhsm.tokens()).unwrap(),
        state: ("token-silent", ""),
    },
    Absence {
        name: "another token is in the slot",
        begin: |fixture| {
            fs::rename(fixture.world.softhsm.tokens(), aside(fixture)).unwrap();
            fs::create_dir(fixture.world.softhsm.tokens()).unwrap();
            fixture.world.softhsm.add_token("other");
        },
        end: |fixture| {
            fs::remove_dir_all(fixture.world.softhsm.tokens()).unwrap();
            fs::rename(aside(fixture), fixture.world.softhsm.tokens()).unwrap();
        },
        state: ("token-silent", "label `other`"),
    },
    Absence {
        name: "the PIN is wrong",
        begin: |fixture| fs::write(fixture.world.softhsm.pin_file(), "wrong-pin").unwrap(),
        end: |fixture| fs::write(fixture.world.softhsm.pin_file(), PIN).unwrap(),
        state: ("pin-refused", "opsctl hsm pin retry"),
    },
    Absence {
        name: "a call of the module hangs",
        begin: |fixture| fixture.plan(Plan::of(Rule::new("C_OpenSession", "-", Mode::Hang))),
        end: Fixture::lift,
        state: ("opening", ""),
    },
];

fn aside(fixture: &Fixture) -> PathBuf {
    fixture.world.path().join("tokens-aside")
}

fn get(world: &World, path: &str) -> (u16, String) {
    try_request(&world.socket("edge"), "GET", path, b"")
        .map_or_else(|error| (0, error.to_string()), |answer| (answer.status, answer.body))
}

#[test]
fn what_needs_no_token_is_answered_without_one() {
    std::thread::scope(|scope| {
        for absence in &ABSENCES {
            scope.spawn(move || answers_without(absence));
        }
    });
}

fn answers_without(absence: &Absence) {
    let fixture = Fixture::new();
    let mut hsmd = fixture.start();
    assert_eq!(fixture.post("admin", "/rotate", "{}").0, 200);
    let chain = get(&fixture.world, "/chain");
    let statements = || get(&fixture.world, "/statements");
    eventually("the head of the newest event", SOON, || statements().1.contains("\"sequenceNumber\":1,"));
    let statements = statements();
    hsmd.stop();
    (absence.begin)(&fixture);
    let start = Instant::now();
    let mut hsmd = fixture.spawn_with(&[]);
    eventually(absence.name, TOLD_MAX, || get(&fixture.world, "/chain") == chain);
    println!("{}: the chain was told after {:?}", absence.name, start.elapsed());
    let (label, cause) = absence.state;
    let named = format!("\"state\":{{\"name\":\"{label}\"");
    eventually(&named, SOON, || {
        let (status, health) = fixture.health();
        status == 503 && health.contains(&named) && health.contains(cause)
    });
    // The newest head is the earlier process's.
    let head = |text: &str| text.split_once("\"head\":").unwrap().1.to_owned();
    let shown = get(&fixture.world, "/statements");
    assert_eq!((shown.0, head(&shown.1)), (200, head(&statements.1)), "{}", absence.name);
    let (status, refusal) = fixture.endorse(7);
    assert!(status == 503 && refusal.contains(&format!("\"state\":\"{label}\"")), "{refusal}");
    let metrics = fixture.world.socket("metrics");
    eventually("/readyz", SOON, || {
        try_request(&metrics, "GET", "/readyz", b"").is_ok_and(|ready| ready.status == 503)
    });

    heals_the_directory(&fixture);

    (absence.end)(&fixture);
    hsmd.ready().unwrap();
    assert!(fixture.signs(), "{}", hsmd.log());
    assert_eq!(get(&fixture.world, "/chain"), chain);
    assert_eq!(fixture.health().0, 200);
    assert_eq!(fixture.post("admin", "/rotate", "{}").0, 200);
    hsmd.stop();
}

/// The publisher fills an empty directory.
fn heals_the_directory(fixture: &Fixture) {
    let redis = crate::support::servers::redis(fixture.world.path());
    Published::configure(&fixture.world, &redis.url);
    let mut publisher: Daemon = spawn_publisher(&fixture.world, &[]);
    publisher.ready().unwrap();
    let mut connection = redis::Client::open(redis.url.as_str()).unwrap().get_connection().unwrap();
    redis::cmd("SELECT").arg(4).exec(&mut connection).unwrap();
    for event in fixture.chain().unwrap() {
        let id = event.id().to_string();
        let held: Option<String> = redis::cmd("GET").arg(&id).query(&mut connection).unwrap();
        assert_eq!(held.as_deref(), Some(event.text()));
    }
    publisher.stop();
}

/// Asked to stop before its token was there, hsmd ends well.
#[test]
fn a_start_that_waits_for_its_token_can_be_stopped() {
    let fixture = Fixture::new();
    (ABSENCES[1].begin)(&fixture);
    let mut hsmd = fixture.spawn_with(&[]);
    hsmd.notified("STATUS=not ready: token-silent: the token of the HSM does not answer").unwrap();
    // An empty ledger has no chain to tell.
    let (status, refusal) = get(&fixture.world, "/chain");
    assert!(status == 503 && refusal.contains("\"state\":\"token-silent\""), "{refusal}");
    hsmd.stop();
}

/// systemd is asked for patience for as long as the token is not there.
#[test]
fn a_start_that_waits_asks_for_more_time() {
    let fixture = Fixture::new();
    (ABSENCES[1].begin)(&fixture);
    let mut hsmd = fixture.spawn_with(&[]);
    for _ in 0..3 {
        hsmd.notified("EXTEND_TIMEOUT_USEC=30000000").unwrap();
    }
    (ABSENCES[1].end)(&fixture);
    hsmd.ready().unwrap();
    assert!(fixture.signs());
    hsmd.stop();
}

/// Of two tokens one is not there at the start: the other signs and rotates, and both are mirrors once it is.
#[test]
fn a_token_that_comes_later_is_taken_into_use() {
    let fixture = Fixture::pair();
    let mut hsmd = fixture.start();
    hsmd.stop();
    fixture.plan(Plan::of(Rule {
        token: Some("spare".to_owned()),
        ..Rule::new("*", "CKR_TOKEN_NOT_PRESENT", Mode::Before)
    }));
    let mut hsmd = fixture.start();
    assert!(fixture.signs());
    assert_eq!(fixture.post("admin", "/rotate", "{}").0, 200);
    eventually("a warning", SOON, || fixture.health().1.contains("the token `second` does not answer"));
    fixture.lift();
    eventually("both keys on both tokens", FOUND_MAX * 2, || {
        fixture.world.softhsm.objects_of("spare") == 4 && fixture.world.softhsm.objects() == 4
    });
    hsmd.stop();
}
