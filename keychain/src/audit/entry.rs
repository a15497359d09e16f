//! One line of the trail: written, and read again.

use std::fmt::{self, Write as _};

use crate::{
    cesr::Digest,
    error::{Code, Refusal},
    json::{self, Object},
    limits,
    time::Timestamp,
};

/// What the digest of a line begins with, so that no line of a trail digests to what names an event, a key
/// or an account (`PROTOCOL.md#audit-chain`).
const DOMAIN: &str = "keelson audit line\n";

/// The end of a trail: its newest line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The line's number; the first is 0.
    pub number: u64,
    /// The line's digest.
    pub digest: Digest,
}

impl Head {
    /// The number of the line after `head`, and what it names as `previous`.
    pub(super) fn next(head: Option<&Self>) -> (u64, Digest) {
        head.map_or_else(|| (0, digest("")), |head| (head.number.saturating_add(1), head.digest))
    }
}

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A chain begins: its first event.
    Chain,
    /// What a device's own log has come to.
    Device,
    /// A service's key was endorsed.
    Endorsement,
    /// What an operation declared stands, and the head that lists it is late.
    HeadLate,
    /// An operation is about to be done.
    Intent,
    /// What came of an operation.
    Outcome,
    /// How often callers were refused.
    Refused,
    /// The HSM service started.
    Start,
    /// The HSM service ended as it was asked to.
    Stop,
    /// The beginning of a trail, with its nonce.
    Trail,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::Chain,
        Self::Device,
        Self::Endorsement,
        Self::HeadLate,
        Self::Intent,
        Self::Outcome,
        Self::Refused,
        Self::Start,
        Self::Stop,
        Self::Trail,
    ];

    /// The kind as lines spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chain => "chain",
            Self::Device => "device",
            Self::Endorsement => "endorsement",
            Self::HeadLate => "head-late",
            Self::Intent => "intent",
            Self::Outcome => "outcome",
            Self::Refused => "refused",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Trail => "trail",
        }
    }

    /// Reads the kind.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let kind = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        kind.ok_or(Refusal::new(Code::InvalidMessage, "a kind of audit entry that is not known here"))
    }
}

/// What a line says, before it has its number and its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    kind: Kind,
    members: String,
}

impl Record {
    /// A line of that kind.
    pub fn new(kind: Kind) -> Self {
        Self { kind, members: format!("\"kind\":\"{}\"", kind.as_str()) }
    }

    /// What the line is about.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Adds a text.
    #[must_use]
    pub fn text(self, name: &str, value: &str) -> Self {
        self.raw(name, &json::string(value))
    }

    /// Adds a value whose text needs no escapes: a number of this crate's notation, a digest, a key, a time.
    #[must_use]
    pub fn plain(mut self, name: &str, value: impl fmt::Display) -> Self {
        // Writing to a String cannot fail.
        let _infallible = write!(self.members, ",\"{name}\":\"{value}\"");
        self
    }

    /// Adds a whole number.
    #[must_use]
    pub fn number(self, name: &str, value: u64) -> Self {
        self.raw(name, &value.to_string())
    }

    /// Adds a JSON value as it is written. It must stand on one line.
    #[must_use]
    pub fn raw(mut self, name: &str, value: &str) -> Self {
        for part in [",", "\"", name, "\":", value] {
            self.members.push_str(part);
        }
        self
    }

    /// Bytes that the line will take at most, its end included.
    pub fn line_length_max(&self) -> usize {
        // The three members that come before, with the longest number and date.
        const AROUND: usize = 160;
        self.members.len().saturating_add(AROUND)
    }

    /// Writes the line after `head`, without the line feed that ends it; answers the new end of the trail.
    pub fn line(&self, head: Option<&Head>, at: Timestamp) -> (String, Head) {
        let (number, previous) = Head::next(head);
        let line =
            format!("{{\"number\":{number},\"at\":\"{at}\",\"previous\":\"{previous}\",{}}}", self.members);
        let digest = digest(&line);
        (line, Head { number, digest })
    }
}

/// One line as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The line's number and digest.
    pub head: Head,
    /// When it was written, by the clock of the HSM service.
    pub at: Timestamp,
    /// The digest of the line before.
    pub previous: Digest,
    /// What it is about.
    pub kind: Kind,
    text: &'a str,
    members: Vec<(&'a str, &'a str)>,
}

