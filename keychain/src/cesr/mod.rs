//! The four primitives on the wire, in CESR's text domain (`PROTOCOL.md#primitives`).
//!
//! Each type holds the raw bytes; its text form is unique, and only that form parses. A digest is always
//! over the UTF-8 *text* of what is digested: for a key over its 48 characters, not its 33 bytes.

mod text;

use std::{fmt, str::FromStr};

use p256::elliptic_curve::sec1::ToSec1Point as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::{Code, Refusal};

/// A P-256 public key: 33 bytes of compressed SEC1, `1AAI` and 44 characters on the wire.
///
/// A value is a point on the curve, never the point at infinity.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; 33]);

/// The name of a P-256 public key: the same bytes and the same text as [`PublicKey`], which may be no point on the curve.
///
/// It is compared, and nothing is verified with it. To ask of each name in a list whether it is a point costs a square
/// root each, before the signature of the list has been verified.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyName([u8; 33]);

/// An ECDSA P-256/SHA-256 signature: r and s, big-endian, `0I` and 86 characters on the wire.
///
/// High s is valid: WebCrypto emits it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Signature([u8; 64]);

/// A BLAKE3-256 digest: `E` and 43 characters on the wire. Identities, devices and events are named by
/// digests.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

/// A nonce of 128 bits: `0A` and 22 characters on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nonce([u8; 16]);

impl PublicKey {
    /// Characters of the text form.
    pub const TEXT_LEN: usize = 48;

    /// Reads the text form.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        Self::from_compressed(compressed(text)?)
    }

    /// Reads SEC1: 33 bytes compressed or 65 uncompressed.
    pub fn from_sec1(bytes: &[u8]) -> Result<Self, Refusal> {
        if let Ok(compressed) = <[u8; 33]>::try_from(bytes) {
            return Self::from_compressed(compressed);
        }
        let key = p256::PublicKey::from_sec1_bytes(bytes).map_err(|_| OFF_CURVE)?;
        let point = key.to_sec1_point(true);
        Ok(Self(point.as_bytes().try_into().map_err(|_| OFF_CURVE)?))
    }

    /// Only the tags 02 and 03: p256 reads 05 as well, a second spelling of a key by its x alone.
    fn from_compressed(bytes: [u8; 33]) -> Result<Self, Refusal> {
        match p256::PublicKey::from_sec1_bytes(&bytes) {
            Ok(_) if has_tag(&bytes) => Ok(Self(bytes)),
            _ => Err(OFF_CURVE),
        }
    }

    /// The key's name.
    pub const fn name(&self) -> KeyName {
        KeyName(self.0)
    }

    /// The compressed SEC1 bytes.
    pub const fn sec1(&self) -> &[u8; 33] {
        &self.0
    }

    /// The digest of the key's text: what a commitment to it says.
    pub fn digest(&self) -> Digest {
        Digest::of(self.to_string())
    }
}

impl KeyName {
    /// Reads the text form.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        Some(compressed(text)?).filter(has_tag).map(Self).ok_or(OFF_CURVE)
    }

    /// The key of that name, if there is one.
    pub fn key(&self) -> Result<PublicKey, Refusal> {
        PublicKey::from_compressed(self.0)
    }
}

/// The 33 bytes in the text form of a key.
fn compressed(text: &str) -> Result<[u8; 33], Refusal> {
    let encoded = text.strip_prefix("1AAI").and_then(text::decode::<33>);
    encoded.ok_or(Refusal::new(Code::InvalidMessage, "not a public key: want `1AAI` and 44 characters"))
}

/// Whether they begin with one of the two tags of a compressed point.
const fn has_tag(bytes: &[u8; 33]) -> bool {
    let [tag, ..] = bytes;
    matches!(tag, 2 | 3)
}

const OFF_CURVE: Refusal = Refusal::new(Code::InvalidMessage, "not a point on the curve P-256");

impl Signature {
    /// Characters of the text form.
    pub const TEXT_LEN: usize = 88;

    /// Reads the text form.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        text::decode_lead::<66>(text, "0I")
            .and_then(|bytes| bytes.get(2..)?.try_into().ok())
            .map(Self)
            .ok_or(Refusal::new(Code::InvalidMessage, "not a signature: want `0I` and 86 characters"))
    }

    /// The signature of r and s, 32 big-endian bytes each.
    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// r and s, 32 big-endian bytes each.
    pub const fn bytes(&self) -> &[u8; 64] {
        &self.0
    }
}

impl Digest {
    /// Characters of the text form.
    pub const TEXT_LEN: usize = 44;

