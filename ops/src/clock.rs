//! The one place where the clock is read for protocol times.

use std::time::{Duration, SystemTime};

use keychain::Timestamp;

/// How far another machine's clock may be ahead of ours: the daemons' default.
pub(crate) const SKEW: Duration = Duration::from_secs(5);

pub(crate) fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}
