//! aws-lc-rs, which signs and verifies here, against p256 on the same inputs: keys, signatures of both, and
//! what is near them.

#![expect(clippy::unwrap_used, reason = "tests assert by panicking")]

use keychain::{PublicKey, Signature, SigningKey, VerifyingKey};
use p256::ecdsa::{
    self,
    signature::{Signer as _, Verifier as _},
};
use proptest::{array::uniform32, collection::vec, prelude::*};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn each_verifies_what_the_other_signs(seed in uniform32(any::<u8>()), message in vec(any::<u8>(), 0..2048)) {
        let (ours, theirs) = pair(seed);
        let by_us = ours.sign(&message).unwrap();
        let by_them: ecdsa::Signature = theirs.sign(&message);
        prop_assert!(both(&ours, &theirs, &message, by_us));
        prop_assert!(both(&ours, &theirs, &message, raw(&by_them)));
    }

    #[test]
    fn both_halves_of_s_are_valid(seed in uniform32(any::<u8>()), message in vec(any::<u8>(), 0..64)) {
        let (ours, theirs) = pair(seed);
        let signature: ecdsa::Signature = theirs.sign(&message);
        let (r, s) = signature.split_scalars();
        let other = ecdsa::Signature::from_scalars(r, -s).unwrap();
        prop_assert_ne!(raw(&signature), raw(&other));
        prop_assert!(both(&ours, &theirs, &message, raw(&signature)));
        prop_assert!(both(&ours, &theirs, &message, raw(&other)));
    }

    #[test]
    fn neither_takes_a_changed_bit(
        seed in uniform32(any::<u8>()),
        message in vec(any::<u8>(), 1..64),
        at in any::<prop::sample::Index>(),
        bit in 0_u8..8,
    ) {
        let (ours, theirs) = pair(seed);
        let signature = ours.sign(&message).unwrap();
        let mut bytes = *signature.bytes();
        *at.get_mut(&mut bytes) ^= 1 << bit;
        prop_assert!(!both(&ours, &theirs, &message, Signature::from_bytes(bytes)));
        let mut other = message.clone();
        *at.get_mut(other.as_mut_slice()) ^= 1 << bit;
        prop_assert!(!both(&ours, &theirs, &other, signature));
    }

    #[test]
    fn they_agree_on_arbitrary_signatures(
        seed in uniform32(any::<u8>()),
        r in interesting(),
        s in interesting(),
    ) {
        let (ours, theirs) = pair(seed);
        let mut bytes = [0; 64];
        let (left, right) = bytes.split_at_mut(32);
        left.copy_from_slice(&r);
        right.copy_from_slice(&s);
        both(&ours, &theirs, b"message", Signature::from_bytes(bytes));
    }

    #[test]
    fn they_agree_on_what_a_key_is(tag in 0_u8..8, x in interesting()) {
        let mut bytes = [tag; 33];
        let (_, rest) = bytes.split_at_mut(1);
        rest.copy_from_slice(&x);
        let theirs = matches!(tag, 2 | 3) && p256::PublicKey::from_sec1_bytes(&bytes).is_ok();
        let ours = PublicKey::from_sec1(&bytes);
        prop_assert_eq!(ours.is_ok(), theirs);
        if let Ok(key) = ours {
            prop_assert_eq!(VerifyingKey::new(&key).unwrap().public_key(), key);
            prop_assert_eq!(PublicKey::parse(&key.to_string()), Ok(key));
        }
    }
}

/// The same key in both libraries; seeds that are no scalar are moved below the order.
fn pair(mut seed: [u8; 32]) -> (SigningKey, ecdsa::SigningKey) {
    let [first, .., last] = &mut seed;
    *first &= 0x7f;
    *last |= 1;
    let ours = SigningKey::from_seed(&seed).unwrap();
    let theirs = ecdsa::SigningKey::from_slice(&seed).unwrap();
    let point = theirs.verifying_key().to_sec1_point(true);
    assert_eq!(PublicKey::from_sec1(point.as_bytes()), Ok(ours.public_key()));
    (ours, theirs)
}

/// The verdict on which both libraries must agree.
fn both(ours: &SigningKey, theirs: &ecdsa::SigningKey, message: &[u8], signature: Signature) -> bool {
    let verdict = VerifyingKey::new(&ours.public_key()).unwrap().verify(message, &signature).is_ok();
    let other = ecdsa::Signature::from_slice(signature.bytes())
        .is_ok_and(|signature| theirs.verifying_key().verify(message, &signature).is_ok());
    assert_eq!(verdict, other, "the libraries disagree on {signature}");
    verdict
}

fn raw(signature: &ecdsa::Signature) -> Signature {
    Signature::from_bytes(signature.to_bytes().into())
}

/// Numbers of 256 bits: any, and those near zero, the curve's order, its prime and the top.
fn interesting() -> impl Strategy<Value = [u8; 32]> {
    const ORDER: &str = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
    const PRIME: &str = "ffffffff00000001000000000000000000000000ffffffffffffffffffffffff";
    let near = prop::sample::select(vec!["", ORDER, PRIME]).prop_flat_map(|hex| (Just(hex), -4_i16..5));
    prop_oneof![
        uniform32(any::<u8>()),
        near.prop_map(|(hex, by)| {
            let mut number = bytes(hex);
            for _ in 0..by.unsigned_abs() {
                step(&mut number, by < 0);
            }
            number
        }),
    ]
}

fn bytes(hex: &str) -> [u8; 32] {
    let mut number = [0; 32];
    for (byte, digits) in number.iter_mut().zip(hex.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
    }
    number
}

/// One more or one less, wrapping around.
fn step(number: &mut [u8; 32], down: bool) {
    for byte in number.iter_mut().rev() {
        *byte = if down { byte.wrapping_sub(1) } else { byte.wrapping_add(1) };
        if *byte != if down { 0xff } else { 0 } {
            return;
        }
    }
}
