//! The receiving end of `sd_notify`: how a daemon says that it is ready.

use std::io;
use std::path::{Path, PathBuf};

use tokio::net::UnixDatagram;

/// A notification is a few short lines; systemd itself takes no more than a page.
const LONGEST: usize = 4096;

/// One daemon's notification socket.
#[derive(Debug)]
pub(crate) struct Notifications {
    socket: UnixDatagram,
    path: PathBuf,
}

/// What one datagram says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Notification {
    pub(crate) ready: bool,
    pub(crate) status: Option<String>,
}

impl Notifications {
    /// Binds the socket, replacing one that a killed run left.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Self { socket: UnixDatagram::bind(path)?, path: path.to_owned() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The next notification. What cannot be read is an empty one.
    pub(crate) async fn next(&self) -> io::Result<Notification> {
        let mut buffer = [0; LONGEST];
        let length = self.socket.recv(&mut buffer).await?;
        Ok(Notification::parse(buffer.get(..length).unwrap_or_default()))
    }
}

impl Notification {
    fn parse(datagram: &[u8]) -> Self {
        let mut notification = Self::default();
        for line in std::str::from_utf8(datagram).unwrap_or_default().lines() {
            match line.split_once('=') {
                Some(("READY", "1")) => notification.ready = true,
                Some(("STATUS", status)) => notification.status = Some(status.to_owned()),
                _ => {}
            }
        }
        notification
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_are_read_line_by_line() {
        let table: [(&[u8], bool, Option<&str>); 6] = [
            (b"READY=1", true, None),
            (b"READY=1\nSTATUS=serving generation 3\n", true, Some("serving generation 3")),
            (b"STATUS=waiting for redis=local", false, Some("waiting for redis=local")),
            (b"READY=0", false, None),
            (b"WATCHDOG=1", false, None),
            (b"\xff\xfeREADY=1", false, None),
        ];
        for (datagram, ready, status) in table {
            let expected = Notification { ready, status: status.map(str::to_owned) };
            assert_eq!(Notification::parse(datagram), expected);
        }
    }
}
