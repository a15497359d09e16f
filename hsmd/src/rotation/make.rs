//! A key under an id that an interrupted attempt may have left taken.

use keychain::PublicKey;

use super::{Error, Keeper};
use crate::backend::{Fault, Key, KeyId};

impl Keeper {
    /// Makes a key under `id`. To be called in turn only, with the keys that the ledger's newest event names.
    ///
    /// Where an id names one object only, a key that an interrupted attempt made keeps the id from being
    /// used: it is destroyed first. The turn is held, so that no other hsmd is making it; and the ledger's
    /// newest event commits to `committed` and to nothing else, so that nothing rests on it.
    pub(super) async fn make_key(&self, id: KeyId, committed: &[PublicKey]) -> Result<Key, Error> {
        match self.signer.generate(id).await {
            Err(Fault::IdTaken(_)) => {}
            made => return Ok(made?),
        }
        for key in self.signer.inventory().await?.keys.iter().filter(|key| key.id == id) {
            if committed.contains(&key.public_key) {
                return Err(Error::Contradiction(format!(
                    "a key that the ledger names is under id {id}, which belongs to another generation: \
                     `hsm.key_ids` was changed; give it more ids, or bring the old range back"
                )));
            }
            tracing::info!(%id, key = %key.public_key, "destroying what an interrupted attempt made");
            self.signer.destroy(key.handle).await?;
        }
        Ok(self.signer.generate(id).await?)
    }
}
