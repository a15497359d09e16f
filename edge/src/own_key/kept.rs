//! A key that outlives a restart of its service: kept sealed in the service manager's memory ([`systemd::kept`]) with
//! its endorsement, never on a disk.
//!
//! What comes back is used only if the chain says that its public key is endorsed now; anything else of that name is
//! dropped, and a new key is made. A stop and a start, `roll`, and each cycle give a new key in any case.

use std::error::Error as _;

use keychain::endorsement::{Endorsement, Purpose};
use keychain::{Refusal, SigningKey, Timestamp, limits};
use systemd::kept;
use zeroize::Zeroizing;

use super::{Endorsed, Plan};
use crate::trust::TrustState;

/// Bytes of a private key.
const SEED: usize = 32;

/// What came back.
pub(super) struct Kept {
    seed: Zeroizing<[u8; SEED]>,
    endorsement: Endorsement,
}

impl Kept {
    /// Takes what this service kept for `plan` before its start, if that is a key with an endorsement of it.
    pub(super) fn take(plan: Plan) -> Option<Self> {
        let name = plan.kept_as();
        match kept::take(name) {
            Ok(None) => None,
            Ok(Some(content)) => {
                let kept = Self::parse(&content);
                if kept.is_none() {
                    tracing::error!(name, "what was kept over the restart is no key; a new one is made");
                    drop_kept(name);
                }
                kept
            }
            Err(refused) => {
                let source = refused.source();
                tracing::error!(name, %refused, source, "what was kept over the restart is refused; a new key is made");
                drop_kept(name);
                None
            }
        }
    }

    fn parse(content: &[u8]) -> Option<Self> {
        let (seed, text) = content.split_first_chunk::<SEED>()?;
        if text.len() > limits::DIRECTORY_VALUE_MAX {
            return None;
        }
        let endorsement = Endorsement::parse(std::str::from_utf8(text).ok()?).ok()?;
        Some(Self { seed: Zeroizing::new(*seed), endorsement })
    }

    /// The key, if the HSM endorsed it for `plan` and the endorsement holds under `trust` at `now`.
    pub(super) fn prove(self, plan: Plan, trust: &TrustState, now: Timestamp) -> Result<Endorsed, Refusal> {
        let key = SigningKey::from_seed(&self.seed)?;
        let made = made(&self.endorsement, plan.purpose, now);
        // The public key is computed from the private one: an endorsement of another key is refused.
        let endorsed = Endorsed::new(key, self.endorsement, plan, trust.chain(), now)?;
        Ok(Endorsed { made, ..endorsed })
    }
}

/// Keeps `key` for the next start in the place of what was kept before. Without it that start makes a new key, which
/// is all that a failure costs.
pub(super) fn keep(plan: Plan, key: &Endorsed) {
    let text = key.endorsement.text().as_bytes();
    let mut content = Zeroizing::new(Vec::with_capacity(SEED.saturating_add(text.len())));
    content.extend_from_slice(key.signing_key.seed().as_slice());
    content.extend_from_slice(text);
    if let Err(error) = kept::keep(plan.kept_as(), &content) {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, "the key cannot be kept over a restart, which will make a new one");
    }
}

pub(super) fn drop_kept(name: &str) {
    if let Err(error) = kept::forget(name) {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(name, error, "the service manager does not drop what it keeps");
    }
}

/// When a key was made whose endorsement was asked for all of the time that its purpose allows.
fn made(endorsement: &Endorsement, purpose: Purpose, now: Timestamp) -> Timestamp {
    endorsement.subject.expiration.minus(purpose.longest_lifetime()).min(now)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use keychain::Code;
    use keychain::chain::{self, Chain};
    use keychain::endorsement::{Draft, SignRequest};

    use super::*;

    fn key(number: u8) -> SigningKey {
        SigningKey::from_seed(&[number; SEED]).unwrap()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_unix_millis(1_700_000_000_000 + second * 1_000)
    }

    /// A chain of two events, the second of which may have tainted the first, and the first one's endorsement of a key.
    fn world(tainted: bool, purpose: Purpose, subject: &SigningKey) -> (TrustState, Vec<u8>) {
        let draft = chain::Draft::first(&key(1).public_key(), &key(2).public_key().digest(), at(0));
        let signature = key(1).sign(draft.payload().as_bytes()).unwrap();
        let first = draft.seal(&signature).unwrap();
        let (prefix, id) = (first.event().prefix, first.event().id);
        let next = key(3).public_key().digest();
        let draft = chain::Draft::next(first.event(), &key(2).public_key(), &next, at(60), tainted);
        let signature = key(2).sign(draft.payload().as_bytes()).unwrap();
        let second = draft.seal(&signature).unwrap();
        let mut chain = Chain::new(prefix, chain::Settings::default());
        chain.merge([first, second], at(100));
        let expiration = at(3_600);
        let request = SignRequest { purpose, public_key: subject.public_key(), expiration };
        let draft = Draft::new(&request, "edge:test", &prefix, &id);
        let text = draft.seal(&key(1).sign(draft.body().as_bytes()).unwrap());
        (TrustState::new(chain), text.into_bytes())
    }

    #[test]
    fn a_kept_key_is_used_only_with_a_live_endorsement_of_it() {
        let plan = Plan::response(Duration::from_hours(6));
        let own = key(7);
        let content = |seed: &SigningKey, text: &[u8]| [seed.seed().as_slice(), text].concat();
        let (trust, text) = world(false, Purpose::Response, &own);
        let prove = |content: &[u8], trust: &TrustState, now| {
            let kept = Kept::parse(content).ok_or(Code::InvalidMessage)?;
            kept.prove(plan, trust, now).map(|key| key.public_key()).map_err(|refusal| refusal.code())
        };
        assert_eq!(prove(&content(&own, &text), &trust, at(100)), Ok(own.public_key()));
        assert_eq!(prove(&content(&own, &text), &trust, at(3_600)), Err(Code::DeadKey));
        assert_eq!(prove(&content(&key(8), &text), &trust, at(100)), Err(Code::WrongPurpose), "another key");
        let (tainted, text) = world(true, Purpose::Response, &own);
        assert_eq!(prove(&content(&own, &text), &tainted, at(100)), Err(Code::DeadKey));
        let (trust, text) = world(false, Purpose::Access, &own);
        assert_eq!(prove(&content(&own, &text), &trust, at(100)), Err(Code::WrongPurpose), "another purpose");
        for (cut, what) in [
            (&content(&own, &text)[..SEED - 1], "too short"),
            (&content(&own, &text)[..SEED], "no endorsement"),
            (&content(&own, &text)[..SEED + text.len() - 1], "half an endorsement"),
            (&[content(&own, &text), b"x".to_vec()].concat()[..], "more than an endorsement"),
            (&[own.seed().as_slice(), &[b' '; 5_000]].concat()[..], "too long"),
        ] {
            assert_eq!(prove(cut, &trust, at(100)), Err(Code::InvalidMessage), "{what}");
        }
    }
}