    /// Reads the text form.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        text::decode_lead::<33>(text, "E")
            .and_then(|bytes| bytes.get(1..)?.try_into().ok())
            .map(Self)
            .ok_or(Refusal::new(Code::InvalidMessage, "not a digest: want `E` and 43 characters"))
    }

    /// The digest of a text.
    pub fn of(text: impl AsRef<[u8]>) -> Self {
        Self(*blake3::hash(text.as_ref()).as_bytes())
    }

    /// The digest of texts put together without a separator.
    pub fn of_parts(parts: &[&str]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(part.as_bytes());
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// The 32 bytes of the digest.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Nonce {
    /// Characters of the text form.
    pub const TEXT_LEN: usize = 24;

    /// Reads the text form.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        text::decode_lead::<18>(text, "0A")
            .and_then(|bytes| bytes.get(2..)?.try_into().ok())
            .map(Self)
            .ok_or(Refusal::new(Code::InvalidMessage, "not a nonce: want `0A` and 22 characters"))
    }

    /// The nonce of 16 bytes, which the caller draws at random.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes of the nonce.
    pub const fn bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.name(), f)
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("1AAI")?;
        f.write_str(&text::encode(&self.0))
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        text::write_lead(f, "0I", 2, &self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        text::write_lead(f, "E", 1, &self.0)
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        text::write_lead(f, "0A", 2, &self.0)
    }
}

macro_rules! text_form {
    ($($name:ident)*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = Refusal;

            fn from_str(text: &str) -> Result<Self, Refusal> {
                Self::parse(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                Self::parse(&text).map_err(|refusal| de::Error::custom(refusal.because()))
            }
        }
    )*};
}

text_form!(PublicKey KeyName Signature Digest Nonce);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_digest_has_the_lead_in_its_pad() {
        let digest = Digest([0; 32]);
        assert_eq!(digest.to_string(), format!("E{}", "A".repeat(43)));
        assert_eq!(Digest::parse(&digest.to_string()), Ok(digest));
        assert_eq!(Nonce([0; 16]).to_string(), format!("0A{}", "A".repeat(22)));
        assert_eq!(Signature([0xff; 64]).to_string(), format!("0ID{}", "_".repeat(85)));
    }

    #[test]
    fn a_name_has_the_form_of_a_key_and_may_be_no_point() {
        let no_point = KeyName([[2].as_slice(), &[0; 31], &[1]].concat().try_into().unwrap());
        let text = no_point.to_string();
        assert_eq!(KeyName::parse(&text), Ok(no_point));
        assert_eq!(no_point.key(), Err(OFF_CURVE));
        assert!(PublicKey::parse(&text).is_err());
        let key = crate::SigningKey::from_seed(&[7; 32]).unwrap().public_key();
        assert_eq!(KeyName::parse(&key.to_string()), Ok(key.name()));
        assert_eq!(key.name().key(), Ok(key));
        for tag in [0, 1, 4, 5] {
            let name = KeyName([[tag].as_slice(), &key.sec1()[1..]].concat().try_into().unwrap());
            assert_eq!(KeyName::parse(&name.to_string()), Err(OFF_CURVE), "{tag}");
        }
        for bad in [&text[..47], "", "1AAB"] {
            assert!(KeyName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn other_spellings_are_refused() {
        let good = Digest::of("x").to_string();
        let set_bits = format!("EA{}", "_".repeat(42)).replacen("EA", "E_", 1);
        for bad in [
            String::new(),
            good.to_lowercase(),
            good.replacen('E', "A", 1),
            format!("{good}="),
            format!("{good}\n"),
            good.get(..43).unwrap().to_owned(),
            good.replace(['-', '_'], "+").replacen('E', "E+", 1).chars().take(44).collect(),
            format!("{}é", good.get(..42).unwrap()),
            "E".to_owned() + &"\0".repeat(43),
        ] {
            assert!(Digest::parse(&bad).is_err(), "{bad:?}");
        }
        assert!(Digest::parse(&set_bits).is_err(), "pad bits of the lead character's group are set");
    }

    #[test]
    fn points_off_the_curve_are_refused() {
        let mut bytes = [0; 33];
        assert!(PublicKey::from_sec1(&bytes).is_err());
        bytes[0] = 2;
        bytes[32] = 1;
        assert!(PublicKey::from_sec1(&bytes).is_err(), "x = 1 is on no point");
        assert!(PublicKey::from_sec1(&[0]).is_err(), "infinity");
    }
}
