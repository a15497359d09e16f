use keychain::{SigningKey, Timestamp, chain::Draft};

use super::*;
use crate::token::backend::Handle;

const FIRST: Slot = Slot::First;
const SECOND: Slot = Slot::Second;

fn ids() -> KeyIds {
    KeyIds::default()
}

/// The key of generation `number` of chain `chain`.
fn signing_key(chain: u8, number: u64) -> SigningKey {
    let number = u8::try_from(number).unwrap();
    SigningKey::from_seed(&[chain * 100 + number + 1; 32]).unwrap()
}

/// A chain that ends with generation `newest`; from `branch` on its events are dated otherwise.
fn chain_of(chain: u8, newest: u64, branch: u64) -> Vec<SignedEvent> {
    let mut events: Vec<SignedEvent> = Vec::new();
    for number in 0..=newest {
        let (key, next) = (signing_key(chain, number), signing_key(chain, number + 1));
        let millis = i64::try_from(number).unwrap() * 1000 + i64::from(number >= branch);
        let (at, next) = (Timestamp::from_unix_millis(millis), next.public_key().digest());
        let draft = match events.last() {
            None => Draft::first(&key.public_key(), &next, at),
            Some(last) => Draft::next(last.event(), &key.public_key(), &next, at, false),
        };
        let signature = key.sign(draft.payload().as_bytes()).unwrap();
        events.push(draft.seal(&signature).unwrap());
    }
    events
}

fn key_on(slot: Slot, chain: u8, number: u64) -> (Slot, Key) {
    let handle = Handle { epoch: 0, number };
    (
        slot,
        Key {
            handle,
            id: ids().of(number),
            public_key: signing_key(chain, number).public_key(),
            carriable: true,
        },
    )
}

/// What each slot holds of chain 0; a slot that is `None` is silent.
fn tokens(slots: &[(Slot, Option<&[u64]>)]) -> Found {
    let mut found = Found::default();
    for (slot, numbers) in slots {
        match numbers {
            Some(numbers) => found.keys.extend(numbers.iter().map(|number| key_on(*slot, 0, *number))),
            None => found.silent = Some("unplugged".to_owned()),
        }
    }
    found
}

/// Nothing but the ids of keys.
fn unknown() -> Known<'static> {
    Known {
        seen: &[],
        proven: None,
        copies: &[],
        restored: None,
        rival: None,
        is_awaited: false,
        key_ids: ids(),
    }
}

struct Case<'a> {
    found: Found,
    newest: u64,
    intent: Option<u64>,
    proven: bool,
    copies: &'a [(&'static str, Tail)],
    restored: Option<&'static str>,
    rival: Option<&'static str>,
    is_awaited: bool,
}

impl Case<'_> {
    fn of(found: Found) -> Self {
        Self {
            found,
            newest: 4,
            intent: Some(5),
            proven: false,
            copies: &[],
            restored: None,
            rival: None,
            is_awaited: false,
        }
    }

    fn settled(&self) -> Settled {
        let events = chain_of(0, self.newest, u64::MAX);
        let proven = self.proven.then(|| events.last().unwrap().id());
        let written = Written { events: &events, key_intent: self.intent };
        let known = Known {
            proven,
            copies: self.copies,
            restored: self.restored,
            rival: self.rival,
            is_awaited: self.is_awaited,
            ..unknown()
        };
        match plan(&self.found, written, known) {
            Plan::Settle(settled) => settled,
            Plan::Begin(_) => panic!("a chain with events begins anew"),
        }
    }
}

