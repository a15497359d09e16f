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
    /// How many of them the directory lost.
    lost: usize,
    confirmed: Option<Timestamp>,
    /// Grows with each change of an entry.
    changes: u64,
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
    pub const fn lost(&self) -> usize {
        self.lost
    }

    /// Notes that at `now` all of them were known.
    pub fn confirm(&mut self, now: Timestamp) {
        self.confirmed = Some(now);
    }

    /// When that was last.
    pub const fn confirmed(&self) -> Option<Timestamp> {
        self.confirmed
    }

    /// A number that differs once an entry is another one.
    pub const fn changes(&self) -> u64 {
        self.changes
    }

    /// What a restart is to know: when all entries were known last, and those that the denial feed does not repeat. Nothing
    /// as long as they never were.
    pub fn remembered(&self) -> Option<Vec<String>> {
        let confirmed = self.confirmed?.unix_millis().to_string();
        let own = self.known.iter().filter(|(_, entry)| !entry.repeats_feed);
        let entries = own.map(|(who, entry)| match entry.end {
            Some(end) => format!("{who} {}", end.unix_millis()),
            None => who.to_string(),
        });
        Some(std::iter::once(confirmed).chain(entries).collect())
    }

    /// Takes in what [`Self::remembered`] said before a restart. The entries deny until the directory is read; false if
    /// these are not such words, and then nothing is taken in.
    pub fn recall(&mut self, texts: &[String]) -> bool {
        let Some((confirmed, entries)) = texts.split_first() else { return false };
        let parse = |text: &String| {
            let (who, end) = match text.split_once(' ') {
                Some((who, end)) => (who, Some(Timestamp::from_unix_millis(end.parse().ok()?))),
                None => (text.as_str(), None),
            };
            Some((Digest::parse(who).ok()?, Entry { end, repeats_feed: false, is_there: true }))
        };
        let entries: Option<Vec<_>> = entries.iter().map(parse).collect();
        let (Ok(confirmed), Some(entries)) = (confirmed.parse(), entries) else { return false };
        for (who, entry) in entries {
            self.set(&who, Some(entry));
        }
        self.confirmed = Some(Timestamp::from_unix_millis(confirmed));
        true
    }

    pub(super) fn get(&self, who: &Digest) -> Option<Entry> {
        self.known.get(who).copied()
    }

    pub(super) fn set(&mut self, who: &Digest, entry: Option<Entry>) {
        let before = self.get(who);
        if before != entry {
            let is_lost = |entry: Option<Entry>| usize::from(entry.is_some_and(|entry| !entry.is_there));
            self.lost = self.lost.saturating_sub(is_lost(before)).saturating_add(is_lost(entry));
            self.known.set(who, entry);
            self.changes = self.changes.wrapping_add(1);
        }
    }

    /// Makes of each entry what `revised` says.
    pub(super) fn revise(&mut self, revised: impl Fn(&Digest, Entry) -> Option<Entry>) {
        let known = self.known.iter().map(|(who, entry)| (*who, *entry, revised(who, *entry)));
        let changed: Vec<_> = known.filter(|(_, before, after)| Some(*before) != *after).collect();
        for (who, _, after) in changed {
            self.set(&who, after);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_restart_is_told_denies_as_before() {
        let at = Timestamp::from_unix_millis;
        let (forever, brief, repeated) = (Digest::of("a"), Digest::of("b"), Digest::of("c"));
        let mut entries = Entries::default();
        assert_eq!(entries.remembered(), None, "never read");
        let entry = |end, repeats_feed| Some(Entry { end, repeats_feed, is_there: true });
        entries.set(&forever, entry(None, false));
        entries.set(&brief, entry(Some(at(9_000)), false));
        entries.set(&repeated, entry(None, true));
        entries.confirm(at(5_000));
        let texts = entries.remembered().unwrap();
        let mut again = Entries::default();
        assert!(again.recall(&texts));
        assert_eq!((again.confirmed(), again.count()), (Some(at(5_000)), 2));
        assert!(again.denies(&forever, at(6_000)) && again.denies(&brief, at(6_000)));
        // A directory that has lost it says nothing about it.
        assert!(again.get(&brief).unwrap().missing(false, at(8_000)).is_some());
        let with = |text: &str| texts.iter().cloned().chain([text.to_owned()]).collect::<Vec<_>>();
        for damaged in [Vec::new(), vec!["soon".to_owned()], with("E"), with(&format!("{forever} soon"))] {
            let mut entries = Entries::default();
            assert!(!entries.recall(&damaged), "{damaged:?}");
            assert_eq!((entries.count(), entries.confirmed()), (0, None));
        }
    }
}
