//! Every state that tokens and ledger can be in, from the damage to the first endorsement again, by the commands of the
//! state's section of `RECOVERY.md`.

mod past;

use std::{collections::BTreeSet, process::Command};

use hsmd::chain::State;
use p11fault::{Mode, Plan, Rule};

use crate::{
    faults::Fixture,
    pair::gone,
    support::{
        daemon::{Daemon, request, try_request},
        eventually, in_parallel,
        world::{Database, FAILURE_POINT, World, service_key},
    },
};
use past::{Past, SOON, Template, copy};

/// A state, what puts the chain in it, and what leads it back.
struct Row {
    state: &'static str,
    tokens: Tokens,
    damage: &'static [Step],
    cure: &'static [Step],
}

#[derive(PartialEq, Eq)]
enum Tokens {
    One,
    /// Two that mirror each other.
    Two,
}

enum Step {
    /// Starts hsmd, and waits until it is ready.
    Start,
    /// Starts hsmd.
    Spawn,
    /// The same, to fail there.
    SpawnToFail(&'static str),
    Stop,
    /// What somebody, or chance, does by hand.
    By(fn(&Past)),
    /// Commands of the page: those under this marker.
    Page(&'static str),
    /// Waits for another state on the way.
    State(&'static str),
}

use Step::{By, Page, Spawn, SpawnToFail, Start, Stop};
use Tokens::{One, Two};

const fn row(state: &'static str, tokens: Tokens, damage: &'static [Step], cure: &'static [Step]) -> Row {
    Row { state, tokens, damage, cure }
}

const ROWS: [Row; 26] = [
    row("ready", One, &[Start], &[]),
    row(
        "interrupted",
        One,
        &[SpawnToFail("rotate/before-commit:fail:1"), Step::State("ready"), By(interrupt_rotation)],
        &[By(|past| past.fixture.lift())],
    ),
    row("foreign-token", One, &[By(exchange_token), Spawn], &[By(restore_token)]),
    row("keys-lost", One, &[By(destroy_both), Spawn], &[By(restore_token)]),
    row("keys-lost", One, &[By(|past| past.restore_tokens(0)), Spawn], &[By(restore_token)]),
    row("keys-lost", One, &[Start, By(destroy_both)], &[By(restore_token)]),
    row("ledger-behind", One, &[By(|past| past.restore_ledger(0)), Spawn], &[Page("recover")]),
    row("ledger-behind", One, &[By(|past| past.restore_ledger(1)), Spawn], &[Page("recover")]),
    row(
        "ledger-corrupt",
        One,
        &[By(|past| past.change_ledger(TAMPER)), Spawn],
        &[Stop, By(|past| past.restore_ledger(1)), Spawn, Step::State("ledger-behind"), Page("recover")],
    ),
    row("ledger-empty", One, &[By(|past| past.world().restore_ledger(None)), Spawn], &[Page("recover")]),
    row(
        "ledger-exchanged",
        One,
        &[Start, By(|past| move_ledger(past, ("ledger.db", "aside.db")))],
        &[By(|past| move_ledger(past, ("aside.db", "ledger.db")))],
    ),
    row(
        "ledger-exchanged",
        One,
        &[Start, By(|past| past.restore_ledger(1))],
        &[Stop, Spawn, Step::State("ledger-behind"), Page("recover")],
    ),
    row("ledger-failing", One, &[Start, By(Past::lock_ledger)], &[By(Past::unlock_ledger)]),
    row(
        "ledger-restored",
        One,
        &[Start, By(revoke_key), Stop, By(|past| past.restore_ledger(2)), Spawn],
        &[Page("ledger-restored")],
    ),
    row("live-key-lost", One, &[Start, By(|past| past.destroy_key(2))], &[Page("live-key-lost")]),
    row("live-key-missing", One, &[By(|past| past.destroy_key(2)), Spawn], &[Page("live-key-missing")]),
    row(
        "live-key-silent",
        Two,
        &[Start, By(silence_first), By(|past| past.destroy_key_on("spare", 2))],
        &[Page("live-key-silent"), By(|past| past.fixture.lift())],
    ),
    row("next-key-lost", One, &[By(|past| past.destroy_key(3)), Spawn], &[By(restore_token)]),
    row("next-key-lost", One, &[By(|past| past.restore_tokens(1)), Spawn], &[By(restore_token)]),
    row(
        "next-key-silent",
        Two,
        &[By(|past| past.destroy_key_on("spare", 3)), By(|past| past.fixture.plan(gone("keelson"))), Spawn],
        &[By(|past| past.fixture.lift())],
    ),
    row(
        "pin-refused",
        One,
        &[By(|past| past.fixture.plan(failing("C_Login", "CKR_PIN_LOCKED"))), Spawn],
        &[By(|past| past.fixture.lift()), Page("pin-refused")],
    ),
    row("rival", One, &[Start, By(Past::meet_copy)], &[Page("rival")]),
    row("rival", One, &[Start, By(Past::meet_copy)], &[Page("copy-stopped")]),
    row("token-silent", One, &[Start, By(remove_tokens)], &[By(restore_token)]),
    row("token-silent", One, &[By(remove_tokens), Spawn], &[By(restore_token)]),
    row("uncompared", One, &[By(|past| past.change_ledger(BOOT)), Spawn], &[By(report)]),
];

/// States that another test leads back, and which.
const ELSEWHERE: [(&str, &str); 2] = [
    ("opening", "start::what_needs_no_token_is_answered_without_one"),
    ("standby", "lease::a_standby_takes_the_lease_by_word_and_the_holder_is_fenced"),
];

#[test]
fn each_state_has_its_way_back() {
    let [one, two] = [Fixture::new, Fixture::pair].map(|fixture| Template::new(fixture()));
    in_parallel(&ROWS, |row| {
        let past = if row.tokens == One { &one } else { &two }.past();
        let mut hsmd = None;
        for step in row.damage {
            step.carry_out(&past, &mut hsmd);
        }
        past.wait_for(hsmd.as_ref().unwrap(), row.state);
        for step in row.cure {
            step.carry_out(&past, &mut hsmd);
        }
        past.lives_on(hsmd.unwrap());
    });
}

/// A new state has a row, or another test that leads it back.
#[test]
fn each_state_has_a_row() {
    let listed = Command::new(std::env::current_exe().unwrap()).arg("--list").output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    for (state, test) in ELSEWHERE {
        assert!(listed.lines().any(|line| line == format!("{test}: test")), "{state}: no test `{test}`");
    }
    let rows: BTreeSet<_> = ROWS.iter().map(|row| row.state).collect();
    let elsewhere: BTreeSet<_> = ELSEWHERE.iter().map(|(state, _)| *state).collect();
    assert!(rows.is_disjoint(&elsewhere));
    assert_eq!(rows.union(&elsewhere).copied().collect::<BTreeSet<_>>(), State::LABELS.into());
}

impl Step {
    fn carry_out(&self, past: &Past, hsmd: &mut Option<Daemon>) {
        match self {
            Start => *hsmd = Some(past.fixture.start()),
            Spawn => *hsmd = Some(past.fixture.spawn_with(&[])),
            SpawnToFail(plan) => *hsmd = Some(past.fixture.spawn_with(&[(FAILURE_POINT, plan)])),
            Stop => hsmd.take().unwrap().stop(),
            By(act) => act(past),
            Page(marker) => past.run(marker),
            Step::State(label) => past.wait_for(hsmd.as_ref().unwrap(), label),
        }
    }
}

const TAMPER: &str =
    "UPDATE events SET published = replace(published, 'Z\"', '0Z\"') WHERE sequence_number = 1";

/// What was published was compared, in another boot.
const BOOT: &str =
    "INSERT INTO notes (name, content) VALUES ('compared', 'another-boot 2026-01-01T00:00:00.000Z')";

fn failing(call: &str, code: &str) -> Plan {
    Plan::of(Rule::new(call, code, Mode::Before))
}

/// A rotation fails at its commit, and the survey that follows does not end.
fn interrupt_rotation(past: &Past) {
    past.fixture.plan(Plan::of(Rule::new("C_FindObjectsInit", "-", Mode::Hang)));
    let admin = past.world().socket("admin");
    std::thread::spawn(move || try_request(&admin, "POST", "/rotate", b"{}"));
}

/// Another chain's token is in the slot, no further than this one's.
fn exchange_token(past: &Past) {
    let other = World::new(Database::Sqlite);
    other.start().stop();
    copy(&other.softhsm.tokens(), &past.world().softhsm.tokens());
}

fn restore_token(past: &Past) {
    past.restore_tokens(2);
}

fn remove_tokens(past: &Past) {
    std::fs::rename(past.world().softhsm.tokens(), past.world().path().join("gone")).unwrap();
}

fn destroy_both(past: &Past) {
    past.destroy_key(2);
    past.destroy_key(3);
}

fn silence_first(past: &Past) {
    past.fixture.plan(gone("keelson"));
    eventually("a signature by the other", SOON, || past.sign().status == 200);
}

fn move_ledger(past: &Past, (from, to): (&str, &str)) {
    let folder = past.world().path();
    std::fs::rename(folder.join(from), folder.join(to)).unwrap();
}

fn revoke_key(past: &Past) {
    past.post("/revoke-keys", &format!("{{\"publicKeys\":[\"{}\"]}}", service_key(1))).ok();
}

/// The publisher's first report found the directory whole.
fn report(past: &Past) {
    assert_eq!(past.world().report(&[]), "agrees");
}

/// The ledger is known to be the newest once every copy that was there before ends with its newest event.
#[test]
fn a_missing_live_key_is_settled_by_what_is_published() {
    let template = Template::new(Fixture::new());
    let past = template.past();
    past.destroy_key(2);
    let hsmd = past.fixture.spawn_with(&[]);
    past.wait_for(&hsmd, "live-key-missing");
    report(&past);
    past.wait_for(&hsmd, "live-key-lost");
    past.run("live-key-lost");
    past.lives_on(hsmd);
}

/// What the publisher has put there itself proves nothing: the first report found the directory empty.
#[test]
fn a_missing_live_key_is_not_settled_by_what_was_put_back() {
    let template = Template::new(Fixture::new());
    let past = template.past();
    past.destroy_key(2);
    let mut hsmd = past.fixture.spawn_with(&[]);
    past.wait_for(&hsmd, "live-key-missing");
    let empty = "{\"events\":[],\"heads\":[],\"held\":0,\"newest\":null}";
    request(&past.world().socket("publish"), "POST", "/published", empty).ok();
    past.world().report(&[]);
    past.wait_for(&hsmd, "live-key-missing");
    hsmd.stop();
}

/// While the token is silent a request is refused with the state that is known: only the watcher initialises the module
/// again, however many ask.
#[test]
fn a_thousand_refused_requests_reconcile_nothing() {
    let fixture = Fixture::new();
    let _hsmd = fixture.start();
    fixture.plan(failing("*", "CKR_DEVICE_REMOVED"));
    let silent = |health: String| health.contains("\"state\":{\"name\":\"token-silent\"");
    // Somebody's signature fails, which wakes the watcher.
    fixture.endorse(9);
    eventually("the state", SOON, || silent(fixture.health().1));
    let (before, start) = (fixture.logged("fault C_Initialize"), std::time::Instant::now());
    for _ in 0..1000 {
        assert_eq!(fixture.endorse(9).0, 503);
    }
    let rounds = usize::try_from(start.elapsed().as_secs() / 2).unwrap() + 1;
    let made = fixture.logged("fault C_Initialize") - before;
    assert!(made <= rounds * 4, "{made} initialisations in {rounds} rounds of the watcher");
}
