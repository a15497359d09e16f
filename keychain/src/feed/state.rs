//! What a reader of the feed has accepted, and what it accepts next (`PROTOCOL.md#feed-reading`).

use std::time::Duration;

use super::{
    entry::{Cause, Entry, Place, Standing},
    message::{Content, Position, Proven},
    shards::Shards,
};
use crate::{cesr::Digest, limits, time::Timestamp, token::Claims};

/// One denial of a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Denial {
    account: Digest,
    cause: Cause,
    until: Option<Timestamp>,
    /// Denied are tokens that were issued by then, and nothing else of the subject; none is all of it.
    issued_up_to: Option<Timestamp>,
}

impl Denial {
    fn holds(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| until > now)
    }

    fn standing(&self) -> Standing {
        match (self.issued_up_to, self.until) {
            (Some(issued_up_to), Some(until)) => Standing::Ended { issued_up_to, until },
            _ => Standing::Denied(self.until),
        }
    }
}

/// Who is denied. Clones are cheap and do not change with the original.
#[derive(Clone, Debug, Default)]
pub struct Denials(Shards<Vec<Denial>>);

impl Denials {
    /// Whether a device or identity is denied at `now`, for whatever cause; some of its tokens alone do not count.
    pub fn denies(&self, subject: &Digest, now: Timestamp) -> bool {
        let denies = |denial: &Denial| denial.issued_up_to.is_none() && denial.holds(now);
        self.0.get(subject).is_some_and(|denials| denials.iter().any(denies))
    }

    /// Whether the session of a token was ended: by the owner of the token's account, after the token was issued.
    pub fn ends(&self, claims: &Claims, now: Timestamp) -> bool {
        let ends = |denial: &Denial| {
            let is_before = denial.issued_up_to.is_some_and(|last| claims.issued_at <= last);
            is_before && denial.account == claims.identity && denial.holds(now)
        };
        self.0.get(&claims.device).is_some_and(|denials| denials.iter().any(ends))
    }

    /// How many devices and identities are denied.
    pub const fn count(&self) -> usize {
        self.0.count()
    }

    /// All entries, for a copy on disk or a snapshot.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        self.0.iter().flat_map(|(subject, denials)| {
            denials.iter().map(|denial| Entry {
                place: Place { subject: *subject, account: denial.account, cause: denial.cause },
                standing: denial.standing(),
            })
        })
    }

    /// Makes hold for a place what `entry` says.
    pub fn set(&mut self, entry: &Entry) {
        let Place { subject, account, cause } = entry.place;
        let mut denials = self.0.get(&subject).cloned().unwrap_or_default();
        denials.retain(|denial| (denial.account, denial.cause) != (account, cause));
        let denied = match entry.standing {
            Standing::Denied(until) => Some((until, None)),
            Standing::Ended { issued_up_to, until } => Some((Some(until), Some(issued_up_to))),
            Standing::Lifted => None,
        };
        denials.extend(denied.map(|(until, issued_up_to)| Denial { account, cause, until, issued_up_to }));
        self.0.set(&subject, Some(denials).filter(|denials| !denials.is_empty()));
    }

    /// Leaves out what has ended at `now`.
    pub fn drop_ended(&mut self, now: Timestamp) {
        let left = |denials: &Vec<Denial>| {
            let left: Vec<_> = denials.iter().filter(|denial| denial.holds(now)).copied().collect();
            Some(left).filter(|left| !left.is_empty())
        };
        self.0.retain(left, |denials| denials.iter().all(|denial| denial.holds(now)));
    }
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It leaves a gap to what was accepted: whom it denies is denied, what it lifts is not lifted.
    Ahead,
    /// It was the next one.
    Next,
    /// It says nothing new, or is a snapshot.
    Old,
    /// More are denied than a reader holds; nothing of it was taken.
    TooMany,
}

/// All that a reader has accepted. A clone is cheap.
#[derive(Clone, Debug, Default)]
pub struct State {
    position: Option<Position>,
    issued_at: Option<Timestamp>,
    denials: Denials,
}

impl State {
    /// What was accepted at `position` by a message of `issued_at`.
    pub const fn new(position: Position, issued_at: Timestamp, denials: Denials) -> Self {
        Self { position: Some(position), issued_at: Some(issued_at), denials }
    }

    /// The place up to which everything is known; none before the first snapshot.
    pub const fn position(&self) -> Option<Position> {
        self.position
    }

    /// When the newest message that was taken was made.
    pub const fn issued_at(&self) -> Option<Timestamp> {
        self.issued_at
    }

    /// Who is denied.
    pub const fn denials(&self) -> &Denials {
        &self.denials
    }

    /// Takes in a batch as far as it counts here.
    pub fn take(&mut self, batch: Proven<'_>) -> Taken {
        let Content::Batch(entries) = batch.content() else { return Taken::Old };
        if self.position.is_some_and(|position| batch.position() <= position) {
            return Taken::Old;
        }
        if !self.has_room(entries) {
            return Taken::TooMany;
        }
        if self.position.map(Position::next) == Some(batch.position()) {
            for entry in entries {
                self.denials.set(entry);
            }
            self.position = Some(batch.position());
            self.issued_at = self.issued_at.max(Some(batch.issued_at()));
            return Taken::Next;
        }
        self.deny(entries);
        Taken::Ahead
    }

    /// Takes whom a batch denies, and nothing that it lifts, from a position that says nothing of what lies before.
    pub fn take_denials(&mut self, batch: Proven<'_>) -> Taken {
        match batch.content() {
            Content::Batch(entries) if self.has_room(entries) => {
                self.deny(entries);
                Taken::Ahead
            }
            Content::Batch(_) => Taken::TooMany,
            Content::Snapshot { .. } => Taken::Old,
        }
    }

    /// Whether an auth server made a message after all that was taken, and at a position before it: its database was put
    /// back to an earlier state. `skew` is how far clocks may differ.
    pub fn went_back(&self, message: Proven<'_>, skew: Duration) -> bool {
        let is_earlier = self.position.is_some_and(|position| message.position() < position);
        is_earlier && self.issued_at.is_some_and(|newest| message.issued_at() > newest.plus(skew))
    }

    /// Whether a snapshot at `position` says more than what was accepted. Within an epoch, a reader that has every
    /// batch needs none.
    pub fn wants(&self, position: Position) -> bool {
        self.position.is_none_or(|mine| mine < position)
    }

    /// Leaves out what has ended at `now`.
    pub fn drop_ended(&mut self, now: Timestamp) {
        self.denials.drop_ended(now);
    }

    const fn has_room(&self, entries: &[Entry]) -> bool {
        self.denials.count().saturating_add(entries.len()) <= limits::FEED_DENIALS_MAX
    }

    fn deny(&mut self, entries: &[Entry]) {
        for entry in entries.iter().filter(|entry| entry.standing != Standing::Lifted) {
            self.denials.set(entry);
        }
    }
}
