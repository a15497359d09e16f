//! Two slots: one may be silent, and its keys are surveyed once it answers.

use std::sync::{Arc, PoisonError};

use keychain::{Code, PublicKey, Refusal};

use super::{Error, Keeper, View, told};
use crate::{
    token::backend::Fault,
    token::{TokenState, Tokens},
};

impl Keeper {
    /// The tokens.
    pub const fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// How each of two tokens stands; nothing if there is one.
    pub fn token_states(&self) -> Vec<TokenState> {
        let view = self.verified();
        self.tokens.states(view.as_ref().map(|view| view.live().event()))
    }

    /// The next key, and the view that names it. Refuses to leave a generation that cannot be left now, before
    /// anything is made for it. To be called in turn only.
    pub(super) async fn demand_next(&self, view: Arc<View>) -> Result<(Arc<View>, PublicKey), Error> {
        let view = if self.tokens.needs_survey() { self.survey_again().await? } else { view };
        match view.next() {
            Some(next) => Ok((view, next)),
            None => Err(self.tokens.silence().map_or(Error::Unsettled, Error::NextSilent)),
        }
    }

    /// Surveys both tokens if one of them was silent at the last survey: keys are mirrored again as soon as it answers.
    pub async fn survey_if_due(&self) {
        if self.tokens.needs_survey() && self.view().is_some() {
            let _turn = self.turn.lock().await;
            // What comes of it is noted.
            drop(self.survey_again().await);
        }
    }

    /// Surveys both tokens, one of which was silent at the last survey. What it has kept may show that the ledger
    /// is behind: then nothing that was visible is trusted any more. To be called in turn only.
    pub(super) async fn survey_again(&self) -> Result<Arc<View>, Error> {
        match self.reconcile().await {
            Ok(view) => {
                let view = Arc::new(view);
                self.show(Arc::clone(&view));
                Ok(view)
            }
            Err(error @ (Error::Behind(_) | Error::Contradiction(_))) => {
                self.unsettle();
                *self.trouble.write().unwrap_or_else(PoisonError::into_inner) = Some(told(&error));
                Err(error)
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot survey both tokens yet");
                Err(error)
            }
        }
    }
}

/// The answer to a request that a silent token keeps from being done.
pub(super) fn refusal(error: &Error, fault: &Fault) -> Refusal {
    let refusal = Refusal::new(Code::Unavailable, "a token of the HSM does not answer");
    let refusal = match fault {
        Fault::Silent { token, .. } => refusal.with("token", *token),
        _ => refusal,
    };
    refusal.with("because", error.to_string())
}
