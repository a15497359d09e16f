//! Secrets of a device: drawn from the caller's entropy, kept zeroised, printed by type only.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::Zeroizing;

use crate::{
    cesr::{Digest, Nonce, PublicKey},
    error::{Code, Refusal},
    key::SigningKey,
};

/// Where a device's random bytes come from. They must be fit for keys: the system's generator, say.
pub trait Entropy {
    /// Fills all of `bytes`.
    fn fill(&mut self, bytes: &mut [u8]);
}

impl<F: FnMut(&mut [u8])> Entropy for F {
    fn fill(&mut self, bytes: &mut [u8]) {
        self(bytes);
    }
}

/// A nonce that was not used before.
pub(super) fn nonce(entropy: &mut impl Entropy) -> Nonce {
    let mut bytes = [0; 16];
    entropy.fill(&mut bytes);
    Nonce::from_bytes(bytes)
}

/// A private key that can be saved.
pub(super) struct Key(SigningKey);

impl Key {
    /// A new key. One draw in 2^32 is no key and is drawn again; four in a row are not chance.
    pub(super) fn draw(entropy: &mut impl Entropy) -> Result<Self, Refusal> {
        const DRAWS_MAX: usize = 4;
        let mut seed = Zeroizing::new([0; 32]);
        for _ in 0..DRAWS_MAX {
            entropy.fill(seed.as_mut_slice());
            if let Ok(key) = SigningKey::from_seed(&seed) {
                return Ok(Self(key));
            }
        }
        Err(Refusal::new(Code::Internal, "the source of entropy gives no keys: it is broken"))
    }

    /// The same key once more.
    pub(super) fn copy_of(key: &SigningKey) -> Result<Self, Refusal> {
        SigningKey::from_seed(key.seed()).map(Self)
    }

    pub(super) const fn signing(&self) -> &SigningKey {
        &self.0
    }

    pub(super) const fn public_key(&self) -> PublicKey {
        self.0.public_key()
    }

    /// What a commitment to this key says.
    pub(super) fn digest(&self) -> Digest {
        self.public_key().digest()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = Zeroizing::new(BASE64.encode(self.0.seed().as_slice()));
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        let mut seed = Zeroizing::new([0; 32]);
        match BASE64.decode_slice(text.as_bytes(), seed.as_mut_slice()) {
            Ok(32) => {
                SigningKey::from_seed(&seed).map(Self).map_err(|refusal| de::Error::custom(refusal.because()))
            }
            _ => Err(de::Error::custom("not 32 bytes of base64url")),
        }
    }
}
