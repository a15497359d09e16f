//! How many connections each caller has: none may take a socket's from the others.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Connections of one caller that a row of the policy names, of the 256 that a socket serves at a time.
const KNOWN_MAX: usize = 192;

/// The same of one that no row names: it reads the chain and the health, and waits for the next event.
const UNKNOWN_MAX: usize = 16;

/// The connections of each caller of one socket.
#[derive(Clone, Default)]
pub(super) struct Connections(Arc<Mutex<BTreeMap<String, usize>>>);

/// Connections beyond these over which each request is refused with the reason; further ones are closed at once.
const REFUSED_MAX: usize = 8;

/// The permit of one connection; given back when it is dropped.
pub(super) struct Permit {
    connections: Connections,
    caller: String,
    over: bool,
    far_over: bool,
}

impl Connections {
    /// Counts a connection.
    pub(super) fn admit(&self, caller: String, is_known: bool) -> Permit {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(caller.clone()).or_default();
        *count = count.saturating_add(1);
        let most = if is_known { KNOWN_MAX } else { UNKNOWN_MAX };
        let (over, far_over) = (*count > most, *count > most.saturating_add(REFUSED_MAX));
        drop(counts);
        Permit { connections: self.clone(), caller, over, far_over }
    }
}

impl Permit {
    /// Whether the caller has too many: what comes over this one is refused.
    pub(super) const fn is_over(&self) -> bool {
        self.over
    }

    /// Whether the caller has so many that this one is closed at once.
    pub(super) const fn is_far_over(&self) -> bool {
        self.far_over
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.connections.0.lock().unwrap_or_else(PoisonError::into_inner);
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
        let connections = Connections::default();
        for (caller, is_known, most) in [("uid 1", true, KNOWN_MAX), ("uid 2", false, UNKNOWN_MAX)] {
            let mut permits: Vec<_> =
                (0..=most).map(|_| connections.admit(caller.to_owned(), is_known)).collect();
            assert!(permits.pop().unwrap().is_over());
            assert!(permits.iter().all(|permit| !permit.is_over()));
            permits.pop();
            let more: Vec<_> =
                (0..=REFUSED_MAX + 1).map(|_| connections.admit(caller.to_owned(), is_known)).collect();
            let closed = more.iter().filter(|permit| permit.is_far_over()).count();
            assert_eq!(closed, 1, "one of these had a permit, and {REFUSED_MAX} are refused with a reason");
            drop(more);
            assert!(!connections.admit(caller.to_owned(), is_known).is_over());
        }
        assert!(connections.0.lock().unwrap().is_empty());
    }
}
