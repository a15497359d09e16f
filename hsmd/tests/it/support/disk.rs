//! A small disk of a test's own, at a folder that only those see it at who are started inside.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use super::{daemon::Daemon, world::World};

pub struct Disk(Child);

impl Disk {
    pub fn new(size: &str, folder: &Path) -> Self {
        fs::create_dir(folder).unwrap();
        let launch = "mount -t tmpfs -o size=\"$1\",mode=0700 tmpfs \"$2\" && echo mounted && exec sleep 600";
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-current-user", "--keep-caps"]);
        }
        command.args(["--mount", "sh", "-c", launch, "sh", size]).arg(folder).stdout(Stdio::piped());
        Self::hold(command)
    }

    /// An ext4 on a loop device; nothing where that takes more rights than the test has.
    pub fn ext4(size: &str, folder: &Path) -> Option<Self> {
        let image = folder.with_extension("img");
        let make = "truncate -s \"$1\" \"$2\" && mkfs.ext4 -q -m 0 \"$2\" && losetup -f";
        let mut command = Command::new("sh");
        command.args(["-c", make, "sh", size]).arg(&image).stdout(Stdio::null()).stderr(Stdio::null());
        let may = rustix::process::geteuid().is_root() && command.status().is_ok_and(|done| done.success());
        if !may {
            return None;
        }
        fs::create_dir(folder).unwrap();
        let launch = "mount -o loop \"$1\" \"$2\" && echo mounted && exec sleep 600";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", launch, "sh"]).arg(image).arg(folder).stdout(Stdio::piped());
        Some(Self::hold(command))
    }

    fn hold(mut command: Command) -> Self {
        let mut holder = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "mounted\n");
        Self(holder)
    }

    /// Where a folder inside is seen from outside.
    pub fn inside(&self, folder: &Path) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{}", self.0.id(), folder.display()))
    }

    /// Starts hsmd inside.
    pub fn spawn(&self, world: &World) -> Daemon {
        let mut command = Command::new("nsenter");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.args(["--mount", "--target", &self.0.id().to_string(), env!("CARGO_BIN_EXE_hsmd")]);
        Daemon::launch(command, "hsmd", &world.config(), world.path(), &world.softhsm.conf())
    }

    /// A process that takes each byte that becomes free.
    pub fn eater(&self, folder: &Path) -> Eater {
        let script = "while :; do cat /dev/zero >> \"$0/eaten\" 2>/dev/null; printf x >> \"$0/eaten\"; done";
        let eater =
            Command::new("sh").args(["-c", script]).arg(self.inside(folder)).stderr(Stdio::null()).spawn();
        Eater { process: eater.unwrap(), eaten: self.inside(folder).join("eaten") }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

pub struct Eater {
    process: Child,
    eaten: PathBuf,
}

impl Eater {
    /// Ends it, and frees what it took.
    pub fn stop(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        fs::remove_file(&self.eaten).unwrap();
    }
}
