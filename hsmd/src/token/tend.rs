//! What is done for two tokens beside signing: a silent one is asked again, an idle one now and then, and how
//! they stand is told.

use std::time::Duration;

use super::{Tokens, place::Place, state};
use crate::{chain::Keeper, daemon::health::Health};

/// How often: hsmd uses a token again within 5 s of a fault's end.
const INTERVAL: Duration = Duration::from_secs(2);

/// Looks after two tokens, for ever; does nothing for one.
pub async fn tend(keeper: &Keeper, health: &Health) {
    if !keeper.tokens().are_two() {
        std::future::pending::<()>().await;
    }
    loop {
        keeper.tokens().look().await;
        let states = keeper.token_states();
        for state in &states {
            let answers = if state.silent.is_none() { 1.0 } else { 0.0 };
            metrics::gauge!("hsmd_token_answers", "token" => state.name).set(answers);
        }
        health.warn("tokens", state::warning(&states));
        tokio::time::sleep(INTERVAL).await;
    }
}

impl Tokens {
    /// Sees whether the tokens answer that are silent or idle.
    pub async fn look(&self) {
        if let (true, Some(second)) = (self.are_two(), &self.second) {
            tokio::join!(Place::look(&self.first), Place::look(second));
        }
    }
}
