//! The entire system as `opsctl dev` runs it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::{opsctl, stderr, stdout, until};

/// A running `opsctl dev`, stopped when dropped.
struct Dev {
    process: Child,
    folder: PathBuf,
}

impl Dev {
    fn launch(folder: &Path) -> Self {
        let mut command = opsctl();
        command
            .arg("dev")
            .arg("--dir")
            .arg(folder.join("dev"))
            .arg("--endpoints")
            .arg(folder.join("where.json"));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Self { process: command.spawn().unwrap(), folder: folder.to_owned() }
    }

    async fn start(folder: &Path) -> (Self, Value) {
        let mut dev = Self::launch(folder);
        let file = folder.join("where.json");
        let endpoints = until("the system to be up", async || {
            assert_eq!(dev.process.try_wait().unwrap(), None, "opsctl dev ended at its start");
            std::fs::read_to_string(&file).ok()
        })
        .await;
        (dev, serde_json::from_str(&endpoints).unwrap())
    }

    fn pid_of(&self, child: &str) -> Option<Pid> {
        let text = std::fs::read_to_string(self.folder.join(format!("dev/run/{child}.pid"))).ok()?;
        Pid::from_raw(text.parse().ok()?)
    }

    fn children(&self) -> Vec<(String, Pid)> {
        let files = std::fs::read_dir(self.folder.join("dev/run")).unwrap();
        let names = files
            .filter_map(|file| Some(file.unwrap().file_name().to_str()?.strip_suffix(".pid")?.to_owned()));
        names.map(|name| (name.clone(), self.pid_of(&name).unwrap())).collect()
    }

    async fn end(mut self, signal: Signal) -> std::process::ExitStatus {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
        until("opsctl dev to end", async || self.process.try_wait().unwrap()).await
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // Its children end with it.
        let _gone: std::io::Result<()> = self.process.kill();
        let _reaped: std::io::Result<_> = self.process.wait();
    }
}

fn run(arguments: &[&str], endpoints: &Path) -> Output {
    let mut command = opsctl();
    command.args(arguments).arg("--endpoints").arg(endpoints).stdin(Stdio::null());
    command.output().unwrap()
}

fn succeed(arguments: &[&str], endpoints: &Path) -> String {
    let output = run(arguments, endpoints);
    assert!(output.status.success(), "{arguments:?}: {}{}", stdout(&output), stderr(&output));
    stdout(&output).to_owned()
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[tokio::test]
async fn an_operator_walks_through_a_running_system() {
    let folder = folder();
    let (dev, endpoints) = Dev::start(folder.path()).await;
    let file = folder.path().join("where.json");
    let members: Vec<_> = endpoints.as_object().unwrap().keys().map(String::as_str).collect();
    for member in ["identity", "auth", "keys", "hsm", "endorse", "admin", "redis", "apps", "metrics"] {
        assert!(members.contains(&member), "{member} is missing: {endpoints}");
    }
    assert_eq!(endpoints["apps"].as_object().unwrap().len(), 4, "{endpoints}");

    let identity = endpoints["identity"].as_str().unwrap();
    assert_eq!(succeed(&["identity", "export"], &file), format!("{identity}\n"));
    // keysd serves before it has a key for acknowledgements.
    until("everything to be ready", async || run(&["status"], &file).status.success().then_some(())).await;
    let status: Value = serde_json::from_str(&succeed(&["status", "--json"], &file)).unwrap();
    assert_eq!(status["ready"], true, "{status}");

    let first = status["chain"]["generation"].as_str().unwrap().to_owned();
    succeed(&["rotate", "--dry-run"], &file);
    let second = succeed(&["rotate", "--from", &first], &file);
    assert_eq!(succeed(&["rotate", "--from", &first], &file), second, "a repeated rotation is the same one");
    assert_eq!(run(&["taint", "--reason", "drill"], &file).status.code(), Some(64), "without --yes");
    succeed(&["taint", "--reason", "drill", "--yes", "--generation", second.trim_end()], &file);
    let verdict: Value = serde_json::from_str(&succeed(&["chain", "verify", "--json"], &file)).unwrap();
    assert_eq!((&verdict["events"], &verdict["tainted"]), (&3.into(), &1.into()), "{verdict}");

    the_older_and_the_stolen_are_refused(&first, &endpoints, &file).await;
    let probed: Value = serde_json::from_str(&succeed(&["probe", "--with-admin", "--json"], &file)).unwrap();
    assert_eq!(probed["ok"], true, "{probed}");
    assert!(dev.end(Signal::TERM).await.success());
    assert!(!file.exists(), "endpoints of a stopped system");
}

/// A generation that others follow is denied, and a key of a service revoked, in what is published.
async fn the_older_and_the_stolen_are_refused(older: &str, endpoints: &Value, file: &Path) {
    let taint = ["taint", "--reason", "drill", "--yes", "--generation", older];
    let output = run(&taint, file);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("stated: the head of"), "{}", stderr(&output));
    let answer: Value = serde_json::from_str(&succeed(&[&taint[..], &["--json"]].concat(), file)).unwrap();
    assert_eq!((&answer["taintedGenerationId"], &answer["effect"]), (&older.into(), &"denied".into()));

    let keys = [7, 8].map(|seed| keychain::SigningKey::from_seed(&[seed; 32]).unwrap().public_key());
    let [one, two] = keys.map(|key| key.to_string());
    let revoke = ["revoke-key", &one, &two, "--reason", "drill"];
    assert_eq!(run(&revoke, file).status.code(), Some(64), "without --yes");
    succeed(&[&revoke[..], &["--dry-run"]].concat(), file);
    let revoke = [&revoke[..], &["--yes", "--json"]].concat();
    let first = succeed(&revoke, file);
    assert_eq!(succeed(&revoke, file), first, "a repeated revocation is the same one");

    // Services whose keys the older generation endorsed make others.
    until("everything to be ready again", async || run(&["status"], file).status.success().then_some(()))
        .await;
    let status: Value = serde_json::from_str(&succeed(&["status", "--json"], file)).unwrap();
    assert_eq!((&status["head"]["denied"][0], &status["head"]["revokedKeys"]), (&older.into(), &2.into()));
    let directory = keychain::directory::Directory::connect(endpoints["redis"].as_str().unwrap()).unwrap();
    until("the head and the revocations in the directory", async || {
        let heads = directory.heads().await.ok()?;
        let entries = [format!("\"denied\":[\"{older}\"]"), one.clone(), two.clone()];
        let is_newest = |head: &String| entries.iter().all(|entry| head.contains(entry));
        heads.iter().any(is_newest).then_some(())
    })
    .await;
}

