//! The whole system on free loopback ports, as `opsctl dev` brings it up.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustix::process::Signal;
use serde::Deserialize;
use tempfile::TempDir;
use tokio::sync::Mutex;

use crate::http::Http;
use crate::process::{Process, command, send, tail};
use crate::until;

/// A cold start on a machine that is busy with other tests.
const START_DEADLINE: Duration = Duration::from_secs(90);

/// A running system, stopped when dropped.
pub struct World {
    process: Process,
    folder: TempDir,
    options: Vec<String>,
    endpoints: Endpoints,
}

/// Where everything is, as `opsctl dev --endpoints` writes it.
#[derive(Clone, Debug, Deserialize)]
pub struct Endpoints {
    /// The chain's prefix, which verifiers pin.
    pub identity: String,
    /// authd.
    pub auth: String,
    /// keysd.
    pub keys: String,
    /// hsmd's plain `POST /sign` of a laboratory.
    pub hsm: Option<String>,
    /// hsmd's socket for endorsements.
    pub endorse: PathBuf,
    /// hsmd's socket for rotation and taint.
    pub admin: PathBuf,
    /// The key directory.
    pub redis: String,
    /// The edge before each app, by the app's name.
    pub apps: BTreeMap<String, String>,
    /// Where each daemon's metrics are.
    pub metrics: BTreeMap<String, String>,
}

impl World {
    /// Starts one of the test's own: for tests that break, empty or kill something.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same on a database of the test's own.
    pub async fn start_on(database: &str) -> Self {
        Self::start_with(&["--database", database]).await
    }

    /// One that tests share which leave it as they found it, each with accounts of its own. It is
    /// stopped when the last of them lets go of it.
    pub async fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<World>> = Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(world) = shared.upgrade() {
            return world;
        }
        let world = Arc::new(Self::start().await);
        *shared = Arc::downgrade(&world);
        world
    }

    async fn start_with(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options: Vec<_> = options.iter().map(ToString::to_string).collect();
        let (process, endpoints) = bring_up(folder.path(), &options).await;
        Self { process, folder, options, endpoints }
    }

    /// Stops everything and starts it again on the same folder. Addresses change.
    pub async fn restart(&mut self) {
        self.restart_after(|_| {}).await;
    }

    /// The same, with something done to the folder of `opsctl dev` meanwhile.
    pub async fn restart_after(&mut self, meanwhile: impl FnOnce(&Path)) {
        let status = self.process.stop();
        assert!(status.success(), "opsctl dev did not stop cleanly: {status}\n{}", self.logs());
        meanwhile(&self.folder.path().join("dev"));
        (self.process, self.endpoints) = bring_up(self.folder.path(), &self.options).await;
    }

    /// Where everything is.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// The file that says where everything is.
    pub fn endpoints_file(&self) -> PathBuf {
        endpoints_file(self.folder.path())
    }

    /// authd.
    pub fn auth(&self) -> Http {
        Http::to(&self.endpoints.auth)
    }

    /// keysd.
    pub fn keys(&self) -> Http {
        Http::to(&self.endpoints.keys)
    }

    /// The edge before the app of that name.
    pub fn app(&self, name: &str) -> Http {
        let base =
            self.endpoints.apps.get(name).unwrap_or_else(|| panic!("no app {name}: {:?}", self.endpoints));
        Http::to(base)
    }

    /// hsmd's admin socket.
    pub fn admin(&self) -> Http {
        Http::to_socket(&self.endpoints.admin)
    }

    /// hsmd's endorse socket.
    pub fn endorse(&self) -> Http {
        Http::to_socket(&self.endpoints.endorse)
    }

    /// A connection to database `number` of the key directory.
    pub async fn directory(&self, number: u8) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(format!("{}/{number}", self.endpoints.redis)).unwrap();
        // A server on a busy machine may take longer than the library's half second.
        let patient = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(20)));
        client.get_multiplexed_async_connection_with_config(&patient).await.unwrap()
    }

    /// The process ids of the running children of that program.
    pub fn children(&self, program: &str) -> Vec<u32> {
        children_of(self.process.id()).into_iter().filter(|id| is_running(*id, program)).collect()
    }

    /// Kills every process of that program, without warning.
    pub fn kill(&self, program: &str) {
        let found = self.children(program);
        assert!(!found.is_empty(), "no {program} is running");
        for id in found {
            send(id, Signal::KILL);
        }
    }

    /// The ends of all logs, for a failure.
    pub fn logs(&self) -> String {
        format!("{}\n{}", self.process.log(), logs(self.folder.path()))
    }

    /// The process `opsctl dev`.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
    }
}

async fn bring_up(folder: &Path, options: &[String]) -> (Process, Endpoints) {
    let file = endpoints_file(folder);
    let mut program = command(binary("opsctl"));
    program.arg("dev").arg("--dir").arg(folder.join("dev")).arg("--endpoints").arg(&file);
    program.arg("--apps").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("apps"));
    program.args(options);
    let mut process = Process::start("opsctl", program, folder);
    let endpoints = until("the whole system to be up", START_DEADLINE, || {
        if let Some(status) = process.ended() {
            panic!("opsctl dev ended at its start: {status}\n{}\n{}", process.log(), logs(folder));
        }
        let endpoints = std::fs::read(&file).ok().map(|text| serde_json::from_slice(&text).unwrap());
        async { endpoints }
    })
    .await;
    (process, endpoints)
}

fn endpoints_file(folder: &Path) -> PathBuf {
    folder.join("where.json")
}

/// A program of this workspace, built with the profile of the running test.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let path = profile.join(name);
    assert!(path.is_file(), "{} is not built: run tests/run, or cargo build --profile ci", path.display());
    path
}

fn logs(folder: &Path) -> String {
    let Ok(entries) = std::fs::read_dir(folder.join("dev/log")) else { return String::new() };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let ends: Vec<_> =
        files.iter().map(|file| format!("--- {} ---\n{}", file.display(), tail(file))).collect();
    ends.join("\n")
}

fn children_of(parent: u32) -> Vec<u32> {
    let path = format!("/proc/{parent}/task");
    let Ok(threads) = std::fs::read_dir(path) else { return Vec::new() };
    threads
        .filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("children")).ok())
        .flat_map(|list| list.split_whitespace().map(|id| id.parse().unwrap()).collect::<Vec<u32>>())
        .collect()
}

/// By the name that the kernel keeps: Debian's redis-server is a link to a program of another name.
fn is_running(id: u32, program: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|name| name.trim_end() == program)
}
