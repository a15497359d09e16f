//! Chains in which each rule is tried, with software keys and a clock of the test's own.

use std::time::Duration;

use super::*;
use crate::{key::SigningKey, limits};

const SKEW: Duration = Duration::from_secs(5);
const WINDOW: Duration = Duration::from_mins(1);

fn key(number: u8) -> SigningKey {
    SigningKey::from_seed(&[number.wrapping_add(1); 32]).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_millis(seconds * 1000)
}

fn first() -> SignedEvent {
    let draft = Draft::first(&key(0).public_key(), &key(1).public_key().digest(), at(0));
    let signature = key(0).sign(draft.payload().as_bytes()).unwrap();
    draft.seal(&signature).unwrap()
}

/// The event after `previous`, by the key committed to, committing to key `next`.
fn after(previous: &SignedEvent, next: u8, created_at: Timestamp, taint: bool) -> SignedEvent {
    let number = u8::try_from(previous.event().sequence_number + 1).unwrap();
    let candidates = [key(number), key(number + 100)];
    let own =
        candidates.iter().find(|key| key.public_key().digest() == previous.event().rotation_hash).unwrap();
    let commitment = key(next).public_key().digest();
    let draft = Draft::next(previous.event(), &own.public_key(), &commitment, created_at, taint);
    let signature = own.sign(draft.payload().as_bytes()).unwrap();
    draft.seal(&signature).unwrap()
}

/// Events 0 to `length - 1`, ten seconds apart.
fn straight(length: u8) -> Vec<SignedEvent> {
    let mut events = vec![first()];
    for number in 1..length {
        let previous = events.last().unwrap();
        events.push(after(previous, number + 1, at(i64::from(number) * 10), false));
    }
    events
}

fn chain() -> Chain {
    Chain::new(first().id(), Settings { skew: SKEW, ..Settings::default() })
}

fn is_live(chain: &Chain, event: &SignedEvent, now: Timestamp) -> bool {
    chain.live(&event.id(), WINDOW, now).is_ok()
}

#[test]
fn merges_in_any_order_and_ignores_repetition_and_strangers() {
    let events = straight(5);
    let stranger = {
        let draft = Draft::first(&key(50).public_key(), &key(51).public_key().digest(), at(0));
        let signature = key(50).sign(draft.payload().as_bytes()).unwrap();
        draft.seal(&signature).unwrap()
    };
    let mut chain = chain();
    for event in events.iter().rev().chain([&stranger]).chain(&events) {
        chain.merge([event.clone()], at(100));
    }
    assert_eq!(
        chain.events().map(SignedEvent::id).collect::<Vec<_>>(),
        events.iter().map(SignedEvent::id).collect::<Vec<_>>()
    );
    assert!(!chain.contested() && is_live(&chain, &events[4], at(1_000_000)));
    assert!(
        is_live(&chain, &events[3], at(99)) && !is_live(&chain, &events[3], at(100)),
        "40 s and the window"
    );
}

#[test]
fn a_hole_stops_the_chain_until_it_is_filled() {
    let events = straight(3);
    let mut chain = chain();
    assert_eq!(chain.live(&events[0].id(), WINDOW, at(1)).unwrap_err().code(), Code::Unavailable);
    chain.merge([events[0].clone(), events[2].clone()], at(100));
    assert_eq!(chain.head().unwrap().id(), events[0].id());
    assert_eq!(chain.merge([events[1].clone()], at(100)).accepted, 2);
}

#[test]
fn successors_that_break_a_rule_are_not_followed() {
    let events = straight(2);
    let draft =
        Draft::next(events[1].event(), &key(9).public_key(), &key(10).public_key().digest(), at(20), false);
    let foreign_key = draft.clone().seal(&key(9).sign(draft.payload().as_bytes()).unwrap()).unwrap();
    let not_later = after(&events[1], 3, events[1].event().created_at, false);
    let mut chain = chain();
    chain.merge(events.clone(), at(100));
    for bad in [foreign_key, not_later] {
        assert_eq!(bad.event().follows(events[1].event()).unwrap_err().code(), Code::BadChain);
        assert_eq!(chain.merge([bad], at(100)).accepted, 0);
    }
    assert!(is_live(&chain, &events[1], at(100)));
}