/// Every state that the tokens can be in, with a ledger that ends with generation 4, whose next key is 5's; in the
/// last column the generations whose keys are destroyed.
#[test]
fn tokens_against_a_ledger() {
    let one = |numbers: &'static [u64]| tokens(&[(FIRST, Some(numbers))]);
    let two = |first: Option<&'static [u64]>, second: Option<&'static [u64]>| {
        tokens(&[(FIRST, first), (SECOND, second)])
    };
    // One token, nothing proven beforehand: label, whether the next key is at hand, what goes.
    for (found, intent, proven, label, next, swept) in [
        (one(&[4, 5]), 5, false, "ready", true, &[][..]),
        // What an interrupted step left: the key that was left, a key for an event that never came.
        (one(&[3, 4, 5]), 5, false, "ready", true, &[3]),
        (one(&[4, 5, 6]), 6, false, "ready", true, &[6]),
        (one(&[2, 4, 5, 6]), 6, true, "ready", true, &[2, 6]),
        // A key that the ledger never meant to make, or two ahead.
        (one(&[4, 5, 6]), 5, false, "ledger-behind", true, &[]),
        (one(&[4, 5, 6]), 5, true, "ledger-behind", true, &[]),
        (one(&[4, 5, 7]), 6, false, "ledger-behind", true, &[]),
        // The live key is not there: lost, or the ledger is older than it seems.
        (one(&[5]), 5, false, "live-key-missing", true, &[]),
        (one(&[5]), 5, true, "live-key-lost", true, &[]),
        (one(&[3, 5]), 5, false, "live-key-missing", true, &[]),
        (one(&[3, 5]), 5, true, "live-key-lost", true, &[3]),
        // A ledger restored from before an event, which meant to make the key after the next: the key may be named.
        (one(&[5, 6]), 5, false, "ledger-behind", true, &[]),
        (one(&[5, 6]), 6, false, "ledger-behind", true, &[]),
        // A rotation that began while the live key was lost, and was interrupted.
        (one(&[5, 6]), 6, true, "live-key-lost", true, &[6]),
        (one(&[5, 6]), 5, true, "ledger-behind", true, &[]),
        (one(&[6, 7]), 6, false, "ledger-behind", false, &[]),
        (one(&[6, 7]), 6, true, "ledger-behind", false, &[]),
        (one(&[4]), 5, false, "next-key-lost", false, &[]),
        (one(&[3, 4]), 5, false, "next-key-lost", false, &[]),
        (one(&[4, 6]), 6, false, "next-key-lost", false, &[]),
        (one(&[4, 6]), 5, false, "ledger-behind", false, &[]),
        (one(&[]), 5, false, "keys-lost", false, &[]),
        (one(&[]), 5, true, "keys-lost", false, &[]),
        (one(&[2, 3]), 5, false, "keys-lost", false, &[]),
        // Two tokens, mirrored.
        (two(Some(&[4, 5]), Some(&[4, 5])), 5, false, "ready", true, &[]),
        (two(Some(&[4, 5, 6]), Some(&[4, 5])), 6, false, "ready", true, &[6]),
        (two(Some(&[4, 5]), Some(&[])), 5, false, "ready", true, &[]),
        (two(Some(&[]), Some(&[4, 5])), 5, false, "ready", true, &[]),
        // While one is silent nothing is destroyed, and nothing is lost.
        (two(Some(&[3, 4, 5]), None), 5, false, "ready", true, &[]),
        (two(Some(&[4, 5, 6]), None), 6, false, "ready", true, &[]),
        (two(Some(&[5]), None), 5, false, "live-key-missing", true, &[]),
        (two(Some(&[5]), None), 5, true, "live-key-silent", true, &[]),
        (two(None, Some(&[4])), 5, false, "next-key-silent", false, &[]),
        (two(None, Some(&[])), 5, true, "token-silent", false, &[]),
        (two(None, Some(&[3])), 5, true, "token-silent", false, &[]),
        (two(None, Some(&[6, 7])), 5, true, "ledger-behind", false, &[]),
        (two(Some(&[5]), Some(&[])), 5, true, "live-key-lost", true, &[]),
        // One went on while the other was silent; the ledger is from before that, and meant to make the key too.
        (two(Some(&[4, 5]), Some(&[5, 6])), 6, false, "ledger-behind", true, &[]),
        (two(Some(&[4, 5]), Some(&[5, 6])), 6, true, "ready", true, &[6]),
    ] {
        let case = Case { intent: Some(intent), proven, ..Case::of(found) };
        let settled = case.settled();
        let shown = format!("{:?} {intent} {proven}", case.found);
        assert_eq!(settled.state.label(), label, "{shown}");
        assert_eq!(settled.next.is_some(), next, "{shown}");
        let gone: Vec<_> = settled.sweep.keys.iter().map(|(_, key)| key.handle.number).collect();
        assert_eq!(gone, swept, "{shown}");
        // Only the live key proves that the ledger is the newest.
        let proves =
            case.found.keys.iter().any(|(_, key)| key.handle.number == 4) && label != "ledger-behind";
        assert_eq!(settled.proves, proves, "{shown}");
    }
}

