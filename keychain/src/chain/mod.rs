//! The HSM key chain as a verifier holds it (`PROTOCOL.md#chain`).
//!
//! [`Chain`] is fed sets of events from any number of sources and decides which branch it stands on and
//! which generations are live. It never leaves a branch that it has accepted, and what it remembers
//! ([`Highest`]) lets it refuse a chain that was rolled back while it was away.

mod event;
mod heads;
mod merge;
mod pending;
mod walk;
pub mod windows;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use event::{Draft, Event, SignedEvent};
pub use merge::Merged;
pub use walk::verify_whole;

use pending::Pending;

use crate::{
    cesr::Digest,
    error::{Code, Refusal},
    statement::{Entries, Joined},
    time::Timestamp,
};

/// The highest event that a verifier ever accepted. It is kept on disk, so that a rollback is noticed
/// after a restart too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Highest {
    /// The event's id.
    pub id: Digest,
    /// The event's sequence number.
    pub sequence_number: u64,
    /// The configured pin that the event's branch held then. Naming another pin moves the verifier off
    /// that branch, and this memory with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<Digest>,
}

/// What ends a generation, or an endorsement, before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Killed {
    /// A head denies the generation.
    Denied,
    /// A head revokes the key, or the service up to the endorsement.
    Revoked,
    /// The next event taints the generation, or its key signed two events.
    Tainted,
}

impl Killed {
    /// The cause in one word, for logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Revoked => "revoked",
            Self::Tainted => "tainted",
        }
    }
}

/// How a verifier reads the chain.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// How far an event may lie ahead of this clock before it is held back.
    pub skew: Duration,
    /// The event that configuration names to settle a contested chain (`chain_pin`).
    pub pin: Option<Digest>,
    /// What was remembered from before.
    pub highest: Option<Highest>,
}

/// A verified chain and what is known beside it.
#[derive(Clone, Debug)]
pub struct Chain {
    prefix: Digest,
    settings: Settings,
    /// The branch this verifier stands on; the index is the sequence number.
    accepted: Vec<Arc<SignedEvent>>,
    places: HashMap<Digest, usize>,
    /// Valid on their own, not accepted: rivals of the head, orphans, events from the future.
    pending: Pending,
    /// Sequence numbers whose key signed two events.
    twice_signed: BTreeSet<u64>,
    /// What the proven heads of each event stated.
    heads: BTreeMap<Digest, Arc<Joined>>,
    /// What counts of it: computed anew when heads or events change.
    stated: Entries,
    /// Rivals below the head that were reported.
    reported: BTreeSet<Digest>,
    /// Whether the next step cannot be decided, or the head has a rival.
    contested: bool,
    /// Whether an event from the future taints the head.
    tainted_early: bool,
    epoch: u64,
}

impl Chain {
    /// A chain of which nothing is known yet but its prefix, which the verifier pins.
    pub fn new(prefix: Digest, settings: Settings) -> Self {
        Self {
            prefix,
            settings,
            accepted: Vec::new(),
            places: HashMap::new(),
            pending: Pending::default(),
            twice_signed: BTreeSet::new(),
            heads: BTreeMap::new(),
            stated: Entries::default(),
            reported: BTreeSet::new(),
            contested: false,
            tainted_early: false,
            epoch: 0,
        }
    }

    /// The HSM identity that this chain is of.
    pub const fn prefix(&self) -> Digest {
        self.prefix
    }

    /// The newest accepted event.
    pub fn head(&self) -> Option<&SignedEvent> {
        self.accepted.last().map(AsRef::as_ref)
    }

    /// The accepted events in order.
    pub fn events(&self) -> impl ExactSizeIterator<Item = &SignedEvent> + DoubleEndedIterator {
        self.accepted.iter().map(AsRef::as_ref)
    }

    /// What to remember on disk: the highest event accepted, now or before.
    pub fn highest(&self) -> Option<Highest> {
        if self.rolled_back() {
            return self.settings.highest;
        }
        let pin = self.settings.pin.filter(|pin| self.places.contains_key(pin));
        self.head().map(|head| Highest { id: head.id(), sequence_number: head.event().sequence_number, pin })
    }

