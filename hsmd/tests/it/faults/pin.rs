//! A refused PIN is presented once, however often hsmd is started and however long it runs; a right one is used at once,
//! without a restart.

use std::fs;

use p11fault::{Mode, Plan, Rule};

use super::place::{Place, SOON};
use crate::support::{daemon::Daemon, eventually};

/// As often as one `opsctl status` under socket activation once presented a wrong PIN.
const STARTS: usize = 40;

/// Starts hsmd, which says that its PIN is refused, tells what needs no token, and stays.
fn start_refused(place: &Place) -> Daemon {
    let mut hsmd = place.spawn_with(&[]);
    hsmd.told("STATUS=not ready: pin-refused: the token refused the PIN").unwrap();
    demand_refused(place);
    hsmd
}

fn demand_refused(place: &Place) {
    let (status, health) = place.health();
    assert!(status == 503 && health.contains("\"name\":\"pin-refused\""), "{health}");
    assert!(health.contains("opsctl hsm pin retry"), "the cure: {health}");
    let (status, refusal) = place.endorse(7);
    assert!(status == 503 && refusal.contains("\"state\":\"pin-refused\""), "{refusal}");
    assert_eq!(place.chain().unwrap().len(), 1);
}

#[test]
fn a_wrong_pin_is_presented_once_in_forty_starts() {
    let place = Place::new();
    let mut hsmd = place.start();
    hsmd.stop();
    place.plan(Plan::default());
    let pin = place.world.softhsm.pin_file();
    let right = fs::read_to_string(&pin).unwrap();
    fs::write(&pin, "wrong-pin").unwrap();
    for _ in 0..STARTS {
        start_refused(&place).stop();
    }
    let presented = place.logged("login 160");
    println!("{STARTS} starts with a wrong PIN: it was presented {presented} times");
    assert_eq!(presented, 1);
    // Another credential is tried, once; also by a process that runs.
    let mut hsmd = start_refused(&place);
    fs::write(&pin, "wrong-too").unwrap();
    eventually("the other one", SOON * 2, || place.logged("login 160") == 2);
    hsmd.told("EXTEND_TIMEOUT_USEC=").unwrap();
    hsmd.told("EXTEND_TIMEOUT_USEC=").unwrap();
    hsmd.stop();
    start_refused(&place).stop();
    assert_eq!(place.logged("login 160"), 2);
    // The right one is used without an operator's word.
    let mut hsmd = start_refused(&place);
    fs::write(&pin, right).unwrap();
    hsmd.ready().unwrap();
    assert!(place.signs());
    hsmd.stop();
}

/// The token refuses the right PIN, as one does that somebody else has locked: it is presented again once an operator
/// says so, without a restart.
#[test]
fn a_refused_pin_is_retried_on_an_operators_word() {
    let place = Place::new();
    let mut hsmd = place.start();
    hsmd.stop();
    place.plan(Plan::of(Rule::new("C_Login", "CKR_PIN_LOCKED", Mode::Before)));
    start_refused(&place).stop();
    place.lift();
    let mut hsmd = start_refused(&place);
    assert_eq!((place.logged("login 164"), place.logged("login 0")), (1, 0));
    place.retry_pin();
    hsmd.ready().unwrap();
    assert!(place.signs());
    hsmd.stop();
}

/// The same for a login after the start: the session died, and the next login is refused.
#[test]
fn a_pin_that_is_refused_later_is_retried_without_a_restart() {
    let place = Place::new();
    let mut hsmd = place.start();
    let once = Rule { times: Some(1), ..Rule::new("C_SignInit", "CKR_DEVICE_ERROR", Mode::Before) };
    let locked = Rule::new("C_Login", "CKR_PIN_LOCKED", Mode::Before);
    place.plan(Plan { rules: vec![once, locked], ..Plan::default() });
    eventually("the state", SOON * 3, || place.health().1.contains("\"name\":\"pin-refused\""));
    demand_refused(&place);
    place.lift();
    assert_eq!((place.logged("login 164"), place.logged("login 0")), (1, 0));
    place.retry_pin();
    eventually("an endorsement", SOON, || place.signs());
    assert_eq!(place.logged("login 164"), 1);
    hsmd.stop();
}
