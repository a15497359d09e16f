//! A daemon as a child process, and HTTP over Unix sockets as plain bytes.

use std::{
    io::{Read as _, Write as _},
    os::{
        fd::OwnedFd,
        unix::net::{UnixDatagram, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, TrySendError, sync_channel},
    },
    time::Duration,
};

/// How many daemons were started.
static STARTED: AtomicUsize = AtomicUsize::new(0);

/// A running daemon; killed when dropped.
pub struct Daemon {
    child: Child,
    /// What it said to the service manager and no test has taken in yet.
    messages: Receiver<String>,
    notify: PathBuf,
    folder: PathBuf,
}

impl Daemon {
    /// Starts `program` on `config` and does not wait. Its log goes to `log` below `folder`.
    pub fn spawn(program: &str, config: &Path, folder: &Path, softhsm: &Path) -> Self {
        Self::spawn_with(program, config, folder, softhsm, &[])
    }

    /// The same, with more in its environment.
    pub fn spawn_with(
        program: &str,
        config: &Path,
        folder: &Path,
        softhsm: &Path,
        environment: &[(&str, &str)],
    ) -> Self {
        let mut command = Command::new(program);
        command.envs(environment.iter().copied());
        let name = Path::new(program).file_name().unwrap().to_str().unwrap();
        Self::launch(command, name, config, folder, softhsm)
    }

    /// The same with a listening socket that it inherits under the name `socket`, as systemd passes one.
    pub fn spawn_inheriting(
        program: &str,
        config: &Path,
        folder: &Path,
        softhsm: &Path,
        (socket, listener): (&str, OwnedFd),
    ) -> Self {
        // The process id must be known to the environment, and descriptors begin at 3.
        let launch = "exec 3<&0 0</dev/null; LISTEN_PID=$$; export LISTEN_PID; exec \"$0\" \"$@\"";
        let mut command = Command::new("sh");
        command.args(["-c", launch, program]).stdin(Stdio::from(listener));
        command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", socket);
        let name = Path::new(program).file_name().unwrap().to_str().unwrap();
        Self::launch(command, name, config, folder, softhsm)
    }

    /// Starts what `command` runs, which is given the configuration; `name` is the daemon's.
    pub fn launch(mut command: Command, name: &str, config: &Path, folder: &Path, softhsm: &Path) -> Self {
        // One of its own: a daemon that is replaced is dropped after the next one has started.
        let started = STARTED.fetch_add(1, Ordering::Relaxed);
        let socket = folder.join(format!("{name}.{started}.notify"));
        let messages = listen(UnixDatagram::bind(&socket).unwrap());
        let log = std::fs::File::options().create(true).append(true).open(folder.join(format!("{name}.log")));
        let child = command
            .arg("--config")
            .arg(config)
            .env("SOFTHSM2_CONF", softhsm)
            .env("NOTIFY_SOCKET", &socket)
            .env("RUST_LOG", "info")
            .stderr(Stdio::from(log.unwrap()))
            .spawn()
            .unwrap();
        Self { child, messages, notify: socket, folder: folder.to_owned() }
    }

    /// Waits for READY=1; the exit status if the daemon ends instead.
    pub fn ready(&mut self) -> Result<(), ExitStatus> {
        self.notified("READY=1").map(drop)
    }

    /// Waits for a message to the service manager that has `wanted` in it; the exit status if the daemon ends
    /// instead.
    pub fn notified(&mut self, wanted: &str) -> Result<String, ExitStatus> {
        for _ in 0..600 {
            if let Ok(text) = self.messages.recv_timeout(Duration::from_millis(50)) {
                if text.contains(wanted) {
                    return Ok(text);
                }
            } else if let Some(status) = self.child.try_wait().unwrap() {
                return Err(status);
            }
        }
        panic!("no `{wanted}` after 30 s; log: {}", self.log());
    }

