//! A key on its way from one device to another, encrypted.

use std::fmt;

use aws_lc_rs::digest;

/// Names a wrap key by its value, so that the copies on two devices are known to be one key: the first bytes of a
/// digest of it, which tell nothing about 256 random bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WrapKeyId([u8; 8]);

/// Separates the digest from every other one of the key.
const CONTEXT: &[u8] = b"keelson: name of a wrap key\0";

impl WrapKeyId {
    /// The name of the wrap key that consists of these bytes.
    pub fn of(key: &[u8]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(CONTEXT);
        context.update(key);
        let mut id = [0; 8];
        for (byte, digest) in id.iter_mut().zip(context.finish().as_ref()) {
            *byte = *digest;
        }
        Self(id)
    }

    /// Reads a name that a device keeps beside the key.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Reads a name as it is displayed.
    pub fn from_hex(text: &str) -> Option<Self> {
        let number = u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 16)?;
        let id = Self(number.to_be_bytes());
        // One spelling: no sign, no capitals.
        (id.to_string() == text).then_some(id)
    }

    /// The bytes of the name.
    pub const fn bytes(self) -> [u8; 8] {
        self.0
    }
}

impl fmt::Display for WrapKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for WrapKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WrapKeyId({self})")
    }
}

/// A private key, encrypted under a wrap key.
#[derive(Clone, PartialEq, Eq)]
pub struct Wrapped(Vec<u8>);

impl Wrapped {
    /// What a device made.
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes, for a device to read.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Wrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wrapped")
    }
}