#[test]
fn another_chains_token_is_left_alone() {
    let strange = |slot, numbers: [u64; 2]| numbers.map(|number| key_on(slot, 1, number));
    // Alone.
    let found = Found { keys: strange(FIRST, [3, 4]).to_vec(), ..Found::default() };
    let settled = Case::of(found).settled();
    assert_eq!(settled.state, State::ForeignToken { newest: 4 });
    assert_eq!(settled.sweep, Sweep::default());
    // Beside a token of ours: that one goes on, and nothing is made on the other.
    let mut found = tokens(&[(FIRST, Some(&[3, 4, 5]))]);
    found.keys.extend(strange(SECOND, [3, 4]));
    found.halves.push((SECOND, Half { handle: Handle { epoch: 0, number: 9 }, id: Some(ids().of(3)) }));
    let settled = Case::of(found).settled();
    assert_eq!(settled.state, State::Ready);
    assert_eq!(settled.aside, BTreeSet::from([SECOND]));
    assert!(settled.sweep.keys.iter().all(|(slot, _)| *slot == FIRST), "{settled:?}");
    assert_eq!((settled.sweep.keys.len(), settled.sweep.halves.len()), (1, 0));
}

#[test]
fn halves_of_keys_go_where_a_step_explains_them() {
    for (number, label, gone) in [
        (None, "ready", 1),
        (Some(0), "ready", 1),
        (Some(4), "ready", 1),
        (Some(5), "ready", 1),
        (Some(6), "ready", 1),
        (Some(7), "ledger-behind", 0),
    ] {
        let mut found = tokens(&[(FIRST, Some(&[4, 5]))]);
        let half = Half { handle: Handle { epoch: 0, number: 9 }, id: number.map(|number| ids().of(number)) };
        found.halves.push((FIRST, half));
        let settled = Case { intent: Some(6), ..Case::of(found) }.settled();
        assert_eq!((settled.state.label(), settled.sweep.halves.len()), (label, gone), "{number:?}");
    }
}

#[test]
fn a_ledger_that_went_back_is_exchanged() {
    let (long, short, other) = (chain_of(0, 4, u64::MAX), chain_of(0, 3, u64::MAX), chain_of(0, 4, 2));
    let found = tokens(&[(FIRST, Some(&[4, 5]))]);
    for (seen, events, exchanged) in [
        (&[][..], &long, false),
        (&short, &long, false),
        (&long, &long, false),
        (&long, &short, true),
        (&long, &other, true),
        (&long, &Vec::new(), true),
    ] {
        let seen: Vec<_> = seen.iter().collect();
        let known = Known { seen: &seen, ..unknown() };
        let Plan::Settle(settled) = plan(&found, Written { events, key_intent: Some(5) }, known) else {
            panic!("a chain begins anew")
        };
        assert_eq!(settled.state.label() == "ledger-exchanged", exchanged, "{settled:?}");
    }
}

#[test]
fn copies_of_the_chain_are_held_against_the_ledger() {
    let whole = |newest| chain_of(0, newest, u64::MAX);
    for (copy, keys, label) in [
        (vec![], &[4, 5][..], "ready"),
        (whole(2), &[4, 5], "ready"),
        (whole(4), &[4, 5], "ready"),
        // Another chain's, or a branch off below the newest: a thief of an old key can make those for ever.
        (chain_of(1, 9, u64::MAX), &[4, 5], "ready"),
        (chain_of(0, 4, 3), &[4, 5], "ready"),
        (chain_of(0, 9, 3), &[4, 5], "ready"),
        // It knows more, and the token has moved on with it.
        (whole(5), &[5, 6], "ledger-behind"),
        (whole(5), &[4, 5, 6], "ledger-behind"),
        (whole(6), &[6, 7], "ledger-behind"),
        // It goes on, and the token has not: a copy of the token did.
        (whole(5), &[4, 5], "rival"),
        (whole(7), &[4, 5], "rival"),
        // Another event in the newest one's stead.
        (chain_of(0, 4, 4), &[4, 5], "rival"),
        (chain_of(0, 6, 4), &[4, 5], "rival"),
    ] {
        let shown = format!("{} {keys:?}", copy.len());
        let copies = [(PUBLISHED, Tail::from(copy))];
        let case = Case { copies: &copies, ..Case::of(tokens(&[(FIRST, Some(keys))])) };
        let settled = case.settled();
        assert_eq!(settled.state.label(), label, "{shown}");
        assert_eq!(settled.sweep, Sweep::default());
    }
}

