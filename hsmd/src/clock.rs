//! The clock: whether the time of day can be trusted, and what an event's `createdAt` may be.
//!
//! Everything that is dated and signed takes its date from [`TrustedClock::trusted_now`]: events, endorsements, heads
//! and key revocations. While the clock is in [`Doubt`] none of these is signed but a taint and its head, whose
//! date is the last trusted time: verifiers use a new generation only from its date on, and a taint that is dated
//! by a clock that is ahead would leave them without one.

mod judge;
pub mod offset;

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use keychain::{Code, Refusal, Timestamp};

use judge::{Evidence, judge};

pub use judge::{AheadMax, Cause, Reading, Source};

/// How far an event is dated back, so that a verifier whose clock is a little behind accepts it at once.
const BACKDATED: Duration = Duration::from_secs(5);

/// How long a rotation waits for the clock to pass the newest event: twice what events are dated back.
/// More than that is no race but a clock that was set back.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the clocks are compared with the same past moment. Steps of a few seconds, as the migration of a
/// virtual machine makes them, must not add up to a jump over months; within this time they do.
const ANCHORED: Duration = Duration::from_hours(1);

/// How far ahead of every known date a clock is believed at start. With the time service's word a day: a power cut
/// over a night heals by itself, and a time service that lies costs no more than that. Without it ten minutes: a
/// restart or a reboot. Whatever was off for longer takes an operator's word.
const AHEAD_MAX: AheadMax =
    AheadMax { synchronized: Duration::from_hours(24), unsynchronized: Duration::from_mins(10) };

/// The file that systemd-timesyncd touches whenever it has set the clock; `/run` is empty after a boot.
const SYNCHRONIZED: &str = "/run/systemd/timesync/synchronized";

/// How far the clock may be from the time that an operator accepts.
const ACCEPTED_MAX: Duration = Duration::from_mins(5);

/// Where the time comes from: the system in the daemon, a script in tests.
pub trait Clock: Send + Sync {
    /// The time of day.
    fn now(&self) -> Timestamp;

    /// Time since some fixed moment, which cannot be set.
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
        let now = Timestamp::from(SystemTime::now());
        let offset = offset::offset_ms();
        let by = Duration::from_millis(offset.unsigned_abs());
        if offset < 0 { now.minus(by) } else { now.plus(by) }
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// What a clock is judged by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How far ahead of every known date it is believed at start.
    pub ahead_max: AheadMax,
    /// The file that the time service touches when it has set the clock.
    pub synchronized: PathBuf,
}

impl Default for Settings {
    fn default() -> Self {
        Self { ahead_max: AHEAD_MAX, synchronized: PathBuf::from(SYNCHRONIZED) }
    }
}

/// That the clock is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {cause} (since {since}); {}", cause.verdict(), cause.cure())]
pub struct Doubt {
    /// Why.
    pub cause: Cause,
    /// Since when, by the last trusted time.
    pub since: Timestamp,
}

impl From<&Doubt> for Refusal {
    fn from(doubt: &Doubt) -> Self {
        Self::new(Code::Unavailable, doubt.cause.verdict()).with("clock", doubt.cause.as_str())
    }
}

/// When the next event may be dated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dating {
    /// Date it so, now.
    At(Timestamp),
    /// Wait so long and ask again: the newest event is only just in the past.
    Wait(Duration),
}

/// What every source says, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The time of day, believed or not.
    pub wall: Timestamp,
    /// The last trusted time, continued by the monotonic clock.
    pub last_trusted: Timestamp,
    /// The doubt, if there is one.
    pub doubt: Option<Doubt>,
    /// The dates that the clock is held against.
    pub known: BTreeMap<Source, Timestamp>,
    /// When the time service last set the clock, by the wall clock; `None` if it does not say.
    pub synchronized: Option<Timestamp>,
}

/// An operator's word that the clock is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The last trusted time before.
    pub before: Timestamp,
    /// The trusted time now.
    pub now: Timestamp,
}

/// The time that an operator names is not the clock's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the clock says {wall}: that is another time than the one to be accepted")]
pub struct NotTheTime {
    /// The time of day.
    pub wall: Timestamp,
}

