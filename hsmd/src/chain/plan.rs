//! The decision of a reconciliation: the tokens' keys held against the ledger, and what is to be done about them.
//!
//! Pure. The ledger decides: a key is chosen only because its digest is what the ledger names, and a key that the
//! ledger does not name is destroyed only where an interrupted step explains it *and* the ledger is known to be the
//! newest. A failure to learn proves nothing: a key is lost only if every token was listed and none has it.

use std::collections::BTreeSet;

use keychain::{
    Digest, PublicKey,
    chain::{Event, SignedEvent},
};

use super::{evidence::Tail, state::State};
use crate::{
    token::Slot,
    token::backend::{Half, Key, KeyId, KeyIds},
};

/// The name of the copy that is kept beside the ledger.
pub(super) const CHAIN_COPY: &str = "chain copy";

/// The name of the copy that verifiers read.
pub(super) const PUBLISHED: &str = "published chain";

/// What a survey of the tokens showed.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// The whole keys, once for each slot that holds them.
    pub(super) keys: Vec<(Slot, Key)>,
    /// The halves of keys.
    pub(super) halves: Vec<(Slot, Half)>,
    /// Why a slot could not be listed, if one could not.
    pub(super) silent: Option<String>,
}

/// What the ledger holds, verified.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written<'a> {
    pub(super) events: &'a [SignedEvent],
    /// The highest generation that a key may have been made for.
    pub(super) key_intent: Option<u64>,
}

/// What is known besides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    /// The events that this process has seen in the ledger.
    pub(super) seen: &'a [&'a SignedEvent],
    /// The event that is known to be the chain's newest: its key was seen on a token in this run, every copy of the
    /// chain was read and ends with it, or an operator said so.
    pub(super) proven: Option<Digest>,
    /// Copies of the chain, by name: the chain copy, the published chain.
    pub(super) copies: &'a [(&'static str, Tail)],
    /// How a head proves that the ledger was restored.
    pub(super) restored: Option<&'a str>,
    /// How another holder of the newest event's keys showed before.
    pub(super) rival: Option<&'a str>,
    /// Whether what is published is still to be compared.
    pub(super) is_awaited: bool,
    /// The ids that keys are made under.
    pub(super) key_ids: KeyIds,
}

impl Known<'_> {
    /// Whether every copy of the chain was read in this run, and none goes beyond `newest`.
    fn copies_end_with(&self, newest: &Event) -> bool {
        let ends = |name: &str| {
            let copy = self.copies.iter().find(|(copied, _)| *copied == name);
            copy.and_then(|(_, copy)| copy.last()).is_some_and(|last| last.id() == newest.id)
        };
        ends(CHAIN_COPY) && ends(PUBLISHED)
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Ledger and tokens are empty, or hold what an interrupted first start left, which goes: a chain begins.
    Begin(Sweep),
    /// The chain is in this state.
    Settle(Settled),
}

/// A state, and what goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) state: State,
    /// The next key, if it is at hand.
    pub(super) next: Option<PublicKey>,
    /// Whether the live key was seen, which proves the ledger to be the newest.
    pub(super) proves: bool,
    /// What is to be destroyed.
    pub(super) sweep: Sweep,
    /// Slots with keys, and none of this chain: nothing is made or signed there.
    pub(super) aside: BTreeSet<Slot>,
}

/// Objects that nothing needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sweep {
    pub(super) keys: Vec<(Slot, Key)>,
    pub(super) halves: Vec<(Slot, Half)>,
}

/// Decides.
pub(super) fn plan(found: &Found, written: Written<'_>, known: Known<'_>) -> Plan {
    if let Some(state) = exchanged(written.events, known.seen) {
        return settle(state);
    }
    let Some(newest) = written.events.last() else { return plan_first(found, written, known) };
    let facts = Facts::of(found, written, known, newest.event());
    let by_keys = facts.state();
    let has_power = by_keys.powers().signs || by_keys.powers().rotates;
    let rival = known.rival.map(|shown| State::Rival(shown.to_owned()));
    let state = match (compare(found, written.events, known.copies).or(rival), by_keys) {
        (_, behind @ State::LedgerBehind { .. }) | (Some(behind @ State::LedgerBehind { .. }), _) => behind,
        // The ledger's own lack comes first: beside a rival its endorsements would be wrong too.
        (_, _) if has_power && let Some(lacking) = known.restored => {
            State::LedgerRestored(lacking.to_owned())
        }
        (Some(rival), State::Ready) => rival,
        _ if has_power && known.is_awaited => State::Uncompared,
        (_, state) => state,
    };
    let sweeps = facts.allow_sweep(&state);
    Plan::Settle(Settled {
        next: facts.next,
        proves: facts.live.is_some() && !matches!(state, State::LedgerBehind { .. }),
        sweep: if sweeps { facts.surplus } else { Sweep::default() },
        aside: facts.aside,
        state,
    })
}

fn settle(state: State) -> Plan {
    let (sweep, aside) = (Sweep::default(), BTreeSet::new());
    Plan::Settle(Settled { state, next: None, proves: false, sweep, aside })
}

