//! A key that is made, under an id that an interrupted attempt may have left taken.

use keychain::PublicKey;

use super::{Error, Keeper, State};
use crate::{
    token::backend::{Fault, KeyId},
    token::{Copies, Made},
};

impl Keeper {
    /// Makes a key under `id`, on every token that answers. To be called in turn only, with the keys that the ledger's
    /// newest event names.
    ///
    /// Where an id names one object only, a key that an interrupted attempt made keeps the id from being
    /// used: it is destroyed first. The turn is held, so that no other hsmd is making it; and the ledger's
    /// newest event commits to `committed` and to nothing else, so that nothing rests on it.
    pub(super) async fn make_key(
        &self,
        id: KeyId,
        committed: &[PublicKey],
        copies: Copies,
    ) -> Result<Made, Error> {
        match self.tokens.generate(id, copies).await {
            Err(Fault::IdTaken(_)) => {}
            made => return Ok(made?),
        }
        let survey = self.tokens.survey().await?;
        let ours = self.seen().map_or_else(Vec::new, |view| view.public_keys());
        let is_ours = |key: &PublicKey| committed.contains(key) || ours.contains(key);
        for (slot, key) in survey.keys().filter(|(_, key)| key.id == id) {
            if committed.contains(&key.public_key) {
                return Err(Error::State(State::Interrupted(format!(
                    "a key that the ledger names is under id {id}, which belongs to another generation: \
                     `hsm.key_ids` was changed; give it more ids, or bring the old range back"
                ))));
            }
            if !ours.is_empty() && !survey.keys().any(|(on, key)| on == slot && is_ours(&key.public_key)) {
                // Nothing on it is of this chain, so that what bears the id may be another's.
                return Err(Fault::IdTaken(id).into());
            }
            tracing::info!(%id, key = %key.public_key, "destroying what an interrupted attempt made");
            // Another hsmd may have committed to it since the survey: the ledger refuses to condemn it then.
            self.ledger.condemn(&[key.public_key.digest()]).await?;
            self.tokens.destroy(slot, key.handle).await?;
        }
        Ok(self.tokens.generate(id, copies).await?)
    }
}
