//! How the two tokens stand, for those who have to see to them.

use keychain::{PublicKey, chain::Event};

use super::{Tokens, place::Place};
use crate::token::backend::Fault;

/// How one of two tokens stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenState {
    /// Its name.
    pub name: &'static str,
    /// Why it does not answer; nothing if it does.
    pub silent: Option<String>,
    /// Whether it holds the live key, as far as is known; a key that the other lacks is presumed on the silent one.
    pub live: bool,
    /// The same of the next key.
    pub next: bool,
}

impl Tokens {
    /// How each of two tokens stands; nothing if there is one. `newest` is the event that names the keys; none is
    /// known to be anywhere while token and ledger were not reconciled.
    pub fn states(&self, newest: Option<&Event>) -> Vec<TokenState> {
        let is_live = |key: &PublicKey| newest.is_some_and(|event| event.public_key == *key);
        let is_next = |key: &PublicKey| newest.is_some_and(|event| event.rotation_hash == key.digest());
        let presumed = [self.is_anywhere(is_live), self.is_anywhere(is_next)];
        let presumed = presumed.map(|known| newest.is_some() && !known);
        let state = |place: &Place| {
            let silent = place.silence().map(because);
            let [live, next] = presumed.map(|presumed| presumed && silent.is_some());
            let (live, next) = (live || place.holds_one(is_live), next || place.holds_one(is_next));
            TokenState { name: place.which.as_str(), silent, live, next }
        };
        if self.are_two() { self.places().map(state).collect() } else { Vec::new() }
    }

    fn is_anywhere(&self, is_it: impl Fn(&PublicKey) -> bool) -> bool {
        self.places().any(|place| place.holds_one(&is_it))
    }
}

/// What somebody has to see to; nothing if the live key is on one token, the next on the other, and both answer.
pub(super) fn warning(states: &[TokenState]) -> Option<String> {
    let [first, second] = states else { return None };
    let silent = [first, second].into_iter().find_map(|state| Some((state, state.silent.as_ref()?)));
    if let Some((state, because)) = silent {
        let fix = match (state.live, state.next) {
            (true, true) => "nothing is signed, both keys are on it: bring it back",
            (true, false) => {
                "endorsements fail: bring it back, or go on with the other token (`opsctl rotate`)"
            }
            (_, true) => "endorsements go on, but no rotation is possible: bring it back",
            _ => "everything goes on without it: bring it back, or put another in its place",
        };
        return Some(format!("the token `{}` does not answer ({because}); {fix}", state.name));
    }
    match [first, second].map(|state| (state.live, state.next)) {
        [(true, true), (false, false)] | [(false, false), (true, true)] => {
            let name = if first.live { first.name } else { second.name };
            Some(format!("both keys are on one token, `{name}`; rotate, which puts one on the other"))
        }
        // Not known yet, or lost both: then that is what hsmd is not ready for.
        [(false, false), (false, false)] => None,
        [(_, false), (_, false)] => Some("no token holds the next key: see `hsmd/RECOVERY.md`".to_owned()),
        _ => None,
    }
}

fn because(fault: Fault) -> String {
    match fault {
        Fault::Silent { because, .. } => because,
        fault => fault.told(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told_with_the_token_and_the_fix() {
        let state = |name, silent: bool, live, next| TokenState {
            name,
            silent: silent.then(|| "unplugged".to_owned()),
            live,
            next,
        };
        let (first, second) = (|s, l, n| state("first", s, l, n), |s, l, n| state("second", s, l, n));
        for (states, told) in [
            (vec![], None),
            (vec![first(false, true, false), second(false, false, true)], None),
            (vec![first(false, false, false), second(false, false, false)], None),
            (vec![first(false, false, true), second(false, true, false)], None),
            (
                vec![first(true, true, false), second(false, false, true)],
                Some("`first` does not answer (unplugged); endorsements fail"),
            ),
            (
                vec![first(false, true, false), second(true, false, true)],
                Some("`second` does not answer (unplugged); endorsements go on"),
            ),
            (
                vec![first(true, false, false), second(false, true, true)],
                Some("`first` does not answer (unplugged); everything goes on"),
            ),
            (
                vec![first(false, false, false), second(false, true, true)],
                Some("both keys are on one token, `second`"),
            ),
            (
                vec![first(false, true, false), second(false, false, false)],
                Some("no token holds the next key"),
            ),
        ] {
            let warning = warning(&states);
            match told {
                None => assert_eq!(warning, None),
                Some(told) => {
                    assert!(warning.as_ref().is_some_and(|text| text.contains(told)), "{warning:?}");
                }
            }
        }
    }
}
