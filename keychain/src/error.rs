//! The one table of error codes, and [`Refusal`], the one error of this crate (`PROTOCOL.md#errors`).

use std::fmt;

use crate::json;

/// Cause and cure of each code, for the authors of clients: `ERRORS.md`, where each code is an anchor.
pub const PAGE: &str = include_str!("../ERRORS.md");

/// Why a message was refused, as the wire says it: one row of the table of error codes
/// (`PROTOCOL.md#errors`).
///
/// `BA101` to `BA104`, `BA203`, `BA302`, `BA401`, `BA403`, `BA501` and `BA502` are fixed by the public
/// protocol; the others keep to its families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Code {
    /// The message does not have the shape that the protocol gives it.
    InvalidMessage,
    /// The identity is not the digest of what it claims to be made of.
    InvalidIdentity,
    /// The device is not the digest of what it claims to be made of.
    InvalidDevice,
    /// A commitment that would make the message replayable.
    InvalidHash,
    /// The message is longer than its bound.
    TooLarge,
    /// No such route.
    NoSuchRoute,
    /// The route exists, but not for this method.
    MethodNotAllowed,
    /// A signature does not verify.
    BadSignature,
    /// A revealed key does not digest to the commitment made before.
    RotationMismatch,
    /// An answer carries another nonce than its request (device side).
    IncorrectNonce,
    /// The challenge was never issued, has expired, is spent, or is another identity's.
    UnknownChallenge,
    /// This was accepted before and is not an exact repeat that may be answered again.
    Replay,
    /// No endorsement is known for the key of a service.
    UnknownKey,
    /// An endorsement has expired, or its generation is not live.
    DeadKey,
    /// An endorsement is for another purpose, key or service.
    WrongPurpose,
    /// An event of the key chain breaks a rule of the chain.
    BadChain,
    /// The device is unknown, revoked or deleted: one and the same.
    UnknownDevice,
    /// A link container names another identity than the request around it.
    MismatchedIdentities,
    /// Proven, but not allowed.
    Forbidden,
    /// The device or identity is revoked or banned.
    Revoked,
    /// The request is bound to another place.
    AudienceMismatch,
    /// The token has expired.
    ExpiredToken,
    /// The token does not have the shape of one.
    InvalidToken,
    /// The token is from the future.
    FutureToken,
    /// The session can no longer be refreshed.
    RefreshExpired,
    /// The refresh key has been used by another request.
    RefreshSpent,
    /// The request's timestamp is too far back.
    StaleRequest,
    /// The request's timestamp is in the future.
    FutureRequest,
    /// It exists already, or a compare-and-swap lost.
    Conflict,
    /// Something that this depends on cannot be reached.
    Unavailable,
    /// Too many requests.
    TooMany,
    /// A fault of the service itself.
    Internal,
    /// What must be written down has no room; what is more urgent still has.
    NoRoom,
    /// No head has shown for too long that nothing newer exists: what was denied lately is not known.
    StaleHead,
    /// Revocations were not confirmed for too long: who was revoked lately is not known.
    StaleRevocations,
    /// The app's answer would not survive the way to the device unchanged.
    BadAnswer,
    /// The app did not answer.
    AppUnavailable,
}

impl Code {
    /// Every code, in the order of the table.
    pub const ALL: [Self; 37] = [
        Self::InvalidMessage,
        Self::InvalidIdentity,
        Self::InvalidDevice,
        Self::InvalidHash,
        Self::TooLarge,
        Self::NoSuchRoute,
        Self::MethodNotAllowed,
        Self::BadSignature,
        Self::RotationMismatch,
        Self::IncorrectNonce,
        Self::UnknownChallenge,
        Self::Replay,
        Self::UnknownKey,
        Self::DeadKey,
        Self::WrongPurpose,
        Self::BadChain,
        Self::UnknownDevice,
        Self::MismatchedIdentities,
        Self::Forbidden,
        Self::Revoked,
        Self::AudienceMismatch,
        Self::ExpiredToken,
        Self::InvalidToken,
        Self::FutureToken,
        Self::RefreshExpired,
        Self::RefreshSpent,
        Self::StaleRequest,
        Self::FutureRequest,
        Self::Conflict,
        Self::Unavailable,
        Self::TooMany,
        Self::Internal,
        Self::NoRoom,
        Self::StaleHead,
        Self::StaleRevocations,
        Self::BadAnswer,
        Self::AppUnavailable,
    ];

