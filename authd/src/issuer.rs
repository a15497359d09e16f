//! Whose tokens may be refreshed: access keys whose endorsement verifies (`PROTOCOL.md#session-refresh`).
//!
//! Anyone can name a key in a token, so a name costs little: an unknown one is one read of the directory,
//! remembered for a moment as unknown, and only so many reads are under way at once. A key that verified
//! stays known, so that refreshes go on while the directory is away; whether its endorsement still holds
//! (time, generation) is asked of the chain each time.

use std::sync::Arc;
use std::time::Duration;

use edge::trust::TrustFeed;
use keychain::chain::windows;
use keychain::directory::{self, Db, Directory};
use keychain::endorsement::{Endorsement, Expected, Purpose};
use keychain::{Code, PublicKey, Refusal, Timestamp, VerifyingKey};
use moka::sync::Cache;
use systemd::telemetry::Quota;
use tokio::sync::Semaphore;

/// The service that alone issues tokens.
pub(crate) const SERVICE: &str = "authd";

/// Keys that verified. An authd makes four a day; the HSM bounds the rest.
const KNOWN_MAX: u64 = 4_096;

/// Names that the directory did not have.
const UNKNOWN_MAX: u64 = 16_384;

/// How long a name stays unknown. A new instance's key is published before it signs anything.
const UNKNOWN_FOR: Duration = Duration::from_secs(1);

/// Reads of the directory under way at once. Own keys need none.
const READS_MAX: usize = 16;

/// Longest wait for a read to begin.
const READ_WAIT: Duration = Duration::from_secs(1);

/// Lines about the directory that did not answer: anyone can name a key.
static UNREAD: Quota = Quota::per_minute(12);

/// The issuers known to this authd.
#[derive(Debug)]
pub struct Issuers {
    directory: Directory,
    feed: TrustFeed,
    known: Cache<PublicKey, Arc<Issuer>>,
    unknown: Cache<PublicKey, ()>,
    reads: Semaphore,
}

/// An access key, and what the HSM said of it.
#[derive(Debug)]
struct Issuer {
    key: VerifyingKey,
    endorsement: Endorsement,
}

impl Issuers {
    /// None known yet.
    pub fn new(directory: Directory, feed: TrustFeed) -> Self {
        Self {
            directory,
            feed,
            known: Cache::new(KNOWN_MAX),
            unknown: Cache::builder().max_capacity(UNKNOWN_MAX).time_to_live(UNKNOWN_FOR).build(),
            reads: Semaphore::new(READS_MAX),
        }
    }

    /// The key that verifies tokens of `name`, if the HSM lets it issue them at `now`.
    pub async fn key(&self, name: &PublicKey, now: Timestamp) -> Result<VerifyingKey, Refusal> {
        let dead = match self.known.get(name) {
            None => None,
            Some(issuer) => match self.feed.state().check(&issuer.endorsement, windows::AUTHD, now) {
                Ok(()) => return Ok(issuer.key.clone()),
                Err(refusal) => Some(refusal),
            },
        };
        // A key that is known and dead may have been endorsed again since, as after a taint. It is dead until that is
        // found, also while the directory does not answer.
        let was_asked = self.unknown.contains_key(name);
        let found = self.look_for(name, now).await;
        found.map_err(|refusal| {
            let Some(dead) = dead else { return refusal };
            // Only once it was read: those who ask again and again must not put off the next reading.
            if !was_asked {
                self.unknown.insert(*name, ());
            }
            dead
        })
    }

    /// Looks for the endorsement of a key in the directory; for one without a good one, again after a moment.
    async fn look_for(&self, name: &PublicKey, now: Timestamp) -> Result<VerifyingKey, Refusal> {
        if self.unknown.contains_key(name) {
            return Err(unknown());
        }
        let Some(text) = self.read(name).await? else {
            self.unknown.insert(*name, ());
            return Err(unknown());
        };
        // What is wrong with an entry is no fault of the device that names it.
        let endorsement = Endorsement::parse(&text).map_err(|_| unknown())?;
        self.take(name, endorsement, now)
    }

    /// Learns a key whose endorsement is at hand, as this authd's own is.
    pub fn take(
        &self,
        name: &PublicKey,
        endorsement: Endorsement,
        now: Timestamp,
    ) -> Result<VerifyingKey, Refusal> {
        let expected = Expected { purpose: Purpose::Access, public_key: name, service: Some(SERVICE) };
        endorsement.verify(self.feed.state().chain(), expected, windows::AUTHD, now)?;
        let key = VerifyingKey::new(name)?;
        self.known.insert(*name, Arc::new(Issuer { key: key.clone(), endorsement }));
        Ok(key)
    }

    /// What the HSM said of that key, if [`Self::key`] gives it.
    pub async fn endorsement(&self, name: &PublicKey, now: Timestamp) -> Result<String, Refusal> {
        self.key(name, now).await?;
        self.known.get(name).map(|issuer| issuer.endorsement.text().to_owned()).ok_or_else(unknown)
    }

    /// Whether a key is known already.
    pub fn knows(&self, name: &PublicKey) -> bool {
        self.known.contains_key(name)
    }

    async fn read(&self, name: &PublicKey) -> Result<Option<String>, Refusal> {
        let busy = Refusal::new(Code::Unavailable, "too many unknown issuers are being looked up");
        let permit = tokio::time::timeout(READ_WAIT, self.reads.acquire()).await;
        let Ok(Ok(_permit)) = permit else { return Err(busy) };
        let found = self.directory.endorsement(Db::Access, name).await;
        if found.as_ref().is_err_and(directory::Error::is_unreadable) {
            return Ok(None);
        }
        found.map_err(|error| {
            if let Some(left_out) = UNREAD.admit() {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, left_out, "cannot look up an issuer");
            }
            Refusal::new(Code::Unavailable, "the directory did not answer")
        })
    }
}

fn unknown() -> Refusal {
    Refusal::new(Code::UnknownKey, "the directory has no endorsement of the token's issuer")
}
