//! A redis-server of the test's own, on a Unix socket: no port to collide on.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use keychain::directory::Directory;
use redis::aio::MultiplexedConnection;
use rustix::process::{Pid, Signal, kill_process};
use tests::redis_server::{LOADS_SLOWLY, load_the_rest, save_much};

use super::until;

pub(crate) struct Redis {
    process: Child,
    socket: PathBuf,
}

impl Redis {
    pub(crate) async fn start(folder: &Path) -> Self {
        let socket = folder.join("redis.sock");
        let process = spawn(folder, &socket, &[]);
        let redis = Self { process, socket };
        redis.answers().await;
        redis
    }

    /// Starts one in `folder` that holds what this one does, and takes its time to load it if it is to.
    pub(crate) async fn twin(&self, folder: &Path, loads_slowly: bool) -> Self {
        save_much(&mut self.database(15).await).await;
        let saved = self.socket.with_file_name("dump.rdb");
        std::fs::copy(saved, folder.join("dump.rdb")).unwrap();
        let socket = folder.join("redis.sock");
        let arguments: &[&str] = if loads_slowly { &LOADS_SLOWLY } else { &[] };
        let twin = Self { process: spawn(folder, &socket, arguments), socket };
        if loads_slowly {
            until("redis to listen", async || twin.socket.exists().then_some(())).await;
        } else {
            twin.answers().await;
        }
        twin
    }

    /// Lets one that loads slowly load the rest at once.
    pub(crate) async fn load_the_rest(&self) {
        load_the_rest(&self.url()).await;
    }

    async fn answers(&self) {
        until("redis to answer", async || self.try_connection(0).await.ok()).await;
    }

    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    pub(crate) fn directory(&self) -> Directory {
        Directory::connect(&self.url()).unwrap()
    }

    async fn try_connection(&self, database: u8) -> redis::RedisResult<MultiplexedConnection> {
        // A server on a busy machine may take longer than the library's half second.
        let patient = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(20)));
        let client = redis::Client::open(format!("{}?db={database}", self.url()))?;
        let mut connection = client.get_multiplexed_async_connection_with_config(&patient).await?;
        redis::cmd("PING").exec_async(&mut connection).await?;
        Ok(connection)
    }

    /// A connection to one database.
    pub(crate) async fn database(&self, number: u8) -> MultiplexedConnection {
        self.try_connection(number).await.unwrap()
    }

    /// A command as an operator gives it, in database 0.
    pub(crate) async fn command(&self, words: &[&str]) -> redis::Value {
        redis::cmd(words[0]).arg(&words[1..]).query_async(&mut self.database(0).await).await.unwrap()
    }

    pub(crate) async fn flush(&self) {
        self.command(&["FLUSHALL"]).await;
    }

    /// Lets another server listen where this one did. The one of before is given back: it goes on, and nobody new finds
    /// it.
    pub(crate) fn replace_by(&mut self, mut other: Self) -> Self {
        std::fs::rename(&other.socket, &self.socket).unwrap();
        std::mem::swap(&mut self.process, &mut other.process);
        other
    }

    /// How many commands were run that read keys or values.
    pub(crate) async fn reads(&self) -> u64 {
        let reads = |name: &str| matches!(name, "get" | "getrange" | "mget" | "exists" | "scan" | "keys");
        count(&mut self.database(0).await, reads).await
    }

    /// Stops it, losing everything.
    pub(crate) fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Lets it hang, or go on.
    pub(crate) fn hang(&self, hangs: bool) {
        let id = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(id, if hangs { Signal::STOP } else { Signal::CONT }).unwrap();
    }

    /// Starts it again, empty.
    pub(crate) async fn start_again(&mut self) {
        self.start_again_with(&[]).await;
    }

    /// The same, with more arguments.
    pub(crate) async fn start_again_with(&mut self, arguments: &[&str]) {
        self.process = spawn(self.socket.parent().unwrap(), &self.socket, arguments);
        self.answers().await;
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _already_dead = self.process.kill();
        let _already_reaped = self.process.wait();
    }
}

/// How many commands were run, over one connection that is kept: all but those that show that somebody lives, and the
/// count itself.
pub(crate) async fn commands(counter: &mut MultiplexedConnection) -> u64 {
    count(counter, |name| !matches!(name, "info" | "ping" | "role")).await
}

/// How many commands with such a name were run.
async fn count(connection: &mut MultiplexedConnection, is_counted: impl Fn(&str) -> bool) -> u64 {
    let stats: String = redis::cmd("INFO").arg("commandstats").query_async(connection).await.unwrap();
    let calls = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        is_counted(name).then(|| rest.split(',').next().unwrap().parse::<u64>().unwrap())
    };
    stats.lines().filter_map(calls).sum()
}

fn spawn(folder: &Path, socket: &Path, arguments: &[&str]) -> Child {
    Command::new("redis-server")
        .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
        .arg(socket)
        .arg("--dir")
        .arg(folder)
        .args(arguments)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is installed")
}