    /// The row of the table: wire code, name, HTTP status, message for the caller.
    const fn row(self) -> (&'static str, &'static str, u16, &'static str) {
        match self {
            Self::InvalidMessage => ("BA101", "InvalidMessage", 400, "the message is malformed"),
            Self::InvalidIdentity => {
                ("BA102", "InvalidIdentity", 400, "the identity does not match its keys")
            }
            Self::InvalidDevice => ("BA103", "InvalidDevice", 400, "the device does not match its keys"),
            Self::InvalidHash => ("BA104", "InvalidHash", 400, "a commitment is not acceptable"),
            Self::TooLarge => ("BA105", "TooLarge", 413, "the message is too large"),
            Self::NoSuchRoute => ("BA106", "NoSuchRoute", 404, "there is no such route"),
            Self::MethodNotAllowed => {
                ("BA107", "MethodNotAllowed", 405, "the route does not take this method")
            }
            Self::BadSignature => ("BA201", "BadSignature", 401, "a signature does not verify"),
            Self::RotationMismatch => {
                ("BA202", "RotationMismatch", 401, "the key is not the one committed to")
            }
            Self::IncorrectNonce => ("BA203", "IncorrectNonce", 401, "the answer is to another request"),
            Self::UnknownChallenge => ("BA204", "UnknownChallenge", 401, "the challenge cannot be answered"),
            Self::Replay => ("BA205", "Replay", 409, "the message was used before"),
            Self::UnknownKey => ("BA206", "UnknownKey", 401, "the service key is not known"),
            Self::DeadKey => ("BA207", "DeadKey", 401, "the service key is no longer trusted"),
            Self::WrongPurpose => ("BA208", "WrongPurpose", 401, "the service key is for something else"),
            Self::BadChain => ("BA209", "BadChain", 401, "the key chain does not verify"),
            Self::UnknownDevice => ("BA301", "UnknownDevice", 401, "the device cannot be authenticated"),
            Self::MismatchedIdentities => {
                ("BA302", "MismatchedIdentities", 403, "the link is for another identity")
            }
            Self::Forbidden => ("BA303", "Forbidden", 403, "not permitted"),
            Self::Revoked => ("BA304", "Revoked", 403, "access was revoked"),
            Self::AudienceMismatch => {
                ("BA305", "AudienceMismatch", 403, "the request is meant for another place")
            }
            Self::ExpiredToken => ("BA401", "ExpiredToken", 401, "the token has expired"),
            Self::InvalidToken => ("BA402", "InvalidToken", 400, "the token is malformed"),
            Self::FutureToken => ("BA403", "FutureToken", 401, "the token is from the future"),
            Self::RefreshExpired => ("BA404", "RefreshExpired", 401, "the session has ended"),
            Self::RefreshSpent => ("BA405", "RefreshSpent", 409, "the session was refreshed otherwise"),
            Self::StaleRequest => ("BA501", "StaleRequest", 401, "the request is too old"),
            Self::FutureRequest => ("BA502", "FutureRequest", 401, "the request is from the future"),
            Self::Conflict => ("BA602", "Conflict", 409, "it conflicts with what is there"),
            Self::Unavailable => ("BA603", "Unavailable", 503, "the service cannot decide now"),
            Self::TooMany => ("BA604", "TooMany", 429, "too many requests"),
            Self::Internal => ("BA605", "Internal", 500, "the service failed"),
            Self::NoRoom => ("BA606", "NoRoom", 503, "the service has no room to write this down"),
            Self::StaleHead => ("BA607", "StaleHead", 503, "the service cannot know what was revoked lately"),
            Self::StaleRevocations => {
                ("BA608", "StaleRevocations", 503, "the service cannot know who was revoked lately")
            }
            Self::BadAnswer => ("BA701", "BadAnswer", 502, "the app's answer cannot be passed on unchanged"),
            Self::AppUnavailable => ("BA702", "AppUnavailable", 502, "the app did not answer"),
        }
    }

