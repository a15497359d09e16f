//! What changed in the key directory, told to everyone in this process who follows it.
//!
//! One connection listens; any number of subscribers hear of it. A subscriber that falls behind is
//! told to read everything again, so a queue never grows. So are all of them at an interval, whatever was announced:
//! some changes are not pushed (`SWAPDB`), and a push may be lost on its way.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keychain::directory::{self, Change, Directory, Following};
use systemd::config::Span;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, MissedTickBehavior};

use crate::eviction::Outlook;
use crate::health::{self, Dependencies};
use crate::task::Task;

/// Batches that a subscriber may be behind before it has to read everything again.
const BEHIND_MAX: usize = 64;

/// How often the metric of unreadable entries is set.
const COUNT_EVERY: Duration = Duration::from_millis(500);

/// How often everything is read again unless configured.
pub const REREAD_EVERY: Span = Span::seconds(60);

/// The shortest and the longest interval that can be configured: a whole reading of a large directory takes a good part
/// of a second, and an hour is longer than any token lasts.
const REREAD_BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(1));

/// `reread_every` is not one that can be kept.
#[derive(Debug, thiserror::Error)]
#[error("must lie between 1s and 1h: it is what a change that was not announced may take to be seen")]
pub struct RereadOutOfBounds;

/// What a daemon is told of the interval: `reread_every`.
pub fn reread_every(span: Span) -> Result<Duration, RereadOutOfBounds> {
    let (least, most) = REREAD_BOUNDS;
    let every = span.duration();
    if (least..=most).contains(&every) { Ok(every) } else { Err(RereadOutOfBounds) }
}

/// What changed since a subscriber last looked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Update {
    /// The names of entries written, removed or expired, in whichever database.
    pub names: BTreeSet<String>,
    /// More may have changed than `names` says, and the directory may have lost what it held: read everything again.
    pub everything: bool,
    /// Everything is due to be read again, though nothing says that anything was missed.
    pub reread: bool,
    /// Counts the batches that the directory announced, up to the last one in here.
    pub number: u64,
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
        self.reread |= other.reread;
        self.number = self.number.max(other.number);
        self.names.extend(other.names.iter().cloned());
    }

    /// Whether nothing changed.
    pub fn is_nothing(&self) -> bool {
        !self.is_everything() && self.names.is_empty()
    }

    /// Whether everything should be read again, for whatever reason.
    pub const fn is_everything(&self) -> bool {
        self.everything || self.reread
    }

    /// Whether the entry of this name should be read again.
    pub fn touches(&self, name: &str) -> bool {
        self.is_everything() || self.names.contains(name)
    }
}

/// What was found under a name. An entry that cannot be read (too long, no text) is as if it were not there, so that
/// it delays nothing else; the directory counts it.
pub(crate) fn readable(
    found: Result<Option<String>, directory::Error>,
) -> Result<Option<String>, directory::Error> {
    match found {
        Err(error) if error.is_unreadable() => {
            tracing::warn!(%error, "passed over");
            Ok(None)
        }
        found => found,
    }
}

/// Follows the directory for this process.
#[derive(Debug)]
pub struct Updates {
    sender: broadcast::Sender<Arc<Update>>,
    /// The number of the last batch told.
    told: Arc<AtomicU64>,
    following: watch::Receiver<Following>,
    dependencies: Dependencies,
    eviction: Outlook,
    _tasks: [Task; 5],
}

impl Updates {
    /// Begins to follow, tells `dependencies` whether it can, and has everything read again at an interval. To be called
    /// inside the runtime that is to do the work.
    pub fn follow(directory: &Directory, dependencies: Dependencies, reread_every: Duration) -> Self {
        let mut changes = directory.changes();
        let following = changes.following();
        let (sender, _) = broadcast::channel(BEHIND_MAX);
        let to = sender.clone();
        let told = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&told);
        let task = Task::spawn(async move {
            loop {
                let mut update = Update::of(changes.batch().await);
                update.number = count.fetch_add(1, Ordering::Relaxed).saturating_add(1);
                // Nobody listening is no fault: subscribers come and go.
                drop(to.send(Arc::new(update)));
            }
        });
        let teller = Task::spawn(tell(following.clone(), dependencies.clone()));
        let counter = Task::spawn(count_unreadable(directory.clone()));
        let rereading = Task::spawn(reread(sender.clone(), Arc::clone(&told), reread_every));
        let subscription =
            Subscription { receiver: sender.subscribe(), told: Arc::clone(&told), fresh: true };
        let (eviction, asking) = Outlook::watch(directory.clone(), subscription);
        let tasks = [task, teller, counter, rereading, Task::spawn(asking)];
        Self { sender, told, following, dependencies, eviction, _tasks: tasks }
    }

    /// Whether changes are heard of as they happen.
    pub(crate) fn following(&self) -> watch::Receiver<Following> {
        self.following.clone()
    }

    /// Whether the directory deletes entries by itself.
    pub const fn eviction(&self) -> &Outlook {
        &self.eviction
    }

    /// Where those who follow the directory say whether they can.
    pub const fn dependencies(&self) -> &Dependencies {
        &self.dependencies
    }

    /// Hears of everything from now on. The first update tells to read everything.
    pub fn subscribe(&self) -> Subscription {
        Subscription { receiver: self.sender.subscribe(), told: Arc::clone(&self.told), fresh: true }
    }
}

/// Keeps the count of entries that cannot be read, for ever.
async fn count_unreadable(directory: Directory) {
    let mut interval = tokio::time::interval(COUNT_EVERY);
    loop {
        interval.tick().await;
        metrics::counter!("verifier_directory_unreadable_total").absolute(directory.unreadable());
    }
}

/// Has everything read again at an interval, for ever, whether or not the directory can be followed.
async fn reread(to: broadcast::Sender<Arc<Update>>, told: Arc<AtomicU64>, every: Duration) {
    let mut interval = tokio::time::interval_at(Instant::now() + every, every);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let number = told.load(Ordering::Relaxed);
        drop(to.send(Arc::new(Update { reread: true, number, ..Update::default() })));
    }
}

/// Tells whether the directory can be followed, for ever.
async fn tell(mut following: watch::Receiver<Following>, dependencies: Dependencies) {
    while following.changed().await.is_ok() {
        let state = following.borrow_and_update().clone();
        match state {
            Following::Yes => dependencies.good(health::DIRECTORY),
            Following::Lost(error) => dependencies.lost(health::DIRECTORY, &*error),
            Following::NotYet => {}
        }
    }
}

/// One follower's place in the stream of updates.
#[derive(Debug)]
pub struct Subscription {
    receiver: broadcast::Receiver<Arc<Update>>,
    told: Arc<AtomicU64>,
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
            return self.everything();
        }
        let mut update = match self.receiver.recv().await {
            Ok(first) => Update::clone(&first),
            Err(RecvError::Lagged(_)) => self.everything(),
            Err(RecvError::Closed) => std::future::pending().await,
        };
        loop {
            match self.receiver.try_recv() {
                Ok(more) => update.merge(&more),
                Err(TryRecvError::Lagged(_)) => update.merge(&self.everything()),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return update,
            }
        }
    }

    /// Everything that was told so far.
    fn everything(&self) -> Update {
        Update { everything: true, number: self.told.load(Ordering::Relaxed), ..Update::default() }
    }
}
