//! What hsmd gives up before it reads a byte of configuration: core dumps, and being looked into.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    process::{Child, Command},
    time::Duration,
};

use crate::support::{eventually, install_program};

const NOBODY: &str = "65534";

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Starts a command as a user without rights, with core dumps allowed, and waits until `seen` is true of its folder in
/// /proc.
fn eventually_seen(what: &str, command: &[&str], seen: impl Fn(&str) -> bool) {
    let launch = "ulimit -c unlimited && exec \"$@\"";
    let mut starter = Command::new("sh");
    if rustix::process::geteuid().is_root() {
        starter = Command::new("setpriv");
        starter.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--", "sh"]);
    }
    let child = starter.args(["-c", launch, "sh"]).args(command).current_dir("/").spawn().unwrap();
    let running = Running(child);
    let folder = format!("/proc/{}", running.0.id());
    eventually(what, Duration::from_secs(10), || seen(&folder));
}

/// Whether the process is the program itself, and no longer what starts it.
fn is(folder: &str, program: &str) -> bool {
    fs::read_to_string(format!("{folder}/comm")).is_ok_and(|name| name.trim_end() == program)
}

fn dumps_core(folder: &str) -> bool {
    let limits = fs::read_to_string(format!("{folder}/limits")).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    line.split_whitespace().nth(4) != Some("0")
}

/// What lies in /proc of a process that cannot be dumped, nor traced by its own user, is root's.
fn can_be_traced(folder: &str) -> bool {
    fs::metadata(format!("{folder}/environ")).unwrap().uid() != 0
}

#[test]
fn no_core_is_dumped_and_nobody_looks_in() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
    let program = folder.path().join("hsmd");
    install_program(Path::new(env!("CARGO_BIN_EXE_hsmd")), &program);
    // hsmd waits for the writer of its configuration.
    let config = folder.path().join("hsmd.toml");
    assert!(Command::new("mkfifo").args(["-m", "644"]).arg(&config).status().unwrap().success());
    let command = [program.to_str().unwrap(), "--config", config.to_str().unwrap()];
    eventually_seen("a process that keeps to itself", &command, |folder| {
        is(folder, "hsmd") && !dumps_core(folder) && !can_be_traced(folder)
    });
    // Another program, started alike, does neither.
    eventually_seen("one that does not", &["sleep", "60"], |folder| {
        is(folder, "sleep") && dumps_core(folder) && can_be_traced(folder)
    });
}
