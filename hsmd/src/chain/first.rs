//! The first start: two keys and event 0, which gives the chain its identity.

use keychain::chain::Draft;

use super::{Error, Keeper, View};
use crate::{
    clock::Dating,
    failure_point::{self, Step},
    ledger::Contents,
    token::Survey,
    token::signer::Class,
};

impl Keeper {
    /// Before a first start: notes that keys 0 and 1 are about to be made. A token that already has keys of
    /// ours, which this ledger never meant to make, is left alone.
    pub(super) async fn prepare_first(&self) -> Result<(), Error> {
        if self.ledger.newest().await?.is_some() {
            return Ok(());
        }
        let contents = self.ledger.contents(&[]).await?;
        if !contents.events.is_empty() || contents.key_intent.is_some() {
            return Ok(());
        }
        let survey = self.tokens.survey().await?;
        if survey.keys().next().is_some() || survey.halves().any(|(_, half)| half.id.is_some()) {
            return Err(Error::Behind(
                "the ledger is empty, but the token holds keys of a chain: import the published chain (`opsctl \
                 hsm recover --chain FILE`) or bring back the ledger; for a new chain give this hsmd an empty \
                 token or `hsm.key_ids` of its own"
                    .to_owned(),
            ));
        }
        demand_all(&survey)?;
        failure_point::write(Step::First, "before-intend")?;
        self.ledger.intend(1).await?;
        failure_point::write(Step::First, "after-intend")?;
        Ok(())
    }

    /// Makes keys 0 and 1 and commits event 0. What an earlier attempt left is destroyed first: nothing of
    /// it can have been committed to, because the ledger is empty.
    pub(super) async fn make_first(&self, contents: &Contents) -> Result<View, Error> {
        if contents.key_intent.is_none() {
            return Err(Error::Unsettled);
        }
        let survey = self.tokens.survey().await?;
        demand_all(&survey)?;
        let first_two = [self.key_ids.of(0), self.key_ids.of(1)];
        let ids = survey.keys().map(|(_, key)| key.id).chain(survey.halves().filter_map(|(_, half)| half.id));
        if let Some(id) = ids.into_iter().find(|id| !first_two.contains(id)) {
            return Err(Error::Behind(format!(
                "the ledger is empty, but a token holds a key under id {id}, which is another chain's: give this hsmd \
                 empty tokens or `hsm.key_ids` of its own"
            )));
        }
        let keys = survey.keys().map(|(slot, key)| (slot, key.handle));
        for (slot, handle) in keys.chain(survey.halves().map(|(slot, half)| (slot, half.handle))) {
            self.tokens.destroy(slot, handle).await?;
        }
        let Dating::At(created_at) = self.clock.date_after(None)? else { return Err(Error::Unsettled) };
        failure_point::pass(Step::First, "before-keys");
        let zero = self.make_key(self.key_ids.of(0), &[]).await?.key;
        failure_point::pass(Step::First, "between-keys");
        let one = self.make_key(self.key_ids.of(1), &[zero.public_key]).await?.key;
        failure_point::pass(Step::First, "after-keys");
        let draft = Draft::first(&zero.public_key, &one.public_key.digest(), created_at);
        let signature = self.sign(zero.public_key, draft.payload().as_bytes(), Class::Chain).await?;
        let event = draft.seal(&signature)?;
        failure_point::pass(Step::First, "after-sign");
        failure_point::write(Step::First, "before-commit")?;
        self.ledger.commit(None, &event, Vec::new()).await?;
        failure_point::write(Step::First, "after-commit")?;
        metrics::gauge!("hsmd_token_objects", "state" => "retired").set(0);
        tracing::info!(identity = %event.id(), "a new chain begins");
        View::new(vec![event], Some(one.public_key)).ok_or(Error::Unsettled)
    }
}

/// A chain begins with its keys on both tokens: what a silent one holds may be another chain's, too.
fn demand_all(survey: &Survey) -> Result<(), Error> {
    survey.silent().map_or(Ok(()), |fault| Err(Error::FirstNeedsBoth(fault.clone())))
}
