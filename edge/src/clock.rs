//! The border where a daemon reads its clock. Nothing that decides reads it: time is an argument there.

use std::time::SystemTime;

use keychain::Timestamp;

/// The wall clock.
pub fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}
