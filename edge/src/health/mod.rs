//! What a daemon rests on, how each of it is, and how long the daemon can go on without it.
//!
//! *Ready* means that nothing is missing; *serving* means that requests are decided now. In an outage of the key
//! directory or of hsmd a verifier is not ready and serves, until its [`budget`] is used up: operators and alerts go by
//! `/readyz`, load balancers by whether it serves.
//!
//! Each dependency is told of by the part that uses it. A loss and a return are one line in the log each.

mod budget;
mod page;
mod watcher;

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keychain::{Code, Refusal, Timestamp};

use crate::clock::Clock;
use crate::own_key::OwnKey;
use crate::trust::{Currency, Freshness, TrustState};
pub use budget::{Budget, End, Ends, Limit, budget};
pub use watcher::{Report, Watcher, starting, trust_detail};

/// The key directory's announcements.
pub const DIRECTORY: &str = "directory";
/// The chain and its heads as the key directory holds them. What it holds is judged only while it can be followed.
pub const DIRECTORY_CHAIN: &str = "directory chain";
/// authd's denial feed, as the key directory holds it.
pub const DIRECTORY_DENIALS: &str = "directory denial feed";
/// The keys that issue tokens, as the key directory holds them.
pub const DIRECTORY_ISSUERS: &str = "directory issuers";
/// The keys that sign answers, as the key directory holds them.
pub const DIRECTORY_KEYS: &str = "directory keys";
/// Who is denied, as the key directory holds it.
pub const DIRECTORY_REVOCATIONS: &str = "directory revocations";
/// Whether the key directory takes what this service writes. A replica, a full server and some rights refuse it.
pub const DIRECTORY_WRITES: &str = "directory writes";
/// hsmd, over the road by which it endorses this service.
pub const HSMD: &str = "hsmd";
/// The app behind an edge.
pub const APP: &str = "app";
/// The database of authd.
pub const STORE: &str = "store";
/// The key that signs access tokens.
pub const ACCESS_KEY: &str = "access key";
/// The key that signs answers.
pub const RESPONSE_KEY: &str = "response key";
/// Whether the chain says for certain which generations are live.
pub const CHAIN: &str = "chain";
/// Whether a head showed lately enough that nothing newer exists.
pub const HEAD: &str = "head";
/// Whether revocations were confirmed lately enough.
pub const REVOCATIONS: &str = "revocations";

/// What is read from the key directory and written to it.
const OF_DIRECTORY: [&str; 6] = [
    DIRECTORY_CHAIN,
    DIRECTORY_DENIALS,
    DIRECTORY_ISSUERS,
    DIRECTORY_KEYS,
    DIRECTORY_REVOCATIONS,
    DIRECTORY_WRITES,
];

/// How one dependency is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// What of it is known.
    pub condition: Condition,
    /// When that began.
    pub since: Timestamp,
    /// When it was last seen to be good.
    pub confirmed: Option<Timestamp>,
}

/// What is known of a dependency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// It does what is asked of it.
    Good,
    /// It does not, for this reason.
    Lost(String),
    /// It has not been asked since the start.
    Waiting,
}

impl Condition {
    /// One word for it.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Lost(_) => "lost",
            Self::Waiting => "waiting",
        }
    }
}

/// The dependencies of this process, by name, and the clock that dates what becomes of them. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Dependencies {
    states: Arc<Mutex<BTreeMap<&'static str, State>>>,
    clock: Clock,
}

impl Dependencies {
    /// Those named, none of which has been asked yet.
    pub fn expect(names: &[&'static str], clock: Clock) -> Self {
        let dependencies = Self { states: Arc::default(), clock };
        for name in names {
            dependencies.also_expect(name);
        }
        dependencies
    }

    /// One more of them.
    pub fn also_expect(&self, name: &'static str) {
        self.note(name, Condition::Waiting);
    }

    /// Their clock, which is that of the process.
    pub const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Says that one was seen to be good just now.
    pub fn good(&self, name: &'static str) {
        metrics::gauge!("verifier_dependency_up", "dependency" => name).set(1.0);
        let before = self.note(name, Condition::Good);
        if let Some(State { condition: Condition::Lost(because), since, .. }) = before {
            tracing::info!(dependency = name, %since, because, "a dependency is back");
        }
    }

    /// Says that one was found lost. The first reason stays until it is back.
    pub fn lost(&self, name: &'static str, error: &(dyn Error + 'static)) {
        self.failed(name, causes(error));
    }

