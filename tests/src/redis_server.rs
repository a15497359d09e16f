//! A redis-server of the test's own.

use std::time::Duration;

use tempfile::TempDir;

use crate::port::Port;
use crate::process::{Process, command};
use crate::until;

/// A running redis-server, stopped when dropped.
pub struct RedisServer {
    process: Process,
    port: Port,
    _folder: TempDir,
}

impl RedisServer {
    /// Starts one on a free port of loopback, without persistence.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = Port::reserve();
        let mut program = command("redis-server");
        program.args(["--bind", "127.0.0.1", "--port", &port.number().to_string()]);
        program.args(["--save", "", "--appendonly", "no", "--dir"]).arg(folder.path());
        let process = Process::start("redis-server", program, folder.path());
        let server = Self { process, port, _folder: folder };
        until("redis-server to answer", Duration::from_secs(10), || server.answers()).await;
        server
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
