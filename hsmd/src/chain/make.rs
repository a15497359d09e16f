//! A key that is made: on which token, and under an id that an interrupted attempt may have left taken.

use keychain::PublicKey;

use super::{Error, Keeper, State};
use crate::{
    token::backend::{Fault, KeyId},
    token::{Made, Which},
};

impl Keeper {
    /// Makes a key under `id`, to come after the next one: on the token that the next key is not on. To be called
    /// in turn only, with the keys that the ledger's newest event names.
    ///
    /// A token that fails does not keep the chain from going on: the key is then made beside the next one.
    pub(super) async fn make_key(
        &self,
        id: KeyId,
        committed: &[PublicKey],
        next: &PublicKey,
    ) -> Result<Made, Error> {
        let mut failed = None;
        let chain = self.seen().map_or_else(Vec::new, |view| view.public_keys());
        let is_ours = |key: &PublicKey| committed.contains(key) || chain.contains(key);
        for which in self.tokens.apart_from(Some(next)) {
            if self.tokens.is_foreign(which, is_ours) {
                let token = which.as_str();
                tracing::error!(
                    token,
                    "a token has another chain's keys; no key is made there: see which token it is"
                );
                continue;
            }
            match self.make_key_on(which, id, committed).await {
                Err(Error::Hsm(fault)) => {
                    if self.tokens.are_two() {
                        tracing::warn!(%fault, token = which.as_str(), "no key can be made on a token");
                    }
                    failed = Some(fault);
                }
                made => return made,
            }
        }
        Err(failed.map_or(Error::Unsettled, Error::Hsm))
    }

    /// The same on a certain token.
    ///
    /// Where an id names one object only, a key that an interrupted attempt made keeps the id from being
    /// used: it is destroyed first. The turn is held, so that no other hsmd is making it; and the ledger's
    /// newest event commits to `committed` and to nothing else, so that nothing rests on it.
    pub(super) async fn make_key_on(
        &self,
        which: Which,
        id: KeyId,
        committed: &[PublicKey],
    ) -> Result<Made, Error> {
        match self.tokens.generate(which, id).await {
            Err(Fault::IdTaken(_)) => {}
            made => return Ok(made?),
        }
        let survey = self.tokens.survey().await?;
        let ours = self.seen().map_or_else(Vec::new, |view| view.public_keys());
        let is_ours = |key: &PublicKey| committed.contains(key) || ours.contains(key);
        let is_first = ours.is_empty();
        if !is_first && !survey.keys().any(|(on, key)| on == which && is_ours(&key.public_key)) {
            // Nothing on it is of this chain, so that what bears the id may be another's.
            return Err(Fault::IdTaken(id).into());
        }
        for (_, key) in survey.keys().filter(|(on, key)| *on == which && key.id == id) {
            if committed.contains(&key.public_key) {
                return Err(Error::State(State::Interrupted(format!(
                    "a key that the ledger names is under id {id}, which belongs to another generation: \
                     `hsm.key_ids` was changed; give it more ids, or bring the old range back"
                ))));
            }
            tracing::info!(%id, key = %key.public_key, "destroying what an interrupted attempt made");
            self.tokens.destroy(which, key.handle).await?;
        }
        Ok(self.tokens.generate(which, id).await?)
    }
}
