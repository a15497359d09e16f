//! How a chain grows: sets of events merged, branches told apart (`PROTOCOL.md#contested`).

use std::{collections::BTreeSet, sync::Arc};

use super::{Chain, Event, SignedEvent};
use crate::{cesr::Digest, limits, time::Timestamp};

/// What a merge did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Events that were accepted.
    pub accepted: usize,
    /// Rivals of accepted events, reported once: a key of the chain signed two events.
    pub rivals: Vec<Digest>,
    /// When the next event that is held back for being in the future can be accepted.
    pub held_until: Option<Timestamp>,
    /// Events left out because too many stand beside the chain.
    pub left_out: usize,
}

impl Chain {
    /// Takes in events, from any source and in any order, and goes as far as they carry.
    ///
    /// Events of other chains, and events that fit nowhere, change nothing. Call it again at
    /// [`Merged::held_until`], with no events if there are none.
    pub fn merge(&mut self, events: impl IntoIterator<Item = SignedEvent>, now: Timestamp) -> Merged {
        let before = self.verdict();
        let mut merged = Merged::default();
        for event in events {
            self.take_in(event, &mut merged);
        }
        self.move_to_named();
        while let Some(next) = self.next(now) {
            self.accept(next, now, &mut merged);
        }
        self.judge_head(now);
        self.drop_settled(&mut merged);
        merged.held_until = self.held_until(now);
        if before != self.verdict() {
            self.weigh_heads();
            self.epoch = self.epoch.saturating_add(1);
        }
        merged
    }

    /// All that a verdict depends on besides time.
    fn verdict(&self) -> (Option<Digest>, bool, bool, usize) {
        (self.head().map(SignedEvent::id), self.contested, self.tainted_early, self.twice_signed.len())
    }

    fn take_in(&mut self, event: SignedEvent, merged: &mut Merged) {
        let known = self.places.contains_key(&event.id()) || self.pending.contains(&event.id());
        if event.event().prefix != self.prefix || known {
            return;
        }
        if self.pending.len() >= limits::CHAIN_EVENTS_MAX {
            merged.left_out = merged.left_out.saturating_add(1);
            return;
        }
        self.pending.insert(Arc::new(event));
    }

    /// The next event of the branch, if there is one and it is certain which.
    fn next(&mut self, now: Timestamp) -> Option<Arc<SignedEvent>> {
        if self.accepted.len() >= limits::CHAIN_EVENTS_MAX {
            return None;
        }
        let Some(head) = self.accepted.last().cloned() else {
            return self.pending.get(&self.prefix).filter(|first| self.is_due(first, now)).cloned();
        };
        let candidates = self.due_successors(head.event(), now);
        let [only] = candidates.as_slice() else { return self.of_rivals(&candidates, now) };
        Some(Arc::clone(only))
    }

    /// Which of several valid successors of the head to follow: the one that configuration names, else the
    /// one accepted before a restart, else the only one that was extended.
    fn of_rivals(&mut self, rivals: &[Arc<SignedEvent>], now: Timestamp) -> Option<Arc<SignedEvent>> {
        let number = rivals.first()?.event().sequence_number;
        let remembered = self.settings.highest.map(|highest| highest.id);
        let named = [self.settings.pin, remembered].into_iter().flatten();
        let leading = |named| rivals.iter().find(|rival| self.leads_to(rival, named));
        let is_extended = |rival: &&Arc<SignedEvent>| !self.due_successors(rival.event(), now).is_empty();
        let chosen = named.into_iter().find_map(leading).or_else(|| {
            let mut extended = rivals.iter().filter(is_extended);
            extended.next().filter(|_| extended.next().is_none())
        })?;
        self.twice_signed.insert(number);
        Some(Arc::clone(chosen))
    }

    fn accept(&mut self, event: Arc<SignedEvent>, now: Timestamp, merged: &mut Merged) {
        if let Some(head) = self.accepted.last()
            && self.rivals_of(head).any(|rival| self.is_due(rival, now))
        {
            self.twice_signed.insert(head.event().sequence_number);
        }
        self.pending.remove(&event.id());
        self.places.insert(event.id(), self.accepted.len());
        self.accepted.push(event);
        merged.accepted = merged.accepted.saturating_add(1);
    }

    /// Whether the head stands uncontested, and whether an event from the future taints it.
    fn judge_head(&mut self, now: Timestamp) {
        let Some(head) = self.accepted.last() else { return };
        let has_rival = self.rivals_of(head).any(|rival| self.is_due(rival, now));
        let undecided = self.due_successors(head.event(), now).len() > 1;
        let settled = self.settings.pin == Some(head.id());
        let number = head.event().sequence_number;
        self.tainted_early = self
            .pending
            .successors(head.event())
            .any(|next| !self.is_due(next, now) && next.event().taint_previous);
        self.contested = undecided || (has_rival && !settled);
        if has_rival && settled {
            self.twice_signed.insert(number);
        }
    }

