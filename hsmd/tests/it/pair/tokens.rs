//! A keeper with two tokens in memory that mirror each other.

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

    /// With one wrap key on both.
    pub fn of(first: Device, second: Device) -> Self {
        for device in [&first, &second] {
            device.pair(Some(b"the wrap key"));
        }
        Self { folder: tempfile::tempdir().unwrap(), first, second }
    }

    pub fn ledger_file(&self) -> PathBuf {
        self.folder.path().join("ledger.db")
    }

    async fn own_ledger(&self) -> Ledger {
        support::ledger::open(&self.ledger_file()).await.unwrap()
    }

    async fn ledger(&self) -> Ledger {
        support::ledger::read(&self.ledger_file()).await
    }

    fn tokens(&self) -> Tokens {
        let [first, second] = [&self.first, &self.second].map(signer);
        Tokens::pair(first, second)
    }

    pub async fn start(&self) -> Result<Arc<Keeper>, Error> {
        self.start_with(self.tokens()).await
    }

    /// With keys that are made on both tokens or not at all.
    pub async fn start_requiring_both(&self) -> Result<Arc<Keeper>, Error> {
        self.start_with(self.tokens().requiring_both(true)).await
    }

    /// With a ledger that is behind.
    pub async fn start_behind(&self) -> Arc<Keeper> {
        let clock = TrustedClock::new(Box::new(System::start()));
        let keeper = Keeper::new(self.own_ledger().await, self.tokens(), clock, KeyIds::default());
        keeper.check().await.unwrap();
        assert!(keeper.view().is_none());
        Arc::new(keeper)
    }

    /// With the first token alone.
    pub async fn start_alone(&self) -> Result<Arc<Keeper>, Error> {
        self.start_with(signer(&self.first).into()).await
    }

    async fn start_with(&self, tokens: Tokens) -> Result<Arc<Keeper>, Error> {
        let clock = TrustedClock::new(Box::new(System::start()));
        Ok(Arc::new(Keeper::start(self.own_ledger().await, tokens, clock, KeyIds::default()).await?))
    }

    /// Both tokens, each with the other.
    pub fn each(&self) -> [(&Device, &Device); 2] {
        [(&self.first, &self.second), (&self.second, &self.first)]
    }

    /// Every rule of the chain; the live and the next key on both tokens, and nothing else.
    pub async fn check(&self, keeper: &Keeper, events: usize) {
        self.check_chain(keeper, events).await;
        for device in [&self.first, &self.second] {
            Self::check_keys(keeper, device);
            assert_eq!(device.objects(), 4);
        }
        assert!(
            keeper.token_states().iter().all(|state| state.silent.is_none() && state.unmirrored.is_none())
        );
    }

    /// The live and the next key on a token, and no others.
    pub fn check_keys(keeper: &Keeper, on: &Device) {
        let view = keeper.settled().unwrap();
        let mut keys = on.keys();
        let mut wanted: Vec<PublicKey> = vec![view.live().event().public_key, view.next().unwrap()];
        keys.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(keys, wanted);
    }

    pub async fn check_chain(&self, keeper: &Keeper, events: usize) {
        let view = keeper.settled().unwrap();
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
pub fn published(keeper: &Keeper) -> String {
    keeper.view().unwrap().published_from(0)
}

/// The same, read.
pub fn brought(keeper: &Keeper) -> Brought {
    Brought::parse(published(keeper).as_bytes()).unwrap()
}
