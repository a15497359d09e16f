//! PostgreSQL and Redis on Unix sockets in a temporary folder.

use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::{eventually, listens};

pub struct Server {
    child: Child,
    pub url: String,
}

impl Server {
    /// Ends it, as a power cut would.
    pub fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops PostgreSQL, has `change` do what it does to the folder of its cluster, and starts it again.
    pub fn restart(&mut self, folder: &Path, change: impl FnOnce(&Path)) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        self.child.wait().unwrap();
        let folder = folder.join("postgres");
        change(&folder.join("data"));
        *self = serve(&folder);
    }

    /// Sends a signal to the server and all that it has started.
    pub fn signal(&self, signal: Signal) {
        let parent = self.child.id();
        let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let id: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
            let above: u32 = stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()?;
            (above == parent).then_some(id)
        });
        for id in processes.chain([parent]) {
            let id = Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
            kill_process(id, signal).unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// PostgreSQL, with its durability as it comes: fsync on.
pub fn postgres(folder: &Path) -> Server {
    let folder = folder.join("postgres");
    fs::create_dir(&folder).unwrap();
    if is_root() {
        chown(&folder, Some(NOBODY), Some(NOBODY)).unwrap();
        for parent in folder.ancestors().skip(1).take_while(|parent| *parent != Path::new("/tmp")) {
            open_to_pass(parent);
        }
    }
    let data = folder.join("data");
    let made = unprivileged(&program("initdb"))
        .args(["-U", "test", "-A", "trust", "--no-sync", "--locale=C.UTF-8", "-E", "UTF8", "-D"])
        .arg(&data)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(made.success());
    serve(&folder)
}

/// PostgreSQL on a folder whose cluster was made.
fn serve(folder: &Path) -> Server {
    let child = unprivileged(&program("postgres"))
        .arg("-D")
        .arg(folder.join("data"))
        .arg("-k")
        .arg(folder)
        .args(["-c", "listen_addresses="])
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let ready = || {
        Command::new(program("pg_isready"))
            .arg("-q")
            .arg("-h")
            .arg(folder)
            .status()
            .is_ok_and(|done| done.success())
    };
    let url = format!("postgres://test@localhost/postgres?host={}", folder.display());
    let server = Server { child, url };
    eventually("PostgreSQL", Duration::from_secs(20), ready);
    server
}

pub fn redis(folder: &Path) -> Server {
    let socket = folder.join("redis.sock");
    let child = Command::new("redis-server")
        .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
        .arg(&socket)
        .arg("--dir")
        .arg(folder)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let server = Server { child, url: format!("unix://{}", socket.display()) };
    eventually("Redis", Duration::from_secs(10), || listens(&socket));
    server
}

const NOBODY: u32 = 65534;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn open_to_pass(folder: &Path) {
    let mode = fs::metadata(folder).unwrap().permissions().mode();
    fs::set_permissions(folder, fs::Permissions::from_mode(mode | 0o011)).unwrap();
}

/// PostgreSQL refuses to run as root.
fn unprivileged(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(program);
    command
}

/// The newest installed version's, or the one on the path.
fn program(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let installed = versions.map(|version| version.unwrap().path().join("bin").join(name));
    installed.filter(|program| program.exists()).max().unwrap_or_else(|| name.into())
}
