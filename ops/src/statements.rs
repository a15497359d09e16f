//! What hsmd states beside the chain, proved here: the newest head, what it denies, which keys are revoked.

use std::time::Duration;

use keychain::chain::{Chain, Settings, windows};
use keychain::statement::{Head, KeyRevocation};
use keychain::{Digest, PublicKey, Timestamp};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::chain::Proved;
use crate::clock;
use crate::door::Door;
use crate::failure::{Exit, Failure, OrFail};

/// The newest statements of an hsmd, each verified against its chain.
#[derive(Debug)]
pub(crate) struct Stated {
    pub(crate) issued_at: Timestamp,
    /// How long ago the head showed that nothing newer existed.
    pub(crate) age: Duration,
    pub(crate) denied: Vec<Digest>,
    pub(crate) revoked: Vec<PublicKey>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    #[serde(borrow)]
    head: Option<&'a RawValue>,
    #[serde(borrow)]
    key_revocations: Vec<&'a RawValue>,
}

impl Stated {
    /// Asks hsmd, and proves what it answers against its chain.
    pub(crate) async fn read(hsmd: &Door, chain: &Proved) -> Result<Self, Failure> {
        let body = hsmd.get("/statements").await?.ok(hsmd)?;
        Self::prove(&body, chain)
    }

    fn prove(body: &str, chain: &Proved) -> Result<Self, Failure> {
        let answer: Answer<'_> = serde_json::from_str(body)
            .or_fail(Exit::Data, || "hsmd's statements have not the form that they should have")?;
        let now = clock::now();
        let settings = Settings { skew: clock::SKEW, ..Settings::default() };
        let mut verifier = Chain::new(chain.identity(), settings);
        verifier.merge(chain.events().iter().cloned(), now);
        let head = answer.head.or_fail(Exit::Unavailable, || "hsmd has made no head yet: see its /health")?;
        let wrong = || "the head does not verify";
        let head = Head::parse(head.get()).or_fail(Exit::No, wrong)?;
        let proven = head.verify(&verifier, windows::AUTHD, now).or_fail(Exit::No, wrong)?;
        let age = proven.age(&verifier, now).or_fail(Exit::No, || "the head shows no freshness")?;
        let mut revoked = Vec::new();
        for text in answer.key_revocations {
            let wrong = || "a key revocation does not verify";
            let one = KeyRevocation::parse(text.get()).or_fail(Exit::No, wrong)?;
            revoked.extend(one.verify(&verifier, windows::AUTHD, now).or_fail(Exit::No, wrong)?);
        }
        Ok(Self { issued_at: head.issued_at(), age, denied: proven.denied().to_vec(), revoked })
    }
}
