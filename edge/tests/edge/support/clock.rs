//! The time by which devices and the HSM of the tests go.

use edge::clock::Clock;
use keychain::Timestamp;

/// The system's time.
pub(crate) fn now() -> Timestamp {
    Clock::system().now()
}
