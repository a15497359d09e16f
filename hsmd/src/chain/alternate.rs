//! What two tokens change: the next key may be out of reach, and what is out of reach proves nothing.

use std::sync::{Arc, PoisonError, atomic::Ordering};

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
        let view = if self.tokens.owe_a_look() { self.look_at_all().await? } else { view };
        if let Some(fault) = self.tokens.silence_about(view.next().as_ref()) {
            return Err(Error::NextSilent(fault));
        }
        if !self.proven.load(Ordering::Relaxed) {
            let live = view.live().event().public_key;
            // That no token is known to be silent now proves nothing: it was when the ledger was last held
            // against what is on them.
            return Err(self.tokens.silence_about(Some(&live)).map_or(Error::Unsettled, Error::Unproven));
        }
        let next = view.next().ok_or(Error::Unsettled)?;
        Ok((view, next))
    }

    /// Looks at both tokens, one of which was silent at the last look. What it has kept may show that the ledger
    /// is behind: then nothing that was visible is trusted any more. To be called in turn only.
    pub(super) async fn look_at_all(&self) -> Result<Arc<View>, Error> {
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
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot look at both tokens yet");
                Err(error)
            }
        }
    }
}

/// What is told to whoever asked for what a silent token keeps from being done.
pub(super) fn refusal(error: &Error, fault: &Fault) -> Refusal {
    let refusal = Refusal::new(Code::Unavailable, "a token of the HSM does not answer");
    let refusal = match fault {
        Fault::Silent { token, .. } => refusal.with("token", *token),
        _ => refusal,
    };
    refusal.with("because", error.to_string())
}
