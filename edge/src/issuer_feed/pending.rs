//! What is to be read of the issuing keys, and when.

use std::collections::BTreeSet;

use keychain::PublicKey;
use tokio::time::Instant;

use crate::updates::Update;

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
    /// Adds what was announced at `now`.
    pub(super) fn add(&mut self, update: &Update, now: Instant) {
        if update.is_everything() {
            self.want_everything(now);
        }
        for name in names_of_keys(update) {
            self.want(now);
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

    /// The names to be read otherwise.
    pub(super) fn names(&self) -> Vec<String> {
        self.names.iter().cloned().collect()
    }

    fn want(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }
}

/// The announced names that have the form of a public key.
pub(super) fn names_of_keys(update: &Update) -> impl Iterator<Item = &str> {
    let is_key = |name: &&str| name.len() == PublicKey::TEXT_LEN && name.starts_with("1AAI");
    update.names.iter().map(String::as_str).filter(is_key)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn names(count: usize) -> Update {
        let names = (0..count).map(|number| format!("1AAI{number:044}")).collect();
        Update { names, ..Update::default() }
    }

    #[test]
    fn names_of_keys_are_read_and_of_many_everything() {
        let now = Instant::now();
        let everything = Update { everything: true, ..Update::default() };
        let reread = Update { reread: true, ..Update::default() };
        let event = Update { names: BTreeSet::from([format!("E{}", "A".repeat(43))]), ..Update::default() };
        let table = [
            ("nothing", Update::default(), None, 0, false),
            ("an event", event, None, 0, false),
            ("a key", names(1), Some(now), 1, false),
            ("as many as are read by name", names(16), Some(now), 16, false),
            ("one more", names(17), Some(now), 0, true),
            ("everything", everything, Some(now), 0, true),
            ("everything, as a precaution", reread, Some(now), 0, true),
        ];
        for (name, update, due, count, all) in table {
            let mut pending = Pending::default();
            pending.add(&update, now);
            assert_eq!(
                (pending.due(), pending.names().len(), pending.is_everything()),
                (due, count, all),
                "{name}"
            );
        }
    }

    #[test]
    fn an_announcement_is_read_though_a_failure_put_everything_off() {
        let now = Instant::now();
        let mut pending = Pending::default();
        pending.want_everything(now + Duration::from_secs(1));
        pending.add(&names(1), now);
        assert_eq!((pending.due(), pending.is_everything()), (Some(now), true));
    }
}
