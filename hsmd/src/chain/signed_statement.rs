//! Statements by the live generation.

use std::sync::Arc;

use keychain::{Refusal, statement::Draft};

use super::{Error, Keeper, View};
use crate::{ledger::Ledger, token::signer::Class};

impl Keeper {
    /// Has the live generation sign the statement that `compose` makes of the view, and answers it with the
    /// view whose newest event signed it: what the HSM answered was verified. It goes before endorsements.
    pub(crate) async fn state(
        &self,
        compose: impl Fn(&View) -> Result<Draft, Refusal>,
    ) -> Result<(Arc<View>, String), Error> {
        let (view, (draft, signature)) = self
            .sign_by_live(Class::Statement, |view| {
                let draft = compose(view)?;
                let body = draft.body().as_bytes().to_vec();
                Ok((draft, body))
            })
            .await?;
        view.live().key().verify(draft.body().as_bytes(), &signature)?;
        Ok((view, draft.seal(&signature)))
    }

    /// The ledger, for what is stated beside the chain.
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}
