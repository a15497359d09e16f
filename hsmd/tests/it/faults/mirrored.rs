//! The fault matrix over two tokens that mirror each other: the fault is of either one, and everything goes on with the
//! other, at once. Afterwards both keys are on both tokens again, and nothing else is.
//!
//! A short form runs with every test run; all of it with `KEELSON_FAULTS=all`, as the matrix of one token.

use std::time::{Duration, Instant};

use p11fault::{CALLS, CODES, MIRROR_CALLS, Mode, Plan, Rule};

use super::{
    cases::survive,
    fixture::{Fixture, SOON},
    matrix::{Case, Operation, everything},
};
use crate::support::{daemon::Daemon, eventually};

/// How many hsmd, each with its two tokens, are put through it at a time.
const WORKERS: usize = 3;

/// How long until both tokens hold both keys again.
const MIRRORED_MAX: Duration = Duration::from_secs(30);

const LABELS: [&str; 2] = ["keelson", "spare"];

const OPERATIONS: [Operation; 4] =
    [Operation::Endorse, Operation::Rotate, Operation::Taint, Operation::Start];

/// Calls that are about a token: the others are the module's, and those of both.
fn calls() -> Vec<&'static str> {
    let of_the_module = ["C_Initialize", "C_Finalize", "C_GetSlotList"];
    CALLS.into_iter().chain(MIRROR_CALLS).filter(|call| !of_the_module.contains(call)).collect()
}

fn whole() -> Vec<(usize, Case)> {
    let mut cases = Vec::new();
    for (slot, operation) in [0, 1].into_iter().flat_map(|slot| OPERATIONS.map(|operation| (slot, operation)))
    {
        for call in calls() {
            for (code, _) in CODES {
                cases.extend(
                    [Mode::Before, Mode::After].map(|mode| (slot, Case { call, code, mode, operation })),
                );
            }
            let code = "-";
            cases.extend(
                [Mode::Hang, Mode::Slow(73)].map(|mode| (slot, Case { call, code, mode, operation })),
            );
        }
    }
    cases
}

/// Each call with a sixth of the codes, for a token that comes across it; modes and operations in turn. The calls that
/// a device may hang in, hanging. A key that was made although the token says that it has no room.
fn short() -> Vec<(usize, Case)> {
    let mut cases = Vec::new();
    for (row, call) in calls().into_iter().enumerate() {
        // A key is made on the first and carried to the second.
        let slot = match call {
            "C_GenerateKeyPair" | "C_WrapKey" => 0,
            "C_CreateObject" | "C_UnwrapKey" => 1,
            _ => row % 2,
        };
        for (column, (code, _)) in CODES.into_iter().enumerate().filter(|(column, _)| column % 6 == row % 6) {
            let mode = if (row + column / 6) % 2 == 0 { Mode::Before } else { Mode::After };
            let operation = [Operation::Rotate, Operation::Taint][(row / 2 + column / 6) % 2];
            cases.push((slot, Case { call, code, mode, operation }));
        }
    }
    for (slot, call, operation) in [
        (0, "C_Sign", Operation::Endorse),
        (1, "C_Sign", Operation::Rotate),
        (0, "C_GenerateKeyPair", Operation::Taint),
        (1, "C_UnwrapKey", Operation::Rotate),
        (0, "C_Login", Operation::Start),
        (0, "C_GetTokenInfo", Operation::Start),
        (1, "C_OpenSession", Operation::Start),
    ] {
        cases.push((slot, Case { call, code: "-", mode: Mode::Hang, operation }));
    }
    let (call, code) = ("C_GenerateKeyPair", "CKR_DEVICE_MEMORY");
    cases.push((0, Case { call, code, mode: Mode::After, operation: Operation::Rotate }));
    cases
}

#[test]
fn every_fault_of_either_token_is_survived() {
    let cases = if everything() { whole() } else { short() };
    survive("mirrored", (cases, WORKERS), (calls(), |(_, case)| case.call), |(slot, case), running| {
        let (fixture, hsmd) = running.take().unwrap_or_else(|| {
            let fixture = Fixture::pair();
            let hsmd = fixture.start();
            (fixture, hsmd)
        });
        let (met, hsmd) = one(&fixture, *slot, case, hsmd);
        *running = Some((fixture, hsmd));
        met
    });
}

/// The case's plan, for one token only.
fn plan(slot: usize, case: &Case) -> Plan {
    let mut plan = case.plan();
    for Rule { token, .. } in &mut plan.rules {
        *token = Some(LABELS[slot].to_owned());
    }
    plan
}

fn one(fixture: &Fixture, slot: usize, case: &Case, mut hsmd: Daemon) -> (bool, Daemon) {
    let before: Vec<_> = fixture.chain().unwrap().iter().map(|event| event.text().to_owned()).collect();
    let restarts = case.operation == Operation::Start;
    if restarts {
        drop(hsmd);
        fixture.plan(plan(slot, case));
        hsmd = fixture.start();
    } else {
        fixture.plan(plan(slot, case));
    }
    let start = Instant::now();
    let (status, body) = match case.operation {
        Operation::Rotate => fixture.post("admin", "/rotate", "{}"),
        Operation::Taint => fixture.post("admin", "/taint", "{}"),
        _ => fixture.endorse(7),
    };
    assert_eq!(status, 200, "{body} after {:?}: {}", start.elapsed(), tail(&hsmd));
    if case.operation == Operation::Endorse {
        assert!(start.elapsed() < SOON, "failover took {:?}", start.elapsed());
    }
    assert!(fixture.signs(), "{}", tail(&hsmd));
    let met = fixture.logged(&format!("fault {}", case.call)) > 0;
    fixture.lift();
    if case.refuses_pin() && met {
        let presented = fixture.logged("login 160") + fixture.logged("login 164");
        assert_eq!(presented, 1, "a refused PIN was presented again");
        // A person has to say that it is right.
        fixture.retry_pin();
    }
    let texts: Vec<_> = fixture.chain().unwrap().iter().map(|event| event.text().to_owned()).collect();
    let more = usize::from(matches!(case.operation, Operation::Rotate | Operation::Taint));
    assert!(texts.starts_with(&before) && texts.len() == before.len() + more, "the chain");
    let counts = || LABELS.map(|label| fixture.world.softhsm.objects_of(label));
    let answer = || {
        let (status, health) = fixture.health();
        status == 200 && health.matches("\"answers\":true,\"live\":true,\"next\":true").count() == 2
    };
    let start = Instant::now();
    while !answer() {
        assert!(start.elapsed() < MIRRORED_MAX, "{}: {}", fixture.health().1, tail(&hsmd));
        std::thread::park_timeout(Duration::from_millis(50));
    }
    eventually(&format!("both keys on both tokens after {}", tail(&hsmd)), MIRRORED_MAX, || {
        counts() == [4, 4]
    });
    (met, hsmd)
}

fn tail(hsmd: &Daemon) -> String {
    hsmd.log().lines().rev().take(25).collect::<Vec<_>>().join("\n")
}
