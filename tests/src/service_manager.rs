//! A stand-in for the service manager: hears readiness, keeps what a daemon leaves with it (`FDSTORE=1`), and passes that to
//! the next start.

use std::fmt::Write as _;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::process::command;

/// A descriptor and its name.
pub type Kept = (String, OwnedFd);

/// The manager of one service.
pub struct ServiceManager {
    socket: UnixDatagram,
    path: PathBuf,
    /// What the service left, by name.
    kept: Mutex<Vec<Kept>>,
    /// What was passed to the running process, open for as long as it may be looking for it.
    passed: Vec<OwnedFd>,
}

impl ServiceManager {
    /// One that listens in `folder`.
    pub fn start(folder: &Path) -> Self {
        let path = folder.join("notify.sock");
        let _first_time = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).unwrap();
        Self { socket, path, kept: Mutex::default(), passed: Vec::new() }
    }

    /// The command that starts `program` under this manager, with what was left by the process before.
    pub fn launch(&mut self, program: &Path, kept: Vec<Kept>) -> Command {
        let names: Vec<&str> = kept.iter().map(|(name, _)| name.as_str()).collect();
        let names = names.join(":");
        self.passed = kept.into_iter().map(|(_, descriptor)| descriptor).collect();
        let mut script = String::new();
        for (number, descriptor) in (3..).zip(&self.passed) {
            let place = (std::process::id(), descriptor.as_raw_fd());
            write!(script, "exec {number}</proc/{}/fd/{}; ", place.0, place.1).unwrap();
        }
        script.push_str("LISTEN_PID=$$; export LISTEN_PID; exec \"$0\" \"$@\"");
        let mut launch = command("sh");
        launch.args(["-c", &script]).arg(program);
        launch.env("NOTIFY_SOCKET", &self.path);
        launch.env("LISTEN_FDS", self.passed.len().to_string()).env("LISTEN_FDNAMES", names);
        launch
    }

    /// Whether a line like that has come since this was asked last.
    pub fn heard(&self, is_wanted: impl Fn(&str) -> bool) -> bool {
        let mut found = false;
        while let Some((lines, descriptors)) = self.receive() {
            found |= lines.lines().any(&is_wanted);
            self.keep(&lines, descriptors);
        }
        found
    }

    /// What the service left, as of now.
    pub fn kept(&self) -> Vec<Kept> {
        self.heard(|_| false);
        let kept = self.kept.lock().unwrap();
        kept.iter().map(|(name, descriptor)| (name.clone(), descriptor.try_clone().unwrap())).collect()
    }

    /// The next message, if there is one, with its descriptors.
    fn receive(&self) -> Option<(String, Vec<OwnedFd>)> {
        let mut buffer = [0; 4_096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let length = recvmsg(&self.socket, &mut slices, &mut control, RecvFlags::DONTWAIT).ok()?.bytes;
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(passed) = message {
                descriptors.extend(passed);
            }
        }
        let lines = std::str::from_utf8(buffer.get(..length)?).unwrap().to_owned();
        Some((lines, descriptors))
    }

    /// Does what systemd does with `FDSTORE=1` and `FDSTOREREMOVE=1`.
    fn keep(&self, lines: &str, descriptors: Vec<OwnedFd>) {
        let Some(name) = lines.lines().find_map(|line| line.strip_prefix("FDNAME=")) else { return };
        let says = |wanted: &str| lines.lines().any(|line| line == wanted);
        let mut kept = self.kept.lock().unwrap();
        if says("FDSTOREREMOVE=1") {
            kept.retain(|(known, _)| known != name);
        } else {
            assert!(says("FDSTORE=1") && says("FDPOLL=0"), "{lines}");
            kept.extend(descriptors.into_iter().map(|descriptor| (name.to_owned(), descriptor)));
        }
    }
}
