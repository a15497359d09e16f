//! What changed in the key directory, told to everyone in this process who follows it.
//!
//! One connection listens; any number of subscribers hear of it. A subscriber that falls behind is
//! told to read everything again, so a queue never grows.

use std::collections::BTreeSet;
use std::sync::Arc;

use keychain::directory::{Change, Directory};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use crate::task::Task;

/// Batches that a subscriber may be behind before it has to read everything again.
const BEHIND_MAX: usize = 64;

/// What changed since a subscriber last looked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Update {
    /// The names of entries written, removed or expired, in whichever database.
    pub names: BTreeSet<String>,
    /// More may have changed than `names` says: read everything again.
    pub everything: bool,
}

impl Update {
    fn of(changes: BTreeSet<Change>) -> Self {
        let mut update = Self::default();
        for change in changes {
            match change {
                Change::Key(name) => {
                    update.names.insert(name);
                }
                Change::Flushed | Change::Reconnected => update.everything = true,
            }
        }
        update
    }

    /// Adds what another update tells.
    pub fn merge(&mut self, other: &Self) {
        self.everything |= other.everything;
        self.names.extend(other.names.iter().cloned());
    }

    /// Whether nothing changed.
    pub fn is_nothing(&self) -> bool {
        !self.everything && self.names.is_empty()
    }

    /// Whether the entry of this name should be read again.
    pub fn touches(&self, name: &str) -> bool {
        self.everything || self.names.contains(name)
    }
}

/// Follows the directory for this process.
#[derive(Debug)]
pub struct Updates {
    sender: broadcast::Sender<Arc<Update>>,
    _task: Task,
}

impl Updates {
    /// Begins to follow. To be called inside the runtime that is to do the work.
    pub fn follow(directory: &Directory) -> Self {
        let mut changes = directory.changes();
        let (sender, _) = broadcast::channel(BEHIND_MAX);
        let told = sender.clone();
        let task = Task::spawn(async move {
            loop {
                let update = Update::of(changes.batch().await);
                // Nobody listening is no fault: subscribers come and go.
                drop(told.send(Arc::new(update)));
            }
        });
        Self { sender, _task: task }
    }

    /// Hears of everything from now on. The first update tells to read everything.
    pub fn subscribe(&self) -> Subscription {
        Subscription { receiver: self.sender.subscribe(), fresh: true }
    }
}

/// One follower's place in the stream of updates.
#[derive(Debug)]
pub struct Subscription {
    receiver: broadcast::Receiver<Arc<Update>>,
    fresh: bool,
}

impl Subscription {
    /// Waits for the next update, and takes all that are there with it. The first comes at once and tells
    /// to read everything.
    ///
    /// Pending for ever once the process no longer follows the directory. Cancelling loses nothing.
    pub async fn next(&mut self) -> Update {
        if self.fresh {
            self.fresh = false;
            return Update { everything: true, ..Update::default() };
        }
        let mut update = match self.receiver.recv().await {
            Ok(first) => Update::clone(&first),
            Err(RecvError::Lagged(_)) => Update { everything: true, ..Update::default() },
            Err(RecvError::Closed) => std::future::pending().await,
        };
        loop {
            match self.receiver.try_recv() {
                Ok(more) => update.merge(&more),
                Err(TryRecvError::Lagged(_)) => update.everything = true,
                Err(TryRecvError::Empty | TryRecvError::Closed) => return update,
            }
        }
    }
}
