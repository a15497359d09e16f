//! What changes in the directory, as it changes: the server pushes the names of changed keys.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Client, PushInfo, PushKind, RedisResult, Value};
use tokio::sync::mpsc::{self, Receiver};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::lane::{config, failed};
use super::role::{self, Role};
use super::{Error, Lanes};

/// The most changes handed over at once.
pub const BATCH_MAX: usize = 1024;
/// Pushes that wait for a consumer that is busy. Beyond it the consumer reads everything again, which costs
/// less than the memory would.
const PUSHES_MAX: usize = 4096;
/// How often the connection is tried, and the server asked what it is.
const CHECK: Duration = Duration::from_millis(700);
/// How long an answer to that may take before the changes count as not followed: together with the pause, a peer that
/// vanished without a word is noticed within two seconds. The connection is given up later, at [`super::REPLY_DEADLINE`].
const PATIENCE: Duration = Duration::from_secs(1);
/// How far apart batches are at least. A change after a quiet time is handed over at once; of a stream of them, such as
/// the copies of refreshes for public auth servers, consumers are woken fifty times a second, not for each.
const GATHER: Duration = Duration::from_millis(20);
/// The first and the longest pause between attempts to reconnect.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_LONGEST: Duration = Duration::from_millis(500);

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Everything is gone (`FLUSHALL` or `FLUSHDB`).
    Flushed,
    /// The entry of this name was written, deleted or expired, in one of the databases: the server does not
    /// say in which. The name has the form of a public key or of a digest; it is not otherwise checked.
    Key(String),
    /// Changes may have been missed: a connection was made (the first one too), or the consumer was slow.
    /// Read everything again.
    Reconnected,
}

/// Whether changes are heard of as they happen.
#[derive(Clone, Debug, Default)]
pub enum Following {
    /// They are not: the directory is away, or does not let this client follow.
    Lost(Arc<Error>),
    /// No connection was tried yet.
    #[default]
    NotYet,
    /// They are, as was seen a moment ago.
    Yes,
}

/// The changes, in order, for ever: it reconnects by itself, at once and then with growing pauses. Whether it is
/// connected is told by [`Self::following`].
///
/// It holds one connection of its own (`HELLO 3`, `CLIENT TRACKING ON BCAST`). Nothing runs while it is not
/// polled but the reading of that connection.
pub struct Changes {
    lanes: Arc<Lanes>,
    feed: Option<Feed>,
    waiting: VecDeque<Change>,
    pause: Duration,
    /// When the next batch may be handed over.
    next_batch: Instant,
    following: watch::Sender<Following>,
}

impl Changes {
    pub(super) fn new(lanes: Arc<Lanes>) -> Self {
        let following = watch::Sender::default();
        let next_batch = Instant::now();
        Self { lanes, feed: None, waiting: VecDeque::new(), pause: PAUSE_FIRST, next_batch, following }
    }

    /// Whether changes are heard of now; it is told anew each time that this is seen.
    pub fn following(&self) -> watch::Receiver<Following> {
        self.following.subscribe()
    }

    /// The next change. Dropping the future before it is ready loses nothing.
    pub async fn next(&mut self) -> Change {
        loop {
            if let Some(change) = self.waiting.pop_front() {
                return change;
            }
            match &mut self.feed {
                Some(feed) => match feed.wait(&self.following).await {
                    Some(push) => self.take(push),
                    None => self.feed = None,
                },
                None => self.reconnect().await,
            }
            self.note_overflow();
        }
    }

    /// The next change with all that are already here, at most [`BATCH_MAX`], each once; unless that is full, 20 ms after
    /// the last batch at the earliest. Dropping the future before it is ready loses nothing.
    pub async fn batch(&mut self) -> BTreeSet<Change> {
        sleep_until(self.next_batch).await;
        let mut batch = BTreeSet::from([self.next().await]);
        while batch.len() < BATCH_MAX {
            if let Some(change) = self.waiting.pop_front() {
                batch.insert(change);
            } else if let Some(push) = self.feed.as_mut().and_then(|feed| feed.pushes.try_recv().ok()) {
                self.take(push);
            } else {
                self.next_batch = Instant::now() + GATHER;
                break;
            }
        }
        batch
    }

