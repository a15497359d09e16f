//! The keys that issue tokens: authd's access keys, each with an endorsement that verified.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keychain::chain::windows;
use keychain::endorsement::{Endorsement, Expected, Purpose};
use keychain::{PublicKey, Refusal, Timestamp, VerifyingKey};
use moka::sync::Cache;

use crate::health::{End, Limit};
use crate::trust::TrustState;

/// Issuing keys kept. An authd has at most five at a time; only the HSM can make more.
const ENDORSED_MAX: u64 = 10_000;

/// Keys known to be absent that are kept: more than a flood can name between two readings.
const ABSENT_MAX: u64 = 16_384;

/// How long a key stays absent without being looked for. The directory's announcements end it sooner.
const ABSENT_FOR: Duration = Duration::from_secs(10);

/// A key that the HSM endorsed to sign tokens.
#[derive(Debug)]
pub struct Issuer {
    key: VerifyingKey,
    endorsement: Endorsement,
}

impl Issuer {
    /// Reads and verifies the entry of `public_key` in the directory.
    pub fn verify(
        text: &str,
        public_key: PublicKey,
        trust: &TrustState,
        now: Timestamp,
    ) -> Result<Self, Refusal> {
        let endorsement = Endorsement::parse(text)?;
        let expected = Expected { purpose: Purpose::Access, public_key: &public_key, service: None };
        endorsement.verify(trust.chain(), expected, windows::EDGE, now)?;
        Ok(Self { key: VerifyingKey::new(&public_key)?, endorsement })
    }

    /// Whether its endorsement still holds. Cheap: done for every request.
    pub fn check(&self, trust: &TrustState, now: Timestamp) -> Result<(), Refusal> {
        trust.check(&self.endorsement, windows::EDGE, now)
    }

    /// The key that verifies its tokens.
    pub(super) const fn key(&self) -> &VerifyingKey {
        &self.key
    }
}

/// What is known of an issuing key.
#[derive(Debug, Clone)]
pub enum Knowledge {
    /// It was looked for lately, and the directory has no endorsement of it that verifies.
    Absent,
    /// Its endorsement verified.
    Endorsed(Arc<Issuer>),
    /// It has not been looked for.
    Nothing,
}

/// The issuing keys known to one verifier. Verified ones stay until they expire, whatever becomes of the
/// directory; strangers cannot push them out, because only the HSM makes keys that enter.
#[derive(Debug)]
pub struct Issuers {
    endorsed: Cache<PublicKey, Arc<Issuer>>,
    /// By its text: the directory announces many, and few of them are looked up.
    absent: Cache<String, ()>,
}

impl Issuers {
    pub(super) fn new() -> Self {
        Self {
            endorsed: Cache::builder().max_capacity(ENDORSED_MAX).build(),
            absent: Cache::builder().max_capacity(ABSENT_MAX).time_to_live(ABSENT_FOR).build(),
        }
    }

    /// What is known of `key`.
    pub fn look_up(&self, key: &PublicKey) -> Knowledge {
        match self.endorsed.get(key) {
            Some(issuer) => Knowledge::Endorsed(issuer),
            None if self.absent.contains_key(&key.to_string()) => Knowledge::Absent,
            None => Knowledge::Nothing,
        }
    }

    /// Takes in an entry of the directory, if it verifies. The same key may be endorsed again, as after a taint: of two
    /// endorsements that hold, the one counts that ends later. Answers whether anything else is known than before.
    pub fn learn(
        &self,
        key: PublicKey,
        text: &str,
        trust: &TrustState,
        now: Timestamp,
    ) -> Result<bool, Refusal> {
        let known = self.endorsed.get(&key);
        if known.as_ref().is_some_and(|known| known.endorsement.text() == text) {
            return Ok(false);
        }
        let issuer = Issuer::verify(text, key, trust, now)?;
        let ends = |issuer: &Issuer| issuer.endorsement.subject.expiration;
        let is_better =
            known.is_none_or(|known| known.check(trust, now).is_err() || ends(&known) < ends(&issuer));
        if is_better {
            self.keep(key, issuer);
        }
        Ok(is_better)
    }

    /// Takes in a verified key.
    pub fn keep(&self, key: PublicKey, issuer: Issuer) {
        self.absent.invalidate(&key.to_string());
        self.endorsed.insert(key, Arc::new(issuer));
    }

    /// Notes that the directory has no good endorsement of `key`.
    pub fn note_absent(&self, key: PublicKey) {
        self.absent.insert(key.to_string(), ());
    }

    /// Forgets absences: the directory or the chain has changed.
    pub fn forget_absent(&self, name: &str) {
        self.absent.invalidate(name);
    }

    /// Forgets all absences.
    pub fn forget_all_absent(&self) {
        self.absent.invalidate_all();
    }

    /// When the last of the keys known ends, and with it all tokens: of those that hold by `trust`, the one that ends
    /// last.
    pub fn end(&self, trust: &TrustState) -> End {
        let ends = self.endorsed.iter().map(|(_, issuer)| {
            End::of_key(Limit::AccessKey, &issuer.endorsement, trust.chain(), windows::EDGE)
        });
        ends.max_by_key(|end| end.at).unwrap_or_else(|| End::over(Limit::AccessKey))
    }

    /// Drops keys whose endorsements have expired.
    pub fn forget_expired(&self, now: Timestamp) {
        for (key, issuer) in &self.endorsed {
            if issuer.endorsement.subject.expiration <= now {
                self.endorsed.invalidate(&*key);
            }
        }
    }

    /// What the HSM said of each key, in the order of keys.
    pub fn texts(&self) -> Vec<String> {
        let texts = self.endorsed.iter().map(|(key, issuer)| (*key, issuer.endorsement.text().to_owned()));
        texts.collect::<BTreeMap<_, _>>().into_values().collect()
    }

    /// How many keys are known.
    pub fn held(&self) -> u64 {
        self.endorsed.entry_count()
    }
}
