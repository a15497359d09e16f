//! The rules by which keys are named, chosen and destroyed, and by which events are dated: each with its test.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hsmd::{
    chain::{Advance, Error, Keeper},
    clock::{Clock, System, TrustedClock},
    token::backend::KeyIds,
};
use keychain::Timestamp;

use crate::{
    steps::Fixture,
    support::{self, memory::Device},
};

const ROTATE: Advance = Advance { from: None, taint: false };
const TAINT: Advance = Advance { from: None, taint: true };

/// Clocks that a test sets: time of day and monotonic time, in milliseconds.
#[derive(Clone)]
struct Hands(Arc<Mutex<(i64, u64)>>, Arc<AtomicUsize>);

/// When the tests' clocks begin: 2026-01-02T03:04:05Z.
const BEGINNING: i64 = 1_767_323_045_000;

impl Hands {
    fn new() -> Self {
        Self(Arc::new(Mutex::new((BEGINNING, 0))), Arc::default())
    }

    /// Moves the time of day, and lets monotonic time pass.
    fn set(&self, wall: i64, monotonic: u64) {
        *self.0.lock().unwrap() = (BEGINNING + wall, monotonic);
    }

    /// Resolves once somebody has read the clock.
    async fn read(&self) {
        let before = self.1.load(Ordering::Relaxed);
        while self.1.load(Ordering::Relaxed) == before {
            tokio::task::yield_now().await;
        }
    }

    fn clock(&self) -> TrustedClock {
        TrustedClock::new(Box::new(self.clone()))
    }
}

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        self.1.fetch_add(1, Ordering::Relaxed);
        Timestamp::from_unix_millis(self.0.lock().unwrap().0)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.lock().unwrap().1)
    }
}

/// The newest event's date, in milliseconds after the beginning.
fn dated(keeper: &Keeper) -> i64 {
    keeper.view().unwrap().live().event().created_at.unix_millis() - BEGINNING
}

/// An event is dated 5 s back, but after the one before it.
#[tokio::test]
async fn events_are_dated_back_but_in_order() {
    let (fixture, hands) = (Fixture::new(), Hands::new());
    let keeper = fixture.start_as(hands.clock(), KeyIds::default()).await.unwrap();
    assert_eq!(dated(&keeper), -5000);
    for (now, date) in [(0, -4999), (0, -4998), (4, -4996), (60_000, 55_000), (60_001, 55_001)] {
        hands.set(now, u64::try_from(now).unwrap());
        keeper.advance(ROTATE).await.unwrap();
        assert_eq!(dated(&keeper), date, "{now}");
    }
}

/// Never ahead of the clock: a rotation waits until the clock has passed the newest event.
#[tokio::test]
async fn a_rotation_waits_for_the_clock() {
    let (fixture, hands) = (Fixture::new(), Hands::new());
    let keeper = fixture.start_as(hands.clock(), KeyIds::default()).await.unwrap();
    // Set back, within what any clock may be slewed by.
    hands.set(-5_020, 0);
    let waiting = tokio::spawn({
        let keeper = Arc::clone(&keeper);
        async move { keeper.advance(ROTATE).await }
    });
    hands.read().await;
    assert_eq!(dated(&keeper), -5000, "nothing is dated ahead of the clock");
    hands.set(-4_999, 21);
    waiting.await.unwrap().unwrap();
    assert_eq!(dated(&keeper), -4999);
}

