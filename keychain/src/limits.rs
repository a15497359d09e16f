//! Every bound of the protocol, with its reason.

use std::time::Duration;

/// Longest message of the ten operations, in bytes. The largest honest one is a refresh: a token of at
/// most [`TOKEN_TEXT_MAX`] and less than 1 KiB around it.
pub const MESSAGE_MAX: usize = 64 * 1024;

/// Longest token text, in characters. An honest token is about 700; attributes compress well.
pub const TOKEN_TEXT_MAX: usize = 48 * 1024;

/// Most bytes that a token may inflate to. A decompression bomb costs this much and no more.
pub const TOKEN_JSON_MAX: usize = 64 * 1024;

/// Longest published event or endorsement, in bytes. An honest event is about 560, an endorsement 420;
/// four times that leaves room for members added later.
pub const DIRECTORY_VALUE_MAX: usize = 4 * 1024;

/// Most generations that one head denies. Each takes 47 of its at most [`DIRECTORY_VALUE_MAX`] bytes, beside
/// 450 for the rest; at a rotation every 25 minutes no more than these are live at a time.
pub const DENIED_MAX: usize = 64;

/// Most keys that one key revocation names. Each takes 51 of its at most [`DIRECTORY_VALUE_MAX`] bytes,
/// beside 400 for the rest.
pub const REVOKED_KEYS_MAX: usize = 64;

/// How long a head may be counted at most, whatever staleness a verifier is configured with: twice the
/// default of 12 h, so that the head never ends an outage's budget before the verifier's own setting does.
pub const HEAD_LIFETIME: Duration = Duration::from_hours(24);

/// Most events held of one chain. At one rotation an hour this is over a century.
pub const CHAIN_EVENTS_MAX: usize = 1 << 20;

/// Most valid events held beside the accepted branch (rivals, later events whose predecessors are
/// missing, events from the future). Only holders of chain keys can make them; 1,024 bounds their harm.
pub const CHAIN_PENDING_MAX: usize = 1024;

/// Highest sequence number, the largest integer that every JSON peer reads exactly.
pub const SEQUENCE_NUMBER_MAX: u64 = (1 << 53) - 1;

/// Longest line of an audit trail, its end included. The longest honest one, an intent with a reason of 500
/// bytes, is under 2 KiB; a line of a device's own log is bounded below this.
pub const AUDIT_LINE_MAX: usize = 8 * 1024;

/// Most lines that may stand again at the start of a segment: as many as the HSM service writes ahead of the
/// disk's word that they are durable.
pub const AUDIT_REPEATED_MAX: usize = 8192;

/// How far back the timestamp of an access request may lie.
pub const ACCESS_REQUEST_AGE: Duration = Duration::from_secs(30);

/// How long an access token lasts unless configured otherwise.
pub const ACCESS_LIFETIME: Duration = Duration::from_mins(15);

/// How long a session can be refreshed unless configured otherwise, from its first token.
pub const REFRESH_LIFETIME: Duration = Duration::from_hours(12);

/// Longest endorsement of an access key: 24 h.
pub const ACCESS_KEY_LIFETIME: Duration = Duration::from_hours(24);

/// Longest endorsement of a response key: 12 h and the 60 s that an answer may travel.
pub const RESPONSE_KEY_LIFETIME: Duration = Duration::from_mins(721);

/// How long a session challenge can be answered.
pub const CHALLENGE_LIFETIME: Duration = Duration::from_mins(1);

/// Clock difference between machines that is tolerated unless configured otherwise.
pub const CLOCK_SKEW: Duration = Duration::from_secs(5);
