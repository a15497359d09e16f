//! Every PKCS#11 call that hsmd makes × every code × before and after its effect, hanging, slow × every
//! operation: once the fault ends hsmd signs within 5 s, nothing answered is lost, the chain is valid and
//! un-forked, and the token holds the live key and the next.
//!
//! A short form runs with every test run: each call with each code, the rest in turn. All of it:
//!
//! ```sh
//! KEELSON_FAULTS=all cargo test --profile ci -p hsmd --test it -- --nocapture --test-threads 1 faults::matrix faults::mirrored race::
//! ```

use p11fault::{CALLS, CODES, MIRROR_CALLS, Mode, Plan, Rule};

use super::{
    cases::survive,
    fixture::{Fixture, SOON},
};
use crate::support::{daemon::Daemon, eventually};

/// Whether everything is to be tried, not the short form.
pub fn everything() -> bool {
    std::env::var("KEELSON_FAULTS").is_ok_and(|wanted| wanted == "all")
}

/// How many hsmd, each with its token, are put through it at a time.
const WORKERS: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Endorse,
    FirstStart,
    Rotate,
    Start,
    Taint,
}

const OPERATIONS: [Operation; 5] =
    [Operation::Endorse, Operation::Rotate, Operation::Taint, Operation::Start, Operation::FirstStart];

#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) call: &'static str,
    pub(super) code: &'static str,
    pub(super) mode: Mode,
    pub(super) operation: Operation,
}

impl Case {
    /// Whether the token says that the PIN is wrong: it must not present it again, so that a person has to act.
    pub(super) fn refuses_pin(&self) -> bool {
        self.call == "C_Login"
            && matches!(self.mode, Mode::After | Mode::Before)
            && self.code.starts_with("CKR_PIN_")
    }

    /// The fault, and what makes hsmd come across it: a session or a module is made anew, and the token listed,
    /// only after another fault.
    pub(super) fn plan(&self) -> Plan {
        let mut plan = Plan::of(Rule::new(self.call, self.code, self.mode));
        let times = match self.call {
            "C_Initialize" | "C_Finalize" => 2,
            "C_SignInit" | "C_Sign" | "C_GenerateKeyPair" | "C_DestroyObject" => return plan,
            _ if MIRROR_CALLS.contains(&self.call) => return plan,
            _ => 1,
        };
        if !matches!(self.operation, Operation::FirstStart | Operation::Start) || self.call == "C_Finalize" {
            plan.rules.push(Rule {
                times: Some(times),
                ..Rule::new("C_SignInit", "CKR_DEVICE_ERROR", Mode::Before)
            });
        }
        plan
    }
}

fn whole() -> Vec<Case> {
    let mut cases = Vec::new();
    for operation in OPERATIONS {
        for call in CALLS {
            for (code, _) in CODES {
                cases.extend([Mode::Before, Mode::After].map(|mode| Case { call, code, mode, operation }));
            }
            cases.extend([Mode::Hang, Mode::Slow(73)].map(|mode| Case { call, code: "-", mode, operation }));
        }
    }
    cases
}

/// Every call with every code, and every call hanging and slow; modes and operations in turn.
fn short() -> Vec<Case> {
    let mut cases = Vec::new();
    for (row, call) in CALLS.into_iter().enumerate() {
        for (column, (code, _)) in CODES.into_iter().enumerate() {
            let mode = if (row + column) % 2 == 0 { Mode::Before } else { Mode::After };
            cases.push(Case { call, code, mode, operation: OPERATIONS[(row * 3 + column) % 5] });
        }
        cases.push(Case { call, code: "-", mode: Mode::Hang, operation: OPERATIONS[row % 5] });
        cases.push(Case { call, code: "-", mode: Mode::Slow(73), operation: OPERATIONS[(row + 2) % 5] });
    }
    cases
}

#[test]
fn every_fault_is_survived() {
    let cases = if everything() { whole() } else { short() };
    survive("one token", (cases, WORKERS), (CALLS.to_vec(), |case| case.call), |case, running| {
        if case.operation == Operation::FirstStart {
            return started(&Fixture::new(), case, None).0;
        }
        let (fixture, hsmd) = running.take().unwrap_or_else(|| {
            let fixture = Fixture::new();
            let hsmd = fixture.start();
            (fixture, hsmd)
        });
        let (met, hsmd) = match case.operation {
            Operation::Start => started(&fixture, case, Some(hsmd)),
            _ => running_on(&fixture, case, hsmd),
        };
        *running = Some((fixture, hsmd));
        met
    });
}

