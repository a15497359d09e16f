//! The first start: two keys and event 0, which gives the chain its identity.

use keychain::chain::Draft;

use super::{Error, Keeper, View};
use crate::{
    clock::Dating,
    ledger::{Contents, Turn},
};

impl Keeper {
    /// Before a first start: notes that keys 0 and 1 are about to be made. A token that already has keys of
    /// ours, which this ledger never meant to make, is left alone.
    pub(super) async fn prepare_first(&self) -> Result<(), Error> {
        let contents = self.ledger.read().await?;
        if !contents.events.is_empty() || contents.key_intent.is_some() {
            return Ok(());
        }
        let inventory = self.signer.inventory().await?;
        if !inventory.keys.is_empty() || inventory.halves.iter().any(|half| half.id.is_some()) {
            return Err(Error::Contradiction(
                "the ledger is empty, but the token holds keys of a chain: bring back the ledger, or give this \
                 hsmd an empty token or `hsm.key_ids` of its own; nothing was changed"
                    .to_owned(),
            ));
        }
        Ok(self.ledger.intend(1).await?)
    }

    /// Makes keys 0 and 1 and commits event 0. What an earlier attempt left is destroyed first: nothing of
    /// it can have been committed to, because the ledger is empty.
    pub(super) async fn make_first(&self, turn: Turn, contents: &Contents) -> Result<View, Error> {
        if contents.key_intent.is_none() {
            return Err(Error::Unsettled);
        }
        let inventory = self.signer.inventory().await?;
        let keys = inventory.keys.iter().map(|key| key.handle);
        for handle in keys.chain(inventory.halves.iter().map(|half| half.handle)) {
            self.signer.destroy(handle).await?;
        }
        let Dating::At(created_at) = self.calendar.date_after(None) else {
            return Err(Error::Clock("it moved while hsmd started; start hsmd again".to_owned()));
        };
        let zero = self.signer.generate(self.key_ids.of(0)).await?;
        let one = self.signer.generate(self.key_ids.of(1)).await?;
        let draft = Draft::first(&zero.public_key, &one.public_key.digest(), created_at);
        let signature = self.sign(zero.public_key, draft.payload().as_bytes()).await?;
        let event = draft.seal(&signature)?;
        turn.commit(&event).await?;
        metrics::gauge!("hsmd_token_objects", "state" => "retired").set(0);
        tracing::info!(identity = %event.id(), "a new chain begins");
        View::new(vec![event], one.public_key).ok_or(Error::Unsettled)
    }
}
