//! The limits of a real device, on SoftHSM: slow, few sessions, few objects, sessions that die of idleness; and
//! a module that hangs.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use p11fault::{Mode, Plan, Rule};

use super::fixture::{Fixture, SOON};
use crate::support::eventually;

/// As long as a YubiHSM takes for a signature.
const SLOW: Mode = Mode::Slow(73);

#[test]
fn a_slow_device_answers_and_its_queue_says_how_long_it_is() {
    let fixture = Fixture::new();
    let mut hsmd = fixture.start();
    fixture.plan(Plan::of(Rule::new("C_Sign", "-", SLOW)));
    let seen = AtomicBool::new(false);
    // More than may wait, all different: some are answered, the others refused at once.
    let answers: Vec<_> = std::thread::scope(|scope| {
        let asked: Vec<_> = (1..=160)
            .map(|number| {
                scope.spawn({
                    let fixture = &fixture;
                    move || fixture.endorse(number)
                })
            })
            .collect();
        eventually("a queue", SOON, || {
            let (_, health) = fixture.health();
            let long = health.split("\"endorsement\":{\"depth\":").nth(1);
            let depth = long.and_then(|rest| rest.split(',').next()?.parse::<usize>().ok());
            depth.is_some_and(|depth| depth > 1) && health.contains("\"capacity\":128")
        });
        // A taint goes before all of them.
        let (status, body) = fixture.post("admin", "/taint", "{}");
        assert_eq!(status, 200, "{body}");
        seen.store(fixture.health().1.contains("\"endorsement\":{\"depth\":0,"), Ordering::Relaxed);
        asked.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    assert!(!seen.load(Ordering::Relaxed), "the taint waited for the endorsements");
    let count = |wanted: u16| answers.iter().filter(|(status, _)| *status == wanted).count();
    let refusals: BTreeSet<_> = answers.iter().filter(|(status, _)| *status != 200).collect();
    assert!(count(200) >= 100 && count(429) > 0, "{} {} {refusals:?}", count(200), count(429));
    assert_eq!(count(200) + count(429) + count(503), 160);
    fixture.lift();
    hsmd.stop();
}

#[test]
fn sixteen_sessions_are_enough() {
    let fixture = Fixture::new();
    fixture.plan(Plan { sessions_max: Some(16), ..Plan::default() });
    let mut hsmd = fixture.start();
    for round in 0..20 {
        let mut plan =
            Plan::of(Rule { times: Some(1), ..Rule::new("C_Sign", "CKR_DEVICE_ERROR", Mode::Before) });
        // Each second time the session that is given up cannot even be closed.
        if round % 2 == 0 {
            plan.rules.push(Rule::new("C_CloseSession", "CKR_DEVICE_ERROR", Mode::Before));
        }
        fixture.keep_on(Plan { sessions_max: Some(16), ..plan });
        let (status, body) = fixture.endorse(3);
        assert_eq!(status, 200, "round {round}: {body} {}", hsmd.log());
    }
    hsmd.stop();
}

#[test]
fn a_full_device_refuses_a_rotation_and_goes_on_endorsing() {
    let fixture = Fixture::new();
    let mut hsmd = fixture.start();
    fixture.plan(Plan { objects_max: Some(5), ..Plan::default() });
    for path in ["/rotate", "/taint"] {
        let (status, body) = fixture.post("admin", path, "{}");
        assert_eq!(status, 503, "{body}");
        assert!(body.contains("BA") && hsmd.log().contains("no room for another key"), "{body}");
        assert!(fixture.signs());
        assert_eq!(fixture.world.softhsm.objects(), 4);
    }
    assert_eq!(fixture.chain().unwrap().len(), 1);
    fixture.keep_on(Plan { objects_max: Some(6), ..Plan::default() });
    assert_eq!(fixture.post("admin", "/rotate", "{}").0, 200);
    assert_eq!(fixture.world.softhsm.objects(), 4);
    hsmd.stop();
}

#[test]
fn sessions_that_die_of_idleness_are_replaced() {
    let fixture = Fixture::new();
    let idle = |clock_ms| Plan { idle_ms: Some(30_000), clock_ms, ..Plan::default() };
    fixture.plan(idle(0));
    let mut hsmd = fixture.start();
    for round in 1..=10_u64 {
        let logins = fixture.logged("login 0");
        fixture.keep_on(idle(round * 31_000));
        assert_eq!(fixture.endorse(3).0, 200, "{}", hsmd.log());
        assert!(fixture.logged("login 0") > logins, "the session had not died");
    }
    assert_eq!(fixture.post("admin", "/rotate", "{}").0, 200);
    hsmd.stop();
}

#[test]
fn a_dead_token_is_not_ready_and_no_killed_daemon() {
    let fixture = Fixture::new();
    let mut hsmd = fixture.spawn_with(&[("WATCHDOG_USEC", "1000000")]);
    hsmd.ready().unwrap();
    fixture.plan(Plan::of(Rule::new("*", "CKR_DEVICE_REMOVED", Mode::Before)));
    let shown = hsmd.notified("STATUS=not ready").unwrap();
    assert!(shown.contains("token-silent") && shown.contains("HSM"), "{shown}");
    let (status, health) = fixture.health();
    assert!(status == 503 && health.contains("\"signing\":"), "{status} {health}");
    for _ in 0..3 {
        hsmd.notified("WATCHDOG=1").unwrap();
    }
    fixture.lift();
    eventually("a signature", SOON, || fixture.signs());
    hsmd.notified("STATUS=generation").unwrap();
    eventually("readiness", SOON, || fixture.health().0 == 200);
    hsmd.stop();
}

/// A call that never returns: the pings stop, and hsmd ends by itself so that systemd starts it anew.
#[test]
fn a_module_that_hangs_ends_the_process() {
    let fixture = Fixture::new();
    let mut hsmd = fixture.spawn_with(&[("WATCHDOG_USEC", "1000000")]);
    hsmd.ready().unwrap();
    hsmd.notified("WATCHDOG=1").unwrap();
    fixture.plan(Plan::of(Rule::new("C_Sign", "-", Mode::Hang)));
    eventually("the call", SOON, || fixture.logged("fault C_Sign") > 0);
    let mut pings = 0;
    let status = loop {
        match hsmd.notified("") {
            Ok(shown) => pings += usize::from(shown.contains("WATCHDOG=1")),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Some(75), "{}", hsmd.log());
    assert!(pings <= 2, "{pings} pings while the thread hung");
    fixture.lift();
    let mut hsmd = fixture.start();
    assert!(fixture.signs());
    hsmd.stop();
}