    /// Sends SIGHUP and waits for the status that follows it.
    pub fn reload(&mut self) -> String {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
        for _ in 0..600 {
            let Ok(text) = self.messages.recv_timeout(Duration::from_millis(50)) else { continue };
            if let Some(status) = text.strip_prefix("STATUS=") {
                return status.to_owned();
            }
        }
        panic!("no status within 30 s of a SIGHUP; log: {}", self.log());
    }

    pub fn log(&self) -> String {
        let logs = std::fs::read_dir(&self.folder).unwrap().map(|file| file.unwrap().path());
        let logs = logs.filter(|path| path.extension().is_some_and(|ending| ending == "log"));
        logs.map(|path| std::fs::read_to_string(path).unwrap()).collect()
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// Asks it to stop, as systemd does; fails the test if it does not end well.
    pub fn stop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.log());
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.kill();
        }
        UnixDatagram::unbound().unwrap().send_to(END.as_bytes(), &self.notify).ok();
    }
}

/// Messages that wait for a test; what comes beyond is dropped.
const MESSAGES_MAX: usize = 10_000;

/// The message that ends the thread that reads them.
const END: &str = "the daemon is gone";

/// Reads what comes over the notify socket at once, as systemd does: its queue is short.
fn listen(socket: UnixDatagram) -> Receiver<String> {
    let (to, messages) = sync_channel(MESSAGES_MAX);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length) = socket.recv(&mut buffer) {
            let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
            if text == END || matches!(to.try_send(text), Err(TrySendError::Disconnected(_))) {
                return;
            }
        }
    });
    messages
}

/// An answer: status and body.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    /// Reads an answer to its end; nothing if it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Self { status, body: body.to_owned() })
    }

    /// The answer's body; fails the test if it is no success.
    pub fn ok(self) -> String {
        assert_eq!(self.status, 200, "{}", self.body);
        self.body
    }

    /// The error code; fails the test if the body is not a refusal as the protocol has it.
    pub fn code(&self) -> &str {
        let members: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&self.body).unwrap();
        assert!(members.keys().eq(["error"]), "{}", self.body);
        let rest = self.body.strip_prefix("{\"error\":{\"code\":\"").expect(&self.body);
        rest.split('"').next().unwrap()
    }
}

/// Sends one request. Errs if the daemon breaks off. A taint without members is sent as `opsctl taint` sends it: for
/// the newest generation.
pub fn try_request(socket: &Path, method: &str, path: &str, body: &[u8]) -> std::io::Result<Answer> {
    let named = (path == "/taint" && body == b"{}").then(|| newest_named(socket));
    let body = named.as_ref().map_or(body, |named| named.as_bytes());
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: hsmd\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    raw(socket, &[head.as_bytes(), body].concat())
}

/// Sends bytes as they are.
pub fn raw(socket: &Path, bytes: &[u8]) -> std::io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(70)))?;
    // A refusal may come, and the connection close, before all of a long body is sent.
    let sent = stream.write_all(bytes);
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let text = String::from_utf8(answer).map_err(std::io::Error::other)?;
    let parsed = Answer::parse(&text);
    match parsed {
        Some(answer) => Ok(answer),
        None => {
            Err(sent.and(read.map(drop)).err().unwrap_or_else(|| std::io::ErrorKind::UnexpectedEof.into()))
        }
    }
}

/// Sends one request; fails the test if the daemon breaks off.
pub fn request(socket: &Path, method: &str, path: &str, body: &str) -> Answer {
    try_request(socket, method, path, body.as_bytes()).unwrap()
}

/// The body of a taint of the newest generation, or of any if no chain is told.
fn newest_named(socket: &Path) -> String {
    let chain =
        try_request(socket, "GET", "/chain", b"").map_or_else(|_| String::new(), |answer| answer.body);
    let events: Vec<serde_json::Value> = serde_json::from_str(&chain).unwrap_or_default();
    let newest = events.last().map(|event| event["payload"]["id"].as_str().unwrap().to_owned());
    let newest = newest.unwrap_or_else(|| keychain::Digest::of("no chain").to_string());
    format!("{{\"generationId\":\"{newest}\"}}")
}
