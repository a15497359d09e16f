//! Session challenges that nobody has to remember (`PROTOCOL.md#session-request`).
//!
//! `/session/request` is unsigned: anyone may ask, for any identity, as fast as the network carries. A
//! table of issued challenges would have to grow with that flood, or drop entries, and whichever entry it
//! drops is a real user locked out; a limit for each identity lets a stranger use up a victim's. So no
//! challenge is kept. The sixteen bytes say themselves that they are ours:
//!
//! | bytes | what |
//! |---|---|
//! | 0–2 | when it was issued: Unix milliseconds, the low 24 bits (they repeat after 4 h 39 min) |
//! | 3–5 | random, so that two of one millisecond differ |
//! | 6–9 | keyed BLAKE3 over the full time and the random bytes: *we* issued it, *then* |
//! | 10–15 | keyed BLAKE3 over the same and the identity: it was issued *for this identity* |
//!
//! - *Bound to the identity.* A create request does not name its identity. The device's rows do: the
//!   challenge belongs to that account of the device whose digest gives bytes 10–15. A challenge of another
//!   identity matches none, which is the same refusal as an unknown device, because it is one.
//! - *60 s.* The full time is rebuilt from the low bits as the latest one not after now (and the clock
//!   skew), and bytes 6–9 hold for no other.
//! - *Single use, spent by a proof only.* The transaction that grants the session writes the nonce as a
//!   row of its own key, after the device's signature was verified. So the table of the spent grows only as
//!   fast as devices prove themselves, each row lives two minutes, of two simultaneous uses one loses on
//!   the unique key, and a restart forgets none. Junk requests cost two hashes and reach no table.
//! - *Several authd* share the key through the store that they share anyhow, so that the balancer may send
//!   the two halves of a sign-in to different instances.
//!
//! Thirty-two and forty-eight bits are short for a MAC and enough here: a guess is one request each, within
//! the minute, and a forged challenge opens nothing without the device's signature over it. All it could
//! do is date that signature wrongly; the same goes for a reader of the store, who finds the key there.

use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use keychain::limits::CHALLENGE_LIFETIME;
use keychain::{Code, Digest, Nonce, Refusal, Timestamp};
use zeroize::Zeroizing;

/// How much longer than a challenge its spent row is kept: instances' clocks may differ.
pub const SPENT_MARGIN: Duration = Duration::from_mins(1);

/// Separates these digests from any other use of BLAKE3 with a key.
const DOMAIN: &[u8] = b"keelson authd session challenge v1";

/// The period of the low 24 bits of a time in milliseconds.
const PERIOD: i64 = 1 << 24;

/// Issues and recognises challenges.
pub struct Challenger {
    key: Zeroizing<[u8; 32]>,
}

/// A challenge that we issued less than its lifetime ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Challenge {
    nonce: Nonce,
    issued_at: Timestamp,
    owner: [u8; 6],
    salt: [u8; 3],
}

impl Challenger {
    /// With the key that all instances on one store share.
    pub fn new(key: Zeroizing<[u8; 32]>) -> Self {
        Self { key }
    }

    /// A challenge for `identity`, with three random bytes.
    pub fn issue(&self, identity: &Digest, now: Timestamp, salt: [u8; 3]) -> Nonce {
        let now = now.unix_millis();
        let (origin, owner): ([u8; 4], [u8; 6]) =
            (self.digest(now, salt, &[]), self.digest(now, salt, identity.bytes()));
        let [.., high, middle, low] = now.to_be_bytes();
        let parts: [&[u8]; 4] = [&[high, middle, low], &salt, &origin, &owner];
        let mut bytes = [0; 16];
        for (place, byte) in bytes.iter_mut().zip(parts.concat()) {
            *place = byte;
        }
        Nonce::from_bytes(bytes)
    }

