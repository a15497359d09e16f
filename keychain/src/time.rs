//! Instants on the wire (`PROTOCOL.md#timestamps`).

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time};

use crate::error::{Code, Refusal};

/// An instant in UTC, to the nanosecond when read, written to the millisecond.
///
/// The text form is `2026-01-02T03:04:05.678Z`. Zero to nine fractional digits are read; a leap second,
/// an offset other than `Z`, a lower-case letter or a year beyond 9999 is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp {
    /// Since 1970, negative before. Years 0 to 9999 fit an `i128` with room for any `Duration`.
    nanos: i128,
}

/// The last millisecond of the year 9999, where sums end.
const LAST: i128 = 253_402_300_799_999_000_000;
/// The first instant of the year 0, where differences end.
const FIRST: i128 = -62_167_219_200_000_000_000;

impl Timestamp {
    /// Reads the text form.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        parse(text).ok_or(Refusal::new(
            Code::InvalidMessage,
            "not a timestamp: want RFC 3339 in UTC with at most nine fractional digits and `Z`",
        ))
    }

    /// The instant `millis` milliseconds after 1970.
    pub fn from_unix_millis(millis: i64) -> Self {
        Self::clamped(i128::from(millis).saturating_mul(1_000_000))
    }

    /// Whole milliseconds since 1970.
    pub fn unix_millis(self) -> i64 {
        i64::try_from(self.nanos.div_euclid(1_000_000)).unwrap_or(i64::MAX)
    }

    /// The same instant without what the text form does not carry.
    #[must_use]
    pub fn to_millis(self) -> Self {
        Self::from_unix_millis(self.unix_millis())
    }

    /// This instant and `duration` more, at most the end of the year 9999.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self::clamped(self.nanos.saturating_add(nanos(duration)))
    }

    /// This instant less `duration`, at least the start of the year 0.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self::clamped(self.nanos.saturating_sub(nanos(duration)))
    }

    /// How long after `earlier` this is; zero if it is not.
    pub fn since(self, earlier: Self) -> Duration {
        let nanos = self.nanos.saturating_sub(earlier.nanos).max(0);
        let seconds = u64::try_from(nanos.div_euclid(1_000_000_000)).unwrap_or(u64::MAX);
        Duration::new(seconds, u32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or(0))
    }

    fn clamped(nanos: i128) -> Self {
        Self { nanos: nanos.clamp(FIRST, LAST) }
    }
}

fn nanos(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)
}

fn parse(text: &str) -> Option<Timestamp> {
    let (whole, fraction) = text.strip_suffix('Z')?.split_at_checked(19)?;
    let bytes = whole.as_bytes();
    for (place, mark) in [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')] {
        if bytes.get(place) != Some(&mark) {
            return None;
        }
    }
    let number = |from: usize, to: usize| digits(whole.get(from..to)?);
    let month = Month::try_from(u8::try_from(number(5, 7)?).ok()?).ok()?;
    let day = u8::try_from(number(8, 10)?).ok()?;
    let date = Date::from_calendar_date(i32::try_from(number(0, 4)?).ok()?, month, day).ok()?;
    let small = |from, to| u8::try_from(number(from, to)?).ok();
    let time = Time::from_hms_nano(small(11, 13)?, small(14, 16)?, small(17, 19)?, subsecond(fraction)?);
    let at = PrimitiveDateTime::new(date, time.ok()?).assume_utc();
    Some(Timestamp { nanos: at.unix_timestamp_nanos() })
}

/// Nanoseconds of a fraction such as `.678`; none for none.
fn subsecond(fraction: &str) -> Option<u32> {
    if fraction.is_empty() {
        return Some(0);
    }
    let stated = fraction.strip_prefix('.')?;
    if stated.is_empty() || stated.len() > 9 {
        return None;
    }
    let scale = u32::try_from(stated.len()).ok()?;
    digits(stated)?.checked_mul(10_u32.checked_pow(9_u32.checked_sub(scale)?)?)
}

/// Reads at most nine ASCII digits and nothing else.
fn digits(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = OffsetDateTime::from_unix_timestamp_nanos(self.nanos).map_err(|_| fmt::Error)?;
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            at.year(),
            u8::from(at.month()),
            at.day(),
            at.hour(),
            at.minute(),
            at.second(),
            at.millisecond()
        )
    }
}

impl FromStr for Timestamp {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        Self::parse(text)
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self::clamped(nanos(after)),
            Err(before) => Self::clamped(nanos(before.duration()).saturating_neg()),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(|refusal| de::Error::custom(refusal.because()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_form_out_and_few_in() {
        for (text, out) in [
            ("2026-01-02T03:04:05.678Z", "2026-01-02T03:04:05.678Z"),
            ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.000Z"),
            ("2026-01-02T03:04:05.382557458Z", "2026-01-02T03:04:05.382Z"),
            ("1969-12-31T23:59:59.9999Z", "1969-12-31T23:59:59.999Z"),
            ("9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"),
            ("2024-02-29T00:00:00.0Z", "2024-02-29T00:00:00.000Z"),
        ] {
            assert_eq!(Timestamp::parse(text).unwrap().to_string(), out);
        }
        for bad in [
            "",
            "Z",
            "2026-01-02T03:04:05",
            "2026-01-02T03:04:05+00:00",
            "2026-01-02t03:04:05z",
            "2026-01-02 03:04:05Z",
            "2026-1-2T03:04:05Z",
            "2026-02-29T00:00:00Z",
            "2026-01-02T24:00:00Z",
            "2026-01-02T03:04:60Z",
            "2026-01-02T03:04:05.Z",
            "2026-01-02T03:04:05.1234567890Z",
            "2026-01-02T03:04:05,678Z",
            "+026-01-02T03:04:05Z",
            "2026-01-02T03:04:05.67+Z",
            "2026-01-02T03:04:0５Z",
            "12026-01-02T03:04:05Z",
        ] {
            assert!(Timestamp::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sums_and_differences_saturate() {
        let last = Timestamp::parse("9999-12-31T23:59:59.999Z").unwrap();
        assert_eq!(last.plus(Duration::MAX), last);
        let first = last.minus(Duration::MAX);
        assert_eq!(first.to_string(), "0000-01-01T00:00:00.000Z");
        assert_eq!(first.since(last), Duration::ZERO);
        let at = Timestamp::from_unix_millis(1_500);
        assert_eq!(at.plus(Duration::from_millis(250)).unix_millis(), 1_750);
        assert_eq!(at.since(Timestamp::from_unix_millis(1_000)), Duration::from_millis(500));
    }
}
