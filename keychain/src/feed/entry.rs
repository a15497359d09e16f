//! One denial, or its end, and lists of them.

use serde_json::value::RawValue;

use crate::{
    cesr::Digest,
    error::{Code, Refusal},
    json::Object,
    limits,
    time::Timestamp,
};

/// Why somebody is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// The identity is banned.
    Ban,
    /// The account was deleted.
    Deletion,
    /// The device was revoked.
    Revocation,
    /// The owner ended the device's sessions.
    Sessions,
}

impl Cause {
    /// The word that stands for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ban => "ban",
            Self::Deletion => "deletion",
            Self::Revocation => "revocation",
            Self::Sessions => "sessions",
        }
    }

    /// The cause that the word stands for.
    pub fn parse(word: &str) -> Result<Self, Refusal> {
        [Self::Ban, Self::Deletion, Self::Revocation, Self::Sessions]
            .into_iter()
            .find(|cause| cause.as_str() == word)
            .ok_or(Refusal::new(Code::InvalidMessage, "not a cause of a denial"))
    }
}

/// Whose denial of whom, and why. Denials of one subject for different places do not touch each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The device or identity that is denied.
    pub subject: Digest,
    /// The account for which it is.
    pub account: Digest,
    /// For which cause.
    pub cause: Cause,
}

/// What holds for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Denied until that time; without one, until it is lifted.
    Denied(Option<Timestamp>),
    /// Of the account's tokens for the device those are denied that were issued at `issued_up_to` or before, until
    /// `until`. What holds for [`Cause::Sessions`], and for no other cause.
    Ended {
        /// The issue of the last token that is denied.
        issued_up_to: Timestamp,
        /// When all of these tokens have ended.
        until: Timestamp,
    },
    /// Not denied, or no longer.
    Lifted,
}

/// All that holds for one place from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The place.
    pub place: Place,
    /// What holds for it.
    pub standing: Standing,
}

impl Entry {
    fn parse(raw: &str) -> Result<Self, Refusal> {
        let mut object = Object::parse(raw)?;
        let place = Place {
            subject: object.parsed("subject", Digest::parse)?,
            account: object.parsed("account", Digest::parse)?,
            cause: object.parsed("cause", Cause::parse)?,
        };
        let until = object.take("until").map(|raw| time("until", raw)).transpose()?;
        let issued = object.take("issuedUpTo").map(|raw| time("issuedUpTo", raw)).transpose()?;
        let is_lifted = object.take("lifted");
        let standing = match (place.cause, is_lifted, until, issued) {
            (_, Some("true"), None, None) => Standing::Lifted,
            (Cause::Sessions, None, Some(until), Some(issued_up_to)) => {
                Standing::Ended { issued_up_to, until }
            }
            (Cause::Ban | Cause::Deletion | Cause::Revocation, None, until, None) => Standing::Denied(until),
            _ => {
                let because = "`lifted` is not `true` alone, or `issuedUpTo` is not that of ended sessions";
                return Err(Refusal::new(Code::InvalidMessage, because));
            }
        };
        Ok(Self { place, standing })
    }

    fn to_json(self) -> String {
        let Place { subject, account, cause } = self.place;
        let end = match self.standing {
            Standing::Denied(None) => String::new(),
            Standing::Denied(Some(until)) => format!(",\"until\":\"{until}\""),
            Standing::Ended { issued_up_to, until } => {
                format!(",\"until\":\"{until}\",\"issuedUpTo\":\"{issued_up_to}\"")
            }
            Standing::Lifted => ",\"lifted\":true".to_owned(),
        };
        let cause = cause.as_str();
        format!("{{\"subject\":\"{subject}\",\"account\":\"{account}\",\"cause\":\"{cause}\"{end}}}")
    }
}

/// Reads a JSON array of entries: those of a batch, or a chunk of a snapshot.
pub fn parse_entries(raw: &str) -> Result<Vec<Entry>, Refusal> {
    let raws: Vec<&RawValue> = serde_json::from_str(raw)
        .map_err(|_| Refusal::new(Code::InvalidMessage, "the entries are not a JSON array"))?;
    if raws.len() > limits::FEED_ENTRIES_MAX {
        return Err(Refusal::new(Code::TooLarge, "more than 1,000 entries in one text"));
    }
    raws.into_iter().map(|raw| Entry::parse(raw.get())).collect()
}

/// Writes them.
pub fn write_entries(entries: &[Entry]) -> String {
    let entries: Vec<String> = entries.iter().map(|entry| entry.to_json()).collect();
    format!("[{}]", entries.join(","))
}

fn time(member: &'static str, raw: &str) -> Result<Timestamp, Refusal> {
    Timestamp::parse(crate::json::plain_string(raw)?).map_err(|refusal| refusal.with("member", member))
}
