//! A throw-away machine with a real systemd (`tests/machine/boot`). It takes root: that of the test process, or that of a
//! `sudo` that asks nothing.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::process::tail;

/// A machine that has booted; gone when dropped.
pub struct Machine {
    /// Holds the machine by its standard input.
    boot: Child,
    /// Its systemd, as this host sees it.
    leader: String,
    shared: PathBuf,
    complaints: PathBuf,
}

impl Machine {
    /// Boots one with `files` over its root, `programs` in its `/usr/bin`, and the folder `shared` as its `/shared`.
    pub fn boot(files: &Path, shared: &Path, programs: &[PathBuf]) -> Self {
        let complaints = shared.join("boot.log");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("machine/boot");
        let mut boot = as_root(script);
        boot.arg("keelson").arg(files);
        boot.arg(format!("--bind={}:/shared", shared.display()));
        for program in programs {
            let name = program.file_name().unwrap().to_str().unwrap();
            boot.arg(format!("--bind-ro={}:/usr/bin/{name}", program.display()));
        }
        boot.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&complaints).unwrap());
        let mut boot = boot.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(boot.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let leader = line.strip_prefix("up ").unwrap_or_else(|| {
            let said = std::fs::read_to_string(&complaints).unwrap();
            panic!("no machine with a real systemd can be booted, which takes root and its rights to mount: {said}")
        });
        let leader = leader.trim().to_owned();
        Self { boot, leader, shared: shared.to_owned(), complaints }
    }

    /// Runs a script in it as root; what it printed. Panics with the script's complaints if it fails.
    pub fn run(&self, script: &str) -> String {
        let output = self.attempt(script);
        let print = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let (said, complaints) = (print(&output.stdout), print(&output.stderr));
        assert!(output.status.success(), "{script}\n{}\n{said}\n{complaints}", output.status);
        said
    }

    /// The same, where it may fail.
    pub fn attempt(&self, script: &str) -> Output {
        let mut enter = as_root("nsenter");
        enter.args(["--target", &self.leader, "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]);
        enter.args(["--root", "--wd", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"]);
        enter.args(["LANG=C.UTF-8", "TERM=dumb", "SYSTEMD_PAGER=cat", "SYSTEMD_COLORS=0"]);
        enter.args(["bash", "-euo", "pipefail", "-c", script]).stdin(Stdio::null());
        enter.output().unwrap()
    }

    /// Where the shared folder is on this side.
    pub fn shared(&self) -> &Path {
        &self.shared
    }

    /// What the units say of themselves, for a failure.
    pub fn journal(&self) -> String {
        let output = self.attempt("journalctl --no-pager --lines 200 --output short-monotonic");
        format!("{}\n{}", tail(&self.complaints), String::from_utf8(output.stdout).unwrap_or_default())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.journal());
        }
        drop(self.boot.stdin.take());
        let _ended = self.boot.wait();
    }
}

/// A command of root's.
fn as_root(program: impl AsRef<std::ffi::OsStr>) -> Command {
    if rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg("--non-interactive").arg(program);
    command
}