/// A clock that is wrong makes no event, and changes nothing; but a taint is made whatever the clock says,
/// and never dated ahead of what the monotonic clock makes of the time, nor by a clock in doubt.
#[tokio::test]
async fn a_wrong_clock_makes_no_event_but_a_taint() {
    for (wall, monotonic, shown, tainted) in [
        (-15_001, 0, "the newest event is dated 10s ahead of it", -4_999),
        (-3_600_000, 1_000, "moved back by", -4_000),
        (3_600_000, 1_000, "moved ahead by", -4_000),
        (61_001, 1_000, "moved ahead by", -4_000),
    ] {
        let (fixture, hands) = (Fixture::new(), Hands::new());
        let keeper = fixture.start_as(hands.clock(), KeyIds::default()).await.unwrap();
        hands.set(wall, monotonic);
        let error = keeper.advance(ROTATE).await.unwrap_err();
        assert!(
            matches!(&error, Error::Clock(doubt) if doubt.to_string().contains(shown)),
            "{wall}: {error}"
        );
        assert_eq!((dated(&keeper), fixture.device.objects()), (-5000, 4), "{wall}: nothing was changed");
        keeper.advance(TAINT).await.unwrap();
        assert_eq!(dated(&keeper), tainted, "{wall}");
        assert!(keeper.view().unwrap().live().event().taint_previous);
        // Set right, it goes on.
        hands.set(5_000, 5_000);
        keeper.advance(ROTATE).await.unwrap();
        assert_eq!((dated(&keeper), fixture.device.objects()), (0, 4), "{wall}");
    }
}

/// Generation n has id 1 + (n mod 65534), or the same within the configured range: also on the token, and
/// after the range is through.
#[tokio::test]
async fn key_ids_go_round_with_the_chain() {
    let ids = KeyIds::new(16, 23).unwrap();
    for device in [Device::default(), Device::with_unique_ids()] {
        let fixture = Fixture::with(device);
        for number in 0..20 {
            // A restart each time: what is on the token is told apart by its ids then.
            let clock = TrustedClock::new(Box::new(System::start()));
            let keeper = fixture.start_as(clock, ids).await.unwrap();
            assert_eq!(keeper.view().unwrap().live().event().sequence_number, number);
            assert_eq!(fixture.device.ids(), [ids.of(number), ids.of(number + 1)], "{number}");
            assert_eq!(ids.of(number).number(), 16 + u16::try_from(number % 8).unwrap());
            keeper.advance(ROTATE).await.unwrap();
            keeper.close().await.unwrap();
        }
    }
    let default = KeyIds::default();
    for (number, id) in [(0, 1), (1, 2), (65_533, 65_534), (65_534, 1), (65_535, 2), (u64::MAX, 16)] {
        let number: u64 = number;
        assert_eq!(u64::from(default.of(number).number()), 1 + number % 65_534, "{number}");
        assert_eq!(default.of(number).number(), id, "{number}");
        assert_eq!(default.of(number).bytes().len(), 2);
    }
}

/// A key is chosen only because its digest is what the ledger names: twins of both keys, made before and after
/// them under the same ids, are never used, and are destroyed; the committed ones never.
#[tokio::test]
async fn twins_under_one_id_are_destroyed_and_committed_keys_are_not() {
    let ids = KeyIds::default();
    for first in [false, true] {
        let fixture = Fixture::new();
        let keeper = fixture.start().await.unwrap();
        let view = keeper.view().unwrap();
        let committed = [view.live().event().public_key, view.next().unwrap()];
        keeper.close().await.unwrap();
        for id in [ids.of(0), ids.of(1), ids.of(1), ids.of(0)] {
            fixture.device.add_key(id, first);
        }
        assert_eq!(fixture.device.objects(), 12);
        let keeper = fixture.start().await.unwrap();
        fixture.check(&keeper, 1).await;
        assert!(fixture.device.keys().iter().all(|key| committed.contains(key)));
        keeper.advance(ROTATE).await.unwrap();
        assert_eq!(keeper.view().unwrap().live().event().public_key, committed[1]);
        fixture.check(&keeper, 2).await;
    }
}

/// The order on disk: a key's generation is noted before it is made, and its event is in the ledger, with its
/// signature, before anybody is shown it.
#[tokio::test]
async fn intent_comes_before_the_key_and_the_event_before_its_use() {
    let fixture = Fixture::new();
    let keeper = fixture.start().await.unwrap();
    let ledger = support::ledger::read(&fixture.ledger_file()).await;
    for number in 1..4_u64 {
        keeper.advance(ROTATE).await.unwrap();
        let contents = ledger.contents(&[]).await.unwrap();
        let newest = contents.events.last().unwrap();
        assert_eq!(newest.event().sequence_number, number);
        assert_eq!(contents.key_intent, Some(number + 1));
        assert_eq!(newest.text(), keeper.view().unwrap().live().text(), "verbatim, with its signature");
    }
}
