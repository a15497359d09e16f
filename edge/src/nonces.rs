//! Nonces seen: each is accepted once within the time in which its request could be accepted at all.
//!
//! Bounded, and never forgetful: when there is no room, a request is refused rather than an older
//! nonce dropped, because a dropped nonce is a replay accepted.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use keychain::{Code, Nonce, Refusal, Timestamp};

/// Parts under locks of their own, so that the workers seldom wait for each other.
const SHARDS: usize = 16;

/// The nonces accepted and not yet out of date.
#[derive(Debug)]
pub struct NonceStore {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    held: AtomicUsize,
    capacity: usize,
}

/// `seen` is for looking up, `ending` for forgetting: the same nonces, by the second after which
/// nobody can use them any more.
#[derive(Debug, Default)]
struct Shard {
    seen: HashSet<Nonce>,
    ending: BTreeMap<i64, Vec<Nonce>>,
}

impl NonceStore {
    /// A store for at most `capacity` nonces at a time.
    pub fn new(capacity: usize) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            held: AtomicUsize::new(0),
            capacity,
        }
    }

    /// Takes a nonce into use until `until`, when its request is out of date.
    ///
    /// `Replay` if it is in use already, `Unavailable` if there is no room.
    pub fn reserve(&self, nonce: Nonce, until: Timestamp, now: Timestamp) -> Result<(), Refusal> {
        if self.held.load(Ordering::Relaxed) >= self.capacity {
            self.forget(now);
        }
        let Some(mut shard) = self.shard(nonce) else { return Err(NO_ROOM) };
        self.freed(shard.forget(now));
        if shard.seen.contains(&nonce) {
            return Err(Refusal::new(Code::Replay, "the request's nonce was used before"));
        }
        let within = |held: usize| (held < self.capacity).then_some(held + 1);
        if self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_err() {
            return Err(NO_ROOM);
        }
        shard.seen.insert(nonce);
        shard.ending.entry(second(until)).or_default().push(nonce);
        Ok(())
    }

    /// Drops what is out of date everywhere. Called now and then, it gives memory back in quiet times.
    pub fn forget(&self, now: Timestamp) {
        for shard in &self.shards {
            self.freed(lock(shard).forget(now));
        }
    }

    /// How many nonces are held.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    fn shard(&self, nonce: Nonce) -> Option<MutexGuard<'_, Shard>> {
        let hash = usize::try_from(self.hasher.hash_one(nonce) % SHARDS as u64).ok()?;
        self.shards.get(hash).map(lock)
    }

    fn freed(&self, count: usize) {
        self.held.fetch_sub(count, Ordering::Relaxed);
    }
}

impl Shard {
    /// Drops what ended before the second of `now`; how many that were.
    fn forget(&mut self, now: Timestamp) -> usize {
        let mut count = 0;
        while let Some(entry) = self.ending.first_entry().filter(|entry| *entry.key() < second(now)) {
            for nonce in entry.remove() {
                count += usize::from(self.seen.remove(&nonce));
            }
        }
        if count > 0 && self.seen.len() * 4 < self.seen.capacity() {
            self.seen.shrink_to(self.seen.len() * 2);
        }
        count
    }
}

const NO_ROOM: Refusal = Refusal::new(Code::Unavailable, "the nonce store is full; raise `nonce_capacity`");

fn second(time: Timestamp) -> i64 {
    time.unix_millis().div_euclid(1_000)
}

/// A panic elsewhere leaves both halves of a shard as they were before or after one insertion: still usable.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn nonce(number: u64) -> Nonce {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        Nonce::from_bytes(bytes)
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_unix_millis(second * 1_000)
    }

    #[test]
    fn a_nonce_is_taken_once_until_it_is_out_of_date() {
        let store = NonceStore::new(10);
        assert_eq!(store.reserve(nonce(1), at(130), at(100)), Ok(()));
        for now in [100, 115, 130] {
            let again = store.reserve(nonce(1), at(now + 30), at(now)).unwrap_err();
            assert_eq!(again.code(), Code::Replay);
        }
        assert_eq!(store.reserve(nonce(1), at(161), at(131)), Ok(()));
        assert_eq!(store.held(), 1);
    }

    #[test]
    fn a_full_store_refuses_and_forgets_nothing() {
        let store = NonceStore::new(100);
        for number in 0..100 {
            assert_eq!(store.reserve(nonce(number), at(30), at(0)), Ok(()));
        }
        assert_eq!(store.reserve(nonce(100), at(30), at(0)).unwrap_err().code(), Code::Unavailable);
        for number in 0..100 {
            assert_eq!(store.reserve(nonce(number), at(30), at(1)).unwrap_err().code(), Code::Replay);
        }
        assert_eq!(store.reserve(nonce(100), at(61), at(31)), Ok(()));
        assert_eq!(store.held(), 1);
    }

    #[test]
    fn a_day_of_nonces_stays_within_its_bound() {
        let store = NonceStore::new(4_000);
        for second in 0..2_000_i64 {
            for number in 0..100_u64 {
                let nonce = nonce(second.unsigned_abs() * 100 + number);
                assert_eq!(store.reserve(nonce, at(second + 30), at(second)), Ok(()));
            }
        }
        assert!(store.held() <= 4_000, "{} held", store.held());
        store.forget(at(2_000).plus(Duration::from_mins(1)));
        assert_eq!(store.held(), 0);
    }

    #[test]
    fn of_many_threads_with_one_nonce_one_wins() {
        let store = NonceStore::new(1_000);
        for round in 0..100 {
            let wins: usize = std::thread::scope(|scope| {
                let tries: Vec<_> = (0..4)
                    .map(|_| scope.spawn(|| usize::from(store.reserve(nonce(round), at(30), at(0)).is_ok())))
                    .collect();
                tries.into_iter().map(|attempt| attempt.join().unwrap()).sum()
            });
            assert_eq!(wins, 1);
        }
    }
}
