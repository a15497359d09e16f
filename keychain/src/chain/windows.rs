//! How long an older generation stays live, by who verifies (`PROTOCOL.md#windows`).
//!
//! A window is the life of a service key and the longest life of what such a key may have signed.

use std::time::Duration;

/// For app servers: a response key's 12 h and a token's 15 min.
pub const EDGE: Duration = Duration::from_mins(12 * 60 + 15);

/// For authd, which reads tokens at refresh: an access key's 24 h.
pub const AUTHD: Duration = Duration::from_hours(24);

/// For devices: a response key's 12 h and an answer's 60 s.
pub const DEVICE: Duration = Duration::from_mins(12 * 60 + 1);
