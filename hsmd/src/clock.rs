//! The clock, and what an event's `createdAt` may be.

use std::time::{Duration, Instant, SystemTime};

use keychain::Timestamp;

/// How far an event is dated back, so that a verifier whose clock is a little behind accepts it at once.
const BACKDATED: Duration = Duration::from_secs(5);

/// How long a rotation waits for the clock to pass the newest event: twice what events are dated back.
/// More than that is no race but a clock that was set back.
const PATIENCE: Duration = Duration::from_secs(10);

/// How far wall clock and monotonic clock may drift apart within one run: more than any slewing does, less
/// than would matter to a window.
const DRIFT_MAX: Duration = Duration::from_mins(1);

/// Where the time comes from: the system in the daemon, a script in tests.
pub trait Clock: Send + Sync {
    /// The time of day.
    fn now(&self) -> Timestamp;

    /// Time since some fixed moment, which nobody can set.
    fn monotonic(&self) -> Duration;
}

/// The system's clocks.
pub struct System {
    start: Instant,
}

impl System {
    /// Starts the monotonic count.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for System {
    fn now(&self) -> Timestamp {
        SystemTime::now().into()
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// When the next event may be dated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dating {
    /// Date it so, now.
    At(Timestamp),
    /// Wait so long and ask again: the newest event is only just in the past.
    Wait(Duration),
    /// The clock is wrong: it stands so far before the newest event.
    Behind(Duration),
    /// The clock is wrong: it moved so far against the monotonic one since the daemon started.
    Jumped(Duration),
}

/// A clock with the moment at which the daemon first read it.
pub struct Calendar {
    clock: Box<dyn Clock>,
    start: (Timestamp, Duration),
}

impl Calendar {
    /// Reads `clock` from now on.
    pub fn new(clock: Box<dyn Clock>) -> Self {
        let start = (clock.now(), clock.monotonic());
        Self { clock, start }
    }

    /// The time of day.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Dates the event after one of `newest`: `max(newest + 1 ms, now − 5 s)`, never ahead of the clock.
    pub fn date_after(&self, newest: Option<Timestamp>) -> Dating {
        let jump = self.jump();
        if jump > DRIFT_MAX {
            return Dating::Jumped(jump);
        }
        let now = self.now();
        let earliest = earliest_after(newest, now);
        let ahead = earliest.since(now);
        if ahead.is_zero() {
            Dating::At(earliest)
        } else if ahead <= PATIENCE {
            Dating::Wait(ahead)
        } else {
            Dating::Behind(ahead)
        }
    }

    /// The date of an event that taints, whatever the clock says: verifiers apply a taint at once even if
    /// its event is dated ahead of their clocks, and waiting would leave a thief's key trusted. But they use the
    /// new generation only from its date on: of a clock that jumped ahead, the monotonic one's word is taken.
    pub fn taint_after(&self, newest: Timestamp) -> Timestamp {
        earliest_after(Some(newest), self.now().min(self.expected()))
    }

    /// How far the time of day has moved against the monotonic clock.
    fn jump(&self) -> Duration {
        let (now, expected) = (self.now(), self.expected());
        now.since(expected).max(expected.since(now))
    }

    /// The time of day as the monotonic clock makes it.
    fn expected(&self) -> Timestamp {
        let (wall, monotonic) = self.start;
        wall.plus(self.clock.monotonic().saturating_sub(monotonic))
    }
}

/// The earliest date after `newest` at `now`: `max(newest + 1 ms, now − 5 s)`.
fn earliest_after(newest: Option<Timestamp>, now: Timestamp) -> Timestamp {
    let backdated = now.minus(BACKDATED).to_millis();
    newest.map_or(backdated, |newest| newest.plus(Duration::from_millis(1)).to_millis().max(backdated))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    struct Script(Arc<Mutex<(i64, u64)>>);

    impl Clock for Script {
        fn now(&self) -> Timestamp {
            Timestamp::from_unix_millis(self.0.lock().unwrap().0)
        }

        fn monotonic(&self) -> Duration {
            Duration::from_millis(self.0.lock().unwrap().1)
        }
    }

    #[test]
    fn events_are_dated_after_the_newest_and_never_ahead_of_the_clock() {
        let at = |millis| Some(Timestamp::from_unix_millis(millis));
        let dated = |millis| Dating::At(Timestamp::from_unix_millis(millis));
        let ms = Duration::from_millis;
        for (wall, monotonic, newest, dating) in [
            (1_000_000, 0, None, dated(995_000)),
            (1_000_000, 0, at(900_000), dated(995_000)),
            (1_000_000, 0, at(995_000), dated(995_001)),
            (1_000_000, 0, at(999_999), dated(1_000_000)),
            (1_000_000, 0, at(1_000_000), Dating::Wait(ms(1))),
            (1_000_000, 0, at(1_009_999), Dating::Wait(ms(10_000))),
            (1_000_000, 0, at(1_010_000), Dating::Behind(ms(10_001))),
            (1_060_000, 0, None, dated(1_055_000)),
            (1_060_001, 0, None, Dating::Jumped(ms(60_001))),
            (1_000_000, 60_001, None, Dating::Jumped(ms(60_001))),
            (4_600_000, 3_600_000, None, dated(4_595_000)),
        ] {
            let now = Arc::new(Mutex::new((1_000_000, 0)));
            let calendar = Calendar::new(Box::new(Script(Arc::clone(&now))));
            *now.lock().unwrap() = (wall, monotonic);
            assert_eq!(calendar.date_after(newest), dating, "{wall} {monotonic} {newest:?}");
        }
    }
}
