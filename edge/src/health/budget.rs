//! How long sessions go on while hsmd, the key directory and keysd are away.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use keychain::Timestamp;
use keychain::acknowledgement::BudgetEnd;
use keychain::chain::Chain;
use keychain::endorsement::Endorsement;

use crate::trust::{Denied, TrustState};

/// What ends an outage's budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    /// The end of the key that signs access tokens.
    AccessKey,
    /// The end of the window of a generation that was replaced.
    Generation,
    /// The age of the newest head.
    Head,
    /// The end of the key that signs answers.
    ResponseKey,
    /// The age of what is known of revocations.
    Revocations,
}

impl Limit {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::AccessKey, Self::Generation, Self::Head, Self::ResponseKey, Self::Revocations];

    /// The word for it in an acknowledgement.
    pub const fn acknowledged(self) -> BudgetEnd {
        match self {
            Self::AccessKey => BudgetEnd::AccessKey,
            Self::Generation => BudgetEnd::Generation,
            Self::Head => BudgetEnd::Head,
            Self::ResponseKey => BudgetEnd::ResponseKey,
            Self::Revocations => BudgetEnd::Revocations,
        }
    }

    /// Its name on pages and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AccessKey => "access key",
            Self::Generation => "generation",
            Self::Head => "head",
            Self::ResponseKey => "response key",
            Self::Revocations => "revocations",
        }
    }
}

/// One limit, and when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// The limit.
    pub limit: Limit,
    /// The first moment at which it refuses; none if it never does.
    pub at: Option<Timestamp>,
}

/// What already refuses, whatever the time.
const OVER: Option<i64> = Some(0);

impl End {
    /// An end that has come.
    pub fn over(limit: Limit) -> Self {
        Self { limit, at: OVER.map(Timestamp::from_unix_millis) }
    }

    /// The end of an endorsed key for verifiers whose window is `window`: its own, or its generation's.
    pub fn of_key(limit: Limit, endorsement: &Endorsement, chain: &Chain, window: Duration) -> Self {
        let expiration = endorsement.subject.expiration;
        match chain.live_until(&endorsement.generation_id, window) {
            Ok(Some(until)) if until < expiration => Self { limit: Limit::Generation, at: Some(until) },
            Ok(_) => Self { limit, at: Some(expiration) },
            Err(_dead) => Self::over(Limit::Generation),
        }
    }

    /// The end of what the heads show.
    pub fn of_head(trust: &TrustState) -> Self {
        match (trust.head_max_age(), trust.shown()) {
            (None, _) => Self { limit: Limit::Head, at: None },
            (Some(_), None) => Self::over(Limit::Head),
            (Some(most), Some(shown)) => Self { limit: Limit::Head, at: Some(shown.plus(most)) },
        }
    }

    /// The end of what is known of revocations.
    pub fn of_revocations(denied: &Denied) -> Self {
        match (denied.demand, denied.confirmed()) {
            (None, _) => Self { limit: Limit::Revocations, at: None },
            (Some(_), None) => Self::over(Limit::Revocations),
            (Some(demand), Some(confirmed)) => {
                Self { limit: Limit::Revocations, at: Some(confirmed.plus(demand.max_age)) }
            }
        }
    }
}

/// All that ends the budget of one daemon, under whatever trust is asked about. Cloning shares it.
#[derive(Clone)]
pub struct Ends(Arc<List>);

type List = dyn Fn(&TrustState) -> Vec<End> + Send + Sync;

impl Ends {
    /// Those that `ends` lists, which must not block.
    pub fn new(ends: impl Fn(&TrustState) -> Vec<End> + Send + Sync + 'static) -> Self {
        Self(Arc::new(ends))
    }

    /// Each of them under `trust`.
    pub fn list(&self, trust: &TrustState) -> Vec<End> {
        (self.0)(trust)
    }
}

impl fmt::Debug for Ends {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Ends").finish_non_exhaustive()
    }
}

/// What is left of an outage's budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// What ends it.
    pub limit: Limit,
    /// When it ends.
    pub until: Timestamp,
    /// How long that is from now on; nothing once it is over.
    pub left: Duration,
}

/// The earliest of `ends`; none if nothing ever ends.
pub fn budget(ends: &[End], now: Timestamp) -> Option<Budget> {
    let dated = ends.iter().filter_map(|end| end.at.map(|at| (at, end.limit)));
    dated.min().map(|(until, limit)| Budget { limit, until, left: until.since(now) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_end_counts() {
        let at = |second: i64| Timestamp::from_unix_millis(second * 1_000);
        let all = |key: Option<i64>, access: Option<i64>, head: Option<i64>| {
            let end = |limit, at_second: Option<i64>| End { limit, at: at_second.map(at) };
            [end(Limit::ResponseKey, key), end(Limit::AccessKey, access), end(Limit::Head, head)]
        };
        for (ends, now, wanted) in [
            (all(Some(10), Some(20), Some(30)), 1, Some((Limit::ResponseKey, 9))),
            (all(Some(10), Some(5), Some(30)), 1, Some((Limit::AccessKey, 4))),
            (all(Some(10), Some(20), Some(2)), 1, Some((Limit::Head, 1))),
            (all(Some(10), Some(20), Some(2)), 2, Some((Limit::Head, 0))),
            (all(Some(10), Some(20), Some(2)), 9, Some((Limit::Head, 0))),
            (all(Some(10), Some(20), None), 1, Some((Limit::ResponseKey, 9))),
            (all(None, None, None), 1, None),
        ] {
            let found = budget(&ends, at(now)).map(|budget| (budget.limit, budget.left.as_secs()));
            assert_eq!(found, wanted.map(|(limit, left): (Limit, u64)| (limit, left)), "{ends:?} {now}");
        }
        let over = budget(&[End::over(Limit::Generation), End { limit: Limit::Head, at: None }], at(7));
        assert_eq!(over.map(|over| (over.limit, over.left)), Some((Limit::Generation, Duration::ZERO)));
    }
}
