//! How many connections each caller has: none may take a socket's from the others.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Connections of one caller that a row of the policy names, of the 256 that a socket serves at a time.
const KNOWN_MAX: usize = 192;

/// The same of one that no row names: it reads the chain and the health, and waits for the next event.
const UNKNOWN_MAX: usize = 16;

/// The callers of one socket.
#[derive(Clone, Default)]
pub(super) struct Crowd(Arc<Mutex<BTreeMap<String, usize>>>);

/// Connections beyond these that are told why they are refused; further ones are closed unheard.
const TOLD_MAX: usize = 8;

/// One connection's place among those of its caller; given back when it is dropped.
pub(super) struct Place {
    crowd: Crowd,
    caller: String,
    beyond: bool,
    far_beyond: bool,
}

impl Crowd {
    /// Counts a connection.
    pub(super) fn enter(&self, caller: String, is_known: bool) -> Place {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(caller.clone()).or_default();
        *count = count.saturating_add(1);
        let most = if is_known { KNOWN_MAX } else { UNKNOWN_MAX };
        let (beyond, far_beyond) = (*count > most, *count > most.saturating_add(TOLD_MAX));
        drop(counts);
        Place { crowd: self.clone(), caller, beyond, far_beyond }
    }
}

impl Place {
    /// Whether the caller has too many: what comes over this one is refused.
    pub(super) const fn is_beyond(&self) -> bool {
        self.beyond
    }

    /// Whether the caller has so many that this one is closed at once.
    pub(super) const fn is_far_beyond(&self) -> bool {
        self.far_beyond
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.crowd.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.caller) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_caller_has_its_share_and_gives_it_back() {
        let crowd = Crowd::default();
        for (caller, is_known, most) in [("uid 1", true, KNOWN_MAX), ("uid 2", false, UNKNOWN_MAX)] {
            let mut places: Vec<_> = (0..=most).map(|_| crowd.enter(caller.to_owned(), is_known)).collect();
            assert!(places.pop().unwrap().is_beyond());
            assert!(places.iter().all(|place| !place.is_beyond()));
            places.pop();
            let more: Vec<_> = (0..=TOLD_MAX + 1).map(|_| crowd.enter(caller.to_owned(), is_known)).collect();
            let closed = more.iter().filter(|place| place.is_far_beyond()).count();
            assert_eq!(closed, 1, "one of these had a place, and {TOLD_MAX} are told");
            drop(more);
            assert!(!crowd.enter(caller.to_owned(), is_known).is_beyond());
        }
        assert!(crowd.0.lock().unwrap().is_empty());
    }
}
