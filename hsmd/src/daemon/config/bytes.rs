//! Sizes in `hsmd.toml`, such as `"64MiB"`.

use serde::{Deserialize, Deserializer, de};

/// A number of bytes: whole, with one of the units `KiB`, `MiB` and `GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl Bytes {
    fn parse(text: &str) -> Option<Self> {
        let (digits, unit) = text.split_at(text.find(|character: char| !character.is_ascii_digit())?);
        let shift = match unit {
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            _ => return None,
        };
        digits.parse::<u32>().ok().map(|number| Self(u64::from(number) << shift))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| de::Error::custom("want a size such as \"64MiB\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_unit() {
        for (text, size) in [
            ("64MiB", Some(64 << 20)),
            ("0KiB", Some(0)),
            ("4294967295GiB", Some(4_294_967_295 << 30)),
            ("4294967296GiB", None),
            ("64", None),
            ("64MB", None),
            ("MiB", None),
            ("-1MiB", None),
            ("", None),
        ] {
            assert_eq!(Bytes::parse(text), size.map(Bytes), "{text}");
        }
    }
}