/// The one clock of the daemon.
pub struct TrustedClock {
    clock: Box<dyn Clock>,
    settings: Settings,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The clocks when they were last believed, and whether any date was known then.
    anchor: Option<(Reading, bool)>,
    compared: bool,
    /// Known dates, each with the monotonic clock when it became known.
    known: BTreeMap<Source, Reading>,
    doubt: Option<Doubt>,
    /// The date of the newest taint that was made in doubt.
    tainted_at: Option<Timestamp>,
}

impl TrustedClock {
    /// Reads `clock` from now on, and believes it once it was [held against the ledger](Self::compare).
    pub fn new(clock: Box<dyn Clock>) -> Self {
        Self::with(clock, Settings::default())
    }

    /// The same with other settings.
    pub fn with(clock: Box<dyn Clock>, settings: Settings) -> Self {
        Self { clock, settings, state: Mutex::default() }
    }

    /// Takes in a known date. It must be one that this clock once trusted, or that a chain key signed.
    pub fn learn(&self, source: Source, at: Timestamp) {
        let mut state = self.state();
        let learned = Reading { wall: at, monotonic: self.clock.monotonic() };
        if state.known.get(&source).is_none_or(|known| known.wall < at) {
            state.known.insert(source, learned);
        }
        // A clock that was believed for want of any known date is judged as at a start.
        if state.anchor.is_some_and(|(_, on_evidence)| !on_evidence) {
            state.anchor = None;
            drop(state);
            let _judged = self.trusted_now();
        }
    }

    /// Begins to judge: what the ledger knows was [taken in](Self::learn).
    pub fn compare(&self) {
        self.state().compared = true;
    }

    /// The time of day, if it can be trusted.
    pub fn trusted_now(&self) -> Result<Timestamp, Doubt> {
        let mut state = self.state();
        let now = read(self.clock.as_ref());
        let evidence = Evidence {
            anchor: state.anchor.map(|(anchor, _)| anchor),
            latest: state.latest(),
            ahead_max: self.settings.ahead_max,
        };
        let verdict = if state.compared {
            judge(now, &evidence, || self.synchronized())
        } else {
            Err(Cause::NotCompared)
        };
        match verdict {
            Ok(()) => {
                state.believe(now);
                Ok(now.wall)
            }
            Err(cause) => Err(self.doubt(&mut state, cause, now)),
        }
    }

    /// The trusted time, or in doubt the last trusted time continued by the monotonic clock: for what is dated but
    /// not signed, and must not be refused.
    pub fn estimated_now(&self) -> Timestamp {
        self.trusted_now().unwrap_or_else(|_| self.last_trusted(&self.state()))
    }

    /// Dates the event after one of `newest`: `max(newest + 1 ms, now − 5 s)`, never ahead of the clock.
    pub fn date_after(&self, newest: Option<Timestamp>) -> Result<Dating, Doubt> {
        let now = self.trusted_now()?;
        let earliest = earliest_after(newest, now);
        let ahead = earliest.since(now);
        if ahead.is_zero() {
            Ok(Dating::At(earliest))
        } else if ahead <= PATIENCE {
            Ok(Dating::Wait(ahead))
        } else {
            let cause = Cause::EventAhead { by: ahead };
            Err(Doubt { cause, since: self.last_trusted(&self.state()) })
        }
    }

    /// The date of an event that taints: it is made in any case, because waiting would leave a thief's key trusted. In
    /// doubt it is dated by the last trusted time.
    pub fn taint_after(&self, newest: Timestamp) -> Timestamp {
        if let Ok(now) = self.trusted_now() {
            return earliest_after(Some(newest), now);
        }
        let mut state = self.state();
        let date = earliest_after(Some(newest), self.last_trusted(&state));
        state.tainted_at = Some(date);
        date
    }

    /// The date of a head of the event created at `created_at`. In doubt only a taint that was made in this doubt has
    /// one, which bears the event's own date: it voids what the heads before it denied, and that must be stated anew.
    pub fn date_head(&self, created_at: Timestamp) -> Result<Timestamp, Doubt> {
        self.trusted_now().or_else(|doubt| {
            if self.state().tainted_at == Some(created_at) { Ok(created_at) } else { Err(doubt) }
        })
    }