    /// The same, for the reason given.
    pub fn failed(&self, name: &'static str, because: impl Into<String>) {
        // A directory that is away is one loss, and not one more for each part of it.
        let is_explained = OF_DIRECTORY.contains(&name) && self.is_lost(DIRECTORY);
        if is_explained {
            return;
        }
        let because = because.into();
        metrics::gauge!("verifier_dependency_up", "dependency" => name).set(0.0);
        let before = self.note(name, Condition::Lost(because.clone()));
        if !matches!(before, Some(State { condition: Condition::Lost(_), .. })) {
            tracing::warn!(dependency = name, because, "a dependency is lost; trying again");
        }
    }

    /// Says at `now` how the chain is, how fresh its heads show it to be, and whether revocations are known.
    pub fn judge(&self, trust: &TrustState, now: Timestamp) {
        let chain = trust.chain();
        if chain.contested() || chain.rolled_back() {
            self.failed(CHAIN, "it is contested or rolled back");
        } else if chain.head().is_some() {
            self.good(CHAIN);
        }
        match trust.freshness(now) {
            Freshness::Fresh(_) | Freshness::Late(_) => self.good(HEAD),
            Freshness::Stale(None) if chain.head().is_none() => {}
            Freshness::Stale(_) => self.failed(HEAD, "none came for all of `head_max_age`"),
        }
        match trust.denied().currency(now) {
            None => {}
            Some(Currency::Unknown(_)) if trust.denied().confirmed().is_none() => {}
            Some(Currency::Confirmed(_) | Currency::Late(_)) => self.good(REVOCATIONS),
            Some(Currency::Unknown(_)) => {
                self.failed(REVOCATIONS, "they were not confirmed for all of `revocations_max_age`");
            }
        }
    }

    /// Says at `now` whether a key of this service's own can be used.
    pub fn judge_key(&self, name: &'static str, key: &OwnKey, now: Timestamp) {
        match key.usable(now) {
            Ok(_) => self.good(name),
            Err(refusal) => self.failed(name, refusal.because()),
        }
    }

    /// The names of those that are missing, for whoever is told to come again.
    pub fn missing(&self) -> String {
        let states = self.states();
        let missing = states.iter().filter(|(_, state)| state.condition != Condition::Good);
        missing.map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }

    /// Refuses what comes before a daemon has what it needs, and says what that is.
    pub fn refusal(&self) -> Refusal {
        Refusal::new(Code::Unavailable, "the service is starting").with("waitsFor", self.missing())
    }

    /// How one is, if it is known by that name.
    pub fn state(&self, name: &str) -> Option<State> {
        self.states().get(name).cloned()
    }

    fn is_lost(&self, name: &str) -> bool {
        self.state(name).is_some_and(|state| matches!(state.condition, Condition::Lost(_)))
    }

    /// How all of them are.
    pub fn all(&self) -> BTreeMap<&'static str, State> {
        self.states().clone()
    }

    /// Notes a condition; what it was before.
    fn note(&self, name: &'static str, condition: Condition) -> Option<State> {
        let mut states = self.states();
        let before = states.get(name).cloned();
        let state = next(before.as_ref(), condition, self.clock.now());
        states.insert(name, state);
        before
    }

    fn states(&self) -> MutexGuard<'_, BTreeMap<&'static str, State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The state that follows `before` once `condition` was seen at `now`.
fn next(before: Option<&State>, condition: Condition, now: Timestamp) -> State {
    let confirmed = match condition {
        Condition::Good => Some(now),
        Condition::Lost(_) | Condition::Waiting => before.and_then(|before| before.confirmed),
    };
    match before {
        // A reason may be told otherwise each time: the first one explains the loss.
        Some(before) if before.condition.as_str() == condition.as_str() => {
            State { confirmed, ..before.clone() }
        }
        _ => State { condition, since: now, confirmed },
    }
}

/// An error with all that caused it, in one line.
fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = inner.source();
    }
    text.replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_lasts_until_another_begins() {
        let at = |second: i64| Timestamp::from_unix_millis(second * 1_000);
        let lost = |because: &str| Condition::Lost(because.to_owned());
        let mut state = None;
        for (condition, now, wanted) in [
            (Condition::Waiting, 1, (Condition::Waiting, 1, None)),
            (lost("refused"), 2, (lost("refused"), 2, None)),
            (lost("closed"), 3, (lost("refused"), 2, None)),
            (Condition::Good, 4, (Condition::Good, 4, Some(4))),
            (Condition::Good, 5, (Condition::Good, 4, Some(5))),
            (lost("closed"), 9, (lost("closed"), 9, Some(5))),
            (Condition::Good, 11, (Condition::Good, 11, Some(11))),
        ] {
            let found = next(state.as_ref(), condition, at(now));
            let (condition, since, confirmed) = wanted;
            assert_eq!(found, State { condition, since: at(since), confirmed: confirmed.map(at) });
            state = Some(found);
        }
    }
}
