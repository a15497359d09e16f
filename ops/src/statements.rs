//! What hsmd states beside the chain, proved here: the newest head, what it denies and revokes.

use std::time::Duration;

use keychain::Timestamp;
use keychain::chain::{Chain, Settings, windows};
use keychain::statement::{Entries, Head, HeadPlace};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::chain::Proved;
use crate::clock;
use crate::door::Door;
use crate::failure::{Exit, Failure, OrFail};

/// The newest head of an hsmd, verified against its chain.
#[derive(Debug)]
pub(crate) struct Stated {
    pub(crate) issued_at: Timestamp,
    /// How long ago the head showed that nothing newer existed.
    pub(crate) age: Duration,
    pub(crate) entries: Entries,
    pub(crate) place: HeadPlace,
    /// The chain with this head heard.
    pub(crate) chain: Chain,
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    head: Option<&'a RawValue>,
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
        // hsmd's newest event counts whatever this machine's clock says.
        let now = clock::now().max(chain.head()?.event().created_at);
        let settings = Settings { skew: clock::SKEW, ..Settings::default() };
        let mut verifier = Chain::new(chain.identity(), settings);
        verifier.merge(chain.events().iter().cloned(), now);
        let head = answer.head.or_fail(Exit::Unavailable, || "hsmd has made no head yet: see its /health")?;
        let wrong = || "the head does not verify";
        let head = Head::parse(head.get()).or_fail(Exit::No, wrong)?;
        let proven = head.verify(&verifier, windows::AUTHD, now).or_fail(Exit::No, wrong)?;
        let age = proven.age(&verifier, now).or_fail(Exit::No, || "the head shows no freshness")?;
        let (issued_at, entries, place) = (head.issued_at(), head.entries().clone(), HeadPlace::of(&head));
        let mut heard = verifier.clone();
        heard.hear(&proven, now);
        Ok(Self { issued_at, age, entries, place, chain: heard })
    }
}
