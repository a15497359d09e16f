//! The keys of MACs, as a credential holds them: one line for each key, two at most.
//!
//! ```text
//! keelson-store-mac-1 ID KEY
//! ```
//!
//! ID is made of KEY, so that a line that was cut or mistyped is noticed. The first line is the current key: every row
//! that is written gets its MAC by it. A row whose MAC is by the key of the second line is believed too.

use std::fmt::{self, Write as _};

use keychain::Digest;
use zeroize::Zeroizing;

/// What a line begins with; the number is that of the format.
const PREFIX: &str = "keelson-store-mac-1";

/// What the id of a key is computed over, before the key.
const ID_DOMAIN: &str = "keelson store MAC key 1\n";

/// How many characters an id has: so many of a digest that two keys never share one by chance.
const ID_LENGTH: usize = 12;

/// The digits of a key: 32 bytes in hexadecimal.
const DIGITS: usize = 64;

/// Most bytes of a credential: two lines.
pub const KEYS_LENGTH_MAX: usize = 2 * (PREFIX.len() + 1 + ID_LENGTH + 1 + DIGITS + 1);

/// The current key, and another one whose MACs are believed.
#[derive(Clone)]
pub struct MacKeys {
    current: MacKey,
    other: Option<MacKey>,
}

/// One key.
#[derive(Clone)]
pub(super) struct MacKey {
    id: String,
    key: Zeroizing<[u8; 32]>,
}

/// A credential that holds no keys. No variant has a byte of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Nothing, or more than two lines.
    #[error("wants one line, or two while keys are changed; make a line with `authd mac-key`")]
    Lines,
    /// A line of another form.
    #[error("line {0} is no MAC key: make one with `authd mac-key`")]
    Malformed(usize),
    /// A line whose id is not of its key.
    #[error(
        "line {0} was cut or changed, for its id is not that of its key: put the line back as it was made"
    )]
    Mistyped(usize),
    /// Both lines are the same key.
    #[error("both lines are the same key: remove one")]
    Twice,
}

impl MacKeys {
    /// Reads a credential.
    pub fn parse(text: &[u8]) -> Result<Self, Unusable> {
        let text = std::str::from_utf8(text).map_err(|_| Unusable::Malformed(1))?;
        let mut lines = text.lines().zip(1..).map(|(line, number)| MacKey::parse(line, number));
        let current = lines.next().ok_or(Unusable::Lines)??;
        let other = lines.next().transpose()?;
        if lines.next().is_some() {
            return Err(Unusable::Lines);
        }
        if other.as_ref().is_some_and(|other| other.id == current.id) {
            return Err(Unusable::Twice);
        }
        Ok(Self { current, other })
    }

    /// The line of a new key, of `entropy`.
    pub fn line(entropy: &[u8; 32]) -> Zeroizing<String> {
        let mut digits = Zeroizing::new(String::with_capacity(DIGITS));
        for byte in entropy {
            let _infallible = write!(digits, "{byte:02x}");
        }
        Zeroizing::new(format!("{PREFIX} {} {}", id_of(&digits), *digits))
    }

    /// The ids of the keys, the current one first.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.current).chain(&self.other).map(MacKey::id)
    }

    pub(super) const fn current(&self) -> &MacKey {
        &self.current
    }

    pub(super) fn by_id(&self, id: &str) -> Option<&MacKey> {
        std::iter::once(&self.current).chain(&self.other).find(|key| key.id == id)
    }
}

impl MacKey {
    fn parse(line: &str, number: usize) -> Result<Self, Unusable> {
        let mut words = line.split(' ');
        let (Some(PREFIX), Some(id), Some(digits), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(Unusable::Malformed(number));
        };
        let key = bytes_of(digits).ok_or(Unusable::Malformed(number))?;
        if id != id_of(digits) {
            return Err(Unusable::Mistyped(number));
        }
        Ok(Self { id: id.to_owned(), key })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.key
    }
}

impl fmt::Debug for MacKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ids()).finish()
    }
}

fn id_of(digits: &str) -> String {
    // The first character is the same in every digest.
    Digest::of_parts(&[ID_DOMAIN, digits]).to_string().chars().skip(1).take(ID_LENGTH).collect()
}

fn bytes_of(digits: &str) -> Option<Zeroizing<[u8; 32]>> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if digits.len() != DIGITS || !digits.bytes().all(is_digit) {
        return None;
    }
    let mut bytes = Zeroizing::new([0; 32]);
    for (place, pair) in bytes.iter_mut().zip((0..DIGITS).step_by(2)) {
        *place = u8::from_str_radix(digits.get(pair..pair + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_holds_one_key_or_two() {
        let [one, two, three] = [1, 2, 3].map(|byte| MacKeys::line(&[byte; 32]).to_string());
        let keys = MacKeys::parse(one.as_bytes()).unwrap();
        assert_eq!((keys.ids().count(), keys.current().bytes()), (1, &[1; 32]));
        let both = MacKeys::parse(format!("{two}\n{one}\n").as_bytes()).unwrap();
        assert_eq!(both.current().bytes(), &[2; 32]);
        assert_eq!(both.by_id(keys.current().id()).unwrap().bytes(), &[1; 32]);
        let other = one.replace("01", "02");
        for (text, expected) in [
            (String::new(), Unusable::Lines),
            (format!("{one}\n{two}\n{three}"), Unusable::Lines),
            (format!("{one}\n{one}"), Unusable::Twice),
            (other, Unusable::Mistyped(1)),
            (format!("{one}\n{}", two.replace("02", "0")), Unusable::Malformed(2)),
            (format!("{one} "), Unusable::Malformed(1)),
            (one.replace("mac-1", "mac-2"), Unusable::Malformed(1)),
            (one.replace("01", "0G"), Unusable::Malformed(1)),
            (format!("{one}\n\n"), Unusable::Malformed(2)),
        ] {
            assert_eq!(MacKeys::parse(text.as_bytes()).unwrap_err(), expected, "{text}");
        }
        assert_eq!(MacKeys::parse(&[0xff]).unwrap_err(), Unusable::Malformed(1));
        assert_eq!(format!("{one}\n{two}\n").len(), KEYS_LENGTH_MAX);
    }

    #[test]
    fn no_key_is_printed() {
        let line = MacKeys::line(&[7; 32]);
        let keys = MacKeys::parse(line.as_bytes()).unwrap();
        let printed = format!("{keys:?}");
        assert!(printed.contains(keys.current().id()) && !printed.contains("0707"), "{printed}");
    }
}
