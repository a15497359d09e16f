//! A call of one token never returns. The other one, behind the same module, goes on.

use std::time::{Duration, Instant};

use p11fault::{Mode, Rule};

use super::drill::{LABELS, MIRRORED, bound, objects, rotate, tokens};
use crate::{
    faults::{Place, SOON},
    support::{eventually, in_parallel},
};

/// Longer than a process stays in which the one token hangs that it cannot do without.
const HANG: Duration = Duration::from_secs(34);

/// The slowest answer.
fn slowest(place: &Place, rounds: usize) -> Duration {
    let ask = || {
        let start = Instant::now();
        assert!(place.signs());
        start.elapsed()
    };
    (0..rounds).map(|_| ask()).max().unwrap()
}

#[test]
fn either_token_hangs_and_everything_goes_on() {
    in_parallel([0, 1], hangs);
}

fn hangs(hanging: usize) {
    let place = Place::pair();
    let mut hsmd = place.spawn_with(&[("WATCHDOG_USEC", "1000000")]);
    hsmd.ready().unwrap();
    let before = place.chain().unwrap();
    place.plan(bound(LABELS[hanging], Rule::new("C_Sign", "-", Mode::Hang)));
    let since = Instant::now();
    // The token that nobody uses hangs only once it is listed.
    eventually("the call", SOON * 4, || {
        hsmd.told("WATCHDOG=1").unwrap();
        let failover = slowest(&place, 1);
        assert!(failover < SOON, "{failover:?} {}", hsmd.log());
        place.logged("fault C_Sign") > 0
    });
    assert!(slowest(&place, 3) < SOON);
    assert!(slowest(&place, 50) < Duration::from_secs(1), "only the first one waits for it");
    let (status, body) = rotate(&place);
    assert_eq!(status, 200, "{body} {}", hsmd.log());
    eventually("a warning", SOON * 2, || {
        let (status, health) = place.health();
        status == 200 && health.contains("a call has not returned")
    });
    // The process stays: the other token signs.
    while since.elapsed() < HANG {
        hsmd.told("WATCHDOG=1").unwrap();
        assert!(place.signs(), "{}", hsmd.log());
    }
    place.lift();
    eventually("the mirror", SOON * 4, || tokens(&place) == MIRRORED);
    assert_eq!(rotate(&place).0, 200);
    assert_eq!(objects(&place), [4, 4]);
    let after = place.chain().unwrap();
    assert_eq!((after.len(), after[0].id()), (3, before[0].id()));
    hsmd.stop();
}

/// A new process comes up with either token, although the other hangs as soon as it is opened.
#[test]
fn a_start_with_one_token_hanging_signs_and_rotates() {
    in_parallel([(0, "C_Login"), (1, "C_Login"), (0, "C_Sign"), (1, "C_Sign")], |(hanging, call)| {
        let place = Place::pair();
        let mut hsmd = place.start();
        hsmd.stop();
        place.plan(bound(LABELS[hanging], Rule::new(call, "-", Mode::Hang)));
        let mut hsmd = place.start();
        assert!(slowest(&place, 10) < SOON, "{}", hsmd.log());
        let (status, body) = rotate(&place);
        assert_eq!(status, 200, "{call} {body} {}", hsmd.log());
        assert!(place.signs());
        place.lift();
        eventually("the mirror", SOON * 4, || tokens(&place) == MIRRORED);
        assert_eq!(objects(&place), [4, 4], "{call}");
        hsmd.stop();
    });
}
