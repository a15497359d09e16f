//! A silent token is asked again, an idle one now and then; how two slots stand is noted, and whether the token of one
//! was exchanged.

use std::time::Duration;

use crate::{
    chain::Keeper,
    health::Health,
    token::{self, Comparison, KnownToken},
};

/// How often: hsmd uses a token again within 5 s of a fault's end.
const INTERVAL: Duration = Duration::from_secs(2);

/// Watches the tokens once each was tried, for ever.
pub async fn watch(keeper: &Keeper, health: &Health, known: &[KnownToken]) {
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
        compare(&keeper.tokens().identities(), known, health);
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Says of each token that is there whether it is the one that was first in its slot.
fn compare(identities: &[(token::Slot, String)], known: &[KnownToken], health: &Health) {
    let mut warnings = Vec::new();
    for known in known {
        let slot = known.slot();
        let Some((_, identity)) = identities.iter().find(|(of, _)| *of == slot) else { continue };
        let compared = known.compare(identity);
        let exchanged = matches!(compared, Comparison::Other(_));
        metrics::gauge!("hsmd_token_exchanged", "token" => slot.as_str()).set(u32::from(exchanged));
        if compared == Comparison::First {
            tracing::info!(token = slot.as_str(), identity, "noted which token is in the slot");
        }
        warnings.extend(compared.warning().map(str::to_owned));
    }
    let warning = Some(warnings.join("; ")).filter(|warning| !warning.is_empty());
    if health.warn("tokenExchanged", warning.clone())
        && let Some(warning) = warning
    {
        tracing::warn!(warning, "a token was exchanged");
    }
}
