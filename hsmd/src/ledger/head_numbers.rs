//! Numbers of heads. They count from 1 with each event, as long as the ledger knows every number it gave out.

use keychain::{Digest, Timestamp};

use super::{Error, endorsements::NUMBER_MAX};

/// How far a clock may have been ahead when numbers began at its time: 50 days of milliseconds.
const AHEAD_MAX: u64 = 1 << 32;

/// What the ledger knows of the numbers of heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeadNumbers {
    /// The event whose heads are counted; `None` if the newest event's numbers may be lost.
    pub(super) event: Option<Digest>,
    /// The highest number that is known to be given out.
    pub(super) number: u64,
}

impl HeadNumbers {
    /// The next number of `event`, beyond `after`.
    ///
    /// Of an event that was imported, or whose numbers may be lost, it is at least the milliseconds since 1970 of `at`.
    /// Fewer heads than milliseconds were ever made of an event, and each earlier loss began at an earlier time. So
    /// no number is used twice however often that happens, and none comes near the bound.
    pub(super) fn next(self, event: &Digest, after: u64, at: Timestamp) -> Result<u64, Error> {
        let beyond = |number: u64| number.max(after).saturating_add(1);
        let number = match self.event {
            Some(counted) if counted == *event => beyond(self.number),
            Some(_) => beyond(0).max(millis(at)),
            None => beyond(self.number).max(millis(at)),
        };
        if number > NUMBER_MAX { Err(Error::Overflow) } else { Ok(number) }
    }
}

/// The highest number that a head can have at `now` which a ledger of this chain numbered. One beyond it was made by
/// another holder of the key, to leave no number after it.
pub(crate) fn highest_at(now: Timestamp) -> u64 {
    millis(now).saturating_add(AHEAD_MAX)
}

fn millis(at: Timestamp) -> u64 {
    u64::try_from(at.unix_millis()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_may_be_lost_are_left_behind() {
        let [event, other] = [Digest::of("event"), Digest::of("other")];
        let now = 1_800_000_000_000;
        for (counted, number, after, at, next) in [
            (Some(event), 0, 0, now, Some(1)),
            (Some(event), 7, 0, now, Some(8)),
            // A database that lost commits under a running hsmd.
            (Some(event), 7, 9, now, Some(10)),
            // An event that was imported.
            (Some(other), 7, 0, now, Some(now)),
            (Some(other), 7, now + 3, now, Some(now + 4)),
            // A ledger that was restored; by a clock that was ahead at the loss before.
            (None, 7, 0, now, Some(now)),
            (None, now + 5, 0, now, Some(now + 6)),
            (None, 0, 0, 0, Some(1)),
            (Some(event), NUMBER_MAX - 1, 0, now, Some(NUMBER_MAX)),
            (Some(event), NUMBER_MAX, 0, now, None),
            (Some(event), 7, u64::MAX, now, None),
        ] {
            let numbers = HeadNumbers { event: counted, number };
            let at = Timestamp::from_unix_millis(i64::try_from(at).unwrap());
            assert_eq!(numbers.next(&event, after, at).ok(), next, "{number} {after}");
        }
    }

    /// Losses in a row, each with as many heads as can have been made meanwhile.
    #[test]
    fn no_number_is_used_twice_however_often_a_ledger_is_lost() {
        let event = Digest::of("event");
        let mut highest = 0;
        for loss in 0..1000_i64 {
            let at = Timestamp::from_unix_millis(1_800_000_000_000 + loss * 1000);
            let first = HeadNumbers { event: None, number: 0 }.next(&event, 0, at).unwrap();
            assert!(first > highest && first <= highest_at(at), "{loss}");
            highest = first + 999;
        }
    }
}
