//! The heads of one event, joined (`PROTOCOL.md#head-order`).

use super::{Entries, Head};
use crate::{cesr::Digest, limits, time::Timestamp};

/// How a head stands to those of its event that were heard before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The first of its event, or one with a higher number.
    Newer,
    /// One with a lower number.
    Older,
    /// The newest once more.
    Same,
    /// Another body with the newest's number: somebody else holds the key.
    Theft,
}

/// What hearing a head did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// How the head stands to those heard before.
    pub order: Order,
    /// Entries that the newer of two heads lacks though they have not ended. They are kept; a signer that keeps to
    /// the rules loses none.
    pub lost: Entries,
    /// Whether anything is denied or revoked now that was not before, or no longer.
    pub changed: bool,
}

/// One head, told apart from every other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadPlace {
    /// The event that it is of.
    pub event_id: Digest,
    /// That event's sequence number.
    pub sequence_number: u64,
    /// Its place among the heads of that event.
    pub number: u64,
    /// The digest of its body: nobody knows it before the head was made.
    pub digest: Digest,
}

impl HeadPlace {
    /// The place of a head as received: nothing is proven about it here.
    pub fn of(head: &Head) -> Self {
        Self {
            event_id: head.event_id(),
            sequence_number: head.sequence_number(),
            number: head.number(),
            digest: Digest::of(head.body()),
        }
    }
}

/// What the heads of one event stated so far.
#[derive(Clone, Debug)]
pub struct Joined {
    number: u64,
    body: Digest,
    issued_at: Timestamp,
    entries: Entries,
    /// When the first of the entries ends, if any does.
    first_end: Option<Timestamp>,
}

impl Joined {
    /// The first head of an event.
    pub fn first(head: &Head) -> Self {
        let (number, body) = (head.number(), Digest::of(head.body()));
        let entries = head.entries().clone();
        Self { number, body, issued_at: head.issued_at(), first_end: entries.first_end(), entries }
    }

    /// Takes in a further head of the same event. Nothing that was stated is lost, whatever the order.
    pub fn take(
        &mut self,
        head: &Head,
        denial_ended: impl Fn(&Digest, Timestamp) -> bool,
    ) -> (Order, Entries) {
        let body = Digest::of(head.body());
        let order = match head.number().cmp(&self.number) {
            std::cmp::Ordering::Greater => Order::Newer,
            std::cmp::Ordering::Less => Order::Older,
            std::cmp::Ordering::Equal if body == self.body => Order::Same,
            std::cmp::Ordering::Equal => Order::Theft,
        };
        // The newest of them had to list the entries that had not ended when it was issued.
        let (earlier, newest, issued_at) = match order {
            Order::Newer => (&self.entries, head.entries(), head.issued_at()),
            Order::Older => (head.entries(), &self.entries, self.issued_at),
            Order::Same | Order::Theft => (&self.entries, &self.entries, self.issued_at),
        };
        let lost = earlier.missing_from(newest, issued_at, |id| denial_ended(id, issued_at));
        if order == Order::Newer {
            (self.number, self.body, self.issued_at) = (head.number(), body, head.issued_at());
        }
        // Beyond the bound only a holder of the key gets who breaks the rules: the taint is the cure.
        if self.entries.keys.len().saturating_add(self.entries.services.len())
            < limits::REVOCATIONS_JOINED_MAX
        {
            self.entries.join(head.entries());
        } else {
            self.entries.denied.extend(head.entries().denied.iter().copied());
        }
        self.first_end = self.entries.first_end();
        (order, lost)
    }

    /// The number of the newest head heard.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// The digest of that head's body.
    pub const fn body(&self) -> Digest {
        self.body
    }

    /// All that was stated.
    pub const fn entries(&self) -> &Entries {
        &self.entries
    }

    /// Whether any entry has ended at `now`.
    pub fn has_ended(&self, now: Timestamp) -> bool {
        self.first_end.is_some_and(|end| end <= now)
    }

    /// Leaves out the entries that have ended at `now`.
    pub fn drop_ended(&mut self, now: Timestamp) {
        self.entries.drop_ended(now);
        self.first_end = self.entries.first_end();
    }

    /// Leaves out the denials of these generations.
    pub fn forget_denials(&mut self, of: impl Fn(&Digest) -> bool) {
        self.entries.denied.retain(|id| !of(id));
    }
}
