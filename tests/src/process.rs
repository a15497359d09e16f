//! Child processes that are stopped when dropped and cannot outlive the test, with their output kept.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// From SIGTERM to SIGKILL.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// How much of a log a failure shows, in lines.
const LOG_LINES: usize = 12;

/// A started program.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` (made by [`command`] or [`unprivileged`]) with its output in
    /// `folder/<name>.log`.
    pub fn start(name: &str, command: Command, folder: &Path) -> Self {
        Self::start_with(name, command, folder, Stdio::null())
    }

    /// The same with something at its standard input.
    pub fn start_with(name: &str, mut command: Command, folder: &Path, input: Stdio) -> Self {
        let log = folder.join(format!("{name}.log"));
        let output = File::create(&log).unwrap();
        command.stdin(input).stderr(output.try_clone().unwrap()).stdout(output);
        let child = spawn(command).unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self { name: name.to_owned(), child, log }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        send(self.id(), signal);
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// The end of what it wrote.
    pub fn log(&self) -> String {
        format!("--- {} ---\n{}", self.name, tail(&self.log))
    }

    /// All that it wrote.
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// SIGTERM, then SIGKILL at the deadline. Tells how it ended.
    pub fn stop(&mut self) -> ExitStatus {
        if let Some(status) = self.ended() {
            return status;
        }
        self.signal(Signal::TERM);
        let id = self.id();
        let (ended, end) = sync_channel(1);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                if end.recv_timeout(STOP_DEADLINE).is_err() {
                    send(id, Signal::KILL);
                }
            });
            let status = self.child.wait().unwrap();
            // The watch may have ended at its deadline.
            let _watch_is_gone: Result<(), _> = ended.send(());
            status
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// `program`, tied to this process: it gets SIGTERM when this one is gone.
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--"]).arg(program);
    command
}

/// The same as the user `nobody` when this process is root: PostgreSQL refuses to run as root.
pub fn unprivileged(program: impl AsRef<std::ffi::OsStr>) -> Command {
    if !rustix::process::geteuid().is_root() {
        return command(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "--pdeathsig", "TERM", "--"]);
    command.arg(program);
    command
}

/// Runs `command` to its end and returns what it printed; panics with its complaints if it fails.
pub fn run(mut command: Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let print = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let complaints = print(&output.stderr);
    assert!(output.status.success(), "{command:?} failed: {}\n{complaints}", output.status);
    print(&output.stdout)
}

/// Sends `signal` to the process `id`, which may be gone already.
pub fn send(id: u32, signal: Signal) {
    let id = Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
    match kill_process(id, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => panic!("cannot signal process {id:?}: {error}"),
    }
}

/// CPU time that a process has used, in its own and in the kernel's code; it is counted in steps of 10 ms.
pub fn cpu_seconds(process: u32) -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0; // USER_HZ, fixed on Linux
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let after_name = stat.rsplit(')').next().unwrap();
    let ticks = after_name.split_whitespace().skip(11).take(2).map(|field| field.parse::<f64>().unwrap());
    ticks.sum::<f64>() / TICKS_PER_SECOND
}

/// The last lines of a log.
pub fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let lines: Vec<_> =
        text.split(|byte| *byte == b'\n').map(|line| line.escape_ascii().to_string()).collect();
    lines.get(lines.len().saturating_sub(LOG_LINES)..).unwrap_or_default().join("\n")
}

/// Starts children from one thread that lives as long as the process: a parent-death signal is
/// sent when the *thread* that started the child ends, and every test has a thread of its own.
fn spawn(command: Command) -> std::io::Result<Child> {
    type Order = (Command, SyncSender<std::io::Result<Child>>);
    static NURSERY: OnceLock<Mutex<SyncSender<Order>>> = OnceLock::new();
    let nursery = NURSERY.get_or_init(|| {
        let (orders, incoming) = sync_channel::<Order>(0);
        std::thread::spawn(move || {
            for (mut command, answer) in incoming {
                answer.send(command.spawn()).unwrap();
            }
        });
        Mutex::new(orders)
    });
    let (answer, child) = sync_channel(1);
    nursery.lock().unwrap().send((command, answer)).unwrap();
    child.recv().unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_time() {
        let before = cpu_seconds(std::process::id());
        let mut sum = 0_u64;
        while cpu_seconds(std::process::id()) - before < 0.02 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
    }
}