/// The fault comes while hsmd starts: it tells the chain and its state at once, and signs after the fault without a
/// restart.
fn started(fixture: &Fixture, case: &Case, before: Option<Daemon>) -> (bool, Daemon) {
    let chain = before.as_ref().map(|_| fixture.chain().unwrap());
    drop(before);
    fixture.plan(case.plan());
    let mut hsmd = fixture.spawn_with(&[]);
    eventually("the call, or a signature", SOON * 2, || fixture.logged("fault") > 0 || fixture.signs());
    let shown = || fixture.chain().map(|chain| chain.len());
    let seen = chain.as_ref().map(Vec::len);
    eventually("the chain", SOON, || fixture.health().0 != 0 && (seen.is_none() || shown() == seen));
    if case.refuses_pin() && fixture.logged("fault C_Login") > 0 {
        eventually("the PIN to be named", SOON, || fixture.health().1.contains("\"name\":\"pin-refused\""));
        fixture.lift();
        fixture.retry_pin();
    } else if !matches!(case.mode, Mode::Slow(_)) {
        fixture.lift();
    }
    hsmd.ready().unwrap();
    let met = fixture.logged(&format!("fault {}", case.call)) > 0 || matches!(case.mode, Mode::Slow(_));
    fixture.lift();
    survived(
        fixture,
        case,
        &hsmd,
        chain.map(|chain| (chain.iter().map(|event| event.text().to_owned()).collect(), 0)),
    );
    (met, hsmd)
}

/// The fault comes while hsmd serves.
fn running_on(fixture: &Fixture, case: &Case, hsmd: Daemon) -> (bool, Daemon) {
    let before: Vec<_> = fixture.chain().unwrap().iter().map(|event| event.text().to_owned()).collect();
    fixture.plan(case.plan());
    let ask = || match case.operation {
        Operation::Rotate => fixture.post("admin", "/rotate", "{}"),
        Operation::Taint => fixture.post("admin", "/taint", "{}"),
        _ => fixture.endorse(7),
    };
    let (status, body) = if matches!(case.mode, Mode::Hang) {
        std::thread::scope(|scope| {
            let asked = scope.spawn(ask);
            eventually("the call", SOON, || {
                asked.is_finished() || fixture.logged(&format!("fault {}", case.call)) > 0
            });
            fixture.lift();
            asked.join().unwrap()
        })
    } else {
        ask()
    };
    assert!(status == 200 || status == 503, "{status} {body}: {}", hsmd.log());
    let met = fixture.logged(&format!("fault {}", case.call)) > 0 || matches!(case.mode, Mode::Slow(_));
    fixture.lift();
    if case.refuses_pin() && met {
        assert_eq!(
            fixture.logged("login 160") + fixture.logged("login 164"),
            1,
            "a refused PIN was presented again"
        );
        eventually("the PIN to be named", SOON, || {
            let (status, health) = fixture.health();
            status == 503 && health.contains("PIN")
        });
        // A person has to say that it is right.
        fixture.retry_pin();
    }
    let extends = case.operation != Operation::Endorse && status == 200;
    survived(fixture, case, &hsmd, Some((before, usize::from(extends))));
    (met, hsmd)
}

/// What must hold after every fault, soon. `before` is the chain before it, and how many events were answered.
fn survived(fixture: &Fixture, case: &Case, hsmd: &Daemon, before: Option<(Vec<String>, usize)>) {
    let what = format!("{case:?}: {}", hsmd.log().lines().rev().take(12).collect::<Vec<_>>().join("\n"));
    eventually(&format!("a signature after {what}"), SOON, || fixture.signs());
    let chain = fixture.chain().unwrap();
    let texts: Vec<_> = chain.iter().map(|event| event.text().to_owned()).collect();
    let (before, answered) = before.unwrap_or_default();
    assert!(texts.starts_with(&before), "{case:?}: the chain forked");
    let longest = before.len() + usize::from(case.operation != Operation::Endorse);
    let lengths = before.len() + answered..=longest.max(1);
    assert!(lengths.contains(&texts.len()), "{case:?}: {} events, not {lengths:?}", texts.len());
    let refused = fixture.logged("login 160") + fixture.logged("login 164");
    assert!(refused <= 1, "{case:?}: a refused PIN was presented {refused} times");
    eventually(&format!("four objects after {what}"), SOON, || fixture.world.softhsm.objects() == 4);
}
