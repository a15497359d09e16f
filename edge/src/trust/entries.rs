//! The entries of database 3. Whoever can write there can add and delete them.
//!
//! One that is gone before its end counts as lifted only if somebody deleted it, or if the denial feed denied as long and
//! so decides. One that was evicted, flushed or exchanged, or lost with its server, denies to its end; one without an end,
//! until the feed lifts it, or until it is written again and deleted.

use keychain::feed::Shards;
use keychain::{Digest, Timestamp};

/// What is known of the entries.
#[derive(Debug, Clone, Default)]
pub struct Entries {
    known: Shards<Entry>,
    confirmed: Option<Timestamp>,
}

/// One entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// Until when it stands; none is until somebody deletes it.
    pub(super) end: Option<Timestamp>,
    /// Whether the denial feed denied as long.
    pub(super) repeats_feed: bool,
    /// Whether the directory has it.
    pub(super) is_there: bool,
}

impl Entry {
    /// Whether it denies: what the directory has does, whatever was known of its end.
    pub(super) fn denies(&self, now: Timestamp) -> bool {
        self.is_there || self.lasts(Some(now))
    }

    /// Whether it does not end before `end` does.
    pub(super) fn lasts(&self, end: Option<Timestamp>) -> bool {
        match (self.end, end) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(mine), Some(end)) => mine > end,
        }
    }

    /// What is left of it once the directory does not have it.
    pub(super) fn missing(&self, is_deleted: bool, now: Timestamp) -> Option<Self> {
        let left = Self { is_there: false, ..*self };
        Some(left).filter(|left| !is_deleted && !left.repeats_feed && left.denies(now))
    }
}

impl Entries {
    /// Whether an entry denies `who`.
    pub fn denies(&self, who: &Digest, now: Timestamp) -> bool {
        self.known.get(who).is_some_and(|entry| entry.denies(now))
    }

    /// Whether the directory had an entry of `who` when it was read last.
    pub fn holds(&self, who: &Digest) -> bool {
        self.known.get(who).is_some_and(|entry| entry.is_there)
    }

    /// Whom the directory denied when it was read last.
    pub fn held(&self) -> impl Iterator<Item = &Digest> {
        self.known.iter().filter(|(_, entry)| entry.is_there).map(|(who, _)| who)
    }

    /// How many there are.
    pub const fn count(&self) -> usize {
        self.known.count()
    }

    /// How many of them the directory lost.
    pub fn lost(&self) -> usize {
        self.known.iter().filter(|(_, entry)| !entry.is_there).count()
    }

    /// Notes that at `now` all of them were known.
    pub fn confirm(&mut self, now: Timestamp) {
        self.confirmed = Some(now);
    }

    /// When that was last.
    pub const fn confirmed(&self) -> Option<Timestamp> {
        self.confirmed
    }

    pub(super) fn get(&self, who: &Digest) -> Option<Entry> {
        self.known.get(who).copied()
    }

    pub(super) fn set(&mut self, who: &Digest, entry: Option<Entry>) {
        if self.get(who) != entry {
            self.known.set(who, entry);
        }
    }

    /// Makes of each entry what `revised` says.
    pub(super) fn revise(&mut self, revised: impl Fn(&Digest, Entry) -> Option<Entry>) {
        let known = self.known.iter().map(|(who, entry)| (*who, *entry, revised(who, *entry)));
        let changed: Vec<_> = known.filter(|(_, before, after)| Some(*before) != *after).collect();
        for (who, _, after) in changed {
            self.known.set(&who, after);
        }
    }
}
