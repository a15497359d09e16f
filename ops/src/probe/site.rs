//! The deployment as a device sees it: addresses, the pinned identity, and the chain as far as known.

use std::time::{Duration, Instant};

use keychain::chain::{Chain, Settings, SignedEvent};
use keychain::device::{Trust, server_identity, take_heads};
use keychain::endorsement::Endorsement;
use keychain::{Digest, PublicKey};
use serde_json::value::RawValue;

use crate::clock;
use crate::door::Door;
use crate::failure::{Exit, Failure, OrFail};

/// How long a deployment may take to do what it promises within a second, on a busy machine.
pub(crate) const SETTLE_DEADLINE: Duration = Duration::from_secs(20);
const NOT_FOUND: u16 = 404;
const TRY_INTERVAL: Duration = Duration::from_millis(50);

/// A deployment.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) auth: Door,
    keys: Door,
    pub(crate) apps: Vec<(String, Door)>,
    pub(crate) path: String,
    /// hsmd's admin socket, if the probe may rotate and taint.
    pub(crate) admin: Option<Door>,
    /// hsmd's endorse socket, if known.
    pub(crate) endorse: Option<Door>,
    chain: Chain,
    /// The generation that endorsed the key of authd's last answer.
    authd_generation: Option<Digest>,
}

impl Site {
    pub(crate) fn new(identity: Digest, auth: Door, keys: Door, path: String) -> Self {
        let chain = Chain::new(identity, Settings { skew: clock::SKEW, ..Settings::default() });
        let (apps, admin, endorse, authd_generation) = (Vec::new(), None, None, None);
        Self { auth, keys, apps, path, admin, endorse, chain, authd_generation }
    }

    /// The chain as last read.
    pub(crate) fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Reads the published chain, and what heads deny and revoke, once more.
    pub(crate) async fn read_chain(&mut self) -> Result<(), Failure> {
        let text = self.keys.get("/hsm/keys").await?.ok(&self.keys)?;
        let context = || format!("`{}` publishes no chain that can be read", self.keys.address());
        let published: Vec<&RawValue> = serde_json::from_str(&text).or_fail(Exit::Data, context)?;
        let events: Result<Vec<_>, _> =
            published.into_iter().map(|event| SignedEvent::parse(event.get())).collect();
        self.chain.merge(events.or_fail(Exit::Data, context)?, clock::now());
        self.take_heads().await
    }

    /// Takes the heads that keysd tells. A public key service knows of none.
    async fn take_heads(&mut self) -> Result<(), Failure> {
        let answer = self.keys.get("/hsm/heads").await?;
        if answer.status == NOT_FOUND {
            return Ok(());
        }
        let text = answer.ok(&self.keys)?;
        let context = || format!("`{}` tells heads that cannot be read", self.keys.address());
        take_heads(&mut self.chain, &text, clock::now()).or_fail(Exit::Data, context).map(drop)
    }

    /// The endorsement of the key that signed an answer, with the chain that it stands on read anew:
    /// a probe keeps nothing that could hide a fault.
    pub(crate) async fn endorsement(&mut self, answer: &str) -> Result<Endorsement, Failure> {
        let key = server_identity(answer.as_bytes())
            .or_fail(Exit::No, || format!("the answer is not a signed message: {answer}"))?;
        let endorsement = self.endorsement_of(&key).await?;
        self.read_chain().await?;
        Ok(endorsement)
    }

    /// The same for an answer of authd, whose generation is remembered.
    pub(crate) async fn endorsement_of_authd(&mut self, answer: &str) -> Result<Endorsement, Failure> {
        let endorsement = self.endorsement(answer).await?;
        self.authd_generation = Some(endorsement.generation_id);
        Ok(endorsement)
    }

    /// The number of the generation that endorsed the key of authd's last answer.
    pub(crate) fn authd_generation_number(&self) -> Option<u64> {
        let generation = self.authd_generation?;
        let event = self.chain.events().find(|event| event.id() == generation)?;
        Some(event.event().sequence_number)
    }

    /// Whether authd's keys were endorsed by that generation when it last answered.
    pub(crate) fn authd_stands_on(&self, generation: &Digest) -> bool {
        self.authd_generation.as_ref() == Some(generation)
    }

    /// What an answer is checked against.
    pub(crate) fn trust<'a>(&'a self, endorsement: &'a Endorsement) -> Trust<'a> {
        Trust { chain: &self.chain, endorsement }
    }

    async fn endorsement_of(&self, key: &PublicKey) -> Result<Endorsement, Failure> {
        let text = self.keys.get(&format!("/keys/{key}")).await?.ok(&self.keys)?;
        Endorsement::parse(&text).or_fail(Exit::No, || format!("the endorsement of {key} cannot be read"))
    }
}

/// Tries until it succeeds, or fails as it failed last.
pub(crate) async fn settled<T>(mut attempt: impl AsyncFnMut() -> Result<T, Failure>) -> Result<T, Failure> {
    let began = Instant::now();
    loop {
        match attempt().await {
            Err(_) if began.elapsed() < SETTLE_DEADLINE => tokio::time::sleep(TRY_INTERVAL).await,
            outcome => return outcome,
        }
    }
}