#[tokio::test]
async fn it_starts_again_as_itself_and_never_twice() {
    let folder = folder();
    let (dev, first) = Dev::start(folder.path()).await;
    let mut second = opsctl();
    let refused = second.arg("dev").arg("--dir").arg(folder.path().join("dev")).output().unwrap();
    assert_eq!(refused.status.code(), Some(75), "{}", stderr(&refused));
    let children = dev.children();
    assert!(children.len() >= 10, "{children:?}");
    assert!(dev.end(Signal::INT).await.success());
    for (name, pid) in children {
        test_kill_process(pid).expect_err(&format!("{name} outlives an orderly stop"));
    }
    let (_dev, again) = Dev::start(folder.path()).await;
    assert_eq!(first["identity"], again["identity"]);
    succeed(&["probe"], &folder.path().join("where.json"));
}

#[tokio::test]
async fn a_child_that_dies_comes_back_and_none_outlives_a_killed_parent() {
    let folder = folder();
    let (dev, _) = Dev::start(folder.path()).await;
    for child in ["edge-rust", "authd", "hsmd", "redis"] {
        let before = dev.pid_of(child).unwrap();
        kill_process(before, Signal::KILL).unwrap();
        until(&format!("another {child}"), async || dev.pid_of(child).filter(|pid| *pid != before)).await;
    }
    let file = folder.path().join("where.json");
    until("everything to be ready again", async || run(&["status"], &file).status.success().then_some(()))
        .await;
    until("the system to serve again", async || run(&["probe"], &file).status.success().then_some(())).await;

    let children = dev.children();
    dev.end(Signal::KILL).await;
    for (name, pid) in children {
        until(&format!("{name} to end"), async || test_kill_process(pid).err()).await;
    }
}

#[tokio::test]
async fn what_is_missing_is_said() {
    let folder = folder();
    let mut command = Command::new(env!("CARGO_BIN_EXE_opsctl"));
    command.arg("dev").arg("--dir").arg(folder.path()).env("PATH", "/nowhere").stdin(Stdio::null());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{}", stderr(&output));
    assert!(stderr(&output).contains("leaving out the python app: `python3` is not installed"));
    assert!(stderr(&output).contains("redis-server is not installed"), "{}", stderr(&output));
}
