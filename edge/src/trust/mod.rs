//! What this process trusts: the HSM chain, and what the HSM's heads deny and revoke (`PROTOCOL.md#head`), as one
//! immutable value behind one swap.
//!
//! One task reads the key directory, merges what it finds into what was accepted before, and puts the result in the
//! place of the last one. Events and heads are merged as sets, so trust only moves forward: an emptied or rolled-back
//! directory changes nothing, and un-denies nothing. The highest event accepted is kept on disk, so that a restart
//! does not forget it either (`PROTOCOL.md#contested`).
//!
//! Readers take no lock and wait for nobody.

mod follower;
pub mod highest;
mod state;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use keychain::Digest;
use keychain::chain::{self, Chain};
use keychain::directory::Directory;
use tokio::sync::watch;

use crate::task::Task;
use crate::updates::Updates;
use follower::Follower;
use highest::HighestFile;
pub use state::TrustState;

/// What a feed follows, and where it keeps its memory.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The pinned prefix: the HSM identity.
    pub identity: Digest,
    /// How far clocks may differ.
    pub clock_skew: Duration,
    /// The event that resolves a contested chain, if configuration names one.
    pub pin: Option<Digest>,
    /// The daemon's state directory; `highest.json` in it is this feed's.
    pub state: PathBuf,
}

/// The trust of this process, always the newest. Cloning shares it.
#[derive(Debug, Clone)]
pub struct TrustFeed {
    shared: Arc<Shared>,
    _task: Arc<Task>,
}

#[derive(Debug)]
struct Shared {
    state: ArcSwap<TrustState>,
    version: watch::Sender<u64>,
    /// The number of the last update whose changes are all in `state`.
    read_up_to: watch::Sender<u64>,
}

impl TrustFeed {
    /// Begins to follow. The chain is empty, and so nothing is live, until the first events are in.
    ///
    /// Fails if the state directory cannot be used, or remembers the highest event of another chain.
    pub fn start(
        directory: &Directory,
        updates: &Updates,
        settings: &Settings,
    ) -> Result<Self, highest::Error> {
        let file = HighestFile::open(&settings.state, settings.identity)?;
        let chain = Chain::new(
            settings.identity,
            chain::Settings { skew: settings.clock_skew, pin: settings.pin, highest: file.remembered() },
        );
        let shared = Arc::new(Shared {
            state: ArcSwap::from_pointee(TrustState::new(chain)),
            version: watch::Sender::new(0),
            read_up_to: watch::Sender::new(0),
        });
        let follower = Follower::new(directory.clone(), Arc::clone(&shared), file);
        let task = Arc::new(Task::spawn(follower.run(updates.subscribe())));
        Ok(Self { shared, _task: task })
    }

    /// What is trusted now.
    pub fn state(&self) -> Arc<TrustState> {
        self.shared.state.load_full()
    }

    /// A number that grows whenever trust changes, to wait on.
    pub fn version(&self) -> watch::Receiver<u64> {
        self.shared.version.subscribe()
    }

    /// Waits until the chain satisfies `wanted`.
    pub async fn wait_until(&self, wanted: impl Fn(&Chain) -> bool) {
        let mut version = self.version();
        loop {
            version.mark_unchanged();
            if wanted(self.state().chain()) {
                return;
            }
            if version.changed().await.is_err() {
                std::future::pending::<()>().await; // the feed never ends before its owner
            }
        }
    }

    /// Waits until all that was announced up to the update of that number is taken in.
    ///
    /// Whoever reacts to an update by writing to the directory waits for this: what it would write may have been
    /// revoked by a head that was announced before.
    pub async fn wait_for_update(&self, number: u64) {
        let mut read_up_to = self.shared.read_up_to.subscribe();
        if read_up_to.wait_for(|read| *read >= number).await.is_err() {
            std::future::pending::<()>().await; // the feed never ends before its owner
        }
    }
}
