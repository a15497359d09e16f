//! Watches the clock: health says whether it is trusted, and the last trusted time is kept.

use std::time::{Duration, Instant};

use keychain::statement::Head;

use crate::{
    chain::Keeper,
    clock::{Cause, Source, TrustedClock},
    health::Health,
    ledger::Ledger,
};

/// How often the clock is judged if nothing asks for the time.
const JUDGED: Duration = Duration::from_secs(2);

/// How often the last trusted time is kept. A taint in doubt is dated so much too early at most, and a clock is
/// judged at start by a date so much too old.
const KEPT: Duration = Duration::from_secs(30);

/// Takes in the date of the newest head, which stands beside the chain copy: a ledger that was restored may be older.
pub async fn learn_kept(clock: &TrustedClock, ledger: &Ledger) {
    let kept = ledger.kept().await.and_then(|kept| kept.head);
    if let Some(head) = kept.and_then(|text| Head::parse(&text).ok()) {
        clock.learn(Source::Head, head.issued_at());
    }
}

/// Judges the clock again and again, tells `health`, and calls `changed` when that is news.
pub async fn watch(keeper: &Keeper, health: &Health, changed: impl Fn()) {
    let (mut kept, start): (Option<Instant>, _) = (None, Instant::now());
    let mut judged = tokio::time::interval(JUDGED);
    loop {
        judged.tick().await;
        let doubt = keeper.trusted_now().err();
        // Before the ledger was read the chain is not ready, and says why.
        let problem = doubt.filter(|doubt| doubt.cause != Cause::NotCompared);
        metrics::gauge!("hsmd_clock_trusted").set(if problem.is_none() { 1.0 } else { 0.0 });
        if health.note("clock", problem.map(|doubt| doubt.to_string())) {
            changed();
        }
        // The first time once the tokens are open: nothing is written while a start logs in.
        let is_due = kept.map_or_else(
            || keeper.tokens().are_attempted() || start.elapsed() >= KEPT,
            |kept| kept.elapsed() >= KEPT,
        );
        if doubt.is_none() && is_due {
            match keeper.keep_trusted_time().await {
                Ok(()) => kept = Some(Instant::now()),
                Err(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "the trusted time is not kept");
                }
            }
        }
    }
}
