//! How the slots stand, for operators.

use keychain::{PublicKey, chain::Event};

use super::{Tokens, member::Member};

/// How one of two slots stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenState {
    /// Its name.
    pub name: &'static str,
    /// Why it does not answer; nothing if it does.
    pub silent: Option<String>,
    /// Whether it holds the live key, as far as is known.
    pub live: bool,
    /// The same of the next key.
    pub next: bool,
    /// Whether it holds another chain's keys, so that it is not used.
    pub aside: bool,
    /// Why a key could not be mirrored that is on one slot only, whichever slot that is about.
    pub unmirrored: Option<String>,
}

impl Tokens {
    /// How each of two slots stands; empty if there is one. `newest` is the event that names the keys.
    pub fn states(&self, newest: Option<&Event>) -> Vec<TokenState> {
        let is_live = |key: &PublicKey| newest.is_some_and(|event| event.public_key == *key);
        let is_next = |key: &PublicKey| newest.is_some_and(|event| event.rotation_hash == key.digest());
        let same = |is_it: &dyn Fn(&PublicKey) -> bool| {
            self.members().all(|member| member.holds_one(is_it) == self.first.holds_one(is_it))
        };
        let mirrored = same(&is_live) && same(&is_next);
        let unmirrored = self.unmirrored().filter(|_| !mirrored).map(|fault| fault.with_causes());
        let state = |member: &Member| TokenState {
            name: member.slot.as_str(),
            silent: member.silence().map(|fault| fault.root().with_causes()),
            live: member.holds_one(is_live),
            next: member.holds_one(is_next),
            aside: member.is_aside(),
            unmirrored: unmirrored.clone(),
        };
        if self.are_mirrored() { self.members().map(state).collect() } else { Vec::new() }
    }
}

/// From which generation on each key is on both of two tokens, if `newest` is the newest one's number; none while the next
/// key is on one only, or there is one slot.
pub fn mirrored_from(states: &[TokenState], newest: u64) -> Option<u64> {
    let [first, second] = states else { return None };
    match (first.live && second.live, first.next && second.next) {
        (true, true) => Some(newest),
        (false, true) => Some(newest.saturating_add(1)),
        (_, false) => None,
    }
}

/// What an operator has to do; nothing if both keys are on both tokens and both answer. `newest` is the number of the
/// newest generation.
pub fn warning(states: &[TokenState], newest: u64) -> Option<String> {
    let [first, second] = states else { return None };
    for (state, other) in [(first, second), (second, first)] {
        if let Some(because) = &state.silent {
            let alone = match (state.live && !other.live, state.next && !other.next) {
                (true, _) => "nothing is signed, since it alone holds the live key: bring it back, or rotate",
                (_, true) => "it alone holds the next key, so that no rotation is possible: bring it back",
                _ => {
                    "the other signs and rotates, and nothing must happen to the other: bring it back, or replace it \
                     (`opsctl hsm replace`)"
                }
            };
            return Some(format!("the token `{}` does not answer ({because}); {alone}", state.name));
        }
        if state.aside {
            return Some(format!(
                "the token `{}` holds another chain's keys and is not used: put the right one in its slot",
                state.name
            ));
        }
    }
    if !(first.live || second.live || first.next || second.next) {
        // Not known yet, or lost: a state of the chain.
        return None;
    }
    let because = first.unmirrored.as_ref().map_or(String::new(), |because| format!("; {because}"));
    let single = |on_first: bool, on_second: bool| on_first != on_second;
    match (single(first.live, second.live), single(first.next, second.next)) {
        (false, false) => None,
        (live, next) => {
            let (what, until) = match (live, next) {
                (true, true) => ("the live and the next key are", "two rotations"),
                (true, false) => ("the live key is", "the next rotation"),
                _ => ("the next key is", "two rotations"),
            };
            let mirrored = match mirrored_from(states, newest) {
                Some(from) => format!("; keys are mirrored from generation {from} on"),
                None => String::new(),
            };
            let on_first = if live { first.live } else { first.next };
            let name = if on_first { first.name } else { second.name };
            Some(format!("{what} on one token only, `{name}`, until {until}{mirrored}{because}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_mirrored_if_its_key_and_all_later_ones_are() {
        let on =
            |name, live, next| TokenState { name, silent: None, live, next, aside: false, unmirrored: None };
        for (first, second, from) in [
            ((true, true), (true, true), Some(7)),
            ((true, true), (false, true), Some(8)),
            ((true, true), (true, false), None),
            ((true, true), (false, false), None),
            ((false, false), (false, false), None),
        ] {
            let states = [on("first", first.0, first.1), on("second", second.0, second.1)];
            assert_eq!(mirrored_from(&states, 7), from, "{first:?} {second:?}");
        }
        assert_eq!(mirrored_from(&[], 7), None, "one slot has no mirror");
    }

    #[test]
    fn each_way_to_stand_has_its_cure() {
        let state = |name, silent: bool, live, next| TokenState {
            name,
            silent: silent.then(|| "unplugged".to_owned()),
            live,
            next,
            aside: false,
            unmirrored: Some("no wrap key".to_owned()),
        };
        let (first, second) = (|s, l, n| state("first", s, l, n), |s, l, n| state("second", s, l, n));
        let aside = TokenState { aside: true, ..second(false, false, false) };
        for (states, text) in [
            (vec![], None),
            (vec![first(false, true, true), second(false, true, true)], None),
            (vec![first(false, false, false), second(false, false, false)], None),
            (
                vec![first(true, true, true), second(false, true, true)],
                Some("`first` does not answer (unplugged); the other signs and rotates"),
            ),
            (
                vec![first(false, true, true), second(true, false, false)],
                Some("`second` does not answer (unplugged); the other signs and rotates"),
            ),
            (
                vec![first(true, true, true), second(false, false, true)],
                Some("`first` does not answer (unplugged); nothing is signed"),
            ),
            (
                vec![first(false, true, false), second(true, true, true)],
                Some("`second` does not answer (unplugged); it alone holds the next key"),
            ),
            (
                vec![first(false, true, true), second(false, false, false)],
                Some(
                    "live and the next key are on one token only, `first`, until two rotations; no wrap key",
                ),
            ),
            (
                vec![first(false, false, true), second(false, true, true)],
                Some(
                    "the live key is on one token only, `second`, until the next rotation; keys are mirrored from \
                     generation 8 on; no wrap key",
                ),
            ),
            (
                vec![first(false, true, true), second(false, true, false)],
                Some("the next key is on one token only, `first`"),
            ),
            (vec![first(false, true, true), aside], Some("`second` holds another chain's keys")),
        ] {
            let warning = warning(&states, 7);
            match text {
                None => assert_eq!(warning, None),
                Some(text) => {
                    assert!(warning.as_ref().is_some_and(|warning| warning.contains(text)), "{warning:?}");
                }
            }
        }
    }
}
