//! The monitor: tries the whole way to a signature again and again, says how it went, and says once that hsmd is ready.

use std::time::{Duration, Instant};

use systemd::notify;

use super::{
    status::{failure, status},
    supervise::{Ending, ModuleFailure},
};
use crate::{
    chain::{self, Keeper, State, statement::Statements},
    health::Health,
    token::{backend::Fault, signer},
};

/// How often the whole way to a signature is tried, if the unit's watchdog does not want it oftener. Below
/// the 30 s after which an idle session of a YubiHSM dies.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// How often while something is wrong: hsmd signs again within 5 s of a fault's end.
const TROUBLE_INTERVAL: Duration = Duration::from_secs(2);

/// How soon once a signature has failed: readiness says so within two seconds.
const SUSPICION_INTERVAL: Duration = Duration::from_millis(500);

/// How long one such attempt may take, so that the watchdog hears of it in time: what a caller waits.
const PROBE_MAX: Duration = signer::DEADLINE;

/// How much time systemd is asked for while hsmd is not ready yet: several attempts.
const EXTENSION: Duration = Duration::from_secs(30);

/// Monitors until only a new process can help.
///
/// hsmd is ready once it has signed, or stands by. Until then its STATUS says why it is not, and systemd is asked for
/// patience: a token may be plugged in by a person. The watchdog hears of an attempt only once it has ended, well or badly, or timed
/// out behind others: a dead token makes hsmd unready, not a process to be killed; a thread that hangs in the module is
/// what the watchdog is for.
pub async fn run(keeper: &Keeper, statements: &Statements, health: &Health) -> Ending {
    let mut is_started = false;
    let mut module = ModuleFailure::default();
    extending(keeper.tokens().attempted()).await;
    let interval = interval(notify::watchdog());
    loop {
        let attempts = keeper.attempts();
        let outcome = if is_started { probe(keeper).await } else { extending(keeper.probe()).await };
        metrics::gauge!("hsmd_token_up").set(if outcome.is_ok() { 1.0 } else { 0.0 });
        if let Some(ending) = module.note(outcome.as_ref().err().and_then(fault), Instant::now()) {
            return ending;
        }
        let starts = !is_started && is_start(outcome.is_ok(), &keeper.chain_state());
        let ok = outcome.is_ok() && !keeper.has_strays();
        note(keeper, health, outcome.err());
        if starts {
            is_started = true;
            // Health names a head that cannot be made; keys are endorsed meanwhile.
            drop(statements.make_due(health).await);
            let status = status(keeper, health);
            notify::ready(&status);
            tracing::info!(status, "ready");
        }
        if !is_started {
            notify::extend(EXTENSION);
        }
        if makes_progress(keeper.time_in_call(), attempts, keeper.attempts()) {
            notify::ping();
        }
        pause(keeper, if ok { interval } else { TROUBLE_INTERVAL.min(interval) }).await;
    }
}

/// Asks systemd for more time again and again while `work` goes on.
async fn extending<T>(work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        match tokio::time::timeout(PROBE_INTERVAL, &mut work).await {
            Ok(done) => return done,
            Err(_) => notify::extend(EXTENSION),
        }
    }
}

async fn probe(keeper: &Keeper) -> Result<(), chain::Error> {
    let outcome = tokio::time::timeout(PROBE_MAX, keeper.probe()).await;
    outcome.unwrap_or(Err(Fault::Timeout { seconds: PROBE_MAX.as_secs() }.into()))
}

const fn fault(error: &chain::Error) -> Option<&Fault> {
    match error {
        chain::Error::Hsm(fault) => Some(fault),
        _ => None,
    }
}

/// How often an attempt is made while all is well.
fn interval(watchdog: Option<Duration>) -> Duration {
    watchdog.map_or(PROBE_INTERVAL, |wanted| wanted.min(PROBE_INTERVAL))
}

/// Whether an attempt makes hsmd ready. A standby is as ready as it gets: it serves what can be read, and takes over.
const fn is_start(has_signed: bool, state: &State) -> bool {
    has_signed || matches!(state, State::Standby { .. })
}

/// Whether the watchdog may hear that the work goes on: no call hangs, or one has ended meanwhile.
fn makes_progress(time_in_call: Option<Duration>, attempts_before: usize, attempts: usize) -> bool {
    time_in_call.is_none() || attempts != attempts_before
}

/// The part of hsmd under whose name health lists a failure.
const fn part(error: &chain::Error) -> &'static str {
    match error {
        chain::Error::Ledger(_) => "ledger",
        chain::Error::State(_) => "chain",
        _ => "signing",
    }
}

/// Waits, but no longer than a fault may stand once something is seen or suspected to be wrong.
async fn pause(keeper: &Keeper, interval: Duration) {
    let start = Instant::now();
    let mut condition = keeper.ledger().condition();
    condition.mark_unchanged();
    while let Some(left) = interval.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) {
        let wrong = keeper.has_strays() || keeper.view().is_none();
        if wrong && start.elapsed() >= TROUBLE_INTERVAL {
            return;
        }
        tokio::select! {
            // The lease was taken over, or the database answers again.
            Ok(()) = condition.changed() => return,
            // A token is open by now, or it is known why it is not.
            () = keeper.tokens().attempt() => return,
            () = keeper.suspected() => return tokio::time::sleep(SUSPICION_INTERVAL).await,
            () = tokio::time::sleep(left.min(TROUBLE_INTERVAL)) => {}
        }
    }
}

/// Tells under the name of the part that failed.
fn note(keeper: &Keeper, health: &Health, error: Option<chain::Error>) {
    let part = error.as_ref().map(part);
    let problem = error.map(|error| failure(error).to_string());
    let strays = keeper.has_strays().then(|| "keys that nothing needs are still on the token".to_owned());
    let mut changed = health.warn("token", strays);
    for each in ["chain", "ledger", "signing"] {
        let problem = problem.clone().filter(|_| part == Some(each));
        changed |= health.note(each, problem);
    }
    if changed {
        if let Some(problem) = &problem {
            tracing::error!(problem, "cannot sign");
        }
        notify::status(&status(keeper, health));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_may_want_attempts_oftener() {
        for (watchdog, every) in [(None, 10), (Some(15), 10), (Some(1), 1)] {
            assert_eq!(interval(watchdog.map(Duration::from_secs)), Duration::from_secs(every));
        }
    }

    #[test]
    fn ready_is_said_once_it_has_signed_or_stands_by() {
        let standby = State::Standby { holder: "another".to_owned() };
        for (has_signed, state, starts) in [
            (true, State::Ready, true),
            (false, standby, true),
            (false, State::Opening, false),
            (false, State::PinRefused(String::new()), false),
            (false, State::Ready, false),
        ] {
            assert_eq!(is_start(has_signed, &state), starts, "{state}");
        }
    }

    #[test]
    fn a_call_that_hangs_is_no_progress() {
        for (time_in_call, before, after, progress) in
            [(None, 7, 7, true), (None, 7, 8, true), (Some(3), 7, 8, true), (Some(3), 7, 7, false)]
        {
            assert_eq!(makes_progress(time_in_call.map(Duration::from_secs), before, after), progress);
        }
    }

    #[test]
    fn a_failure_is_told_under_the_name_of_its_part() {
        for (error, shown) in [
            (chain::Error::State(State::LedgerEmpty), "chain"),
            (chain::Error::Ledger(crate::ledger::Error::Busy), "ledger"),
            (chain::Error::Hsm(Fault::Opening), "signing"),
        ] {
            assert_eq!(part(&error), shown);
        }
    }
}
