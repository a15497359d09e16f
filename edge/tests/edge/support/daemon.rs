//! A real daemon of this crate, its readiness heard as systemd hears it.

use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use tests::service_manager::{Kept, ServiceManager};

use super::{DEADLINE, until};

pub(crate) struct Daemon {
    process: Child,
    manager: ServiceManager,
    log: PathBuf,
}

impl Daemon {
    /// Starts `program` with that configuration.
    pub(crate) fn spawn(program: &str, folder: &Path, configuration: &str) -> Self {
        Self::spawn_with(program, folder, configuration, Vec::new())
    }

    /// The same with what was left by the process before.
    pub(crate) fn spawn_with(program: &str, folder: &Path, configuration: &str, kept: Vec<Kept>) -> Self {
        let file = folder.join("daemon.toml");
        std::fs::write(&file, configuration).unwrap();
        let mut manager = ServiceManager::start(folder);
        let log = folder.join("daemon.log");
        let process = manager
            .launch(Path::new(program), kept)
            .arg("--config")
            .arg(&file)
            .env("RUST_LOG", "info,edge=debug")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { process, manager, log }
    }

    /// Waits until it says that it is ready.
    pub(crate) async fn ready(&mut self) {
        until("the daemon to be ready", async || {
            if let Some(status) = self.process.try_wait().unwrap() {
                panic!("it ended: {status}\n{}", self.log());
            }
            self.said("READY=1").then_some(())
        })
        .await;
    }

    /// Whether it has said that since this was asked last.
    pub(crate) fn said(&self, what: &str) -> bool {
        self.heard(|line| line == what)
    }

    /// Whether it has told a status with that in it since this was asked last.
    pub(crate) fn said_with(&self, part: &str) -> bool {
        self.heard(|line| line.starts_with("STATUS=") && line.contains(part))
    }

    fn heard(&self, is_wanted: impl Fn(&str) -> bool) -> bool {
        self.manager.heard(is_wanted)
    }

    /// What it leaves with its manager, as of now.
    pub(crate) fn kept(&self) -> Vec<Kept> {
        self.manager.kept()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Asks it to stop.
    pub(crate) fn terminate(&self) {
        let id = i32::try_from(self.id()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(id, Signal::TERM).unwrap();
    }

    /// Asks it to stop in the moment in which it says that it is ready.
    pub(crate) fn terminate_when_ready(&self) {
        let started = Instant::now();
        while !self.said("READY=1") {
            assert!(started.elapsed() < DEADLINE, "it does not become ready: {}", self.log());
            std::thread::yield_now();
        }
        self.terminate();
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Orders new keys.
    pub(crate) fn hang_up(&self) {
        let id = i32::try_from(self.id()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(id, Signal::HUP).unwrap();
    }

    /// How it ended.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        until("the daemon to end", async || self.process.try_wait().unwrap()).await
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _already_dead = self.process.kill();
        let _already_reaped = self.process.wait();
        if std::thread::panicking() {
            eprintln!("--- daemon ---\n{}", self.log());
        }
    }
}
