//! A refused PIN is presented once, however often hsmd is started and however long it runs; a right one is used at once,
//! without a restart.

use std::fs;

use p11fault::{Mode, Plan, Rule};

use super::fixture::{Fixture, SOON};
use crate::support::{daemon::Daemon, eventually};

/// As often as one `opsctl status` under socket activation once presented a wrong PIN.
const STARTS: usize = 40;

/// Starts hsmd, which says that its PIN is refused, tells what needs no token, and stays.
fn start_refused(fixture: &Fixture) -> Daemon {
    let mut hsmd = fixture.spawn_with(&[]);
    hsmd.notified("STATUS=not ready: pin-refused: the token refused the PIN").unwrap();
    demand_refused(fixture);
    hsmd
}

fn demand_refused(fixture: &Fixture) {
    let (status, health) = fixture.health();
    assert!(status == 503 && health.contains("\"name\":\"pin-refused\""), "{health}");
    assert!(health.contains("opsctl hsm pin retry"), "the cure: {health}");
    let (status, refusal) = fixture.endorse(7);
    assert!(status == 503 && refusal.contains("\"state\":\"pin-refused\""), "{refusal}");
    assert_eq!(fixture.chain().unwrap().len(), 1);
}

#[test]
fn a_wrong_pin_is_presented_once_in_forty_starts() {
    let fixture = Fixture::new();
    let mut hsmd = fixture.start();
    hsmd.stop();
    fixture.plan(Plan::default());
    let pin = fixture.world.softhsm.pin_file();
    let right = fs::read_to_string(&pin).unwrap();
    fs::write(&pin, "wrong-pin").unwrap();
    for _ in 0..STARTS {
        start_refused(&fixture).stop();
    }
    let presented = fixture.logged("login 160");
    println!("{STARTS} starts with a wrong PIN: it was presented {presented} times");
    assert_eq!(presented, 1);
    // Another credential is tried, once; also by a process that runs.
    let mut hsmd = start_refused(&fixture);
    fs::write(&pin, "wrong-too").unwrap();
    eventually("the other one", SOON * 2, || fixture.logged("login 160") == 2);
    hsmd.notified("EXTEND_TIMEOUT_USEC=").unwrap();
    hsmd.notified("EXTEND_TIMEOUT_USEC=").unwrap();
    hsmd.stop();
    start_refused(&fixture).stop();
    assert_eq!(fixture.logged("login 160"), 2);
    // The right one is used without an operator's word.
    let mut hsmd = start_refused(&fixture);
    fs::write(&pin, right).unwrap();
    hsmd.ready().unwrap();
    assert!(fixture.signs());
    hsmd.stop();
}

/// The token refuses the right PIN, as one does that somebody else has locked: it is presented again once an operator
/// says so, without a restart.
#[test]
fn a_refused_pin_is_retried_on_an_operators_word() {
    let fixture = Fixture::new();
    let mut hsmd = fixture.start();
    hsmd.stop();
    fixture.plan(Plan::of(Rule::new("C_Login", "CKR_PIN_LOCKED", Mode::Before)));
    start_refused(&fixture).stop();
    fixture.lift();
    let mut hsmd = start_refused(&fixture);
    assert_eq!((fixture.logged("login 164"), fixture.logged("login 0")), (1, 0));
    fixture.retry_pin();
    hsmd.ready().unwrap();
    assert!(fixture.signs());
    hsmd.stop();
}

/// The same for a login after the start: the session died, and the next login is refused.
#[test]
fn a_pin_that_is_refused_later_is_retried_without_a_restart() {
    let fixture = Fixture::new();
    let mut hsmd = fixture.start();
    let once = Rule { times: Some(1), ..Rule::new("C_SignInit", "CKR_DEVICE_ERROR", Mode::Before) };
    let locked = Rule::new("C_Login", "CKR_PIN_LOCKED", Mode::Before);
    fixture.plan(Plan { rules: vec![once, locked], ..Plan::default() });
    eventually("the state", SOON * 3, || fixture.health().1.contains("\"name\":\"pin-refused\""));
    demand_refused(&fixture);
    fixture.lift();
    assert_eq!((fixture.logged("login 164"), fixture.logged("login 0")), (1, 0));
    fixture.retry_pin();
    eventually("an endorsement", SOON, || fixture.signs());
    assert_eq!(fixture.logged("login 164"), 1);
    hsmd.stop();
}
