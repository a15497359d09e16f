//! What heads change about a chain: which generations they deny, which endorsements they revoke
//! (`PROTOCOL.md#head-order`).

use std::{collections::BTreeSet, sync::Arc};

use super::{Chain, windows};
use crate::{
    cesr::Digest,
    endorsement::Endorsement,
    error::Refusal,
    statement::{Entries, HeadPlace, Heard, Joined, Order, ProvenHead},
    time::Timestamp,
};

impl Chain {
    /// Takes in a head: all that it lists counts from now on, until it ends or the head's generation is tainted.
    ///
    /// The times of the head do not matter for that: neither a clock that is ahead nor one that is behind delays a
    /// denial. A head of an event that this chain has not accepted changes nothing.
    pub fn hear(&mut self, proven: &ProvenHead<'_>, now: Timestamp) -> Heard {
        let head = proven.head();
        let unheard = Heard { order: Order::Older, lost: Entries::default(), changed: false };
        if !self.places.contains_key(&head.event_id()) {
            return unheard;
        }
        let before = std::mem::take(&mut self.stated);
        let (mut joined, (order, lost)) = match self.heads.remove(&head.event_id()) {
            None => (Arc::new(Joined::first(head)), (Order::Newer, Entries::default())),
            Some(mut joined) => {
                let outcome = Arc::make_mut(&mut joined).take(head, |id, at| self.denial_ended(id, at));
                (joined, outcome)
            }
        };
        // Generations that are not known take no key to make up.
        Arc::make_mut(&mut joined).forget_denials(|id| !self.places.contains_key(id));
        self.heads.insert(head.event_id(), joined);
        for joined in self.heads.values_mut().filter(|joined| joined.has_ended(now)) {
            Arc::make_mut(joined).drop_ended(now);
        }
        self.weigh_heads();
        let changed = self.stated != before;
        if changed {
            self.epoch = self.epoch.saturating_add(1);
        }
        Heard { order, lost, changed }
    }

    /// The newest head heard of the newest event: what this chain has applied. None until one of that event was heard.
    pub fn newest_head(&self) -> Option<HeadPlace> {
        let event = self.head()?;
        let joined = self.heads.get(&event.id())?;
        Some(HeadPlace {
            event_id: event.id(),
            sequence_number: event.event().sequence_number,
            number: joined.number(),
            digest: joined.body(),
        })
    }

    /// What is denied and revoked, as far as heads were heard.
    pub const fn stated(&self) -> &Entries {
        &self.stated
    }

    /// Whether the HSM service has ordered at `now` that the key of an endorsement is replaced (`PROTOCOL.md#roll`).
    pub fn orders_roll(&self, endorsement: &Endorsement, now: Timestamp) -> bool {
        self.stated.orders_roll(endorsement, now)
    }

    /// Refuses an endorsement whose key or service is revoked at `now` (`PROTOCOL.md#revoked`).
    pub(crate) fn demand_not_revoked(
        &self,
        endorsement: &Endorsement,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        self.stated.demand_not_revoked(endorsement, now)
    }

    /// Decides what counts of all that was heard, newest event first: a generation that is tainted, or denied by a
    /// later one whose word counts, has no word. Only generations before the signer's own are denied.
    ///
    /// The word of a tainted generation counts until a head of a later event was heard: the HSM states its denials
    /// anew then, and no moment lies between in which nothing is denied.
    pub(super) fn weigh_heads(&mut self) {
        let mut stated = Entries::default();
        let mut heard_later = false;
        for (place, event) in self.accepted.iter().enumerate().rev() {
            let Some(joined) = self.heads.get(&event.id()) else { continue };
            let tainted = self.is_tainted(place);
            if stated.denied.contains(&event.id()) || (tainted && heard_later) {
                continue;
            }
            let mut counted = joined.entries().clone();
            counted.denied = self.earlier_than(place, &counted.denied);
            stated.join(&counted);
            heard_later |= !tainted;
        }
        self.stated = stated;
    }

    /// Those of `ids` that are generations before the one at `place`.
    fn earlier_than(&self, place: usize, ids: &BTreeSet<Digest>) -> BTreeSet<Digest> {
        ids.iter()
            .filter(|id| self.places.get(*id).is_some_and(|earlier| *earlier < place))
            .copied()
            .collect()
    }

    /// Whether no verifier's window reaches the generation at `at` any more; also for one that is not known.
    fn denial_ended(&self, id: &Digest, at: Timestamp) -> bool {
        let Some(place) = self.places.get(id) else { return true };
        self.successor(*place).is_some_and(|next| next.event().created_at.plus(windows::AUTHD) <= at)
    }
}
