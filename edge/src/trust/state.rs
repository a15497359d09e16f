//! What a verifier trusts at one moment.

use std::time::Duration;

use keychain::chain::Chain;
use keychain::endorsement::Endorsement;
use keychain::{Refusal, Timestamp};

/// The chain together with what its heads deny and revoke. A value that never changes: whoever judges a request
/// holds one, and a newer one takes its place for the next request.
#[derive(Debug, Clone)]
pub struct TrustState {
    chain: Chain,
}

impl TrustState {
    /// The trust that `chain` and the heads it has heard give.
    pub const fn new(chain: Chain) -> Self {
        Self { chain }
    }

    /// The chain, with the heads that it has heard.
    pub const fn chain(&self) -> &Chain {
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
}
