//! Watches the ledger: health and metrics say how it is.

use std::time::Duration;

use crate::{
    chain::Keeper,
    health::Health,
    ledger::{self, Condition},
};

/// How often it is asked if nothing changes.
const INTERVAL: Duration = Duration::from_secs(1);

/// Says so while the ledger is not written, since nothing is signed or changed meanwhile, and what else is to be seen to.
/// Calls `changed` when that is news.
pub async fn watch(keeper: &Keeper, health: &Health, changed: impl Fn()) {
    let mut condition = keeper.ledger().condition();
    loop {
        let now = condition.borrow_and_update().clone();
        let problem = (now != Condition::Writing).then(|| now.to_string());
        let mut is_news = health.note("journal", problem);
        let warnings = keeper.ledger().warnings();
        for part in ledger::WARNINGS {
            let warning = warnings.iter().find(|(name, _)| *name == part).map(|(_, text)| text.clone());
            is_news |= health.warn(part, warning);
        }
        if is_news {
            changed();
        }
        drop(tokio::time::timeout(INTERVAL, condition.changed()).await);
    }
}