    /// How far another clock may be ahead of this verifier's.
    pub const fn skew(&self) -> Duration {
        self.settings.skew
    }

    /// Counts changes of what is live for other reasons than time, so that a cached verdict knows when to
    /// be judged again.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether two branches stand against each other and nothing is live.
    pub const fn contested(&self) -> bool {
        self.contested
    }

    /// Whether the remembered highest event is missing from what has been seen: nothing is live then.
    pub fn rolled_back(&self) -> bool {
        let Some(highest) = self.settings.highest else { return false };
        if self.places.contains_key(&highest.id) {
            return false;
        }
        match self.settings.pin {
            Some(pin) if highest.pin != Some(pin) => !self.places.contains_key(&pin),
            _ => true,
        }
    }

    /// The generation that an endorsement names, if it is live at `now` for a verifier whose window is
    /// `window` (`PROTOCOL.md#live`).
    pub fn live(
        &self,
        generation_id: &Digest,
        window: Duration,
        now: Timestamp,
    ) -> Result<&SignedEvent, Refusal> {
        let until = self.live_until(generation_id, window)?;
        if until.is_some_and(|until| now >= until) {
            return Err(dead("the generation has been replaced and its window has passed"));
        }
        self.event(generation_id).ok_or(dead("the generation is not in the chain"))
    }

    /// Until when a generation is live: none is without limit. It errs for one that is not live whatever
    /// the time.
    pub fn live_until(&self, generation_id: &Digest, window: Duration) -> Result<Option<Timestamp>, Refusal> {
        if self.accepted.is_empty() {
            return Err(Refusal::new(Code::Unavailable, "the chain is not known yet"));
        }
        if self.rolled_back() {
            return Err(dead("the chain lacks the highest event accepted before: it was rolled back"));
        }
        if self.contested {
            return Err(dead("the chain is contested: rotate, or name an event in `chain_pin`"));
        }
        let Some(place) = self.places.get(generation_id) else {
            return Err(dead("the generation is not in the chain"));
        };
        if self.is_tainted(*place) {
            return Err(dead("the generation is tainted"));
        }
        if self.stated.denied.contains(generation_id) {
            return Err(dead("the generation is denied"));
        }
        Ok(self.successor(*place).map(|next| next.event().created_at.plus(window)))
    }

    /// What ended a generation before its window does, if anything did. No clock decides it, and a chain that is contested
    /// or rolled back says of itself what it says.
    pub fn killed(&self, generation_id: &Digest) -> Option<Killed> {
        let place = self.places.get(generation_id)?;
        if self.is_tainted(*place) {
            return Some(Killed::Tainted);
        }
        self.stated.denied.contains(generation_id).then_some(Killed::Denied)
    }

    /// An accepted event.
    pub fn event(&self, id: &Digest) -> Option<&SignedEvent> {
        self.places.get(id).and_then(|place| self.accepted.get(*place)).map(AsRef::as_ref)
    }

    /// When the generation after this one began, if one did.
    pub(crate) fn replaced_at(&self, generation_id: &Digest) -> Option<Timestamp> {
        let place = self.places.get(generation_id)?;
        self.successor(*place).map(|next| next.event().created_at)
    }

    fn successor(&self, place: usize) -> Option<&SignedEvent> {
        place.checked_add(1).and_then(|next| self.accepted.get(next)).map(AsRef::as_ref)
    }

    /// Whether the event after taints this generation, or its key signed two events.
    fn is_tainted(&self, place: usize) -> bool {
        let tainted = self.successor(place).map_or(self.tainted_early, |next| next.event().taint_previous);
        tainted || u64::try_from(place).is_ok_and(|number| self.twice_signed.contains(&number))
    }
}

const fn dead(because: &'static str) -> Refusal {
    Refusal::new(Code::DeadKey, because)
}
