//! What a verifier trusts at one moment.

use std::sync::Arc;
use std::time::Duration;

use keychain::chain::Chain;
use keychain::endorsement::Endorsement;
use keychain::{Code, Refusal, Timestamp};

use super::Denied;

/// The chain together with what its heads deny and revoke, and how fresh they show it to be. A value that never
/// changes: whoever judges a request holds one, and a newer one takes its place for the next request.
#[derive(Debug, Clone)]
pub struct TrustState {
    chain: Arc<Chain>,
    /// When nothing newer than the chain existed, as the latest head showed that did show it.
    shown: Option<Timestamp>,
    head_max_age: Option<Duration>,
    denied: Denied,
    heads: Arc<[String]>,
}

/// How long ago a head showed that nothing newer existed (`PROTOCOL.md#head-fresh`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Less than half of what is allowed.
    Fresh(Duration),
    /// Half of it or more: something withholds heads, or makes none.
    Late(Duration),
    /// All of it or more; or nothing ever showed it, by this clock.
    Stale(Option<Duration>),
}

impl TrustState {
    /// The trust that `chain` and the heads it has heard give, whatever their age.
    pub fn new(chain: Chain) -> Self {
        Self::with_heads(chain, None, None)
    }

    /// The same, for a verifier that refuses once no head has shown for `head_max_age` that nothing newer exists;
    /// `shown` is when one did.
    pub fn with_heads(chain: Chain, shown: Option<Timestamp>, head_max_age: Option<Duration>) -> Self {
        Self { chain: Arc::new(chain), shown, head_max_age, denied: Denied::default(), heads: Arc::default() }
    }

    /// The same, with others denied.
    #[must_use]
    pub fn denying(self, denied: Denied) -> Self {
        Self { denied, ..self }
    }

    /// The same, with the heads that count as received, those of the newest event first.
    #[must_use]
    pub fn hearing(self, heads: Arc<[String]>) -> Self {
        Self { heads, ..self }
    }

    /// The heads that count, as received, those of the newest event first: for whom this process tells them.
    pub fn heads(&self) -> &[String] {
        &self.heads
    }

    /// Who is denied.
    pub const fn denied(&self) -> &Denied {
        &self.denied
    }

    /// The chain, with the heads that it has heard.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Refuses an endorsement, verified before, that does not hold at `now` for a verifier whose window is `window`:
    /// one that has expired, whose generation is not live (replaced, tainted, denied), whose key is revoked, or whose
    /// service is revoked up to it.
    ///
    /// No lock and no IO: it is asked for every request.
    pub fn check(&self, endorsement: &Endorsement, window: Duration, now: Timestamp) -> Result<(), Refusal> {
        endorsement.verify_alive(&self.chain, window, now)
    }

    /// Refuses if it cannot be known at `now` what was denied lately: no endorsement counts then. Asked last, so that
    /// what is denied for certain is told so.
    pub fn demand_fresh(&self, now: Timestamp) -> Result<(), Refusal> {
        match self.freshness(now) {
            Freshness::Fresh(_) | Freshness::Late(_) => Ok(()),
            Freshness::Stale(_) => {
                Err(Refusal::new(Code::StaleHead, "no head shows that nothing was denied lately"))
            }
        }
    }

    /// How fresh the heads show the chain to be at `now`.
    pub fn freshness(&self, now: Timestamp) -> Freshness {
        // What was shown in the future was shown to a clock that has been set back since.
        let shown = self.shown.filter(|shown| *shown <= now.plus(self.chain.skew()));
        let age = shown.map(|shown| now.since(shown));
        match (self.head_max_age, age) {
            (None, age) => Freshness::Fresh(age.unwrap_or_default()),
            (Some(_), None) => Freshness::Stale(None),
            (Some(most), Some(age)) if age >= most => Freshness::Stale(Some(age)),
            (Some(most), Some(age)) if age >= most / 2 => Freshness::Late(age),
            (Some(_), Some(age)) => Freshness::Fresh(age),
        }
    }

    /// When a head showed that nothing newer existed.
    pub const fn shown(&self) -> Option<Timestamp> {
        self.shown
    }

    /// How long a head's word that nothing newer exists counts; none is without limit.
    pub const fn head_max_age(&self) -> Option<Duration> {
        self.head_max_age
    }
}

#[cfg(test)]
mod tests {
    use keychain::Digest;
    use keychain::chain::Settings;

    use super::*;

    #[test]
    fn freshness_goes_by_halves_and_knows_a_wrong_clock() {
        let hour = |hours: i64| Timestamp::from_unix_millis(hours * 3_600_000);
        let tick = Duration::from_millis(1);
        let most = Some(Duration::from_hours(12));
        let chain =
            Chain::new(Digest::of("chain"), Settings { skew: Duration::from_secs(5), ..Settings::default() });
        let shown = Some(hour(100));
        let hours = Duration::from_hours;
        for (shown, most, now, expected) in [
            (shown, most, hour(100), Freshness::Fresh(hours(0))),
            (shown, most, hour(106).minus(tick), Freshness::Fresh(hours(6).saturating_sub(tick))),
            (shown, most, hour(106), Freshness::Late(hours(6))),
            (shown, most, hour(112).minus(tick), Freshness::Late(hours(12).saturating_sub(tick))),
            (shown, most, hour(112), Freshness::Stale(Some(hours(12)))),
            (shown, most, hour(100).minus(Duration::from_secs(5)), Freshness::Fresh(hours(0))),
            (shown, most, hour(100).minus(Duration::from_millis(5_001)), Freshness::Stale(None)),
            (None, most, hour(100), Freshness::Stale(None)),
            (None, None, hour(100), Freshness::Fresh(hours(0))),
            (shown, None, hour(900), Freshness::Fresh(hours(800))),
        ] {
            let state = TrustState::with_heads(chain.clone(), shown, most);
            assert_eq!(state.freshness(now), expected, "{shown:?} {most:?} {now}");
            let stale = matches!(expected, Freshness::Stale(_));
            let code = state.demand_fresh(now).map_err(|refusal| refusal.code());
            assert_eq!(code, if stale { Err(Code::StaleHead) } else { Ok(()) });
        }
    }
}
