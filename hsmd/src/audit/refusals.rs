//! How often callers were refused, counted between two lines of the trail.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use keychain::{
    Code, Timestamp,
    audit::{Kind, Record},
};

/// Callers that are told apart between two lines, each with what it asked for and the code that it was told.
const KINDS_MAX: usize = 64;

/// Who stands for the callers beyond that.
const OTHERS: &str = "others";

#[derive(Default)]
pub(super) struct Refusals(Mutex<BTreeMap<Key, Count>>);

type Key = (String, &'static str, &'static str);

struct Count {
    since: Timestamp,
    count: u64,
}

impl Refusals {
    pub(super) fn note(&self, caller: String, operation: &'static str, code: Code, now: Timestamp) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = (caller, operation, code.as_str());
        if counts.len() >= KINDS_MAX && !counts.contains_key(&key) {
            OTHERS.clone_into(&mut key.0);
        }
        let counted = counts.entry(key).or_insert(Count { since: now, count: 0 });
        counted.count = counted.count.saturating_add(1);
    }

    /// What was counted, and begins to count anew.
    pub(super) fn take(&self) -> Counted {
        Counted(std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Counts on from what was taken and not written.
    pub(super) fn put_back(&self, counted: Counted) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, before) in counted.0 {
            let count = counts.entry(key).or_insert(Count { since: before.since, count: 0 });
            count.since = count.since.min(before.since);
            count.count = count.count.saturating_add(before.count);
        }
    }
}

/// What was counted between two lines.
pub(super) struct Counted(BTreeMap<Key, Count>);

impl Counted {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The lines to write.
    pub(super) fn records(&self) -> Vec<Record> {
        let record = |((caller, operation, code), Count { since, count }): (&Key, &Count)| {
            Record::new(Kind::Refused)
                .text("caller", caller)
                .plain("operation", operation)
                .plain("code", code)
                .number("count", *count)
                .plain("since", since)
        };
        self.0.iter().map(record).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_millis(seconds * 1000)
    }

    #[test]
    fn a_flood_is_one_line() {
        let refusals = Refusals::default();
        for second in 1..=1000 {
            refusals.note("uid 7".to_owned(), "sign", Code::Forbidden, at(second));
        }
        refusals.note("uid 7".to_owned(), "taint", Code::Forbidden, at(9));
        let lines = refusals.take().records();
        assert_eq!(lines.len(), 2);
        let expected = Record::new(Kind::Refused)
            .text("caller", "uid 7")
            .plain("operation", "sign")
            .plain("code", "BA303")
            .number("count", 1000)
            .plain("since", at(1));
        assert_eq!(lines[0], expected);
        assert!(refusals.take().is_empty());
        refusals.note("uid 7".to_owned(), "sign", Code::Forbidden, at(20));
        let counted = refusals.take();
        refusals.note("uid 7".to_owned(), "sign", Code::Forbidden, at(30));
        refusals.put_back(counted);
        let expected = Record::new(Kind::Refused)
            .text("caller", "uid 7")
            .plain("operation", "sign")
            .plain("code", "BA303")
            .number("count", 2)
            .plain("since", at(20));
        assert_eq!(refusals.take().records(), [expected]);
    }

    #[test]
    fn a_crowd_is_counted_together() {
        let refusals = Refusals::default();
        for uid in 0..1000 {
            refusals.note(format!("uid {uid}"), "sign", Code::Forbidden, at(1));
        }
        assert_eq!(refusals.take().records().len(), KINDS_MAX + 1);
    }
}
