//! Events that are valid on their own and stand beside the accepted branch.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::{Event, SignedEvent};
use crate::cesr::Digest;

/// Events found by their id and by the event that they follow.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending {
    events: HashMap<Digest, Arc<SignedEvent>>,
    /// Ids by `previous`. Anybody can make thousands that claim one predecessor, so sets.
    following: HashMap<Digest, BTreeSet<Digest>>,
}

impl Pending {
    pub(super) fn insert(&mut self, event: Arc<SignedEvent>) {
        if let Some(previous) = event.event().previous {
            self.following.entry(previous).or_default().insert(event.id());
        }
        self.events.insert(event.id(), event);
    }

    pub(super) fn remove(&mut self, id: &Digest) {
        let Some(event) = self.events.remove(id) else { return };
        let Some(previous) = event.event().previous else { return };
        if let Some(ids) = self.following.get_mut(&previous) {
            ids.remove(id);
            if ids.is_empty() {
                self.following.remove(&previous);
            }
        }
    }

    pub(super) fn get(&self, id: &Digest) -> Option<&Arc<SignedEvent>> {
        self.events.get(id)
    }

    pub(super) fn contains(&self, id: &Digest) -> bool {
        self.events.contains_key(id)
    }

    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<SignedEvent>> {
        self.events.values()
    }

    /// The rightful successors of `event`, whatever the clock says.
    pub(super) fn successors(&self, event: &Event) -> impl Iterator<Item = &Arc<SignedEvent>> {
        let ids = self.following.get(&event.id).into_iter().flatten();
        let known = ids.filter_map(|id| self.events.get(id));
        known.filter(move |next| next.event().follows(event).is_ok())
    }
}
