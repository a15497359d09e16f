//! Whether the time of day can be believed: a decision of its inputs alone.

use std::{fmt, time::Duration};

use keychain::Timestamp;
use systemd::config::Span;

/// How far wall clock and monotonic clock may differ, and how far the wall clock may be behind a known date: more
/// than any slewing does, less than would matter to a window.
pub(super) const TOLERANCE: Duration = Duration::from_mins(1);

/// What the wall clock is held against. Each is a date that was right, or was accepted, when it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The newest event of the chain.
    Event,
    /// The newest signed head.
    Head,
    /// The last trusted time that the ledger keeps.
    Ledger,
    /// The newest published event or head.
    Published,
}

impl Source {
    /// The source in an answer.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Head => "head",
            Self::Ledger => "ledger",
            Self::Published => "published",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Event => "the newest event",
            Self::Head => "the newest head",
            Self::Ledger => "the last trusted time in the ledger",
            Self::Published => "what is published",
        })
    }
}

/// The two clocks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The time of day.
    pub wall: Timestamp,
    /// Time since some fixed moment, which cannot be set.
    pub monotonic: Duration,
}

impl Reading {
    /// The time of day at `now`, as the monotonic clock makes it from this reading.
    pub(super) fn continued(self, now: Duration) -> Timestamp {
        self.wall.plus(now.saturating_sub(self.monotonic))
    }
}

/// Why the wall clock is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It is ahead of every known date, further than a stop of the daemon explains.
    Ahead {
        /// How far.
        by: Duration,
        /// The latest known date.
        of: Source,
    },
    /// It is behind a known date.
    Behind {
        /// How far.
        by: Duration,
        /// The latest known date.
        of: Source,
    },
    /// It is trusted, and the newest event is dated ahead of it: an event after that would be, too.
    EventAhead {
        /// How far.
        by: Duration,
    },
    /// It moved against the monotonic clock while the daemon ran.
    Jumped {
        /// How far.
        by: Duration,
        /// Whether it moved ahead.
        ahead: bool,
    },
    /// The ledger has not been read since the daemon started: there is nothing to hold the clock against.
    NotCompared,
}

impl Cause {
    /// The label of the cause in metrics and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ahead { .. } => "ahead",
            Self::Behind { .. } => "behind",
            Self::EventAhead { .. } => "event-ahead",
            Self::Jumped { .. } => "jumped",
            Self::NotCompared => "not-compared",
        }
    }

    /// What follows from it.
    pub const fn verdict(self) -> &'static str {
        match self {
            Self::EventAhead { .. } => "no event can be dated",
            _ => "the clock is not trusted",
        }
    }

    /// What ends the doubt.
    pub const fn cure(self) -> &'static str {
        match self {
            Self::NotCompared => "the ledger has to be read first",
            Self::EventAhead { .. } => {
                "wait until then, for verifiers use no generation before its date; `opsctl taint` works meanwhile"
            }
            Self::Ahead { .. } | Self::Behind { .. } | Self::Jumped { .. } => {
                "set the clock right; if it is right, see `opsctl hsm clock` and then run `opsctl hsm clock accept`"
            }
        }
    }

    /// Whether both are of one kind, whatever the distance.
    pub(super) fn is_like(self, other: Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = |by: &Duration| Span::from(Duration::from_secs(by.as_secs()));
        match self {
            Self::Ahead { by, of } => write!(f, "it is {} ahead of {of}", span(by)),
            Self::Behind { by, of } => write!(f, "it is {} before {of}", span(by)),
            Self::Jumped { by, ahead } => {
                let direction = if *ahead { "ahead" } else { "back" };
                write!(f, "it moved {direction} by {} while hsmd ran", span(by))
            }
            Self::EventAhead { by } => write!(f, "the newest event is dated {} ahead of it", span(by)),
            Self::NotCompared => f.write_str("it has not been held against the ledger yet"),
        }
    }
}

