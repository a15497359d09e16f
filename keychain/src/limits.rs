//! Every bound of the protocol, with its reason.

use std::time::Duration;

/// Longest message of the ten operations, in bytes. The largest honest one is a refresh: a token of at
/// most [`TOKEN_TEXT_MAX`] and less than 1 KiB around it.
pub const MESSAGE_MAX: usize = 64 * 1024;

/// Longest token text, in characters. An honest token is about 700; attributes compress well.
pub const TOKEN_TEXT_MAX: usize = 48 * 1024;

/// Most bytes that a token may inflate to. A decompression bomb costs this much and no more.
pub const TOKEN_JSON_MAX: usize = 64 * 1024;

/// Longest published event or endorsement, in bytes. An honest event is about 560, an endorsement 440;
/// four times that leaves room for members added later.
pub const DIRECTORY_VALUE_MAX: usize = 4 * 1024;

/// Longest head, in bytes: 64 denied generations at 47, 64 revoked keys at 101, 32 revoked services and
/// 32 that are to roll at 151 make 19,136, and the rest is under 700.
pub const HEAD_MAX: usize = 20 * 1024;

/// Longest list of heads that a device takes from the key service, which lists [`HEADS_LISTED_MAX`] at most.
pub const HEADS_LIST_MAX: usize = 160 * 1024;

/// Most heads that the key service lists: one an event is honest, and at a rotation every two hours no more events are
/// live for a device. The newest come first, and repeat what older ones state.
pub const HEADS_LISTED_MAX: usize = 7;

/// Most generations that one head denies. At a rotation every 25 minutes no more than these are live at a time.
pub const DENIED_MAX: usize = 64;

/// Most keys that one head revokes. Whoever has more compromised keys than that revokes their service, or taints
/// the generation that endorsed them.
pub const REVOKED_KEYS_MAX: usize = 64;

/// Most services that one head revokes. More compromised services than that are a compromised fleet, for which
/// there is the taint.
pub const REVOKED_SERVICES_MAX: usize = 32;

/// Most revocations of one event that a verifier joins before it takes in no more: an honest signer never has more
/// than a head can list at a time, and those that have ended are dropped.
pub const REVOCATIONS_JOINED_MAX: usize = 1024;

/// Longest name of a service: `keysd:` and 64 characters, rounded up.
pub const SERVICE_MAX: usize = 72;

/// Longest name of one instance of a service.
pub const INSTANCE_MAX: usize = 64;

/// Longest acknowledgement: two endorsements of 4 KiB, and what is around them. An honest one is under 2 KiB.
pub const ACKNOWLEDGEMENT_MAX: usize = 12 * 1024;

/// How long a head may be counted at most, whatever staleness a verifier is configured with: the default of 12 h.
/// It is signed anew every few minutes.
pub const HEAD_LIFETIME: Duration = Duration::from_hours(12);

/// Highest number of an event, a head, an endorsement or a line of the audit trail: the largest integer that every
/// JSON peer reads exactly.
pub const NUMBER_MAX: u64 = (1 << 53) - 1;

/// Most events held of one chain. At one rotation an hour this is over a century.
pub const CHAIN_EVENTS_MAX: usize = 1 << 20;

/// Most valid events held beside the accepted branch (rivals, later events whose predecessors are
/// missing, events from the future). Only holders of chain keys can make them; 1,024 bounds their harm.
pub const CHAIN_PENDING_MAX: usize = 1024;

/// Highest sequence number.
pub const SEQUENCE_NUMBER_MAX: u64 = NUMBER_MAX;

/// Longest line of an audit trail, its end included. The longest honest one, an intent with a reason of 500
/// bytes, is under 2 KiB; a line of a device's own log is bounded below this.
pub const AUDIT_LINE_MAX: usize = 8 * 1024;

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

/// Most entries of one batch of the denial feed, or of one chunk of its snapshots.
pub const FEED_ENTRIES_MAX: usize = 1_000;

/// Longest message or chunk of the denial feed: the most entries of the longest form are under 180 KiB.
pub const FEED_VALUE_MAX: usize = 256 * 1024;

/// Most denials that a reader of the feed holds, as many as database 3 may have.
pub const FEED_DENIALS_MAX: usize = 1 << 20;

/// Most chunks of a snapshot: all denials, in full chunks.
pub const FEED_CHUNKS_MAX: usize = FEED_DENIALS_MAX.div_ceil(FEED_ENTRIES_MAX);
