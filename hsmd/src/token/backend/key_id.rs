//! Key ids: two bytes, taken in turn by the generations.

use std::fmt;

use serde::Deserialize;

/// The id of a key on the token: two bytes, because a longer one makes a YubiHSM keep a second object
/// for each key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(u16);

impl KeyId {
    /// The bytes of `CKA_ID`.
    pub const fn bytes(self) -> [u8; 2] {
        self.0.to_be_bytes()
    }

    /// The number itself.
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}", self.0)
    }
}

/// The range of key ids that is this hsmd's: generation `n` has `first + (n mod length)`.
///
/// Two hsmd with chains of their own can share a token if their ranges do not overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "[u16; 2]")]
pub struct KeyIds {
    first: u16,
    length: u16,
}

/// Fewer ids than this could not tell a retired key from one made ahead.
const SHORTEST: u16 = 8;

impl KeyIds {
    /// The ids from `first` to `last`, both included.
    pub const fn new(first: u16, last: u16) -> Option<Self> {
        if first == 0 || last == u16::MAX || last < first || last - first < SHORTEST - 1 {
            return None;
        }
        Some(Self { first, length: last - first + 1 })
    }

    /// The id of the key of generation `sequence_number`.
    pub fn of(self, sequence_number: u64) -> KeyId {
        let offset = u16::try_from(sequence_number % u64::from(self.length)).unwrap_or(0);
        KeyId(self.first.saturating_add(offset))
    }

    /// The id that `bytes` (a `CKA_ID`) spell, if it is in the range.
    pub fn read(self, bytes: &[u8]) -> Option<KeyId> {
        let number = u16::from_be_bytes(bytes.try_into().ok()?);
        let offset = number.checked_sub(self.first)?;
        (offset < self.length).then_some(KeyId(number))
    }

    /// How many generations after `sequence_number` the nearest one is that has `id`: negative for one
    /// before, zero for itself.
    pub fn distance(self, sequence_number: u64, id: KeyId) -> i32 {
        let length = i32::from(self.length);
        let ahead = (i32::from(id.0) - i32::from(self.of(sequence_number).0)).rem_euclid(length);
        if ahead > length / 2 { ahead - length } else { ahead }
    }
}

impl Default for KeyIds {
    /// `1 + (sequence mod 65534)`: every two-byte id but 0 and 65535, which devices keep for themselves.
    fn default() -> Self {
        Self { first: 1, length: u16::MAX - 1 }
    }
}

impl TryFrom<[u16; 2]> for KeyIds {
    type Error = &'static str;

    fn try_from([first, last]: [u16; 2]) -> Result<Self, Self::Error> {
        Self::new(first, last).ok_or("key ids want [first, last] within 1 and 65534, at least eight of them")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_round_and_are_told_apart() {
        let ids = KeyIds::default();
        assert_eq!(ids.of(0).bytes(), [0, 1]);
        assert_eq!(ids.of(65_533).bytes(), [0xff, 0xfe]);
        assert_eq!(ids.of(65_534).bytes(), [0, 1]);
        assert_eq!(ids.read(&[0, 1]), Some(ids.of(0)));
        for foreign in [&[][..], &[1], &[0, 0], &[0xff, 0xff], &[0, 0, 1]] {
            assert_eq!(ids.read(foreign), None, "{foreign:?}");
        }
        let small = KeyIds::new(16, 23).unwrap();
        assert_eq!(small.read(&[0, 24]), None);
        for (from, to, distance) in [(0, 0, 0), (0, 1, 1), (7, 8, 1), (9, 8, -1), (8, 12, 4), (8, 13, -3)] {
            assert_eq!(small.distance(from, small.of(to)), distance, "{from} {to}");
        }
        for (first, last) in [(0, 100), (1, 65_535), (9, 8), (1, 7)] {
            assert_eq!(KeyIds::new(first, last), None);
        }
    }
}