/// How far ahead of every known date the wall clock may be when it is first believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AheadMax {
    /// If the time service says that it has set the clock since the machine started.
    pub synchronized: Duration,
    /// If it does not.
    pub unsynchronized: Duration,
}

/// What a judgement rests on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Evidence {
    /// The clocks when they were last believed; `None` since the start.
    pub(super) anchor: Option<Reading>,
    /// The latest known date, with the monotonic clock when it became known; `None` for a ledger without events.
    pub(super) latest: Option<(Source, Reading)>,
    /// How far ahead it may be.
    pub(super) ahead_max: AheadMax,
}

/// Whether the clocks at `now` are believed. `synchronized` answers when the time service last set the clock,
/// by the wall clock, and is asked only if it matters.
pub(super) fn judge(
    now: Reading,
    evidence: &Evidence,
    synchronized: impl Fn() -> Option<Timestamp>,
) -> Result<(), Cause> {
    // A jump is the more exact word for a clock that is behind because it was set back.
    match evidence.anchor {
        Some(anchor) => judge_running(now, anchor, evidence, synchronized)?,
        None => judge_start(now, evidence, synchronized)?,
    }
    match evidence.latest {
        Some((of, latest)) if latest.wall.since(now.wall) > TOLERANCE => {
            Err(Cause::Behind { by: latest.wall.since(now.wall), of })
        }
        _ => Ok(()),
    }
}

/// Holds a clock that was believed before against the monotonic one.
fn judge_running(
    now: Reading,
    anchor: Reading,
    evidence: &Evidence,
    synchronized: impl Fn() -> Option<Timestamp>,
) -> Result<(), Cause> {
    let expected = anchor.continued(now.monotonic);
    let (ahead, behind) = (now.wall.since(expected), expected.since(now.wall));
    let by = ahead.max(behind);
    if by <= TOLERANCE {
        return Ok(());
    }
    // A machine that was paused wakes with a monotonic clock that missed the pause. The time service's word, given
    // after the jump, is believed as far ahead as at a start. Backwards it is not believed: what was signed by the
    // later time would be contradicted. A word that was given before the jump bears a date before the expected one.
    let confirmed =
        || synchronized().is_some_and(|set_at| set_at > expected && set_at <= now.wall.plus(TOLERANCE));
    if ahead > TOLERANCE && by <= evidence.ahead_max.synchronized && confirmed() {
        return Ok(());
    }
    Err(Cause::Jumped { by, ahead: ahead > TOLERANCE })
}