    /// The code on the wire, `BA` and three digits.
    pub const fn as_str(self) -> &'static str {
        self.row().0
    }

    /// The name of the code, as in the table.
    pub const fn name(self) -> &'static str {
        self.row().1
    }

    /// The HTTP status that goes with the code.
    pub const fn status(self) -> u16 {
        self.row().2
    }

    /// What the caller is told. It says nothing of other accounts or of the service's inside.
    pub const fn message(self) -> &'static str {
        self.row().3
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.as_str(), self.name())
    }
}

/// A refused message: the code for the caller, and the reason for the operator's log.
///
/// `because` stays on this side of the wire; the context goes out with the body, so it holds public
/// values of the caller's own message only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    code: Code,
    because: &'static str,
    context: Vec<(&'static str, String)>,
}

impl Refusal {
    /// A refusal with `code`, because of `because` (lower case, no full stop).
    pub const fn new(code: Code, because: &'static str) -> Self {
        Self { code, because, context: Vec::new() }
    }

    /// Adds a public value to the body's `context`.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.context.push((name, value.into()));
        self
    }

    /// The code of the refusal.
    pub const fn code(&self) -> Code {
        self.code
    }

    /// A value of the body's `context`.
    pub fn context(&self, name: &str) -> Option<&str> {
        self.context.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// The reason, for logs and operators.
    pub const fn because(&self) -> &'static str {
        self.because
    }

    /// The body of the answer: `{"error":{"code":…,"message":…,"context":{…}}}`.
    pub fn body(&self) -> String {
        let mut body = String::with_capacity(128);
        body.push_str("{\"error\":{\"code\":\"");
        body.push_str(self.code.as_str());
        body.push_str("\",\"message\":\"");
        body.push_str(self.code.message());
        body.push_str("\",\"context\":{");
        for (place, (name, value)) in self.context.iter().enumerate() {
            if place > 0 {
                body.push(',');
            }
            body.push_str(&json::string(name));
            body.push(':');
            body.push_str(&json::string(value));
        }
        body.push_str("}}}");
        body
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.because)
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_has_no_code_twice_and_statuses_of_the_protocol() {
        let mut seen = std::collections::BTreeSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.as_str()), "{code} stands twice");
            assert!(matches!(code.status(), 400 | 401 | 403 | 404 | 405 | 409 | 413 | 429 | 500 | 502 | 503));
        }
    }

    #[test]
    fn every_code_has_its_entry_in_the_page_and_every_entry_its_code() {
        let mut entries = PAGE.split("<a id=\"BA").skip(1);
        for code in Code::ALL {
            let entry = entries.next().unwrap_or_else(|| panic!("{code} has no entry, or not in order"));
            let head = format!("{}\"></a>\n## {code}, {}\n", &code.as_str()[2..], code.status());
            assert!(entry.starts_with(&head), "{code}: its place has {:?}", entry.lines().nth(1));
            let parts: Vec<_> = entry.trim_end().split("\n\n").collect();
            for (part, begins) in [(1, "*Cause:* "), (2, "*Cure:* ")] {
                let text = parts.get(part).and_then(|text| text.strip_prefix(begins));
                assert!(text.is_some_and(|text| text.len() > 20 && text.ends_with('.')), "{code}: {begins}");
            }
        }
        assert_eq!(entries.next(), None, "an entry without a code");
    }

    #[test]
    fn body_has_no_payload_member_and_keeps_the_reason_inside() {
        let body = Refusal::new(Code::BadSignature, "inside").with("nonce", "0A\"").body();
        assert!(!body.contains("payload") && !body.contains("inside"));
        let parsed: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(parsed["error"]["code"], "BA201");
        assert_eq!(parsed["error"]["context"]["nonce"], "0A\"");
    }
}
