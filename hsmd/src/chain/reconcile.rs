//! Tokens and ledger held against each other: at start, and whenever the outcome of a step is not known.
//!
//! The decision is [`plan()`]'s; here is what it is made from, and what is done about it.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use keychain::{
    PublicKey,
    chain::{Event, SignedEvent, verify_whole},
};

use super::{
    Error, Keeper, State, View,
    plan::{Found, Known, Plan, Settled, Sweep, Written, plan},
    to_gauge,
    turn::Waiting,
};
use crate::{
    failure_point::{self, Step},
    ledger::{Condition, Contents},
    token::backend::Fault,
    token::{Slot, Survey},
};

impl Keeper {
    /// Reads the ledger and verifies it: the chain is visible then, whatever the tokens do.
    pub async fn read(&self) -> Result<(), Error> {
        let _turn = self.turns.take(Waiting::Other).await;
        let read = self.ledger.contents(&[]).await.map_err(Error::from);
        let read = read.and_then(|contents| {
            self.show_read(&contents)?;
            self.compare_clock(contents.events.last().map(|newest| newest.event().created_at));
            Ok(())
        });
        if let Some(state) = read.as_ref().err().and_then(Error::state) {
            self.enter(state, None);
        }
        read
    }

    /// Reconciles if there is a reason to: the state is not the best one, another hsmd has added to the ledger, a
    /// token answers again, or something is left to be destroyed. For the watcher and operators.
    pub async fn check(&self) -> Result<(), Error> {
        let _turn = self.turns.take(Waiting::Other).await;
        self.check_in_turn().await
    }

    /// The same, in turn.
    pub(super) async fn check_in_turn(&self) -> Result<(), Error> {
        if let Some(state) = self.closed_by_ledger() {
            let contents = self.ledger.contents(&[]).await;
            self.enter(state.clone(), None);
            // A standby serves the chain that the other one makes. If the ledger cannot be read, its condition says why.
            return self.follow(&contents.map_err(|_| Error::State(state))?);
        }
        if self.chain_state() == State::Ready
            && let Some(view) = self.view()
            && self.ledger.newest().await? == Some(view.live().id())
            && !self.tokens.needs_survey()
            && !self.has_strays()
        {
            return Ok(());
        }
        self.reconcile().await
    }

    /// Reconciles unless that is still to be done, or the ledger is not written here: what was learnt counts then. In turn
    /// only.
    pub(super) async fn reconcile_anew(&self) -> Result<(), Error> {
        let is_due_anyway = self.chain_state() == State::Opening || self.closed_by_ledger().is_some();
        if is_due_anyway { Ok(()) } else { self.reconcile().await }
    }

    /// The state that the ledger's condition puts the chain in; `None` if the ledger is written.
    fn closed_by_ledger(&self) -> Option<State> {
        match self.ledger.condition().borrow().clone() {
            Condition::Writing | Condition::NoRoom { .. } => None,
            Condition::Standby { holder } => Some(State::Standby { holder }),
            condition @ Condition::Exchanged { .. } => Some(State::LedgerExchanged(condition.to_string())),
            condition @ (Condition::Failing(_) | Condition::Frozen) => {
                Some(State::LedgerFailing(condition.to_string()))
            }
        }
    }

    /// Finishes or undoes what was interrupted, and enters the state that was found. Whether that is one in which
    /// something can be done is another question ([`Self::demand`]). In turn only.
    pub(super) async fn reconcile(&self) -> Result<(), Error> {
        match self.compare_all().await {
            Ok((state, view)) => {
                self.enter(state, view);
                Ok(())
            }
            Err(error) => {
                // That something could not be read says nothing against what was known: a signature decides.
                let knows = matches!(error, Error::State(_)) || !self.chain_state().powers().signs;
                if let Some(state) = error.state().filter(|_| knows) {
                    self.enter(state, None);
                }
                Err(error)
            }
        }
    }