#[test]
fn a_taint_ends_the_generation_before_at_once() {
    let mut events = straight(2);
    events.push(after(&events[1], 3, at(20), true));
    let mut chain = chain();
    chain.merge(events.clone(), at(20));
    assert!(
        is_live(&chain, &events[0], at(20))
            && !is_live(&chain, &events[1], at(20))
            && is_live(&chain, &events[2], at(20))
    );
}

#[test]
fn an_event_from_the_future_waits_but_its_taint_does_not() {
    let events = straight(2);
    let future = after(&events[1], 3, at(100), true);
    let mut chain = chain();
    chain.merge(events.clone(), at(20));
    let epoch = chain.epoch();
    let merged = chain.merge([future.clone()], at(20));
    assert_eq!((merged.accepted, merged.held_until), (0, Some(at(95))));
    assert!(!is_live(&chain, &events[1], at(20)) && chain.epoch() > epoch);
    assert!(is_live(&chain, &events[0], at(20)), "predecessors are judged without it");
    assert_eq!(chain.merge([], at(95)).accepted, 1);
    assert!(is_live(&chain, &future, at(95)));
}

#[test]
fn a_rival_of_the_head_denies_until_the_own_branch_is_extended() {
    let events = straight(3);
    let rival = after(&events[1], 103, at(21), false);
    let mut chain = chain();
    chain.merge(events.clone(), at(100));
    assert_eq!(chain.merge([rival.clone()], at(100)).rivals, [rival.id()]);
    assert!(chain.contested() && events.iter().all(|event| !is_live(&chain, event, at(40))));
    let rivals_child = after(&rival, 4, at(30), false);
    chain.merge([rivals_child], at(100));
    assert!(chain.contested(), "the rival's branch is not ours");
    let next = after(&events[2], 4, at(31), false);
    chain.merge([next.clone()], at(100));
    assert!(!chain.contested() && is_live(&chain, &next, at(40)) && is_live(&chain, &events[1], at(40)));
    assert!(!is_live(&chain, &events[2], at(40)), "the contested generation counts as tainted");
}

#[test]
fn a_rival_below_the_head_is_reported_once_and_ignored() {
    let events = straight(3);
    let rival = after(&events[0], 102, at(11), true);
    let mut chain = chain();
    chain.merge(events.clone(), at(100));
    assert_eq!(chain.merge([rival.clone()], at(40)).rivals, [rival.id()]);
    assert_eq!(chain.merge([rival], at(40)).rivals, []);
    assert!(is_live(&chain, &events[2], at(40)) && is_live(&chain, &events[1], at(40)));
}

#[test]
fn who_saw_neither_waits_for_exactly_one_extension() {
    let events = straight(3);
    let rival = after(&events[1], 103, at(21), false);
    let mine = after(&events[2], 4, at(31), false);
    let theirs = after(&rival, 5, at(32), false);
    let mut fresh = chain();
    fresh.merge(events.iter().cloned().chain([rival.clone()]), at(100));
    assert!(fresh.contested() && fresh.head().unwrap().id() == events[1].id());
    let mut both = fresh.clone();
    fresh.merge([mine.clone()], at(100));
    assert!(!fresh.contested() && is_live(&fresh, &mine, at(100)) && !is_live(&fresh, &events[2], at(40)));
    both.merge([mine.clone(), theirs.clone()], at(100));
    assert!(both.contested(), "both are extended");

    let settings = Settings { skew: SKEW, pin: Some(theirs.id()), highest: None };
    let mut pinned = Chain::new(events[0].id(), settings);
    pinned.merge(events.iter().cloned().chain([rival, mine, theirs.clone()]), at(100));
    assert!(!pinned.contested() && is_live(&pinned, &theirs, at(100)));
}

