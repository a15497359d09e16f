//! One child process: how it is started, tied to this process, and ended.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;

use crate::failure::{Exit, Failure, OrFail};

/// How long a child may take from SIGTERM to its end; requests in flight have finished long before.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// What a child keeps of our environment. Everything else that it needs is in its configuration.
const KEPT_ENVIRONMENT: [&str; 6] = ["PATH", "HOME", "LANG", "TZ", "RUST_LOG", "RUST_BACKTRACE"];

/// What to run and how to know that it serves.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) executable: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) environment: Vec<(&'static str, OsString)>,
    /// A file to be read from standard input; nothing by default.
    pub(crate) stdin: Option<PathBuf>,
    pub(crate) ready: Ready,
}

/// The sign that a program serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    /// It accepts connections here.
    Connects(SocketAddr),
    /// It says so on its notification socket.
    Notifies,
    /// It answers a Redis PING here: connections are accepted before the data is loaded.
    Pongs(SocketAddr),
}

/// A started process, killed when dropped.
#[derive(Debug)]
pub(crate) struct Child {
    process: tokio::process::Child,
    log: PathBuf,
}

impl Child {
    /// Starts the program with its output appended to `log`.
    ///
    /// `setpriv` gives it a parent-death signal: it must not outlive us, however we end. The signal
    /// belongs to the thread that started the child, so this must run on the main thread, which a
    /// current-thread runtime guarantees. Its own process group keeps a terminal's Ctrl-C away from
    /// it: the order of stopping is ours.
    pub(crate) fn start(program: &Program, log: &Path, notify: &Path) -> Result<Self, Failure> {
        let context = || format!("cannot start `{}` ({})", program.name, program.executable.display());
        let output = append_to(log).or_fail(Exit::Io, || format!("cannot open `{}`", log.display()))?;
        let errors = output.try_clone().or_fail(Exit::Io, context)?;
        let stdin = match &program.stdin {
            None => Stdio::null(),
            Some(path) => {
                File::open(path).or_fail(Exit::Io, || format!("cannot read `{}`", path.display()))?.into()
            }
        };
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]).arg(&program.executable).args(&program.arguments);
        command.env_clear();
        command.envs(KEPT_ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.env("NOTIFY_SOCKET", notify).envs(program.environment.iter().map(|(k, v)| (k, v)));
        command.stdin(stdin).stdout(output).stderr(errors);
        command.process_group(0).kill_on_drop(true);
        let process = command.spawn().or_fail(Exit::Config, || {
            format!("{}: is `setpriv` (Debian package util-linux) installed?", context())
        })?;
        Ok(Self { process, log: log.to_owned() })
    }

    pub(crate) fn id(&self) -> Option<u32> {
        self.process.id()
    }

    /// Waits for the process to end by itself.
    pub(crate) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.process.wait().await
    }

    /// The end of what it wrote, for a person.
    pub(crate) fn last_words(&self) -> String {
        match last_lines(&self.log) {
            Ok(lines) if !lines.is_empty() => format!("it said:\n{lines}"),
            _ => "it said nothing".to_owned(),
        }
    }

    /// SIGTERM, and SIGKILL at the deadline. False when it had to be killed.
    pub(crate) async fn stop(mut self) -> bool {
        let pid = self.process.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let asked = pid.is_none_or(|pid| kill_process(pid, Signal::TERM).is_ok());
        let in_time = tokio::time::timeout(STOP_DEADLINE, self.process.wait()).await.is_ok();
        if !in_time {
            // Nothing is left to do for a process that cannot even be killed.
            let _gone: io::Result<()> = self.process.kill().await;
        }
        asked && in_time
    }
}

fn append_to(log: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(log)
}

fn last_lines(log: &Path) -> io::Result<String> {
    /// As much as a person reads at once, of lines that are not absurdly long.
    const LINES: usize = 15;
    const BYTES: u64 = 16 * 1024;

    use std::io::{Read, Seek, SeekFrom};
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(BYTES)))?;
    let mut bytes = Vec::new();
    file.take(BYTES).read_to_end(&mut bytes)?;
    let lines: Vec<_> = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    let kept = lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default();
    let kept: Vec<_> = kept.iter().map(|line| format!("    {}", line.escape_ascii())).collect();
    Ok(kept.join("\n"))
}
