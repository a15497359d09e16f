//! One step of the chain: a rotation or a taint.

use std::{sync::Arc, time::Duration};

use keychain::{
    Digest, PublicKey, Timestamp,
    audit::Record,
    chain::{Draft, Event, SignedEvent},
};

use super::{Error, Keeper, State, View, turn::Waiting};
use crate::{
    clock::Dating,
    failure_point::{self, Step},
    ledger,
    token::backend::Fault,
    token::signer::Class,
    token::{Copies, Made},
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

/// Composes the lines of the audit trail about an event.
type Lines<'a> = dyn Fn(&Advanced) -> Vec<Record> + Send + Sync + 'a;

/// An attempt in one turn.
enum Attempt {
    Done(Advanced),
    /// The newest event is only just in the past: again, in so long.
    Early(Duration),
}

impl Keeper {
    /// Leaves a generation for the next: a compare-and-swap on the generation named, so that a repeated or
    /// second command never leaves a healthy one. A taint stands before everything that waits for its turn.
    ///
    /// Once begun it is carried through even if the caller goes away.
    pub async fn advance(self: &Arc<Self>, advance: Advance) -> Result<Advanced, Error> {
        self.advance_with(advance, |_| Vec::new()).await
    }

    /// The same with lines for the audit trail, which are durable together with the event.
    pub async fn advance_with(
        self: &Arc<Self>,
        advance: Advance,
        lines: impl Fn(&Advanced) -> Vec<Record> + Send + Sync + 'static,
    ) -> Result<Advanced, Error> {
        let keeper = Arc::clone(self);
        let carried_through = tokio::spawn(async move {
            loop {
                match keeper.attempt(advance, &lines).await? {
                    Attempt::Done(advanced) => return Ok(advanced),
                    // The turn is not held meanwhile: a taint does not wait for a rotation's clock.
                    Attempt::Early(wait) => tokio::time::sleep(wait).await,
                }
            }
        });
        carried_through.await.unwrap_or(Err(Error::Hsm(Fault::Stopped)))
    }

    async fn attempt(&self, advance: Advance, lines: &Lines<'_>) -> Result<Attempt, Error> {
        let waiting = if advance.taint { Waiting::Taint } else { Waiting::Other };
        let _turn = self.turns.take(waiting).await;
        // A generation that was left without a taint stays so: its denial needs the ledger, and no token.
        if let Some(view) = self.seen()
            && let Err(error @ Error::LeftUntainted) = earlier(&view, advance)
        {
            return Err(error);
        }
        self.check_in_turn().await?;
        if let Some(view) = self.seen()
            && let Some(earlier) = earlier(&view, advance)?
        {
            return Ok(Attempt::Done(earlier));
        }
        let view = self.demand(|powers| if advance.taint { powers.taints } else { powers.rotates })?;
        if let Some(shown) = self.rival().filter(|_| !advance.taint) {
            // Whatever else is the matter: it would add to the contest.
            return Err(Error::State(State::Rival(shown)));
        }
        let next = view.next().ok_or(Error::Unsettled)?;
        let created_at = match self.date_after(&view, advance)? {
            Dating::At(at) => at,
            Dating::Wait(wait) => return Ok(Attempt::Early(wait)),
        };
        match self.leave(&view, next, (advance, created_at), lines).await {
            Ok(extended) => Ok(Attempt::Done(answer(view.live(), extended.live(), false))),
            Err(error) => self.resolve(&view, advance, error).await.map(Attempt::Done),
        }
    }

    /// The seven steps. After an error before the sixth only the ledger knows what has become of the event.
    async fn leave(
        &self,
        view: &View,
        next: PublicKey,
        (advance, created_at): (Advance, Timestamp),
        lines: &Lines<'_>,
    ) -> Result<Arc<View>, Error> {
        let (step, newest) = (advance.step(), view.live().event());
        let recoveries = self.tokens.recoveries();
        let after_next = newest.sequence_number.saturating_add(2);
        // 1. The ledger notes that a key is about to be made.
        failure_point::write(step, "before-intend")?;
        self.ledger.intend(after_next).await?;
        failure_point::write(step, "after-intend")?;
        // 2. The ledger's newest event is the one that is to be followed.
        if self.ledger.newest().await? != Some(newest.id) {
            return Err(ledger::Error::Taken(newest.sequence_number.saturating_add(1)).into());
        }
        failure_point::pass(step, "after-turn");
        // 3. The key after the next is made in the HSM.
        let committed = [newest.public_key, next];
        let copies = if advance.taint { Copies::OneSuffices } else { Copies::AsConfigured };
        let made = self.make_key(self.key_ids.of(after_next), &committed, copies).await?;
        failure_point::pass(step, "after-key");
        // 4. The next key, which the newest event committed to, signs its event.
        let draft = Draft::next(newest, &next, &made.key.public_key.digest(), created_at, advance.taint);
        let signed = self.sign(next, draft.payload().as_bytes(), Class::Chain).await;
        let sealed = signed.and_then(|signature| Ok(draft.seal(&signature)?));
        let extended = match sealed.and_then(|event| Ok(view.with(event, made.key.public_key)?)) {
            Ok(extended) => Arc::new(extended),
            // Nothing was committed to this key.
            Err(error) => {
                self.discard(&made).await;
                return Err(error);
            }
        };
        failure_point::pass(step, "after-sign");
        // 5. The event is committed, with its signature and its line of the audit trail.
        failure_point::write(step, "before-commit")?;
        let lines = lines(&answer(view.live(), extended.live(), false));
        let committed = self.ledger.commit(Some(newest.id), extended.live(), lines).await;
        if let Err(ledger::Error::Taken(_) | ledger::Error::Unwritten(_)) = committed {
            self.discard(&made).await;
        }
        committed?;
        failure_point::write(step, "after-commit")?;
        // 6. Generation id and signing key change together, and the event becomes visible.
        *self.proven() = Some(extended.live().id());
        self.enter(self.state_with_keys(), Some(Arc::clone(&extended)));
        failure_point::pass(step, "after-show");
        // 7. The key that was left is destroyed.
        let retired = self.tokens.retire(newest.public_key).await;
        failure_point::pass(step, "after-retire");
        self.survey_after(&retired, recoveries).await;
        Ok(extended)
    }

    /// A call that failed may have had its effect, twice even: the tokens are surveyed. The event stands whatever
    /// comes of that.
    async fn survey_after(&self, retired: &Result<(), Fault>, recoveries: usize) {
        if let Err(fault) = retired {
            tracing::error!(%fault, "a retired key is still on the token");
        } else if self.tokens.recoveries() == recoveries {
            return;
        }
        if let Err(error) = self.reconcile().await {
            tracing::error!(error = &error as &dyn std::error::Error, "cannot reconcile yet");
        }
    }

    /// Destroys a key that was made in vain: by its public key, because the fault may have cost the connection that
    /// its handle is of.
    async fn discard(&self, made: &Made) {
        if let Err(fault) = self.tokens.retire(made.key.public_key).await {
            tracing::warn!(%fault, id = %made.key.id, "a key made in vain is left for the reconciliation");
        }
    }

    /// After a failure: reads from the ledger what has become of the event, and answers accordingly.
    async fn resolve(&self, before: &View, advance: Advance, error: Error) -> Result<Advanced, Error> {
        let lost = matches!(error, Error::Ledger(ledger::Error::Taken(_)));
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "an event failed; reconciling token and ledger"
        );
        self.interrupt("an event failed");
        self.reconcile().await?;
        let after = self.seen().ok_or(Error::Unsettled)?;
        if let Some(earlier) = earlier(&after, advance)? {
            return Ok(Advanced { repeated: lost, ..earlier });
        }
        let Some(next) = after.after(before.live()) else { return Err(error) };
        if lost || next.event().taint_previous != advance.taint {
            return Err(Error::Conflict("another hsmd left the generation first"));
        }
        Ok(answer(before.live(), next, false))
    }

    fn date_after(&self, view: &View, advance: Advance) -> Result<Dating, Error> {
        let newest = view.live().event().created_at;
        if advance.taint {
            return Ok(Dating::At(self.clock.taint_after(newest)));
        }
        Ok(self.clock.date_after(Some(newest))?)
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
