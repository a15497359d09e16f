//! What is to be read of the issuing keys, and when.

use std::collections::BTreeSet;
use std::time::Duration;

use keychain::PublicKey;
use tokio::time::Instant;

use crate::updates::Update;

/// How long names of which nothing is known are gathered before they are read. Nearly all are response keys, which have
/// no entry in this database: after a taint, every service of a fleet publishes one. A request that names a key has
/// everything read at once.
const GATHER: Duration = Duration::from_millis(100);

/// Names above which reading all keys is cheaper than reading those: a fleet has a few, and services by the hundred.
const NAMES_MAX: usize = 16;

/// What was announced and not read yet.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pending {
    /// As they were announced: whether one is a point on the curve is a costly question, and seldom has to be asked.
    names: BTreeSet<String>,
    everything: bool,
    due: Option<Instant>,
}

impl Pending {
    /// Adds what was announced at `now`. A key that `is_known` may be withdrawn or endorsed anew: it is due at once.
    pub(super) fn add(&mut self, update: &Update, is_known: impl Fn(&str) -> bool, now: Instant) {
        if update.is_everything() {
            self.want_everything(now);
        }
        for name in names_of_keys(update) {
            self.want(if is_known(name) { now } else { now + GATHER });
            self.names.insert(name.to_owned());
        }
        if self.names.len() > NAMES_MAX {
            self.everything = true;
            self.names.clear(); // they are bounded
        }
    }

    /// Everything is to be read, at `at`.
    pub(super) fn want_everything(&mut self, at: Instant) {
        self.everything = true;
        self.want(at);
    }

    /// When something is to be read, if anything.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether all keys are to be read.
    pub(super) const fn is_everything(&self) -> bool {
        self.everything
    }

    /// The keys to be read otherwise.
    pub(super) fn keys(&self) -> Vec<PublicKey> {
        self.names.iter().filter_map(|name| PublicKey::parse(name).ok()).collect()
    }

    fn want(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }
}

/// The announced names that have the form of a public key.
pub(super) fn names_of_keys(update: &Update) -> impl Iterator<Item = &str> {
    update.names.iter().map(String::as_str).filter(|name| name.len() == PublicKey::TEXT_LEN)
}

#[cfg(test)]
mod tests {
    use keychain::SigningKey;

    use super::*;

    fn key(number: u16) -> PublicKey {
        let mut seed = [7; 32];
        let [high, low] = number.to_be_bytes();
        (seed[30], seed[31]) = (high, low);
        SigningKey::from_seed(&seed).unwrap().public_key()
    }

    fn names(numbers: impl IntoIterator<Item = u16>) -> Update {
        let names = numbers.into_iter().map(|number| key(number).to_string()).collect();
        Update { names, ..Update::default() }
    }

    #[test]
    fn known_keys_are_read_at_once_and_unknown_ones_together() {
        let now = Instant::now();
        let everything = Update { everything: true, ..Update::default() };
        let reread = Update { reread: true, ..Update::default() };
        let event = Update { names: BTreeSet::from([format!("E{}", "A".repeat(43))]), ..Update::default() };
        let table = [
            ("nothing", Update::default(), None, 0, false),
            ("an event", event, None, 0, false),
            ("a known key", names([1]), Some(now), 1, false),
            ("an unknown key", names([2]), Some(now + GATHER), 1, false),
            ("both", names([1, 2]), Some(now), 2, false),
            ("more than are read by name", names(2..19), Some(now + GATHER), 0, true),
            ("everything", everything, Some(now), 0, true),
            ("everything, as a precaution", reread, Some(now), 0, true),
        ];
        for (name, update, due, count, all) in table {
            let mut pending = Pending::default();
            pending.add(&update, |found| found == key(1).to_string(), now);
            assert_eq!(
                (pending.due(), pending.keys().len(), pending.is_everything()),
                (due, count, all),
                "{name}"
            );
        }
    }

    #[test]
    fn later_announcements_do_not_put_off_what_is_due() {
        let now = Instant::now();
        let later = now + GATHER / 2;
        let mut pending = Pending::default();
        pending.add(&names([2]), |_| false, now);
        pending.add(&names([3]), |_| false, later);
        assert_eq!((pending.due(), pending.keys().len()), (Some(now + GATHER), 2));
        pending.add(&names([1]), |_| true, later);
        assert_eq!(pending.due(), Some(later));
        pending.want_everything(now + GATHER);
        assert_eq!((pending.due(), pending.is_everything()), (Some(later), true));
    }
}
