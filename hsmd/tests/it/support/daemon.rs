//! A daemon as a child process, and HTTP over Unix sockets as plain bytes.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::{UnixDatagram, UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

/// A running daemon; killed when dropped.
pub struct Daemon {
    child: Child,
    notify: UnixDatagram,
    folder: PathBuf,
}

impl Daemon {
    /// Starts `program` on `config` and does not wait. Its log goes to `log` below `folder`.
    pub fn spawn(program: &str, config: &Path, folder: &Path, softhsm: &Path) -> Self {
        let name = Path::new(program).file_name().unwrap().to_str().unwrap();
        let socket = folder.join(format!("{name}.notify"));
        std::fs::remove_file(&socket).ok();
        let notify = UnixDatagram::bind(&socket).unwrap();
        let log = std::fs::File::options().create(true).append(true).open(folder.join(format!("{name}.log")));
        let child = Command::new(program)
            .arg("--config")
            .arg(config)
            .env("SOFTHSM2_CONF", softhsm)
            .env("NOTIFY_SOCKET", &socket)
            .env("RUST_LOG", "info")
            .stderr(Stdio::from(log.unwrap()))
            .spawn()
            .unwrap();
        Self { child, notify, folder: folder.to_owned() }
    }

    /// Waits for READY=1; the exit status if the daemon ends instead.
    pub fn ready(&mut self) -> Result<(), ExitStatus> {
        self.notify.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut buffer = [0; 4096];
        for _ in 0..600 {
            if let Ok(length) = self.notify.recv(&mut buffer)
                && buffer[..length].starts_with(b"READY=1")
            {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                return Err(status);
            }
        }
        panic!("not ready after 30 s; log: {}", self.log());
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
    }
}

/// An answer: status and body.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
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

/// Sends one request. Errs if the daemon breaks off.
pub fn try_request(socket: &Path, method: &str, path: &str, body: &[u8]) -> std::io::Result<Answer> {
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
    let parsed = text.split_once("\r\n\r\n").and_then(|(head, body)| {
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Answer { status, body: body.to_owned() })
    });
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
