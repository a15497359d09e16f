//! Who is denied, as a part of what is trusted.

use std::time::Duration;

use keychain::feed::{Shards, State};
use keychain::token::Claims;
use keychain::{Code, Digest, Refusal, Timestamp};

/// How long an entry of database 3 that the directory *lost* (emptied, or changed out of sight) goes on denying: until
/// every token issued before it has expired. One that is seen to be deleted stops at once.
const LOST_FOR: Duration = Duration::from_mins(16);

/// Whom the denial feed denies, and whom entries of database 3 deny. A clone is cheap and does not change.
#[derive(Debug, Clone, Default)]
pub struct Denied {
    /// What the feed said. Only the feed lifts it.
    pub feed: State,
    /// What database 3 holds.
    pub entries: Entries,
}

impl Denied {
    /// Refuses the claims of a denied device or identity.
    pub fn check(&self, claims: &Claims, now: Timestamp) -> Result<(), Refusal> {
        let denied = |who: &Digest| self.feed.denials().denies(who, now) || self.entries.denies(who, now);
        if denied(&claims.device) {
            return Err(Refusal::new(Code::Revoked, "the device is revoked or banned"));
        }
        if denied(&claims.identity) {
            return Err(Refusal::new(Code::Revoked, "the identity is banned"));
        }
        Ok(())
    }
}

/// The entries of database 3. Whoever can write there can add and delete them.
#[derive(Debug, Clone, Default)]
pub struct Entries(Shards<Entry>);

/// How long an entry denies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    /// As long as the directory holds it.
    Held,
    /// It was lost; until then all the same.
    Until(Timestamp),
}

impl Entries {
    /// Whether an entry denies `who`.
    pub fn denies(&self, who: &Digest, now: Timestamp) -> bool {
        match self.0.get(who) {
            None => false,
            Some(Entry::Held) => true,
            Some(Entry::Until(until)) => now < *until,
        }
    }

    /// Takes in the whole list. Entries that are gone from it were lost, not lifted.
    pub fn replace(&mut self, all: &[Digest], now: Timestamp) {
        let lost = |entry: &Entry| match entry {
            Entry::Held => Some(Entry::Until(now.plus(LOST_FOR))),
            Entry::Until(until) => Some(*entry).filter(|_| *until > now),
        };
        self.0.retain(lost, |_| false);
        for who in all {
            self.0.set(who, Some(Entry::Held));
        }
    }

    /// Takes in one entry that was seen to be written or deleted.
    pub fn set(&mut self, who: &Digest, is_there: bool) {
        self.0.set(who, is_there.then_some(Entry::Held));
    }

    /// How many there are.
    pub const fn count(&self) -> usize {
        self.0.count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_deleted_is_lifted_and_what_is_lost_is_not() {
        let mut entries = Entries::default();
        let (a, b) = (Digest::of("a"), Digest::of("b"));
        let now = Timestamp::from_unix_millis(1_000_000);
        entries.replace(&[a, b], now);
        let before = entries.clone();
        entries.set(&a, false);
        assert!(!entries.denies(&a, now) && entries.denies(&b, now));
        assert!(before.denies(&a, now), "a copy changed");
        entries.replace(&[], now);
        assert!(entries.denies(&b, now.plus(LOST_FOR).minus(Duration::from_millis(1))));
        assert!(!entries.denies(&b, now.plus(LOST_FOR)));
        entries.replace(&[b], now.plus(Duration::from_secs(1)));
        assert!(entries.denies(&b, now.plus(LOST_FOR * 2)), "an entry that is back holds again");
        entries.replace(&[], now.plus(LOST_FOR));
        entries.replace(&[], now.plus(LOST_FOR * 3));
        assert_eq!(entries.count(), 0);
    }
}
