//! The first start: two keys and event 0, which gives the chain its identity.

use std::sync::{Arc, atomic::Ordering};

use keychain::{
    audit::{Kind, Record},
    chain::{Draft, SignedEvent},
};

use super::{Error, Keeper, State, View, plan::Sweep};
use crate::{
    clock::Dating,
    failure_point::{self, Step},
    token::{Copies, signer::Class},
};

impl Keeper {
    /// Makes keys 0 and 1 and commits event 0. What an earlier attempt left is destroyed first: nothing of
    /// it can have been committed to, because the ledger is empty. In turn only.
    pub(super) async fn begin(&self, sweep: &Sweep) -> Result<(State, Option<Arc<View>>), Error> {
        let recoveries = self.tokens.recoveries();
        failure_point::write(Step::First, "before-intend")?;
        self.ledger.intend(1).await?;
        failure_point::write(Step::First, "after-intend")?;
        self.condemn(sweep).await?;
        let keys = sweep.keys.iter().map(|(slot, key)| (*slot, key.handle));
        for (slot, handle) in keys.chain(sweep.halves.iter().map(|(slot, half)| (*slot, half.handle))) {
            self.tokens.destroy(slot, handle).await?;
        }
        let Dating::At(created_at) = self.clock.date_after(None)? else { return Err(Error::Unsettled) };
        failure_point::pass(Step::First, "before-keys");
        let zero = self.make_key(self.key_ids.of(0), &[], Copies::AsConfigured).await?.key;
        failure_point::pass(Step::First, "between-keys");
        let one = self.make_key(self.key_ids.of(1), &[zero.public_key], Copies::AsConfigured).await?.key;
        failure_point::pass(Step::First, "after-keys");
        let draft = Draft::first(&zero.public_key, &one.public_key.digest(), created_at);
        let signature = self.sign(zero.public_key, draft.payload().as_bytes(), Class::Chain).await?;
        let event = draft.seal(&signature)?;
        *self.proven() = Some(event.id());
        failure_point::pass(Step::First, "after-sign");
        failure_point::write(Step::First, "before-commit")?;
        self.ledger.commit(None, &event, vec![line(&event)]).await?;
        failure_point::write(Step::First, "after-commit")?;
        metrics::gauge!("hsmd_token_objects", "state" => "retired").set(0);
        // A key whose making failed after its effect was made twice: the next check destroys what is left over.
        self.strays.store(self.tokens.recoveries() != recoveries, Ordering::Relaxed);
        tracing::info!(identity = %event.id(), "a new chain begins");
        Ok((State::Ready, View::new(vec![event], Some(one.public_key)).map(Arc::new)))
    }
}

/// What the audit trail says of the first event.
fn line(first: &SignedEvent) -> Record {
    let event = first.event();
    Record::new(Kind::Chain)
        .plain("identity", event.prefix)
        .plain("generation", event.id)
        .number("sequenceNumber", event.sequence_number)
}