    /// Enters a state in which nothing is trusted until it was reconciled. In turn only.
    pub(super) fn interrupt(&self, because: &str) {
        self.enter(State::Interrupted(because.to_owned()), None);
    }

    async fn compare_all(&self) -> Result<(State, Option<Arc<View>>), Error> {
        let seen = self.seen();
        let seen: Vec<_> = seen.iter().flat_map(|view| view.events()).collect();
        let contents = self.ledger.contents(&seen).await?;
        self.show_read(&contents)?;
        let newest = contents.events.last().map(SignedEvent::event);
        self.compare_clock(newest.map(|newest| newest.created_at));
        let survey = self.survey(newest).await?;
        let (found, proven) = (Found::from(&survey), *self.proven());
        let evidence = self.evidence().clone();
        let copies = evidence.copies(self.chain_copy(&contents.events));
        let known = Known {
            seen: &seen,
            proven,
            copies: &copies,
            restored: evidence.restored(),
            rival: newest.and_then(|newest| evidence.rival_of(&newest.id)),
            is_awaited: evidence.is_awaited(),
            key_ids: self.key_ids,
        };
        let written = Written { events: &contents.events, key_intent: contents.key_intent };
        match plan(&found, written, known) {
            Plan::Begin(sweep) => self.begin(&sweep).await,
            Plan::Settle(settled) => self.settle(contents, &survey, settled).await,
        }
    }

    /// Does what the plan says.
    async fn settle(
        &self,
        contents: Contents,
        survey: &Survey,
        settled: Settled,
    ) -> Result<(State, Option<Arc<View>>), Error> {
        let Settled { state, next, proves, sweep, aside } = settled;
        if matches!(state, State::LedgerExchanged(_)) {
            // What was seen before stays visible.
            return Ok((state, None));
        }
        if state.powers().rotates && survey.silent().is_none() {
            self.clear_away(&sweep).await;
        }
        if let State::Rival(shown) = &state
            && let Some(newest) = contents.events.last()
        {
            // What shows it is taken out of the directory; an operator ends this, or another event.
            self.evidence().note_rival(newest.id(), shown.clone());
        }
        if proves {
            *self.proven() = contents.events.last().map(SignedEvent::id);
        }
        if self.tokens.are_mirrored() {
            for slot in [Slot::First, Slot::Second] {
                self.tokens.set_aside(slot, aside.contains(&slot));
            }
        }
        self.tokens.note_surveyed(survey);
        if state.powers().rotates {
            self.carry(survey, contents.events.last().map(|newest| newest.event().public_key)).await;
            self.carry(survey, next).await;
        }
        Ok((state, View::new(contents.events, next).map(Arc::new)))
    }

    /// Copies a key that the newest event names to the token that lacks it. A failure is the mirror's, and health
    /// says so; the chain goes on.
    async fn carry(&self, survey: &Survey, key: Option<PublicKey>) {
        let Some(key) = key.filter(|key| survey.wants_carrying(key)) else { return };
        if let Err(fault) = self.tokens.carry(key).await {
            tracing::warn!(%fault, %key, "a key cannot be carried to the other token yet");
        }
    }