    /// Forgets what can no longer matter: events at or below the head, but for the head's own rivals, and
    /// not while they may lead to the remembered event.
    fn drop_settled(&mut self, merged: &mut Merged) {
        let Some(head) = self.accepted.last() else { return };
        let height = head.event().sequence_number;
        let of_head: Vec<_> = self.rivals_of(head).map(|rival| rival.id()).collect();
        let mut settled = Vec::new();
        for event in self.pending.all().filter(|event| event.event().sequence_number <= height) {
            if self.is_rival(event.event()) && !self.reported.contains(&event.id()) {
                merged.rivals.push(event.id());
            }
            if !of_head.contains(&event.id()) && !self.rolled_back() {
                settled.push(event.id());
            }
        }
        for id in settled {
            self.pending.remove(&id);
        }
        merged.rivals.sort_unstable();
        let room = REPORTED_MAX.saturating_sub(self.reported.len());
        self.reported.extend(merged.rivals.iter().take(room));
        self.drop_farthest(merged);
    }

    /// Keeps to the bound. What leads back to the accepted branch goes last: an event that claims another
    /// predecessor takes no key of the chain to make, and must not push out the proof of a contest or taint.
    fn drop_farthest(&mut self, merged: &mut Merged) {
        if self.pending.len() <= limits::CHAIN_PENDING_MAX {
            return;
        }
        let rooted = self.rooted();
        let rank = |event: &Arc<SignedEvent>| {
            (!rooted.contains(&event.id()), event.event().sequence_number, event.id())
        };
        let mut ranked: Vec<_> = self.pending.all().map(rank).collect();
        ranked.sort_unstable();
        for (_, _, id) in ranked.into_iter().skip(limits::CHAIN_PENDING_MAX) {
            self.pending.remove(&id);
            merged.left_out = merged.left_out.saturating_add(1);
        }
    }

    /// The events beside the branch that rightfully lead back to an event of it.
    fn rooted(&self) -> BTreeSet<Digest> {
        let mut rooted = BTreeSet::new();
        let mut open: Vec<_> = self.pending.all().filter(|event| self.is_rival(event.event())).collect();
        while let Some(event) = open.pop() {
            if rooted.insert(event.id()) {
                open.extend(self.pending.successors(event.event()));
            }
        }
        rooted
    }

    /// Goes back to where the branch that configuration names leaves the accepted one, if it does; or that
    /// of the event remembered from before a restart, without which nothing accepted since has counted.
    fn move_to_named(&mut self) {
        let remembered = self.settings.highest.filter(|_| self.rolled_back()).map(|highest| highest.id);
        let mut named = [self.settings.pin, remembered].into_iter().flatten();
        let Some(fork) = named.find_map(|named| self.fork_of(named)) else { return };
        let keep = fork.saturating_add(1);
        if keep >= self.accepted.len() {
            return;
        }
        for left in self.accepted.split_off(keep) {
            self.places.remove(&left.id());
            self.pending.insert(left);
        }
        self.twice_signed.retain(|number| usize::try_from(*number).is_ok_and(|place| place < keep));
    }

    /// The place of the last accepted event before `named`, when its way there is known.
    fn fork_of(&self, named: Digest) -> Option<usize> {
        let mut at = self.pending.get(&named)?.event();
        loop {
            let previous = at.previous?;
            if let Some(place) = self.places.get(&previous) {
                let accepted = self.accepted.get(*place)?;
                return at.follows(accepted.event()).is_ok().then_some(*place);
            }
            let before = self.pending.get(&previous)?.event();
            at.follows(before).ok()?;
            at = before;
        }
    }

    /// Whether the event `named` is `event` or comes after it.
    fn leads_to(&self, event: &SignedEvent, named: Digest) -> bool {
        let mut at = named;
        while at != event.id() {
            let Some(known) = self.pending.get(&at).map(|known| known.event()) else { return false };
            let Some(previous) = known.previous else { return false };
            if self.pending.get(&previous).is_none_or(|before| known.follows(before.event()).is_err()) {
                return false;
            }
            at = previous;
        }
        true
    }

    fn is_due(&self, event: &SignedEvent, now: Timestamp) -> bool {
        event.event().created_at <= now.plus(self.settings.skew)
    }

    fn due_successors(&self, of: &Event, now: Timestamp) -> Vec<Arc<SignedEvent>> {
        self.pending.successors(of).filter(|next| self.is_due(next, now)).cloned().collect()
    }

    /// Events beside the branch that satisfy the same commitment as an accepted one.
    fn rivals_of(&self, accepted: &SignedEvent) -> impl Iterator<Item = &Arc<SignedEvent>> {
        let before = self.accepted_before(accepted.event());
        before.into_iter().flat_map(|before| self.pending.successors(before.event()))
    }

    fn is_rival(&self, event: &Event) -> bool {
        self.accepted_before(event).is_some_and(|before| event.follows(before.event()).is_ok())
    }

    fn accepted_before(&self, event: &Event) -> Option<&Arc<SignedEvent>> {
        self.accepted.get(usize::try_from(event.sequence_number.checked_sub(1)?).ok()?)
    }

    fn held_until(&self, now: Timestamp) -> Option<Timestamp> {
        let due = |event: &Arc<SignedEvent>| event.event().created_at.minus(self.settings.skew);
        self.pending.all().map(due).filter(|due| *due > now).min()
    }
}

/// Most rivals that are remembered as reported; one more is reported again each time.
const REPORTED_MAX: usize = 1024;
