//! A redis-server of the test's own, and one that takes its time to load what another saved.

use std::path::{Path, PathBuf};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tempfile::TempDir;

use crate::port::Port;
use crate::process::{Process, command};
use crate::until;

/// With these a server waits before each entry that it loads, and answers meanwhile that it is loading.
pub const LOADS_SLOWLY: [&str; 4] =
    ["--key-load-delay", "50000", "--loading-process-events-interval-bytes", "1024"];

/// Entries beside the directory's, and bytes of each: half a minute of [`LOADS_SLOWLY`].
const BALLAST: usize = 600;
const BALLAST_LENGTH: usize = 2_048;

/// Has a server save all that it holds, and what makes loading it last. `ballast` is a connection to a database that the
/// directory does not use.
pub async fn save_much(ballast: &mut MultiplexedConnection) {
    let mut fill = redis::pipe();
    for number in 0..BALLAST {
        fill.set(format!("ballast{number}"), "x".repeat(BALLAST_LENGTH)).ignore();
    }
    fill.cmd("CONFIG").arg(&["SET", "rdbcompression", "no"]).ignore().cmd("SAVE").ignore();
    fill.exec_async(ballast).await.unwrap();
}

/// Lets a server that loads slowly load the rest at once.
pub async fn load_the_rest(url: &str) {
    let client = redis::Client::open(url).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd("CONFIG").arg(&["SET", "key-load-delay", "0"]).exec_async(&mut connection).await.unwrap();
}

/// A running redis-server, stopped when dropped.
pub struct RedisServer {
    process: Process,
    port: Port,
    folder: TempDir,
}

impl RedisServer {
    /// Starts one on a free port of loopback, without persistence.
    pub async fn start() -> Self {
        let server = Self::launch(tempfile::tempdir().unwrap(), &[]);
        until("redis-server to answer", Duration::from_secs(10), || server.answers()).await;
        server
    }

    /// Starts one that loads what another has saved, and takes its time.
    pub fn start_loading(saved: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(saved, folder.path().join("dump.rdb")).unwrap();
        Self::launch(folder, &LOADS_SLOWLY)
    }

    fn launch(folder: TempDir, arguments: &[&str]) -> Self {
        let port = Port::reserve();
        let mut program = command("redis-server");
        program.args(["--bind", "127.0.0.1", "--port", &port.number().to_string()]);
        program.args(["--save", "", "--appendonly", "no", "--dir"]).arg(folder.path()).args(arguments);
        let process = Process::start("redis-server", program, folder.path());
        Self { process, port, folder }
    }

    /// What it has saved, if it was told to.
    pub fn saved(&self) -> PathBuf {
        self.folder.path().join("dump.rdb")
    }

    /// `redis://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port.number())
    }

    /// The process, to be stopped or killed.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    async fn answers(&self) -> Option<()> {
        let client = redis::Client::open(self.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.ok()?;
        redis::cmd("PING").query_async::<String>(&mut connection).await.ok().map(drop)
    }
}