/// A ledger that lacks what this process has seen in it was exchanged for an older one, or another.
fn exchanged(events: &[SignedEvent], seen: &[&SignedEvent]) -> Option<State> {
    let same = seen.iter().zip(events).all(|(seen, event)| seen.id() == event.id());
    (!same || seen.len() > events.len()).then(|| {
        let (had, has) = (seen.len(), events.len());
        State::LedgerExchanged(format!("it had {had} events a moment ago and now has {has}, or others"))
    })
}

/// An empty ledger.
fn plan_first(found: &Found, written: Written<'_>, known: Known<'_>) -> Plan {
    // A copy of a chain is beside it: this is no first start.
    if known.copies.iter().any(|(_, copy)| copy.last().is_some()) {
        return settle(State::LedgerEmpty);
    }
    let first_two = [known.key_ids.of(0), known.key_ids.of(1)];
    let mut ids = found.ids();
    // Keys that this ledger never meant to make, or beyond the first two, are another ledger's.
    if ids.any(|id| written.key_intent.is_none() || !first_two.contains(&id)) {
        return settle(State::LedgerEmpty);
    }
    // What a silent token holds may be a chain's, too.
    if let Some(silent) = &found.silent {
        return settle(State::TokenSilent(format!("a chain begins with its keys on every token: {silent}")));
    }
    Plan::Begin(Sweep { keys: found.keys.clone(), halves: found.halves.clone() })
}

