//! The border where a daemon reads its wall clock. Nothing that decides reads it: time is an argument there.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::SystemTime;

use keychain::Timestamp;

/// What [`Hand`] has not been set to yet: the clock goes with the system's.
const RUNS: i64 = i64::MIN;

/// A wall clock, given to a daemon when it starts. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Clock {
    hand: Option<Arc<AtomicI64>>,
}

impl Clock {
    /// The system's.
    pub const fn system() -> Self {
        Self { hand: None }
    }

    /// The system's until its hand is moved: for tests of a time that has yet to come.
    pub fn with_hand() -> (Self, Hand) {
        let hand = Arc::new(AtomicI64::new(RUNS));
        (Self { hand: Some(Arc::clone(&hand)) }, Hand(hand))
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        match self.hand.as_ref().map(|hand| hand.load(Ordering::Relaxed)) {
            None | Some(RUNS) => Timestamp::from(SystemTime::now()),
            Some(set) => Timestamp::from_unix_millis(set),
        }
    }
}

/// Moves one clock and its clones.
#[derive(Debug)]
pub struct Hand(Arc<AtomicI64>);

impl Hand {
    /// From now on the clock stands at `time`.
    pub fn set(&self, time: Timestamp) {
        self.0.store(time.unix_millis(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_goes_until_its_hand_is_moved_and_stands_then() {
        let (clock, hand) = Clock::with_hand();
        let shared = clock.clone();
        let before = Clock::system().now();
        assert!(before <= clock.now() && clock.now() <= Clock::system().now());
        hand.set(Timestamp::from_unix_millis(7_000));
        assert_eq!(shared.now(), Timestamp::from_unix_millis(7_000));
        assert!(before <= Clock::system().now());
    }
}
