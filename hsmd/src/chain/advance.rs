//! One step of the chain: a rotation or a taint.

use std::sync::Arc;

use keychain::{
    Digest, PublicKey, Timestamp,
    chain::{Draft, Event, SignedEvent},
};

use super::{Error, Keeper, View};
use crate::{
    clock::Dating,
    failure_point::{self, Step},
    ledger,
    token::backend::Fault,
    token::signer::Class,
};

/// What is asked for: leave a generation, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advance {
    /// The generation to leave; the live one, whichever that is, if absent.
    pub from: Option<Digest>,
    /// Whether it is compromised.
    pub taint: bool,
}

impl Advance {
    const fn step(self) -> Step {
        if self.taint { Step::Taint } else { Step::Rotate }
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advanced {
    /// The generation that was left.
    pub left: Digest,
    /// The generation after it.
    pub new_generation: Digest,
    /// The key of the generation after it.
    pub new_public_key: PublicKey,
    /// When verifiers begin to use the generation after it.
    pub live_from: Timestamp,
    /// Whether this is the answer to an earlier command, and nothing was done now.
    pub repeated: bool,
}

impl Keeper {
    /// Leaves a generation for the next: a compare-and-swap on the generation named, so that a repeated or
    /// second command never leaves a healthy one.
    ///
    /// Once begun it is carried through even if the caller goes away.
    pub async fn advance(self: &Arc<Self>, advance: Advance) -> Result<Advanced, Error> {
        let keeper = Arc::clone(self);
        let carried_through = tokio::spawn(async move { keeper.advance_in_turn(advance).await });
        carried_through.await.unwrap_or(Err(Error::Hsm(Fault::Stopped)))
    }

    async fn advance_in_turn(&self, advance: Advance) -> Result<Advanced, Error> {
        let _turn = self.turn.lock().await;
        let view = self.settled_in_turn().await?;
        if let Some(earlier) = earlier(&view, advance)? {
            return Ok(earlier);
        }
        let (view, next) = self.demand_next(view).await?;
        // Another look may have shown that another hsmd has left the generation.
        if let Some(earlier) = earlier(&view, advance)? {
            return Ok(earlier);
        }
        let left = view.live().event();
        // Until the turn is taken nothing has been done: whatever fails leaves everything as it is.
        let created_at = self.prepare(left, advance).await?;
        let recoveries = self.tokens.recoveries();
        let extended = match self.extend(&view, next, advance, created_at).await {
            Ok(extended) => Arc::new(extended),
            Err(error) => return self.resolve(&view, advance, error).await,
        };
        let answer = answer(view.live(), extended.live(), false);
        self.show(extended);
        failure_point::pass(advance.step(), "after-show");
        let retired = self.tokens.retire(left.public_key).await;
        failure_point::pass(advance.step(), "after-retire");
        if let Err(fault) = &retired {
            tracing::error!(%fault, key = %left.public_key, "a retired key is still on the token");
        }
        if retired.is_err() || self.tokens.recoveries() != recoveries {
            // A call that failed may have had its effect: look at what is on the token. The event stands
            // whatever comes of that.
            self.unsettle();
            if let Err(error) = self.settled_in_turn().await {
                tracing::error!(error = &error as &dyn std::error::Error, "cannot reconcile yet");
            }
        }
        Ok(answer)
    }

    /// Step 1: when the next event is dated.
    async fn prepare(&self, newest: &Event, advance: Advance) -> Result<Timestamp, Error> {
        let step = advance.step();
        failure_point::write(step, "before-intend")?;
        self.ledger.intend(newest.sequence_number.saturating_add(2)).await?;
        failure_point::write(step, "after-intend")?;
        let created_at = if advance.taint {
            self.clock.taint_after(newest.created_at)
        } else {
            self.date_after(newest.created_at).await?
        };
        Ok(created_at)
    }

    /// Steps 2 to 5: makes the event after `view` and commits it; answers what is to be seen then.
    async fn extend(
        &self,
        view: &View,
        next: PublicKey,
        advance: Advance,
        created_at: Timestamp,
    ) -> Result<View, Error> {
        let (step, taint) = (advance.step(), advance.taint);
        let newest = view.live().event();
        let after_next = newest.sequence_number.saturating_add(2);
        if self.ledger.newest().await? != Some(newest.id) {
            return Err(ledger::Error::Taken(newest.sequence_number.saturating_add(1)).into());
        }
        failure_point::pass(step, "after-turn");
        let committed = [newest.public_key, next];
        let made = self.make_key(self.key_ids.of(after_next), &committed).await?;
        let key = made.key;
        failure_point::pass(step, "after-key");
        let draft = Draft::next(newest, &next, &key.public_key.digest(), created_at, taint);
        let committed = self.commit(draft, (view, next), key.public_key, step).await;
        // What is known not to be committed to is destroyed at once; what may have been
        // committed to is left for the reconciliation, which reads the ledger first.
        if matches!(
            committed,
            Err(Error::Hsm(_) | Error::Unverifiable(_) | Error::Ledger(ledger::Error::Taken(_)))
        ) && let Err(fault) = self.tokens.retire(key.public_key).await
        {
            tracing::warn!(%fault, id = %key.id, "a key made in vain is left for the reconciliation");
        }
        committed
    }

    /// Steps 4 and 5.
    async fn commit(
        &self,
        draft: Draft,
        (view, next): (&View, PublicKey),
        after: PublicKey,
        step: Step,
    ) -> Result<View, Error> {
        let signature = self.sign(next, draft.payload().as_bytes(), Class::Chain).await?;
        let event = draft.seal(&signature)?;
        let extended = view.with(event, after)?;
        failure_point::pass(step, "after-sign");
        failure_point::write(step, "before-commit")?;
        self.ledger.commit(Some(view.live().id()), extended.live(), Vec::new()).await?;
        failure_point::write(step, "after-commit")?;
        Ok(extended)
    }

    /// After a failure: reads from the ledger what has become of the event, and answers accordingly.
    async fn resolve(&self, before: &View, advance: Advance, error: Error) -> Result<Advanced, Error> {
        let lost = matches!(error, Error::Ledger(ledger::Error::Taken(_)));
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "an event failed; reconciling token and ledger"
        );
        self.unsettle();
        let after = self.settled_in_turn().await?;
        if let Some(earlier) = earlier(&after, advance)? {
            return Ok(Advanced { repeated: lost, ..earlier });
        }
        let Some(next) = after.after(before.live()) else { return Err(error) };
        if lost || next.event().taint_previous != advance.taint {
            return Err(Error::Conflict("another hsmd left the generation first"));
        }
        Ok(answer(before.live(), next, false))
    }

    async fn date_after(&self, newest: Timestamp) -> Result<Timestamp, Error> {
        loop {
            match self.clock.date_after(Some(newest))? {
                Dating::At(at) => return Ok(at),
                Dating::Wait(wait) => tokio::time::sleep(wait).await,
            }
        }
    }
}

/// The answer to a command whose work is done already; an error if it can no longer be done.
fn earlier(view: &View, advance: Advance) -> Result<Option<Advanced>, Error> {
    let Some(named) = advance.from.filter(|named| *named != view.live().id()) else { return Ok(None) };
    let left = view.find(&named).ok_or(Error::Conflict("the chain has no such generation"))?;
    let next = view.after(left).ok_or(Error::Conflict("the chain has no such generation"))?;
    if advance.taint && !next.event().taint_previous {
        return Err(Error::LeftUntainted);
    }
    Ok(Some(answer(left, next, true)))
}

fn answer(left: &SignedEvent, next: &SignedEvent, repeated: bool) -> Advanced {
    let Event { public_key, created_at, .. } = *next.event();
    Advanced {
        left: left.id(),
        new_generation: next.id(),
        new_public_key: public_key,
        live_from: created_at,
        repeated,
    }
}
