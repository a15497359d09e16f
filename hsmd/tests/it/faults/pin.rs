//! A refused PIN is presented once, however often hsmd is started; a right one is used at once.

use std::fs;

use p11fault::{Mode, Plan, Rule};

use super::place::Place;

/// As often as one `opsctl status` under socket activation once presented a wrong PIN.
const STARTS: usize = 40;

/// Starts hsmd, which must not come up.
fn fails(place: &Place) {
    let mut hsmd = place.spawn_with(&[]);
    assert_eq!(hsmd.ready().unwrap_err().code(), Some(78), "{}", hsmd.log());
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
        fails(&place);
    }
    let presented = place.logged("login 160");
    println!("{STARTS} starts with a wrong PIN: it was presented {presented} times");
    assert_eq!(presented, 1);
    // Another credential is tried, once.
    fs::write(&pin, "wrong-too").unwrap();
    fails(&place);
    fails(&place);
    assert_eq!(place.logged("login 160"), 2);
    // The right one is used without an operator's word.
    fs::write(&pin, right).unwrap();
    let mut hsmd = place.start();
    assert!(place.signs());
    hsmd.stop();
}

/// The token refuses the right PIN, as one does that somebody else has locked: it is presented again once an operator
/// says so.
#[test]
fn a_refused_pin_is_retried_on_an_operators_word() {
    let place = Place::new();
    let mut hsmd = place.start();
    hsmd.stop();
    place.plan(Plan::of(Rule::new("C_Login", "CKR_PIN_LOCKED", Mode::Before)));
    fails(&place);
    place.lift();
    fails(&place);
    assert_eq!(place.logged("login 164"), 1);
    assert_eq!(place.logged("login 0"), 0);
    place.retry_pin();
    let mut hsmd = place.start();
    assert!(place.signs());
    hsmd.stop();
}
