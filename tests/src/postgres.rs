//! A PostgreSQL server of the test's own.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::port::Port;
use crate::process::{Process, run, unprivileged};
use crate::until;

/// A running PostgreSQL with one empty database, stopped when dropped.
pub struct PostgreSql {
    process: Process,
    port: Port,
    _folder: TempDir,
}

impl PostgreSql {
    /// Makes a cluster and starts a server on a free port of loopback. It is not durable (a test
    /// does not outlive its server); nothing else differs from one in earnest.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with more settings, each as in `name=value`.
    pub async fn start_with(settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        open_to_nobody(folder.path());
        let data = folder.path().join("data");
        let programs = programs();
        let mut initdb = unprivileged(programs.join("initdb"));
        initdb.arg("-D").arg(&data);
        initdb.args(["-U", "test", "-A", "trust", "--no-sync", "--locale=C.UTF-8", "-E", "UTF8"]);
        run(initdb);

        let port = Port::reserve();
        let mut program = unprivileged(programs.join("postgres"));
        program.arg("-D").arg(&data).arg("-k").arg(&data);
        program.args([
            "-p",
            &port.number().to_string(),
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            "fsync=off",
        ]);
        program.args(settings.iter().flat_map(|setting| ["-c", setting]));
        let process = Process::start("postgres", program, folder.path());
        let server = Self { process, port, _folder: folder };
        until("PostgreSQL to be ready", Duration::from_secs(30), || server.is_ready(&programs)).await;
        server
    }

    /// `postgres://test@127.0.0.1:PORT/postgres`
    pub fn url(&self) -> String {
        format!("postgres://test@127.0.0.1:{}/postgres", self.port.number())
    }

    /// The process, to be stopped or killed.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        self.process.output()
    }

    async fn is_ready(&self, programs: &Path) -> Option<()> {
        let status = tokio::process::Command::new(programs.join("pg_isready"))
            .args(["-q", "-h", "127.0.0.1", "-p", &self.port.number().to_string()])
            .status()
            .await
            .unwrap();
        status.success().then_some(())
    }
}

impl Drop for PostgreSql {
    /// A fast shutdown: on SIGTERM it would wait for the connections that a test still holds.
    fn drop(&mut self) {
        self.process.signal(rustix::process::Signal::INT);
    }
}

/// A PgBouncer in transaction mode before a server, stopped when dropped.
pub struct PgBouncer {
    _process: Process,
    port: Port,
    _folder: TempDir,
}

impl PgBouncer {
    /// Starts one on a free port of loopback.
    pub async fn before(server: &PostgreSql) -> Self {
        let folder = tempfile::tempdir().unwrap();
        open_to_nobody(folder.path());
        let port = Port::reserve();
        let configuration = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\npostgres = host=127.0.0.1 port={} user=test\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\n",
            server.port.number(),
            port.number(),
        );
        std::fs::write(&configuration, text).unwrap();
        let mut program = unprivileged(PathBuf::from("/usr/sbin/pgbouncer"));
        program.arg(&configuration);
        let process = Process::start("pgbouncer", program, folder.path());
        let number = port.number();
        until("PgBouncer to listen", Duration::from_secs(30), || async {
            tokio::net::TcpStream::connect(("127.0.0.1", number)).await.ok().map(drop)
        })
        .await;
        Self { _process: process, port, _folder: folder }
    }

    /// `postgres://test@127.0.0.1:PORT/postgres`
    pub fn url(&self) -> String {
        format!("postgres://test@127.0.0.1:{}/postgres", self.port.number())
    }
}

/// Debian keeps the server's programs out of PATH, in a folder per version; the newest is taken.
fn programs() -> PathBuf {
    let all = Path::new("/usr/lib/postgresql");
    let newest = std::fs::read_dir(all)
        .unwrap_or_else(|error| panic!("PostgreSQL is not installed ({}: {error})", all.display()))
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok())
        .max()
        .expect("a version of PostgreSQL in /usr/lib/postgresql");
    all.join(newest.to_string()).join("bin")
}

/// Root's temporary folder is handed to the user that the server runs as.
fn open_to_nobody(folder: &Path) {
    if rustix::process::geteuid().is_root() {
        let nobody = user_id("nobody");
        chown(folder, Some(nobody), None).unwrap();
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)).unwrap();
    }
}

fn user_id(name: &str) -> u32 {
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let line =
        users.lines().find(|line| line.split(':').next() == Some(name)).expect("the user in /etc/passwd");
    line.split(':').nth(2).unwrap().parse().unwrap()
}
