//! Follows the denial feed (`PROTOCOL.md#feed-reading`): whom authd denies, signed by authd.
//!
//! What the feed said stays until the feed says otherwise: an emptied, rolled-back or hostile directory lifts nothing.
//! It is a part of the trust of this process, in force before it is written to disk. After a restart it is read from
//! there, and nobody is admitted before as much is known again as was known then.

mod follower;
mod memory;

use std::path::PathBuf;
use std::sync::Arc;

use keychain::Digest;
use keychain::acknowledgement::Applied;
use keychain::directory::Directory;
use serde::Deserialize;
use tokio::sync::watch;

use crate::task::Task;
use crate::trust::TrustFeed;
use crate::updates::Updates;
use follower::{Follower, Says};
pub use memory::Error;
use memory::Memory;

/// Whether there is a denial feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    /// The auth server is a public one, whose denials stand in database 3 alone.
    Absent,
    /// Nobody is admitted before it was read.
    #[default]
    Required,
}

/// What is followed, and where it is remembered.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The pinned prefix, whose feed it is.
    pub identity: Digest,
    /// The daemon's state directory.
    pub state: PathBuf,
    /// Whether there is a feed.
    pub presence: Presence,
}

/// Keeps what the feed says current, in the trust of this process. Cloning shares it.
#[derive(Debug, Clone)]
pub struct DenialFeed {
    loaded: watch::Receiver<bool>,
    applied: watch::Receiver<Option<Applied>>,
    _tasks: Arc<[Task]>,
}

impl DenialFeed {
    /// Begins to follow the feed. What was remembered is in force at once.
    pub fn start(
        directory: &Directory,
        updates: &Updates,
        trust: TrustFeed,
        settings: &Settings,
    ) -> Result<Self, Error> {
        if settings.presence == Presence::Absent {
            let (loaded, applied) = (watch::channel(true).1, watch::channel(None).1);
            return Ok(Self { loaded, applied, _tasks: Arc::new([]) });
        }
        let memory = Memory::open(&settings.state, settings.identity)?;
        let (loaded, is_loaded) = watch::channel(false);
        let (remember, wanted) = watch::channel(None);
        let (apply, applied) = watch::channel(None);
        let says = Says { loaded, applied: apply.clone(), remember };
        let follower = Follower::new(directory.clone(), trust, settings.identity, memory.remembered(), says);
        let tasks = [
            Task::spawn(memory.keep_up(wanted, apply)),
            Task::spawn(follower.run(updates.subscribe(), updates.dependencies().clone())),
        ];
        Ok(Self { loaded: is_loaded, applied, _tasks: Arc::new(tasks) })
    }

    /// Waits until as much is known as was before a restart, or anything at all.
    pub async fn loaded(&self) {
        let mut loaded = self.loaded.clone();
        if loaded.wait_for(|loaded| *loaded).await.is_err() {
            std::future::pending::<()>().await; // the feed never ends before its owner
        }
    }

    /// How much of the feed is in force and on disk, always the newest; none before anything of it was kept, or without a feed.
    pub fn applied(&self) -> watch::Receiver<Option<Applied>> {
        self.applied.clone()
    }
}
