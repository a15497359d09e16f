//! A call of one token never returns. The other one, behind the same module, goes on.

use std::time::{Duration, Instant};

use p11fault::{Mode, Rule};

use super::drill::{bound, published, rotate, tokens, vouch};
use crate::{
    faults::{Place, SOON},
    support::eventually,
};

/// Longer than a process stays in which the one token hangs that it cannot do without.
const HANG: Duration = Duration::from_secs(34);

/// The slowest answer, but for callers of the token that hangs.
fn slowest(place: &Place, rounds: usize) -> Duration {
    let ask = || {
        let start = Instant::now();
        assert!(place.signs());
        start.elapsed()
    };
    (0..rounds).map(|_| ask()).max().unwrap()
}

#[test]
fn the_next_keys_token_hangs_and_endorsements_go_on() {
    let place = Place::pair();
    let mut hsmd = place.spawn_with(&[("WATCHDOG_USEC", "1000000")]);
    hsmd.ready().unwrap();
    place.plan(bound("spare", Rule::new("C_Sign", "-", Mode::Hang)));
    // It is not used, so that nothing hangs before somebody looks.
    eventually("the call", SOON * 4, || {
        hsmd.told("WATCHDOG=1").unwrap();
        place.logged("fault C_Sign") > 0
    });
    let since = Instant::now();
    assert!(slowest(&place, 5) < SOON, "{}", hsmd.log());
    assert!(slowest(&place, 50) < Duration::from_secs(1), "only the first one waits for it");
    eventually("a warning", SOON * 2, || {
        let (status, health) = place.health();
        status == 200 && health.contains("a call has not returned")
    });
    let (status, body) = rotate(&place);
    assert!(status == 503 && body.contains("\"token\":\"second\""), "{body}");
    while since.elapsed() < HANG {
        hsmd.told("WATCHDOG=1").unwrap();
        assert!(place.signs(), "{}", hsmd.log());
    }
    place.lift();
    eventually("a rotation", SOON * 3, || rotate(&place).0 == 200);
    hsmd.stop();
}

#[test]
fn the_live_keys_token_hangs_and_a_rotation_goes_on_with_the_other() {
    let place = Place::pair();
    let mut hsmd = place.start();
    place.plan(bound("keelson", Rule::new("C_Sign", "-", Mode::Hang)));
    let before = place.chain().unwrap();
    let (status, body) = rotate(&place);
    assert_eq!(status, 200, "{body} {}", hsmd.log());
    eventually("an endorsement", SOON, || place.signs());
    assert!(slowest(&place, 50) < Duration::from_secs(1));
    let after = place.chain().unwrap();
    assert_eq!((after.len(), after[0].id()), (2, before[0].id()));
    // A new process comes up with the other, although this one hangs as soon as it is opened.
    drop(hsmd);
    place.plan(bound("keelson", Rule::new("C_Login", "-", Mode::Hang)));
    hsmd = place.start();
    assert!(place.signs());
    assert_eq!(tokens(&place)[0], (false, false, false));
    assert_eq!(rotate(&place).0, 200);
    place.lift();
    eventually("the token", SOON * 4, || tokens(&place)[0].0);
    eventually("a rotation", SOON, || rotate(&place).0 == 200);
    eventually("the keys to be apart", SOON, || tokens(&place) == [(true, false, true), (true, true, false)]);
    hsmd.stop();
}

/// The live key's token hangs so that a new process comes to nothing with it either: it stays for the rotation.
#[test]
fn a_start_with_the_live_keys_token_hanging_is_good_for_a_rotation() {
    let place = Place::pair();
    let mut hsmd = place.start();
    let chain = published(&place);
    hsmd.stop();
    for call in ["C_Login", "C_Sign"] {
        place.plan(bound("keelson", Rule::new(call, "-", Mode::Hang)));
        let mut hsmd = place.spawn_with(&[]);
        let told = hsmd.told("STATUS=not ready: signing").unwrap();
        assert!(told.contains("the token `first` does not answer"), "{call}: {told}");
        eventually("the admin socket", SOON, || rotate(&place).0 == 503);
    }
    let mut hsmd = place.spawn_with(&[]);
    hsmd.told("STATUS=not ready: signing").unwrap();
    eventually("the admin socket", SOON, || rotate(&place).0 == 503);
    vouch(&place, &chain);
    let (status, body) = rotate(&place);
    assert_eq!(status, 200, "{body} {}", hsmd.log());
    eventually("an endorsement", SOON, || place.signs());
    hsmd.ready().unwrap();
    place.lift();
    eventually("the token", SOON * 4, || tokens(&place)[0].0);
    hsmd.stop();
}
