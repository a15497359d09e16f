//! One database's connection: made when first used, shared by all callers, replaced when it breaks or when the server at
//! its other end says that it is not the one to ask.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, FromRedisValue, Pipeline, RedisError, RedisResult};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::Error;

/// How long one connection attempt may take, TLS and authentication included.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(1);
/// How long one answer may take. Redis answers in well under a millisecond; two seconds are an outage.
pub const REPLY_DEADLINE: Duration = Duration::from_secs(2);
/// How long a call may take in all: two attempts, each with its connection.
pub const CALL_DEADLINE: Duration = Duration::from_secs(5);

/// A connection to one database, shared and replaceable.
///
/// The queue in front of it is bounded by the `redis` crate (50 requests); a full one makes callers wait,
/// within their deadline.
pub(super) struct Lane {
    client: Client,
    /// The longest value carried, in bytes.
    pub(super) value_max: usize,
    slot: Mutex<Slot>,
    /// Entries met that nobody can read.
    unreadable: AtomicU64,
}

/// The connection in use, with a number so that only who saw it break replaces it.
#[derive(Default)]
struct Slot {
    number: u64,
    connection: Option<MultiplexedConnection>,
}

impl Lane {
    pub(super) fn new(client: Client, value_max: usize) -> Self {
        Self { client, value_max, slot: Mutex::default(), unreadable: AtomicU64::new(0) }
    }

    /// Notes an entry that is longer than any that belongs there, no text, or of another type.
    pub(super) fn note_unreadable(&self) {
        self.unreadable.fetch_add(1, Ordering::Relaxed);
    }

    /// How many such entries were met, each as often as it was.
    pub(super) fn unreadable(&self) -> u64 {
        self.unreadable.load(Ordering::Relaxed)
    }

    /// Runs commands that may safely run twice, and decodes their answers.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        operation: &'static str,
        commands: &Pipeline,
    ) -> Result<T, Error> {
        match timeout(CALL_DEADLINE, self.attempt_twice(commands)).await {
            Ok(outcome) => outcome.map_err(|error| failed(operation, error)),
            Err(_elapsed) => Err(Error::Slow { operation }),
        }
    }

    async fn attempt_twice<T: FromRedisValue>(&self, commands: &Pipeline) -> RedisResult<T> {
        match self.attempt(commands).await {
            Err(Attempt::Broken(_)) => self.attempt(commands).await.map_err(Attempt::into_inner),
            outcome => outcome.map_err(Attempt::into_inner),
        }
    }

    async fn attempt<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<T, Attempt> {
        let (number, mut connection) = self.connection().await.map_err(Attempt::Failed)?;
        match commands.query_async(&mut connection).await {
            Ok(answer) => Ok(answer),
            // A connection that did not answer in time may be dead at the other end: the next caller gets a
            // new one, but this caller has waited long enough.
            Err(error) if error.is_timeout() => {
                self.forget(number).await;
                Err(Attempt::Failed(error))
            }
            // A server that was demoted or is loading: by now the name may lead to another.
            Err(error) if error.is_unrecoverable_error() || error.is_io_error() || is_unfit(&error) => {
                self.forget(number).await;
                Err(Attempt::Broken(error))
            }
            Err(error) => Err(Attempt::Failed(error)),
        }
    }

    async fn connection(&self) -> RedisResult<(u64, MultiplexedConnection)> {
        let mut slot = self.slot.lock().await;
        let connection = match &slot.connection {
            Some(connection) => connection.clone(),
            None => self.client.get_multiplexed_async_connection_with_config(&config()).await?,
        };
        if slot.connection.is_none() {
            slot.number = slot.number.wrapping_add(1);
            slot.connection = Some(connection.clone());
        }
        Ok((slot.number, connection))
    }

    async fn forget(&self, number: u64) {
        let mut slot = self.slot.lock().await;
        if slot.number == number {
            slot.connection = None;
        }
    }

    /// The failure that an error inside of an answer comes to.
    pub(super) async fn failed(&self, operation: &'static str, error: RedisError) -> Error {
        if is_unfit(&error) {
            self.renew().await;
        }
        failed(operation, error)
    }

    /// Lets the next call make a connection of its own, to the server that the name leads to by then.
    pub(super) async fn renew(&self) {
        self.slot.lock().await.connection = None;
    }
}

/// What a failed call comes to.
pub(super) fn failed(operation: &'static str, error: RedisError) -> Error {
    if is_unfit(&error) { Error::unfit(operation, error) } else { Error::failed(operation, error) }
}

/// What a server answers that cannot do now what its master could: the connection to it is closed, and its name
/// resolved again.
const UNFIT: [&str; 5] = ["LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "READONLY"];

/// Whether the server, or one command of a pipeline, answered so.
fn is_unfit(error: &RedisError) -> bool {
    let answers = error.clone().into_server_errors();
    answers.is_some_and(|all| all.iter().any(|(_, answer)| UNFIT.contains(&answer.code())))
}

/// How one attempt failed: on a broken connection, where another may help, or otherwise.
enum Attempt {
    Broken(RedisError),
    Failed(RedisError),
}

impl Attempt {
    fn into_inner(self) -> RedisError {
        match self {
            Self::Broken(error) | Self::Failed(error) => error,
        }
    }
}

/// Deadlines of every connection, also of the one that listens.
pub(super) fn config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_DEADLINE))
        .set_response_timeout(Some(REPLY_DEADLINE))
}
