//! A keeper with two tokens in memory.

use std::{path::PathBuf, sync::Arc, time::Duration};

use hsmd::{
    chain::{Advance, Brought, Error, Keeper},
    clock::{System, TrustedClock},
    ledger::Ledger,
    token::Tokens,
    token::backend::KeyIds,
    token::signer::Signer,
};
use keychain::{PublicKey, chain::verify_whole};

use crate::support::{self, memory::Device, world::now};

pub const ROTATE: Advance = Advance { from: None, taint: false };
pub const TAINT: Advance = Advance { from: None, taint: true };

pub struct Pair {
    pub folder: tempfile::TempDir,
    pub first: Device,
    pub second: Device,
}

impl Pair {
    /// Each with faults of its own.
    pub fn new() -> Self {
        let first = Device::default();
        let second = first.apart();
        Self::of(first, second)
    }

    pub fn of(first: Device, second: Device) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), first, second }
    }

    pub fn ledger_file(&self) -> PathBuf {
        self.folder.path().join("ledger.db")
    }

    async fn ledger(&self) -> Ledger {
        support::ledger::read(&self.ledger_file()).await
    }

    pub async fn start(&self) -> Result<Arc<Keeper>, Error> {
        let [first, second] = [&self.first, &self.second].map(signer);
        self.start_with(Tokens::pair(first, second)).await
    }

    /// With a ledger that is behind.
    pub async fn start_behind(&self) -> Arc<Keeper> {
        let [first, second] = [&self.first, &self.second].map(signer);
        let clock = TrustedClock::new(Box::new(System::start()));
        let keeper = Keeper::new(self.ledger().await, Tokens::pair(first, second), clock, KeyIds::default());
        assert!(matches!(keeper.settled().await, Err(Error::Behind(_))));
        Arc::new(keeper)
    }

    /// With the first token alone.
    pub async fn start_alone(&self) -> Result<Arc<Keeper>, Error> {
        self.start_with(signer(&self.first).into()).await
    }

    async fn start_with(&self, tokens: Tokens) -> Result<Arc<Keeper>, Error> {
        let clock = TrustedClock::new(Box::new(System::start()));
        Ok(Arc::new(Keeper::start(self.ledger().await, tokens, clock, KeyIds::default()).await?))
    }

    /// The device with the live key, and the one with the next.
    pub fn devices(&self, keeper: &Keeper) -> (&Device, &Device) {
        let live = keeper.view().unwrap().live().event().public_key;
        if self.first.keys().contains(&live) {
            (&self.first, &self.second)
        } else {
            (&self.second, &self.first)
        }
    }

    /// Every rule of the chain; the live key alone on one token, the next alone on the other.
    pub async fn check(&self, keeper: &Keeper, events: usize) {
        self.check_chain(keeper, events).await;
        let view = keeper.settled().await.unwrap();
        let (live, next) = self.devices(keeper);
        assert_eq!(live.keys(), [view.live().event().public_key]);
        assert_eq!(next.keys(), [view.next().unwrap()]);
        assert_eq!([live.objects(), next.objects()], [2, 2]);
        assert!(keeper.token_states().iter().all(|state| state.silent.is_none()));
    }

    /// The same with both keys on one token and nothing on the other.
    pub async fn check_together(&self, keeper: &Keeper, on: &Device, events: usize) {
        self.check_chain(keeper, events).await;
        let view = keeper.settled().await.unwrap();
        let mut keys = on.keys();
        let mut wanted: Vec<PublicKey> = vec![view.live().event().public_key, view.next().unwrap()];
        keys.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(keys, wanted);
    }

    pub async fn check_chain(&self, keeper: &Keeper, events: usize) {
        let view = keeper.settled().await.unwrap();
        let chain = self.ledger().await.contents(&[]).await.unwrap().events;
        verify_whole(&chain, &view.prefix(), now(), Duration::ZERO).unwrap();
        assert_eq!(chain.len(), events);
        assert_eq!(chain.last().unwrap().id(), view.live().id());
        if let Some(next) = view.next() {
            assert_eq!(view.live().event().rotation_hash, next.digest());
        }
    }
}

fn signer(device: &Device) -> Signer {
    Signer::start(Box::new(device.connect())).unwrap().0
}

/// The chain as published.
pub fn brought(keeper: &Keeper) -> Brought {
    Brought::parse(keeper.view().unwrap().published_from(0).as_bytes()).unwrap()
}
