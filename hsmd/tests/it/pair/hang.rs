//! A call of one token never returns. The other one, behind the same module, goes on.

use std::time::{Duration, Instant};

use p11fault::{Mode, Rule};

use super::drill::{LABELS, MIRRORED, bound, objects, rotate, tokens};
use crate::{
    faults::{Fixture, SOON},
    support::{eventually, in_parallel},
};

/// Longer than a process stays in which the one token hangs that it cannot do without.
const HANG: Duration = Duration::from_secs(34);

/// The slowest answer.
fn slowest(fixture: &Fixture, rounds: usize) -> Duration {
    let ask = || {
        let start = Instant::now();
        assert!(fixture.signs());
        start.elapsed()
    };
    (0..rounds).map(|_| ask()).max().unwrap()
}

#[test]
fn either_token_hangs_and_everything_goes_on() {
    in_parallel([0, 1], hangs);
}

fn hangs(hanging: usize) {
    let fixture = Fixture::pair();
    let mut hsmd = fixture.spawn_with(&[("WATCHDOG_USEC", "1000000")]);
    hsmd.ready().unwrap();
    let before = fixture.chain().unwrap();
    fixture.plan(bound(LABELS[hanging], Rule::new("C_Sign", "-", Mode::Hang)));
    let since = Instant::now();
    // The unused token hangs only once it is listed.
    eventually("the call", SOON * 4, || {
        hsmd.notified("WATCHDOG=1").unwrap();
        let failover = slowest(&fixture, 1);
        assert!(failover < SOON, "{failover:?} {}", hsmd.log());
        fixture.logged("fault C_Sign") > 0
    });
    assert!(slowest(&fixture, 3) < SOON);
    assert!(slowest(&fixture, 50) < Duration::from_secs(1), "only the first one waits for it");
    let (status, body) = rotate(&fixture);
    assert_eq!(status, 200, "{body} {}", hsmd.log());
    eventually("a warning", SOON * 2, || {
        let (status, health) = fixture.health();
        status == 200 && health.contains("a call has not returned")
    });
    // The process stays: the other token signs.
    while since.elapsed() < HANG {
        hsmd.notified("WATCHDOG=1").unwrap();
        assert!(fixture.signs(), "{}", hsmd.log());
    }
    fixture.lift();
    eventually("the mirror", SOON * 4, || tokens(&fixture) == MIRRORED);
    assert_eq!(rotate(&fixture).0, 200);
    assert_eq!(objects(&fixture), [4, 4]);
    let after = fixture.chain().unwrap();
    assert_eq!((after.len(), after[0].id()), (3, before[0].id()));
    hsmd.stop();
}

/// A new process comes up with either token, although the other hangs as soon as it is opened.
#[test]
fn a_start_with_one_token_hanging_signs_and_rotates() {
    in_parallel([(0, "C_Login"), (1, "C_Login"), (0, "C_Sign"), (1, "C_Sign")], |(hanging, call)| {
        let fixture = Fixture::pair();
        let mut hsmd = fixture.start();
        hsmd.stop();
        fixture.plan(bound(LABELS[hanging], Rule::new(call, "-", Mode::Hang)));
        let mut hsmd = fixture.start();
        assert!(slowest(&fixture, 10) < SOON, "{}", hsmd.log());
        let (status, body) = rotate(&fixture);
        assert_eq!(status, 200, "{call} {body} {}", hsmd.log());
        assert!(fixture.signs());
        fixture.lift();
        eventually("the mirror", SOON * 4, || tokens(&fixture) == MIRRORED);
        assert_eq!(objects(&fixture), [4, 4], "{call}");
        hsmd.stop();
    });
}
