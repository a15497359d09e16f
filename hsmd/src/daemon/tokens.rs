//! A silent token is asked again, an idle one now and then, and how two slots stand is noted.

use std::time::Duration;

use crate::{chain::Keeper, health::Health, token};

/// How often: hsmd uses a token again within 5 s of a fault's end.
const INTERVAL: Duration = Duration::from_secs(2);

/// Watches the tokens once each was tried, for ever.
pub async fn watch(keeper: &Keeper, health: &Health) {
    keeper.tokens().attempted().await;
    loop {
        keeper.tokens().ask_silent().await;
        keeper.survey_if_due().await;
        let states = keeper.token_states();
        for state in &states {
            let answers = if state.silent.is_none() { 1.0 } else { 0.0 };
            metrics::gauge!("hsmd_token_answers", "token" => state.name).set(answers);
            let keys = u32::from(state.live) + u32::from(state.next);
            metrics::gauge!("hsmd_token_chain_keys", "token" => state.name).set(keys);
        }
        let newest = keeper.seen().map_or(0, |view| view.live().event().sequence_number);
        health.warn("tokens", token::warning(&states, newest));
        tokio::time::sleep(INTERVAL).await;
    }
}
