//! Tokens that verified, with the device's key parsed and ready.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keychain::token::{Claims, Token};
use keychain::{Refusal, Timestamp, VerifyingKey};
use moka::Expiry;
use moka::sync::Cache;

use super::issuers::Issuer;

/// Memory for cached tokens, in bytes: some 20,000 sessions at 1.5 KiB each. Beyond, the least used go, and
/// cost one verification more when they come back.
const MEMORY_MAX: u64 = 32 << 20;

/// What an entry takes besides its token's text and attributes: claims, parsed key, bookkeeping.
const ENTRY_OVERHEAD: u32 = 1_024;

/// A token whose signature verified.
#[derive(Debug)]
pub(super) struct KnownToken {
    claims: Claims,
    device_key: VerifyingKey,
    issuer: Arc<Issuer>,
}

impl KnownToken {
    pub(super) fn verify(token: &Token, issuer: Arc<Issuer>) -> Result<Self, Refusal> {
        token.verify(issuer.key())?;
        let claims = token.claims().clone();
        Ok(Self { device_key: VerifyingKey::new(&claims.public_key)?, claims, issuer })
    }

    /// The same token under another endorsement of the key that signed it.
    pub(super) fn under(&self, issuer: Arc<Issuer>) -> Self {
        Self { claims: self.claims.clone(), device_key: self.device_key.clone(), issuer }
    }

    pub(super) const fn claims(&self) -> &Claims {
        &self.claims
    }

    pub(super) const fn device_key(&self) -> &VerifyingKey {
        &self.device_key
    }

    pub(super) fn issuer(&self) -> &Issuer {
        &self.issuer
    }
}

/// An entry: the token and how long it is worth keeping. Only memory hangs on that time; whether the
/// token has expired is judged for every request.
#[derive(Debug, Clone)]
struct Entry {
    token: Arc<KnownToken>,
    worth: Duration,
}

#[derive(Debug)]
pub(super) struct Tokens(Cache<String, Entry>);

impl Tokens {
    pub(super) fn new() -> Self {
        let weight = |text: &String, _: &Entry| {
            u32::try_from(text.len()).unwrap_or(u32::MAX).saturating_mul(2).saturating_add(ENTRY_OVERHEAD)
        };
        Self(Cache::builder().max_capacity(MEMORY_MAX).weigher(weight).expire_after(UntilExpiry).build())
    }

    pub(super) fn get(&self, text: &str) -> Option<Arc<KnownToken>> {
        self.0.get(text).map(|entry| entry.token)
    }

    pub(super) fn keep(&self, text: &str, token: Arc<KnownToken>, now: Timestamp) {
        let worth = token.claims.expiry.since(now);
        if worth > Duration::ZERO {
            self.0.insert(text.to_owned(), Entry { token, worth });
        }
    }

    pub(super) fn held(&self) -> u64 {
        self.0.entry_count()
    }
}

struct UntilExpiry;

impl Expiry<String, Entry> for UntilExpiry {
    fn expire_after_create(&self, _: &String, entry: &Entry, _: Instant) -> Option<Duration> {
        Some(entry.worth)
    }
}
