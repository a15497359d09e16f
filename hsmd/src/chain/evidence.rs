//! What speaks for and against the ledger besides the tokens: copies of the chain, heads that prove it restored, another
//! holder of its keys. The state that follows is [`plan`](super::plan())'s decision.

use std::{
    collections::BTreeMap,
    sync::{MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use keychain::{Digest, chain::SignedEvent};

use super::{Error, Keeper, State, plan::CHAIN_COPY, plan::PUBLISHED, turn::Waiting};

/// The end of a copy of the chain: its events from a position in the chain on.
#[derive(Clone, Debug, Default)]
pub(super) struct Tail {
    first: usize,
    events: Vec<SignedEvent>,
}

impl Tail {
    pub(super) const fn new(first: usize, events: Vec<SignedEvent>) -> Self {
        Self { first, events }
    }

    /// The event at a position in the chain.
    pub(super) fn at(&self, position: usize) -> Option<&SignedEvent> {
        self.events.get(position.checked_sub(self.first)?)
    }

    /// The last event, if it stands after `position`.
    pub(super) fn beyond(&self, position: usize) -> Option<&SignedEvent> {
        self.last().filter(|_| self.first.saturating_add(self.events.len()) > position.saturating_add(1))
    }

    pub(super) fn last(&self) -> Option<&SignedEvent> {
        self.events.last()
    }
}

impl From<Vec<SignedEvent>> for Tail {
    fn from(events: Vec<SignedEvent>) -> Self {
        Self::new(0, events)
    }
}

/// What is known, and replaced by what is learnt.
#[derive(Clone, Debug, Default)]
pub(super) struct Evidence {
    /// The published chain, as it was reported.
    published: Option<Tail>,
    /// How a head proves that the ledger was restored.
    restored: Option<String>,
    /// The newest event when another holder of its key was found, and how that shows.
    rival: Option<(Digest, String)>,
    /// How long a report of what is published is waited for; nothing if there is no publisher.
    patience: Option<Duration>,
    /// Until when one is waited for.
    awaited: Option<Instant>,
}

impl Evidence {
    /// How a head proves that the ledger was restored.
    pub(super) fn restored(&self) -> Option<&str> {
        self.restored.as_deref()
    }

    /// How another holder of the keys of the event `newest` shows: once another follows, what stood beside it is
    /// a branch that was left.
    pub(super) fn rival_of(&self, newest: &Digest) -> Option<&str> {
        self.rival.as_ref().filter(|(of, _)| of == newest).map(|(_, evidence)| evidence.as_str())
    }

    pub(super) fn note_rival(&mut self, newest: Digest, shown: String) {
        self.rival = Some((newest, shown));
    }

    /// Waits for the next report, if there is a publisher.
    pub(super) fn await_report(&mut self) {
        self.awaited = self.patience.and_then(|patience| Instant::now().checked_add(patience));
    }

    /// Whether what is published is still waited for.
    pub(super) fn is_awaited(&self) -> bool {
        self.awaited.is_some_and(|until| Instant::now() < until)
    }

    /// The copies of the chain, by name.
    pub(super) fn copies(&self, chain_copy: Option<Tail>) -> Vec<(&'static str, Tail)> {
        let copies = BTreeMap::from([(CHAIN_COPY, chain_copy), (PUBLISHED, self.published.clone())]);
        copies.into_iter().filter_map(|(name, copy)| Some((name, copy?))).collect()
    }
}

impl Keeper {
    /// Takes in the published chain: events that verify on their own, in order, the first at position `first`.
    pub(super) async fn compare(&self, first: usize, published: Vec<SignedEvent>) -> Result<(), Error> {
        self.learn(|evidence| evidence.published = Some(Tail::new(first, published))).await
    }

    /// What is published was compared: nothing waits for it any more.
    pub(super) async fn note_compared(&self) -> Result<(), Error> {
        if self.evidence().awaited.is_none() {
            return Ok(());
        }
        self.learn(|evidence| evidence.awaited = None).await
    }

    /// Notes that there is a publisher: after the ledger was lost, or restored, a report is waited for so long.
    pub(super) fn expect_reports(&self, patience: Duration) {
        self.evidence().patience = Some(patience);
    }

    /// Signs nothing but a taint until what is published was compared.
    pub(super) async fn await_report(&self) -> Result<(), Error> {
        self.learn(Evidence::await_report).await
    }

    /// Whether a report was waited for in vain.
    pub(super) fn has_awaited_in_vain(&self) -> bool {
        let evidence = self.evidence();
        evidence.awaited.is_some() && !evidence.is_awaited()
    }

    /// Takes in what proves that the ledger was restored.
    pub(super) async fn note_restored(&self, restored: String) -> Result<(), Error> {
        self.learn(|evidence| evidence.restored = Some(restored)).await
    }

    /// What the ledger lacked was taken over. What is published is compared before anything rests on that.
    pub(super) async fn forget_restored(&self) -> Result<(), Error> {
        self.learn(|evidence| {
            evidence.restored = None;
            evidence.await_report();
        })
        .await
    }

    /// Takes in how another holder of the newest event's keys shows.
    pub(super) async fn note_rival(&self, newest: Digest, shown: String) -> Result<(), Error> {
        self.learn(|evidence| evidence.note_rival(newest, shown)).await
    }

    /// Forgets the rival, on an operator's word that it is stopped. What is published is compared again at the next report.
    pub(super) async fn forget_rival(&self) -> Result<(), Error> {
        self.learn(|evidence| (evidence.rival, evidence.published) = (None, None)).await
    }

    /// How another holder of the newest event's keys shows.
    pub fn rival(&self) -> Option<String> {
        let newest = self.seen()?.live().id();
        self.evidence().rival_of(&newest).map(str::to_owned)
    }

    /// The state of a chain whose keys are both at hand.
    pub(super) fn state_with_keys(&self) -> State {
        let evidence = self.evidence();
        match evidence.restored() {
            Some(restored) => State::LedgerRestored(restored.to_owned()),
            None if evidence.is_awaited() => State::Uncompared,
            None => State::Ready,
        }
    }

    /// The chain copy as this process found it, held against the ledger's `events`; `None` if it could not be read.
    pub(super) fn chain_copy(&self, events: &[SignedEvent]) -> Option<Tail> {
        let copied = self.ledger.copied()?;
        let first = copied.same.saturating_sub(1);
        let mut tail: Vec<_> = events.get(first..copied.same).unwrap_or_default().to_vec();
        for line in &copied.rest {
            tail.push(SignedEvent::parse(line).ok()?);
        }
        Some(Tail::new(first, tail))
    }

    pub(super) fn evidence(&self) -> MutexGuard<'_, Evidence> {
        self.evidence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Learns, and enters the state that follows before it returns.
    async fn learn(&self, learn: impl FnOnce(&mut Evidence)) -> Result<(), Error> {
        let _turn = self.turns.take(Waiting::Other).await;
        learn(&mut self.evidence());
        self.reconcile_anew().await
    }
}