    /// What every source says.
    pub fn report(&self) -> Report {
        let doubt = self.trusted_now().err();
        let state = self.state();
        Report {
            wall: self.clock.now(),
            last_trusted: self.last_trusted(&state),
            doubt,
            known: state.known.iter().map(|(source, known)| (*source, known.wall)).collect(),
            synchronized: self.synchronized(),
        }
    }

    /// Trusts the clock on an operator's word, who names the time that it shows. Later dates count no more.
    pub fn accept(&self, time: Timestamp) -> Result<Accepted, NotTheTime> {
        let mut state = self.state();
        let now = read(self.clock.as_ref());
        if now.wall.since(time).max(time.since(now.wall)) > ACCEPTED_MAX {
            return Err(NotTheTime { wall: now.wall });
        }
        let before = self.last_trusted(&state);
        state.known.retain(|_, known| known.wall <= now.wall);
        state.anchor = Some((now, true));
        (state.compared, state.doubt) = (true, None);
        drop(state);
        tracing::warn!(%before, now = %now.wall, "the clock is trusted on an operator's word");
        Ok(Accepted { before, now: now.wall })
    }

    /// The last trusted time, continued by the monotonic clock; the wall clock if nothing is known yet.
    fn last_trusted(&self, state: &State) -> Timestamp {
        let now = read(self.clock.as_ref());
        match (state.anchor, state.latest()) {
            (Some((anchor, _)), _) => anchor.continued(now.monotonic),
            (None, Some((_, latest))) => latest.continued(now.monotonic),
            (None, None) => now.wall,
        }
    }

    fn doubt(&self, state: &mut State, cause: Cause, now: Reading) -> Doubt {
        let since = match state.doubt {
            Some(known) if known.cause.is_like(cause) => known.since,
            _ => {
                if cause != Cause::NotCompared {
                    tracing::error!(%cause, cure = cause.cure(), wall = %now.wall, "the clock is not trusted");
                }
                self.last_trusted(state)
            }
        };
        let doubt = Doubt { cause, since };
        state.doubt = Some(doubt);
        doubt
    }

    /// When the time service last set the clock; `None` if it did not since the machine started, or there is none.
    fn synchronized(&self) -> Option<Timestamp> {
        let file = std::fs::metadata(&self.settings.synchronized).ok()?;
        Some(file.modified().ok()?.into())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For what is dated but not signed, as the lines of the audit trail are: never by a clock in doubt.
impl Clock for Arc<TrustedClock> {
    fn now(&self) -> Timestamp {
        self.estimated_now()
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }
}

impl fmt::Debug for TrustedClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustedClock").finish_non_exhaustive()
    }
}

impl State {
    fn latest(&self) -> Option<(Source, Reading)> {
        self.known.iter().map(|(source, known)| (*source, *known)).max_by_key(|(_, known)| known.wall)
    }

    fn believe(&mut self, now: Reading) {
        if let Some(doubt) = self.doubt.take().filter(|doubt| doubt.cause != Cause::NotCompared) {
            tracing::warn!(cause = %doubt.cause, since = %doubt.since, "the clock is trusted again");
            self.anchor = Some((now, !self.known.is_empty()));
        }
        let is_old = |anchor: Reading| now.monotonic.saturating_sub(anchor.monotonic) >= ANCHORED;
        if self.anchor.is_none_or(|(anchor, _)| is_old(anchor)) {
            self.anchor = Some((now, !self.known.is_empty()));
        }
    }
}

fn read(clock: &dyn Clock) -> Reading {
    Reading { wall: clock.now(), monotonic: clock.monotonic() }
}

/// The earliest date after `newest` at `now`: `max(newest + 1 ms, now − 5 s)`.
fn earliest_after(newest: Option<Timestamp>, now: Timestamp) -> Timestamp {
    let backdated = now.minus(BACKDATED).to_millis();
    newest.map_or(backdated, |newest| newest.plus(Duration::from_millis(1)).to_millis().max(backdated))
}

#[cfg(test)]
mod tests;
