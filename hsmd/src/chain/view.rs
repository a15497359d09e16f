//! What is visible of the chain at one moment.

use std::sync::Arc;

use keychain::{Digest, PublicKey, Refusal, chain::SignedEvent};

/// The chain up to its newest event. A view never changes; the next one replaces it.
#[derive(Debug)]
pub struct View {
    /// At least one event; the index is the sequence number.
    events: Vec<Arc<SignedEvent>>,
    live: Arc<SignedEvent>,
    next: Option<PublicKey>,
}

impl View {
    /// The view of a verified chain whose newest event commits to `next`; nothing for one without events.
    pub(super) fn new(events: Vec<SignedEvent>, next: Option<PublicKey>) -> Option<Self> {
        let events: Vec<_> = events.into_iter().map(Arc::new).collect();
        let live = Arc::clone(events.last()?);
        Some(Self { events, live, next })
    }

    /// The view after `event`, which must follow the newest one and commit to `next`.
    pub(super) fn with(&self, event: SignedEvent, next: PublicKey) -> Result<Self, Refusal> {
        event.event().follows(self.live.event())?;
        let live = Arc::new(event);
        let mut events = self.events.clone();
        events.push(Arc::clone(&live));
        Ok(Self { events, live, next: Some(next) })
    }

    /// The newest event, whose key signs.
    pub fn live(&self) -> &SignedEvent {
        &self.live
    }

    /// The key of the next generation, which the newest event commits to; nothing while the token that holds it
    /// has not answered since hsmd started.
    pub const fn next(&self) -> Option<PublicKey> {
        self.next
    }

    /// The HSM identity.
    pub fn prefix(&self) -> Digest {
        self.live.event().prefix
    }

    /// Every event, in order.
    pub fn events(&self) -> impl Iterator<Item = &SignedEvent> {
        self.events.iter().map(AsRef::as_ref)
    }

    /// The key of every generation.
    pub fn public_keys(&self) -> Vec<PublicKey> {
        self.events().map(|event| event.event().public_key).collect()
    }

    /// The event of that id.
    pub fn find(&self, id: &Digest) -> Option<&SignedEvent> {
        self.events.iter().rev().find(|event| event.id() == *id).map(AsRef::as_ref)
    }

    /// The event after `event`.
    pub fn after(&self, event: &SignedEvent) -> Option<&SignedEvent> {
        let next = usize::try_from(event.event().sequence_number).ok()?.checked_add(1)?;
        self.events.get(next).map(AsRef::as_ref)
    }

    /// The published form of the events from sequence number `first` on, as a JSON array.
    pub fn published_from(&self, first: u64) -> String {
        let first = usize::try_from(first).unwrap_or(usize::MAX);
        let later = self.events.get(first..).unwrap_or_default();
        let texts: Vec<_> = later.iter().map(|event| event.text()).collect();
        format!("[{}]", texts.join(","))
    }
}