/// A key that is missing after a restart: the ledger is known to be the newest if every copy that was there before ends
/// with its newest event.
#[test]
fn copies_that_end_with_the_ledger_prove_it_the_newest() {
    let whole = |newest| Tail::from(chain_of(0, newest, u64::MAX));
    let end =
        |newest| Tail::new(usize::try_from(newest).unwrap(), chain_of(0, newest, u64::MAX).split_off(4));
    for (chain_copy, published, keys, label) in [
        (Some(whole(4)), Some(whole(4)), &[5][..], "live-key-lost"),
        (Some(end(4)), Some(end(4)), &[5], "live-key-lost"),
        (None, Some(whole(4)), &[5], "live-key-missing"),
        (Some(whole(4)), None, &[5], "live-key-missing"),
        (Some(whole(3)), Some(whole(4)), &[5], "live-key-missing"),
        (Some(whole(4)), Some(whole(3)), &[5], "live-key-missing"),
        (Some(whole(4)), Some(Tail::default()), &[5], "live-key-missing"),
        (Some(whole(4)), Some(whole(5)), &[5], "ledger-behind"),
        (Some(whole(5)), Some(whole(4)), &[5], "ledger-behind"),
        (Some(whole(4)), Some(whole(4)), &[4, 5], "ready"),
        (Some(whole(4)), Some(whole(4)), &[], "keys-lost"),
    ] {
        let copies = [(CHAIN_COPY, chain_copy), (PUBLISHED, published)];
        let copies: Vec<_> = copies.into_iter().filter_map(|(name, copy)| Some((name, copy?))).collect();
        let case = Case { copies: &copies, ..Case::of(tokens(&[(FIRST, Some(keys))])) };
        assert_eq!(case.settled().state.label(), label, "{copies:?} {keys:?}");
    }
}

/// What a published head shows, and what is not compared yet, beside every state of the keys.
#[test]
fn what_is_published_takes_power_and_gives_none() {
    const HEAD: Option<&str> = Some("a head");
    for (keys, proven, by_keys, restored, rival, awaited) in [
        (&[4, 5][..], false, "ready", "ledger-restored", "rival", "uncompared"),
        (&[4], false, "next-key-lost", "ledger-restored", "next-key-lost", "uncompared"),
        (&[5], true, "live-key-lost", "ledger-restored", "live-key-lost", "uncompared"),
        (&[5], false, "live-key-missing", "live-key-missing", "live-key-missing", "live-key-missing"),
        (&[], false, "keys-lost", "keys-lost", "keys-lost", "keys-lost"),
        (&[6, 7], false, "ledger-behind", "ledger-behind", "ledger-behind", "ledger-behind"),
    ] {
        let case = || Case { proven, ..Case::of(tokens(&[(FIRST, Some(keys))])) };
        for (case, label) in [
            (case(), by_keys),
            (Case { restored: HEAD, ..case() }, restored),
            (Case { restored: HEAD, rival: HEAD, is_awaited: true, ..case() }, restored),
            (Case { rival: HEAD, ..case() }, rival),
            (Case { is_awaited: true, ..case() }, awaited),
        ] {
            assert_eq!(case.settled().state.label(), label, "{keys:?}");
        }
    }
}

#[test]
fn a_chain_begins_only_where_nothing_is() {
    let copy = [(CHAIN_COPY, Tail::from(chain_of(0, 1, u64::MAX)))];
    let none: &[(&'static str, Tail)] = &[];
    for (found, key_intent, copies, label, gone) in [
        (tokens(&[(FIRST, Some(&[]))]), None, none, None, 0),
        (tokens(&[(FIRST, Some(&[]))]), Some(1), none, None, 0),
        // An interrupted first start: nothing of it can be committed to.
        (tokens(&[(FIRST, Some(&[0, 1]))]), Some(1), none, None, 2),
        (tokens(&[(FIRST, Some(&[0, 1]))]), None, none, Some("ledger-empty"), 0),
        (tokens(&[(FIRST, Some(&[2]))]), Some(1), none, Some("ledger-empty"), 0),
        (tokens(&[(FIRST, Some(&[])), (SECOND, None)]), None, none, Some("token-silent"), 0),
        (tokens(&[(FIRST, Some(&[])), (SECOND, Some(&[]))]), None, none, None, 0),
        (tokens(&[(FIRST, Some(&[]))]), None, &copy[..], Some("ledger-empty"), 0),
    ] {
        let known = Known { copies, ..unknown() };
        let shown = format!("{found:?} {key_intent:?}");
        match (plan(&found, Written { events: &[], key_intent }, known), label) {
            (Plan::Begin(sweep), None) => assert_eq!(sweep.keys.len(), gone, "{shown}"),
            (Plan::Settle(settled), Some(label)) => assert_eq!(settled.state.label(), label, "{shown}"),
            (plan, _) => panic!("{shown}: {plan:?}"),
        }
    }
}