/// Holds a clock that was never believed in this run against the known dates.
fn judge_start(
    now: Reading,
    evidence: &Evidence,
    synchronized: impl Fn() -> Option<Timestamp>,
) -> Result<(), Cause> {
    let Some((of, latest)) = evidence.latest else { return Ok(()) };
    // The time since the date became known is no distance.
    let by = now.wall.since(latest.continued(now.monotonic));
    let AheadMax { synchronized: most, unsynchronized: least } = evidence.ahead_max;
    if by <= least || (by <= most && synchronized().is_some()) {
        return Ok(());
    }
    Err(Cause::Ahead { by, of })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1000;
    const MINUTE: i64 = 60 * SECOND;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;

    const AHEAD_MAX: AheadMax =
        AheadMax { synchronized: Duration::from_hours(24), unsynchronized: Duration::from_mins(10) };

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_unix_millis(1_700_000_000_000 + millis)
    }

    fn span(millis: i64) -> Duration {
        Duration::from_millis(u64::try_from(millis).unwrap())
    }

    fn reading(wall: i64, monotonic: i64) -> Reading {
        Reading { wall: at(wall), monotonic: span(monotonic) }
    }

    fn evidence(anchor: Option<(i64, i64)>, latest: Option<i64>) -> Evidence {
        Evidence {
            anchor: anchor.map(|(wall, monotonic)| reading(wall, monotonic)),
            latest: latest.map(|latest| (Source::Ledger, reading(latest, 0))),
            ahead_max: AHEAD_MAX,
        }
    }

    fn ahead(by: i64) -> Result<(), Cause> {
        Err(Cause::Ahead { by: span(by), of: Source::Ledger })
    }

    fn behind(by: i64) -> Result<(), Cause> {
        Err(Cause::Behind { by: span(by), of: Source::Ledger })
    }

    fn jumped(by: i64, ahead: bool) -> Result<(), Cause> {
        Err(Cause::Jumped { by: span(by), ahead })
    }

    #[test]
    fn at_start_the_clock_is_held_against_the_latest_known_date() {
        for (wall, monotonic, latest, set_at, verdict) in [
            // An empty ledger has nothing to say.
            (400 * DAY, 0, None, None, Ok(())),
            (0, 0, Some(0), None, Ok(())),
            (-MINUTE, 0, Some(0), None, Ok(())),
            (-MINUTE - 1, 0, Some(0), None, behind(MINUTE + 1)),
            (-3 * DAY, 0, Some(0), Some(-3 * DAY), behind(3 * DAY)),
            (10 * MINUTE, 0, Some(0), None, Ok(())),
            (10 * MINUTE + 1, 0, Some(0), None, ahead(10 * MINUTE + 1)),
            (HOUR, 0, Some(0), None, ahead(HOUR)),
            // The time since the date became known is neither behind nor ahead.
            (HOUR, 50 * MINUTE, Some(0), None, Ok(())),
            (HOUR, 50 * MINUTE - 1, Some(0), None, ahead(10 * MINUTE + 1)),
            // The time service's word counts for a day.
            (DAY, 0, Some(0), Some(0), Ok(())),
            (DAY + 1, 0, Some(0), Some(0), ahead(DAY + 1)),
            (400 * DAY, 0, Some(0), Some(400 * DAY), ahead(400 * DAY)),
        ] {
            let verdict_now = judge(reading(wall, monotonic), &evidence(None, latest), || set_at.map(at));
            assert_eq!(verdict_now, verdict, "{wall} {monotonic} {latest:?} {set_at:?}");
        }
    }

    #[test]
    fn while_it_runs_the_clock_is_held_against_the_monotonic_one() {
        for (wall, monotonic, latest, set_at, verdict) in [
            (HOUR, HOUR, 0, None, Ok(())),
            (400 * DAY, 400 * DAY, 0, None, Ok(())),
            (HOUR + MINUTE, HOUR, 0, None, Ok(())),
            (HOUR + MINUTE + 1, HOUR, 0, None, jumped(MINUTE + 1, true)),
            (HOUR - MINUTE, HOUR, 0, None, Ok(())),
            (HOUR - MINUTE - 1, HOUR, 0, None, jumped(MINUTE + 1, false)),
            (400 * DAY, 0, 0, None, jumped(400 * DAY, true)),
            // Set back, also before the ledger's last trusted time: the jump is the cause.
            (-3 * DAY, 0, 0, None, jumped(3 * DAY, false)),
            // In step with the monotonic clock, and yet before what another hsmd wrote.
            (0, 0, HOUR, None, behind(HOUR)),
            // A pause, and the time service's word after it.
            (HOUR, 0, 0, Some(0), jumped(HOUR, true)),
            (HOUR, 0, 0, Some(1), Ok(())),
            (HOUR, 0, 0, Some(HOUR), Ok(())),
            (HOUR, MINUTE, 0, Some(MINUTE), jumped(HOUR - MINUTE, true)),
            (HOUR, 0, 0, Some(2 * HOUR), jumped(HOUR, true)),
            (DAY, 0, 0, Some(DAY), Ok(())),
            (DAY + 1, 0, 0, Some(DAY), jumped(DAY + 1, true)),
            // Backwards its word does not count.
            (-HOUR, 0, -DAY, Some(-HOUR), jumped(HOUR, false)),
        ] {
            let evidence = evidence(Some((0, 0)), Some(latest));
            let verdict_now = judge(reading(wall, monotonic), &evidence, || set_at.map(at));
            assert_eq!(verdict_now, verdict, "{wall} {monotonic} {latest} {set_at:?}");
        }
    }
}