/// Holds the ledger against copies of the chain. Only what follows the newest event, or stands beside it, changes the
/// state: a thief of a tainted key can publish branches off older events for ever.
fn compare(found: &Found, events: &[SignedEvent], copies: &[(&'static str, Tail)]) -> Option<State> {
    let newest = events.last()?;
    for (name, copy) in copies {
        let position = events.len().saturating_sub(1);
        let Some(beside) = copy.at(position) else { continue };
        let (ours, theirs) = (newest.event(), beside.event());
        if theirs.prefix != ours.prefix || theirs.previous != ours.previous {
            continue;
        }
        if beside.id() != newest.id() {
            return Some(State::Rival(format!(
                "the {name} has event {} with number {}, and the ledger {}",
                beside.id(),
                newest.event().sequence_number,
                newest.id()
            )));
        }
        let Some(last) = copy.beyond(position) else { continue };
        return Some(ahead_of(found, newest.event(), name, last.event()));
    }
    None
}

/// A copy goes on where the ledger ends. Its events are this ledger's if the tokens hold the keys that its last one
/// names; if they hold this ledger's keys instead, a copy of the tokens made it.
fn ahead_of(found: &Found, newest: &Event, name: &str, last: &Event) -> State {
    let newest_number = newest.sequence_number;
    let ours = found.named_by(newest);
    let theirs = found.named_by(last);
    let moved_on = theirs.1.is_some() || ours.0.is_none() || found.silent.is_some();
    if moved_on {
        let evidence = format!("the {name} goes on to generation {}", last.sequence_number);
        return State::LedgerBehind { newest: newest_number, evidence };
    }
    State::Rival(format!(
        "the {name} goes on to generation {} with keys that these tokens do not hold: a copy of them signs",
        last.sequence_number
    ))
}

/// A key beyond the next one, that no event names.
#[derive(Clone, Copy)]
struct Ahead {
    /// How far beyond.
    distance: i32,
    id: KeyId,
    /// Whether the ledger meant to make the key after the next.
    intended: bool,
    /// Whether a slot holds that key beside the next one, and has given up the live one, which another has.
    went_on_alone: bool,
}

/// The tokens as seen from the newest event.
struct Facts<'a> {
    newest: &'a Event,
    live: Option<PublicKey>,
    next: Option<PublicKey>,
    silent: Option<&'a String>,
    /// The key farthest ahead that no event names.
    ahead: Option<Ahead>,
    proven: bool,
    /// Whether there is no key but those that an event names.
    only_ours: bool,
    surplus: Sweep,
    aside: BTreeSet<Slot>,
}

impl<'a> Facts<'a> {
    fn of(found: &'a Found, written: Written<'a>, known: Known<'_>, newest: &'a Event) -> Self {
        let (live, next) = found.named_by(newest);
        let of_an_event: BTreeSet<_> = written.events.iter().map(|event| event.event().public_key).collect();
        let is_ours = |key: &Key| of_an_event.contains(&key.public_key) || is_named(key, newest);
        let next_number = newest.sequence_number.saturating_add(1);
        let unknown = found.keys.iter().filter(|(_, key)| !is_ours(key)).map(|(_, key)| key.id);
        let unknown = unknown.chain(found.halves.iter().filter_map(|(_, half)| half.id));
        let ahead = unknown.map(|id| (known.key_ids.distance(next_number, id), id)).max();
        let with_ours: BTreeSet<_> =
            found.keys.iter().filter(|(_, key)| is_ours(key)).map(|(slot, _)| *slot).collect();
        let aside: BTreeSet<_> =
            found.keys.iter().map(|(slot, _)| *slot).filter(|slot| !with_ours.contains(slot)).collect();
        let surplus = Sweep {
            keys: found
                .keys
                .iter()
                .filter(|(slot, key)| with_ours.contains(slot) && !is_named(key, newest))
                .copied()
                .collect(),
            // A half without an id of ours is rubbish wherever it is.
            halves: found
                .halves
                .iter()
                .filter(|(slot, half)| half.id.is_none() || !aside.contains(slot))
                .copied()
                .collect(),
        };
        let after_next = known.key_ids.of(next_number.saturating_add(1));
        Self {
            newest,
            live,
            next,
            silent: found.silent.as_ref(),
            ahead: ahead.filter(|(distance, _)| *distance > 0).map(|(distance, id)| Ahead {
                distance,
                id,
                intended: written.key_intent >= Some(next_number.saturating_add(1)),
                went_on_alone: found.went_on_alone(live, next, after_next),
            }),
            proven: known.proven == Some(newest.id) || known.copies_end_with(newest),
            only_ours: found.keys.iter().all(|(_, key)| is_ours(key)),
            surplus,
            aside,
        }
    }

    fn state(&self) -> State {
        let newest = self.newest.sequence_number;
        if let Some(evidence) = self.behind() {
            return State::LedgerBehind { newest, evidence };
        }
        match (self.live, self.next, self.silent) {
            (Some(_), Some(_), _) => State::Ready,
            (Some(_), None, Some(silent)) => State::NextKeySilent(silent.clone()),
            (Some(_), None, None) => State::NextKeyLost { newest },
            // The next key alone goes on, but only from the newest event: from an older one it would fork the chain.
            (None, Some(_), silent) if !self.proven => {
                State::LiveKeyMissing { newest, silent: silent.cloned() }
            }
            (None, Some(_), Some(silent)) => State::LiveKeySilent(silent.clone()),
            (None, Some(_), None) => State::LiveKeyLost { newest },
            (None, None, Some(silent)) => State::TokenSilent(silent.clone()),
            (None, None, None) if self.only_ours => State::KeysLost { newest },
            (None, None, None) => State::ForeignToken { newest },
        }
    }

    /// How a key shows that the ledger lacks an event.
    fn behind(&self) -> Option<String> {
        let Ahead { distance, id, intended, went_on_alone } = self.ahead?;
        // One rotation makes one key, and the ledger says so before it is made. While the live key is not there the
        // same key may be the next one of an event that this ledger lacks, whatever it meant to do.
        let half_made = distance == 1 && intended && (self.live.is_some() || self.proven);
        if half_made && (self.proven || !went_on_alone) {
            return None;
        }
        let generation = self.newest.sequence_number.saturating_add(1).saturating_add_signed(distance.into());
        Some(format!(
            "a token has a key under id {id}, which generation {generation} would have: the ledger is older than its \
             token, or it is another token"
        ))
    }

    /// Nothing is destroyed while anything is missing or unknown.
    const fn allow_sweep(&self, state: &State) -> bool {
        let decided = matches!(state, State::Ready | State::LiveKeyLost { .. });
        decided && self.silent.is_none()
    }
}

impl Found {
    /// The keys that an event names: its own, and the next one's.
    pub(super) fn named_by(&self, event: &Event) -> (Option<PublicKey>, Option<PublicKey>) {
        let find = |is_it: &dyn Fn(&PublicKey) -> bool| {
            self.keys.iter().map(|(_, key)| key.public_key).find(|key| is_it(key))
        };
        let live = find(&|key| *key == event.public_key);
        let next = find(&|key| key.digest() == event.rotation_hash);
        (live, next)
    }

    /// The ids of keys and halves of keys.
    pub(super) fn ids(&self) -> impl Iterator<Item = KeyId> {
        let halves = self.halves.iter().filter_map(|(_, half)| half.id);
        self.keys.iter().map(|(_, key)| key.id).chain(halves)
    }

    /// Whether a slot holds the next key and one after it, and not the live one, which another slot has: a rotation
    /// destroys the key that it leaves only after its event was committed.
    fn went_on_alone(&self, live: Option<PublicKey>, next: Option<PublicKey>, after_next: KeyId) -> bool {
        let (Some(live), Some(next)) = (live, next) else { return false };
        let has = |slot: Slot, is_it: &dyn Fn(&Key) -> bool| {
            self.keys.iter().any(|(on, key)| *on == slot && is_it(key))
        };
        [Slot::First, Slot::Second].into_iter().any(|slot| {
            has(slot, &|key| key.public_key == next)
                && has(slot, &|key| key.id == after_next && key.public_key != next)
                && !has(slot, &|key| key.public_key == live)
        })
    }
}

fn is_named(key: &Key, event: &Event) -> bool {
    key.public_key == event.public_key || key.public_key.digest() == event.rotation_hash
}

#[cfg(test)]
mod tests;
