//! Wycheproof's signatures on P-256 with SHA-256, as r and s of 32 bytes each: the form of the protocol.

use keychain::{PublicKey, Signature, VerifyingKey};
use wycheproof::{
    TestResult,
    ecdsa::{TestName, TestSet},
};

#[test]
fn every_verdict_on_p256_is_wycheproofs() {
    let set = TestSet::load(TestName::EcdsaSecp256r1Sha256P1363).unwrap();
    let (mut valid, mut refused, mut unsayable) = (0, 0, 0);
    for group in &set.test_groups {
        let public_key = PublicKey::from_sec1(&group.key.key).unwrap();
        let key = VerifyingKey::new(&PublicKey::parse(&public_key.to_string()).unwrap()).unwrap();
        for test in &group.tests {
            let Ok(bytes) = <[u8; 64]>::try_from(test.sig.as_slice()) else {
                assert_eq!(test.result, TestResult::Invalid, "{}: {}", test.tc_id, test.comment);
                unsayable += 1;
                continue;
            };
            let signature = Signature::parse(&Signature::from_bytes(bytes).to_string()).unwrap();
            match (test.result, key.verify(&test.msg, &signature)) {
                (TestResult::Valid, Ok(())) => valid += 1,
                (TestResult::Invalid, Err(_)) => refused += 1,
                (expected, got) => panic!("{} {}: {expected:?}, got {got:?}", test.tc_id, test.comment),
            }
        }
    }
    assert!(valid > 100 && refused > 50 && unsayable > 5, "{valid} {refused} {unsayable}");
}