    async fn reconnect(&mut self) {
        match Feed::open(&self.lanes.feed).await {
            Ok(feed) => {
                // The name may lead to another server than before: what is read from now on is read from there.
                self.lanes.renew().await;
                self.feed = Some(feed);
                self.pause = PAUSE_FIRST;
                self.waiting.push_back(Change::Reconnected);
                self.following.send_replace(Following::Yes);
            }
            Err(down) => {
                self.following.send_replace(Following::Lost(Arc::new(down)));
                sleep(self.pause).await;
                self.pause = self.pause.saturating_mul(2).min(PAUSE_LONGEST);
            }
        }
    }

    fn take(&mut self, push: PushInfo) {
        match push.kind {
            PushKind::Disconnection => self.feed = None,
            PushKind::Invalidate => self.waiting.extend(push.data.into_iter().flat_map(changes_of)),
            _ => {}
        }
    }

    fn note_overflow(&mut self) {
        if self.feed.as_ref().is_some_and(|feed| feed.overflowed.swap(false, Ordering::Relaxed)) {
            self.waiting.push_back(Change::Reconnected);
        }
    }
}

/// Prints no address: it may hold a password.
impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

/// A connection that tracks changes.
struct Feed {
    connection: MultiplexedConnection,
    pushes: Receiver<PushInfo>,
    overflowed: Arc<AtomicBool>,
    check_at: Instant,
}

/// What is being done, for errors.
const FOLLOW: &str = "follow the changes";

impl Feed {
    async fn open(client: &Client) -> Result<Self, Error> {
        let mut feed = Self::track(client).await.map_err(|error| failed(FOLLOW, error))?;
        feed.check().await?;
        Ok(feed)
    }

    async fn track(client: &Client) -> RedisResult<Self> {
        let (sender, pushes) = mpsc::channel(PUSHES_MAX);
        let overflowed = Arc::new(AtomicBool::new(false));
        let full = Arc::clone(&overflowed);
        let push =
            move |push: PushInfo| sender.try_send(push).inspect_err(|_| full.store(true, Ordering::Relaxed));
        let config = config().set_push_sender(push);
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        redis::cmd("CLIENT")
            .arg(&["TRACKING", "ON", "BCAST", "PREFIX", "1AAI", "PREFIX", "E"])
            .exec_async(&mut connection)
            .await?;
        Ok(Self { connection, pushes, overflowed, check_at: Instant::now() })
    }

    /// The next push, or nothing if the connection is dead or the server is not to be followed. `following` is told of
    /// each answer, and of one that is late.
    async fn wait(&mut self, following: &watch::Sender<Following>) -> Option<PushInfo> {
        loop {
            // Pushes that do not cease must not put off the check.
            if Instant::now() < self.check_at
                && let Ok(push) = timeout_at(self.check_at, self.pushes.recv()).await
            {
                return push;
            }
            let check = self.check();
            tokio::pin!(check);
            let checked = match timeout(PATIENCE, &mut check).await {
                Ok(checked) => checked,
                Err(_late) => {
                    let late = Error::Slow { operation: FOLLOW };
                    following.send_replace(Following::Lost(Arc::new(late)));
                    check.await
                }
            };
            if let Err(error) = checked {
                following.send_replace(Following::Lost(Arc::new(error)));
                return None;
            }
            following.send_replace(Following::Yes);
        }
    }

    /// Sees whether the server answers, and whether it hears itself of what changes.
    async fn check(&mut self) -> Result<(), Error> {
        self.check_at = Instant::now() + CHECK;
        match role::ask(&mut self.connection).await.map_err(|error| failed(FOLLOW, error))? {
            Role::Replica { linked: false } => Err(Error::Detached { operation: FOLLOW }),
            Role::Master | Role::Replica { linked: true } | Role::Unknown => Ok(()),
        }
    }
}

/// The changes in one part of a push: an array of names, or null for a flush.
fn changes_of(part: Value) -> Vec<Change> {
    match part {
        Value::Nil => vec![Change::Flushed],
        Value::Array(names) => names.into_iter().filter_map(name).map(Change::Key).collect(),
        _ => Vec::new(),
    }
}

/// A name of the directory's, by lead and length; others share the prefix by accident or malice.
fn name(value: Value) -> Option<String> {
    let Value::BulkString(bytes) = value else { return None };
    let named = match bytes.len() {
        44 => bytes.starts_with(b"E"),
        48 => bytes.starts_with(b"1AAI"),
        _ => false,
    };
    named.then(|| String::from_utf8(bytes).ok()).flatten()
}