    /// Recognises a challenge as ours and still good at `now`.
    pub fn recognise(&self, nonce: Nonce, now: Timestamp, skew: Duration) -> Result<Challenge, Refusal> {
        let [high, middle, low, s0, s1, s2, o0, o1, o2, o3, owner @ ..] = *nonce.bytes();
        let (salt, origin) = ([s0, s1, s2], [o0, o1, o2, o3]);
        let low = i64::from(u32::from_be_bytes([0, high, middle, low]));
        let latest = now.plus(skew).unix_millis();
        let behind = latest.wrapping_sub(low).rem_euclid(PERIOD);
        let issued = latest.saturating_sub(behind);
        let issued_at = Timestamp::from_unix_millis(issued);
        if now.since(issued_at) > CHALLENGE_LIFETIME {
            return Err(Refusal::new(Code::UnknownChallenge, "the challenge has expired or is not ours"));
        }
        let expected: [u8; 4] = self.digest(issued, salt, &[]);
        verify_slices_are_equal(&expected, &origin)
            .map_err(|_| Refusal::new(Code::UnknownChallenge, "the challenge is not ours"))?;
        Ok(Challenge { nonce, issued_at, owner, salt })
    }

    /// Whether a recognised challenge was issued for `identity`.
    pub fn is_for(&self, challenge: &Challenge, identity: &Digest) -> bool {
        let issued = challenge.issued_at.unix_millis();
        let owner: [u8; 6] = self.digest(issued, challenge.salt, identity.bytes());
        verify_slices_are_equal(&owner, &challenge.owner).is_ok()
    }

    fn digest<const LENGTH: usize>(&self, issued: i64, salt: [u8; 3], identity: &[u8]) -> [u8; LENGTH] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(DOMAIN).update(&issued.to_be_bytes()).update(&salt).update(identity);
        let mut digest = [0; LENGTH];
        hasher.finalize_xof().fill(&mut digest);
        digest
    }
}

impl Challenge {
    /// The challenge as it went over the wire.
    pub fn nonce(&self) -> Nonce {
        self.nonce
    }

    /// From when on its spent row is of no use.
    pub fn forgotten_at(&self) -> Timestamp {
        self.issued_at.plus(CHALLENGE_LIFETIME).plus(SPENT_MARGIN)
    }
}

impl std::fmt::Debug for Challenger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Challenger")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SKEW: Duration = Duration::from_secs(5);

    fn challenger(key: u8) -> Challenger {
        Challenger::new(Zeroizing::new([key; 32]))
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_unix_millis(1_800_000_000_000 + millis)
    }

    #[test]
    fn a_challenge_is_good_for_its_minute_whatever_the_low_bits() {
        let (ours, identity) = (challenger(1), Digest::of("identity"));
        // (issued, asked, good?) in milliseconds; the fourth and later straddle a wrap of the low bits.
        let wrap = PERIOD - 1_800_000_000_000 % PERIOD;
        let table = [
            (0, 0, true),
            (0, 60_000, true),
            (0, 60_001, false),
            (wrap - 1, wrap + 59_999, true),
            (wrap - 1, wrap + 60_000, false),
            (wrap, wrap - 5_000, true),
            (wrap, wrap - 5_001, false),
            (0, PERIOD, false),
            (0, PERIOD + 30_000, false),
        ];
        for (issued, asked, good) in table {
            let nonce = ours.issue(&identity, at(issued), [7, 8, 9]);
            let seen = ours.recognise(nonce, at(asked), SKEW);
            assert_eq!(seen.is_ok(), good, "issued at {issued}, answered at {asked}");
            if let Err(refusal) = seen {
                assert_eq!(refusal.code(), Code::UnknownChallenge);
            }
        }
    }

    #[test]
    fn a_challenge_is_bound_to_its_identity_and_its_key() {
        let (ours, identity) = (challenger(1), Digest::of("identity"));
        let nonce = ours.issue(&identity, at(0), [0; 3]);
        let challenge = ours.recognise(nonce, at(1), SKEW).unwrap();
        assert!(ours.is_for(&challenge, &identity));
        assert!(!ours.is_for(&challenge, &Digest::of("other")));
        assert!(challenger(2).recognise(nonce, at(1), SKEW).is_err());
        assert_ne!(nonce, ours.issue(&identity, at(0), [0, 0, 1]));
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let (ours, identity) = (challenger(1), Digest::of("identity"));
        let nonce = ours.issue(&identity, at(0), [1, 2, 3]);
        for bit in 0..128 {
            let mut bytes = *nonce.bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let seen = ours.recognise(Nonce::from_bytes(bytes), at(1), SKEW);
            assert!(!seen.is_ok_and(|challenge| ours.is_for(&challenge, &identity)), "bit {bit}");
        }
    }
}
