//! How hsmd is, in one line for systemd, and who has to act on a failure.

use systemd::{
    exit::{self, Failure},
    telemetry,
};

use crate::{
    chain::{self, Keeper},
    health::Health,
    ledger,
    token::backend::Fault,
};

/// The unit's status: the state of the chain if it does not sign, else the first problem, else the newest generation and
/// what somebody has to see to.
pub fn status(keeper: &Keeper, health: &Health) -> String {
    let Some(view) = keeper.view() else {
        let state = keeper.chain_state();
        return format!("not ready: {}: {state}", state.label());
    };
    if let Some((part, problem)) = health.problems().first() {
        return format!("not ready: {part}: {problem}");
    }
    let warnings = health
        .warnings()
        .iter()
        .fold(String::new(), |all, (part, warning)| format!("{all}; {part}: {warning}"));
    let live = view.live().event();
    let (number, prefix) = (live.sequence_number, &live.prefix);
    format!("generation {number} of {prefix} since {}{warnings}", live.created_at)
}

/// The same for `/readyz`.
pub fn readiness(health: &Health) -> telemetry::Health {
    let problems = health.problems();
    telemetry::Health { ready: problems.is_empty(), detail: problems, ..telemetry::Health::default() }
}

/// Says who has to act: on configuration, on a dependency, or on contradicting state.
pub fn failure(error: chain::Error) -> Failure {
    match &error {
        chain::Error::Ledger(ledger::Error::File { .. }) => Failure::config(error),
        chain::Error::State(_) | chain::Error::Unverifiable(_) => Failure::software(error),
        chain::Error::Clock(_) | chain::Error::Hsm(Fault::Busy { .. }) => {
            Failure::new(exit::TEMPORARY, error)
        }
        _ => Failure::unavailable(error),
    }
}