impl<'a> Entry<'a> {
    /// Reads a line, without the line feed that ends it.
    pub fn parse(line: &'a str) -> Result<Self, Refusal> {
        if line.len() >= limits::AUDIT_LINE_MAX {
            return Err(Refusal::new(Code::TooLarge, "the line is longer than 8 KiB"));
        }
        if line.contains('\n') || !line.starts_with('{') || !line.ends_with('}') {
            return Err(Refusal::new(Code::InvalidMessage, "not one JSON object on one line"));
        }
        let mut object = Object::parse(line)?;
        Ok(Self {
            head: Head { number: whole_number(object.raw("number")?)?, digest: digest(line) },
            at: object.parsed("at", Timestamp::parse)?,
            previous: object.parsed("previous", Digest::parse)?,
            kind: object.parsed("kind", Kind::parse)?,
            text: line,
            members: object.into_members().collect(),
        })
    }

    /// The line as it stands, without the line feed that ends it.
    pub const fn text(&self) -> &'a str {
        self.text
    }

    /// A member as it is written.
    pub fn raw(&self, name: &str) -> Option<&'a str> {
        self.members.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    /// What the line says besides number, time, place in the chain and kind: names and JSON values.
    pub fn members(&self) -> &[(&'a str, &'a str)] {
        &self.members
    }
}

fn digest(line: &str) -> Digest {
    Digest::of_parts(&[DOMAIN, line])
}

/// Digits only, no leading zero.
fn whole_number(raw: &str) -> Result<u64, Refusal> {
    let plain = raw.bytes().all(|byte| byte.is_ascii_digit()) && (raw == "0" || !raw.starts_with('0'));
    plain
        .then(|| raw.parse().ok())
        .flatten()
        .ok_or(Refusal::new(Code::InvalidMessage, "`number` is not a whole number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at() -> Timestamp {
        Timestamp::from_unix_millis(1_700_000_000_123)
    }

    #[test]
    fn a_line_reads_as_written() {
        let record = Record::new(Kind::Intent)
            .plain("caller", "uid:0")
            .text("reason", "stolen \"laptop\"\u{2028}")
            .number("count", 7)
            .raw("details", "{\"a\":1}");
        let (line, head) = record.line(None, at());
        assert_eq!(
            line,
            format!(
                "{{\"number\":0,\"at\":\"2023-11-14T22:13:20.123Z\",\"previous\":\"{}\",\"kind\":\"intent\",\
                 \"caller\":\"uid:0\",\"reason\":\"stolen \\\"laptop\\\"\u{2028}\",\"count\":7,\
                 \"details\":{{\"a\":1}}}}",
                Digest::of("keelson audit line\n")
            )
        );
        assert!(line.len() < record.line_length_max());
        let entry = Entry::parse(&line).unwrap();
        assert_eq!((entry.head, entry.at, entry.kind), (head, at(), Kind::Intent));
        assert_eq!(entry.text(), line);
        assert_eq!(entry.raw("reason"), Some("\"stolen \\\"laptop\\\"\u{2028}\""));
        assert_eq!(entry.raw("count"), Some("7"));
        assert_eq!(entry.members().len(), 4);
        let (second, _) = record.line(Some(&head), at());
        assert_eq!(Entry::parse(&second).unwrap().previous, head.digest);
    }

    #[test]
    fn what_is_no_line_is_refused() {
        let (line, _) = Record::new(Kind::Stop).line(None, at());
        let long = Record::new(Kind::Stop).text("x", &"a".repeat(limits::AUDIT_LINE_MAX)).line(None, at()).0;
        for (bad, code) in [
            (String::new(), Code::InvalidMessage),
            (format!("{line}\n"), Code::InvalidMessage),
            (format!(" {line}"), Code::InvalidMessage),
            (line.replacen('{', "[", 1), Code::InvalidMessage),
            (line.replacen("0,", "00,", 1), Code::InvalidMessage),
            (line.replacen("0,", "-1,", 1), Code::InvalidMessage),
            (line.replacen("stop", "halt", 1), Code::InvalidMessage),
            (line.replacen("previous", "next", 1), Code::InvalidMessage),
            (line.get(..line.len() - 1).unwrap().to_owned(), Code::InvalidMessage),
            (long, Code::TooLarge),
        ] {
            assert_eq!(Entry::parse(&bad).unwrap_err().code(), code, "{bad:.100}");
        }
    }

    #[test]
    fn kinds_read_as_written() {
        for kind in Kind::ALL {
            assert_eq!(Kind::parse(kind.as_str()), Ok(kind));
        }
    }
}