    /// Destroys what nothing needs.
    pub(super) async fn clear_away(&self, sweep: &Sweep) {
        if let Err(error) = self.condemn(sweep).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the token is not swept yet");
            return;
        }
        failure_point::pass(Step::Settle, "before-sweep");
        let mut left_over = 0_u32;
        let keys: BTreeSet<_> = sweep.keys.iter().map(|(_, key)| (key.public_key, key.id)).collect();
        for (key, id) in keys {
            tracing::info!(%id, %key, "destroying a key that the ledger does not name");
            left_over += note_destroyed(&self.tokens.retire(key).await);
            failure_point::pass(Step::Settle, "amid-sweep");
        }
        for (slot, half) in &sweep.halves {
            tracing::info!(id = ?half.id, "destroying half a key");
            left_over += note_destroyed(&self.tokens.destroy(*slot, half.handle).await);
        }
        failure_point::pass(Step::Settle, "after-sweep");
        self.strays.store(left_over > 0, Ordering::Relaxed);
        metrics::gauge!("hsmd_token_objects", "state" => "retired").set(left_over);
    }

    /// Has the ledger refuse every event that names a key which is about to be destroyed: another hsmd on it may just be
    /// committing to one.
    pub(super) async fn condemn(&self, sweep: &Sweep) -> Result<(), Error> {
        let digests: BTreeSet<_> = sweep.keys.iter().map(|(_, key)| key.public_key.digest()).collect();
        if digests.is_empty() {
            return Ok(());
        }
        Ok(self.ledger.condemn(&digests.into_iter().collect::<Vec<_>>()).await?)
    }

    /// Lists what is on the tokens. That they lack a key which `newest` names is believed only at a second survey:
    /// what a module remembers of a token, another process may have changed.
    pub(super) async fn survey(&self, newest: Option<&Event>) -> Result<Survey, Error> {
        let survey = self.tokens.survey().await?;
        let complete = newest.is_none_or(|newest| {
            let (live, next) = Found::from(&survey).named_by(newest);
            live.is_some() && next.is_some()
        });
        if complete { Ok(survey) } else { Ok(self.tokens.survey_afresh().await?) }
    }

    /// The event that is known to be the chain's newest.
    pub(super) fn proven(&self) -> std::sync::MutexGuard<'_, Option<keychain::Digest>> {
        self.proven.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Verifies what was read, and shows it if nothing is visible yet: reading the chain needs no token.
    fn show_read(&self, contents: &Contents) -> Result<(), Error> {
        let seen = self.seen();
        let known = seen.as_ref().is_some_and(|view| {
            let same = view.events().map(SignedEvent::id).eq(contents.events.iter().map(SignedEvent::id));
            same && !contents.events.is_empty()
        });
        if known {
            return Ok(());
        }
        verify(&contents.events)?;
        if seen.is_none() {
            self.enter(self.chain_state(), View::new(contents.events.clone(), None).map(Arc::new));
        }
        Ok(())
    }

    /// Shows what another hsmd has added to the ledger.
    fn follow(&self, contents: &Contents) -> Result<(), Error> {
        let seen = self.seen();
        let is_longer = seen.as_ref().is_none_or(|view| view.events().count() < contents.events.len());
        let goes_on = seen.as_ref().is_none_or(|view| {
            view.events().map(SignedEvent::id).eq(contents
                .events
                .iter()
                .map(SignedEvent::id)
                .take(view.events().count()))
        });
        if is_longer && goes_on {
            verify(&contents.events)?;
            self.enter(self.chain_state(), View::new(contents.events.clone(), None).map(Arc::new));
        }
        Ok(())
    }
}

impl From<&Survey> for Found {
    fn from(survey: &Survey) -> Self {
        Self {
            keys: survey.keys().map(|(slot, key)| (slot, *key)).collect(),
            halves: survey.halves().map(|(slot, half)| (slot, *half)).collect(),
            silent: survey.silent().map(Fault::with_causes),
        }
    }
}

/// How many are left of one that was to be destroyed: a token that cannot destroy can still sign.
fn note_destroyed(outcome: &Result<(), Fault>) -> u32 {
    match outcome {
        Ok(()) => 0,
        Err(fault) => {
            tracing::error!(%fault, "a key that nothing needs is left on the token");
            1
        }
    }
}

/// Verifies the whole chain. The newest event's own date stands for the time: whether the clock is right
/// is another question, which a rotation asks.
fn verify(events: &[SignedEvent]) -> Result<(), Error> {
    let (Some(first), Some(newest)) = (events.first(), events.last()) else { return Ok(()) };
    metrics::gauge!("hsmd_chain_sequence").set(to_gauge(newest.event().sequence_number));
    verify_whole(events, &first.event().prefix, newest.event().created_at, Duration::ZERO).map_err(
        |refusal| {
            Error::State(State::LedgerCorrupt(format!("the ledger's chain does not verify: {refusal}")))
        },
    )
}
