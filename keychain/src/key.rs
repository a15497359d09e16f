//! Keys in memory: signing and verifying on aws-lc-rs, seeds and curve arithmetic on p256.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, ParsedPublicKey},
};
use p256::elliptic_curve::sec1::ToSec1Point as _;
use zeroize::Zeroizing;

use crate::{
    cesr::{PublicKey, Signature},
    error::{Code, Refusal},
};

/// A private key in memory, with its public key. `Debug` shows the public half only.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    seed: Zeroizing<[u8; 32]>,
    public_key: PublicKey,
}

impl SigningKey {
    /// The key whose private scalar is `seed`, big-endian.
    ///
    /// A seed of zero, or not below the curve's order, is refused: draw another. That happens once in
    /// 2^32 draws.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, Refusal> {
        let secret = p256::SecretKey::from_slice(seed).map_err(|_| BAD_SEED)?;
        let point = secret.public_key().to_sec1_point(false);
        let pair = EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            seed,
            point.as_bytes(),
        )
        .map_err(|_| BAD_SEED)?;
        let public_key = PublicKey::from_sec1(point.as_bytes())?;
        Ok(Self { pair, seed: Zeroizing::new(*seed), public_key })
    }

    /// The public half.
    pub const fn public_key(&self) -> PublicKey {
        self.public_key
    }

    /// The private scalar, big-endian, for keeping it.
    pub const fn seed(&self) -> &Zeroizing<[u8; 32]> {
        &self.seed
    }

    /// Signs SHA-256 of `message`.
    pub fn sign(&self, message: &[u8]) -> Result<Signature, Refusal> {
        let failed = Refusal::new(Code::Internal, "signing failed in aws-lc");
        let signature = self.pair.sign(&SystemRandom::new(), message).map_err(|_| failed.clone())?;
        signature.as_ref().try_into().map(Signature::from_bytes).map_err(|_| failed)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.public_key).finish()
    }
}

const BAD_SEED: Refusal = Refusal::new(Code::Internal, "the seed is not a P-256 private scalar");

/// A public key made ready for verifying. Cloning shares it.
#[derive(Clone)]
pub struct VerifyingKey {
    parsed: Arc<ParsedPublicKey>,
    public_key: PublicKey,
}

impl VerifyingKey {
    /// Makes a key ready: about as dear as a third of a verification, so keep the result.
    pub fn new(public_key: &PublicKey) -> Result<Self, Refusal> {
        ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public_key.sec1())
            .map(|parsed| Self { parsed: Arc::new(parsed), public_key: *public_key })
            .map_err(|_| Refusal::new(Code::InvalidMessage, "not a point on the curve P-256"))
    }

    /// The key itself.
    pub const fn public_key(&self) -> PublicKey {
        self.public_key
    }

    /// Verifies that `signature` is over SHA-256 of `message`.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), Refusal> {
        self.parsed
            .verify_sig(message, signature.bytes())
            .map_err(|_| Refusal::new(Code::BadSignature, "the signature does not verify"))
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VerifyingKey").field(&self.public_key).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_and_verifies_and_refuses_bad_seeds() {
        let key = SigningKey::from_seed(&[7; 32]).unwrap();
        let signature = key.sign(b"message").unwrap();
        let verifying = VerifyingKey::new(&key.public_key()).unwrap();
        assert_eq!(verifying.verify(b"message", &signature), Ok(()));
        assert_eq!(verifying.verify(b"massage", &signature).unwrap_err().code(), Code::BadSignature);
        assert!(SigningKey::from_seed(&[0; 32]).is_err());
        assert!(SigningKey::from_seed(&[0xff; 32]).is_err());
        assert!(!format!("{key:?}").contains("07"));
    }
}