/// A Redis full of events that no key of the chain made must not make a verifier forget a contest.
#[test]
fn events_that_anybody_can_make_push_out_no_rival() {
    let events = straight(2);
    // The honest one would be pushed out first: its id is the highest of all.
    let mut rivals: Vec<_> = (20..40).map(|second| after(&events[1], 3, at(second), false)).collect();
    rivals.sort_by_key(SignedEvent::id);
    let honest = rivals.pop().unwrap();
    let thief = rivals.remove(0);
    let flood = (0..).map(|second| {
        let (key, commitment) = (key(70), key(71).public_key().digest());
        let draft = Draft::next(events[1].event(), &key.public_key(), &commitment, at(second + 100), false);
        let signature = key.sign(draft.payload().as_bytes()).unwrap();
        draft.seal(&signature).unwrap()
    });
    let flood = flood.filter(|event| event.id() < honest.id()).take(limits::CHAIN_PENDING_MAX + 1);
    let flood: Vec<_> = flood.collect();
    let mut chain = chain();
    chain.merge(events.clone(), at(5000));
    let merged = chain.merge(flood.into_iter().chain([honest, thief]), at(5000));
    assert!(chain.contested() && merged.left_out == 3);
    chain.merge([], at(5001));
    assert!(chain.contested() && !is_live(&chain, &events[1], at(5001)));
}

#[test]
fn only_the_pin_moves_a_verifier() {
    let events = straight(4);
    let rival = after(&events[1], 103, at(21), false);
    let theirs = after(&rival, 4, at(32), false);
    let settings = Settings { skew: SKEW, pin: Some(theirs.id()), highest: None };
    let mut pinned = Chain::new(events[0].id(), settings);
    pinned.merge(events.clone(), at(100));
    assert_eq!(pinned.head().unwrap().id(), events[3].id());
    pinned.merge([theirs.clone()], at(100));
    assert_eq!(pinned.head().unwrap().id(), events[3].id(), "the way to the pin is not known yet");
    pinned.merge([rival.clone(), theirs.clone()], at(100));
    assert_eq!(pinned.head().unwrap().id(), theirs.id());
    assert!(!is_live(&pinned, &events[3], at(40)) && !is_live(&pinned, &rival, at(40)));
    let moved = pinned.highest().unwrap();
    assert_eq!((moved.id, moved.pin), (theirs.id(), Some(theirs.id())));
}

#[test]
fn a_rolled_back_chain_is_refused_after_a_restart() {
    let events = straight(3);
    let mut before = chain();
    before.merge(events.clone(), at(100));
    let highest = before.highest();
    let mut after_restart = Chain::new(events[0].id(), Settings { skew: SKEW, pin: None, highest });
    after_restart.merge(events[..2].to_vec(), at(100));
    assert!(after_restart.rolled_back() && !is_live(&after_restart, &events[1], at(20)));
    assert_eq!(after_restart.highest(), highest, "what is remembered is not lowered");
    after_restart.merge([events[2].clone()], at(100));
    assert!(is_live(&after_restart, &events[2], at(100)));

    let rival = after(&events[1], 103, at(21), false);
    let mut contested = Chain::new(events[0].id(), Settings { skew: SKEW, pin: None, highest });
    contested.merge(events.iter().cloned().chain([rival.clone(), after(&rival, 4, at(30), false)]), at(100));
    assert!(
        contested.contested() && contested.head().unwrap().id() == events[2].id(),
        "memory is acceptance"
    );
}

#[test]
fn a_changed_pin_overrides_what_was_remembered() {
    let events = straight(3);
    let rival = after(&events[1], 103, at(21), false);
    let theirs = after(&rival, 4, at(32), false);
    let highest = Some(Highest { id: events[2].id(), sequence_number: 2, pin: None });
    let mut moved = Chain::new(events[0].id(), Settings { skew: SKEW, pin: Some(theirs.id()), highest });
    moved.merge(events[..2].to_vec(), at(100));
    assert!(moved.rolled_back(), "not before the pin is seen");
    moved.merge([rival, theirs.clone()], at(100));
    assert!(!moved.rolled_back() && is_live(&moved, &theirs, at(100)));
}

#[test]
fn a_whole_chain_names_its_first_fault() {
    let events = straight(4);
    let prefix = events[0].id();
    assert_eq!(verify_whole(&events, &prefix, at(100), SKEW), Ok(()));
    let without = |place: usize| {
        let mut events = events.clone();
        events.remove(place);
        events
    };
    let mut swapped = events.clone();
    swapped.swap(1, 2);
    let mut twice = events.clone();
    twice.insert(1, events[1].clone());
    for bad in [without(0), without(1), swapped, twice, Vec::new()] {
        assert_eq!(verify_whole(&bad, &prefix, at(100), SKEW).unwrap_err().code(), Code::BadChain);
    }
    assert!(verify_whole(&events, &prefix, at(24), SKEW).is_err(), "from the future");
}
