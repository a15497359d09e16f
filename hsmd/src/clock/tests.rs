//! The clock over time: doubts begin and end, events and taints are dated.

use std::sync::Arc;

use super::*;

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

/// Wall and monotonic clock in milliseconds, set by the test.
#[derive(Clone, Default)]
struct Script(Arc<Mutex<(i64, u64)>>);

impl Script {
    fn set(&self, wall: i64, monotonic: u64) {
        *self.0.lock().unwrap() = (wall, monotonic);
    }
}

impl Clock for Script {
    fn now(&self) -> Timestamp {
        at(self.0.lock().unwrap().0)
    }

    fn monotonic(&self) -> Duration {
        ms(self.0.lock().unwrap().1)
    }
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_unix_millis(1_700_000_000_000 + millis)
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A clock started at `wall`, whose ledger's last trusted time is zero.
fn started(wall: i64) -> (Script, TrustedClock) {
    let script = Script::default();
    script.set(wall, 0);
    let settings = Settings { synchronized: "/nonexistent".into(), ..Settings::default() };
    let clock = TrustedClock::with(Box::new(script.clone()), settings);
    clock.learn(Source::Ledger, at(0));
    clock.compare();
    (script, clock)
}

fn cause(clock: &TrustedClock) -> &'static str {
    clock.trusted_now().map_or_else(|doubt| doubt.cause.as_str(), |_| "trusted")
}

#[test]
fn nothing_is_dated_before_the_ledger_was_read() {
    let clock = TrustedClock::new(Box::new(Script::default()));
    assert_eq!(cause(&clock), "not-compared");
    assert!(clock.date_after(None).is_err());
    clock.compare();
    assert_eq!(cause(&clock), "trusted");
}

#[test]
fn events_are_dated_after_the_newest_and_never_ahead_of_the_clock() {
    let dated = |millis| Ok(Dating::At(at(millis)));
    let event_ahead = |by| Err(Cause::EventAhead { by: ms(by) });
    for (newest, dating) in [
        (None, dated(-5_000)),
        (Some(-100_000), dated(-5_000)),
        (Some(-5_000), dated(-4_999)),
        (Some(-1), dated(0)),
        (Some(0), Ok(Dating::Wait(ms(1)))),
        (Some(9_999), Ok(Dating::Wait(ms(10_000)))),
        (Some(10_000), event_ahead(10_001)),
    ] {
        let (_, clock) = started(0);
        assert_eq!(clock.date_after(newest.map(at)).map_err(|doubt| doubt.cause), dating, "{newest:?}");
    }
}

/// Started ahead, and set right: no wait, and the taint made meanwhile is dated by the last trusted time.
#[test]
fn a_start_ahead_ends_when_the_clock_is_set_right() {
    for ahead in [HOUR, 400 * DAY] {
        let (script, clock) = started(ahead);
        assert_eq!(cause(&clock), "ahead");
        script.set(ahead + 2_000, 2_000);
        assert_eq!(clock.taint_after(at(-100_000)), at(-3_000), "two seconds on, five back");
        assert_eq!(clock.taint_after(at(50_000)), at(50_001), "after the event before it in any case");
        script.set(3_000, 3_000);
        assert_eq!(clock.trusted_now(), Ok(at(3_000)));
        assert_eq!(clock.taint_after(at(-100_000)), at(-2_000));
    }
}

#[test]
fn a_jump_ends_when_the_clock_is_set_right() {
    for jump in [400 * DAY, -3 * DAY, HOUR, -HOUR] {
        let (script, clock) = started(0);
        assert_eq!(cause(&clock), "trusted");
        script.set(jump, 4_000);
        let doubt = clock.trusted_now().unwrap_err();
        assert_eq!((doubt.cause.as_str(), doubt.since), ("jumped", at(4_000)), "{jump}");
        assert_eq!(clock.estimated_now(), at(4_000));
        assert_eq!(clock.taint_after(at(-100_000)), at(-1_000), "{jump}");
        script.set(jump + 4_000, 8_000);
        assert_eq!(clock.trusted_now().unwrap_err().since, at(4_000), "the same doubt");
        script.set(8_000, 8_000);
        assert_eq!(clock.trusted_now(), Ok(at(8_000)), "{jump}");
    }
}

/// Ahead or back: the operator's word is for the time that the clock shows, and ends the doubt at once.
#[test]
fn an_operator_accepts_the_time_that_the_clock_shows() {
    for wall in [400 * DAY, -3 * DAY] {
        let (script, clock) = started(wall);
        assert_ne!(cause(&clock), "trusted");
        assert_eq!(clock.accept(at(0)), Err(NotTheTime { wall: at(wall) }));
        assert_eq!(clock.accept(at(wall)), Ok(Accepted { before: at(0), now: at(wall) }));
        assert_eq!(clock.trusted_now(), Ok(at(wall)));
        if wall < 0 {
            // An accepted clock is trusted, and yet no event can be dated before the newest one.
            let refused = clock.date_after(Some(at(0))).unwrap_err();
            assert_eq!(refused.cause, Cause::EventAhead { by: ms(3 * 24 * 3_600_000 + 1) });
            assert_eq!(clock.taint_after(at(0)), at(1));
        }
        script.set(0, 0);
        assert_eq!(cause(&clock), "jumped", "from now on it is held against the accepted time");
    }
}

/// Only the taint that was made in doubt may have a head in doubt.
#[test]
fn in_doubt_a_head_is_dated_by_the_taint_alone() {
    let (script, clock) = started(0);
    assert_eq!(clock.date_head(at(-7_000)), Ok(at(0)));
    script.set(DAY, 0);
    assert!(clock.date_head(at(-7_000)).is_err());
    let tainted = clock.taint_after(at(-7_000));
    assert_eq!(clock.date_head(tainted), Ok(tainted));
    assert!(clock.date_head(at(-7_000)).is_err());
}

/// Steps that no judgement minds do not add up to a jump over a long run.
#[test]
fn small_steps_over_a_long_time_are_no_jump() {
    let (script, clock) = started(0);
    for hour in 1..=100 {
        let monotonic = hour * HOUR;
        script.set(monotonic + hour * 30_000, u64::try_from(monotonic).unwrap());
        assert_eq!(cause(&clock), "trusted", "{hour}");
    }
}

/// A clock that nothing was known against is judged again once something is.
#[test]
fn a_recovered_ledger_is_held_against_the_clock() {
    let script = Script::default();
    let clock = TrustedClock::new(Box::new(script.clone()));
    clock.compare();
    script.set(400 * DAY, 0);
    assert_eq!(cause(&clock), "trusted");
    clock.learn(Source::Event, at(0));
    assert_eq!(cause(&clock), "ahead");
    assert_eq!(clock.report().known, BTreeMap::from([(Source::Event, at(0))]));
}
