//! A local HTTP server to talk to: hsmd's endorsement socket, or the app beside the edge.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};

/// How long a connection to a neighbour on the same host, or in the same rack, may take to open.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// Connections kept open while nobody uses them.
const IDLE_CONNECTIONS_MAX: usize = 64;

/// Where an HTTP server is: `http://host:port` or `unix:/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    base: String,
    socket: Option<PathBuf>,
}

/// The address is of no kind that is spoken here.
#[derive(Debug, thiserror::Error)]
#[error("`{address}` is not an address of a local HTTP server; write `unix:/path` or `http://host:port`")]
pub struct NotAnAddress {
    address: String,
}

impl Peer {
    /// Reads an address.
    pub fn parse(address: &str) -> Result<Self, NotAnAddress> {
        let refused = || NotAnAddress { address: address.to_owned() };
        if let Some(path) = address.strip_prefix("unix:") {
            let socket = PathBuf::from(path);
            if !socket.is_absolute() {
                return Err(refused());
            }
            // The host name is only what the Host header says.
            return Ok(Self { base: "http://localhost".to_owned(), socket: Some(socket) });
        }
        let base = address.strip_suffix('/').unwrap_or(address);
        let url = reqwest::Url::parse(base).map_err(|_| refused())?;
        let plain = url.scheme() == "http" && url.path() == "/" && url.query().is_none();
        if !plain || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
            return Err(refused());
        }
        Ok(Self { base: base.to_owned(), socket: None })
    }

    /// Whether the way there is a Unix socket, which file permissions guard.
    pub const fn is_unix(&self) -> bool {
        self.socket.is_some()
    }

    /// The URL of a path (beginning with `/`) on that server.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Its address, as it is configured.
    pub fn address(&self) -> String {
        match &self.socket {
            Some(socket) => format!("unix:{}", socket.display()),
            None => self.base.clone(),
        }
    }

    /// Whether it takes a connection within `deadline`. Nothing is asked.
    pub async fn reach(&self, deadline: Duration) -> io::Result<()> {
        let reach = async {
            match &self.socket {
                Some(socket) => UnixStream::connect(socket).await.map(drop),
                None => TcpStream::connect(self.authority()?).await.map(drop),
            }
        };
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "no connection was taken in time");
        tokio::time::timeout(deadline, reach).await.map_err(late)?
    }

    fn authority(&self) -> io::Result<String> {
        let url = reqwest::Url::parse(&self.base).map_err(io::Error::other)?;
        let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(80));
        Ok(format!("{host}:{port}"))
    }

    /// A client for it: no proxy, no redirects, no name but what is written, `deadline` for a whole exchange.
    pub fn client(&self, deadline: Duration) -> Result<reqwest::Client, reqwest::Error> {
        let builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_DEADLINE)
            .timeout(deadline)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .tls_certs_only([]); // plain HTTP: the host's certificates need not be read
        match &self.socket {
            Some(socket) => builder.unix_socket(socket.clone()).build(),
            None => builder.build(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_unix_sockets_or_plain_http_origins() {
        for good in ["unix:/run/app.sock", "http://127.0.0.1:3000", "http://app:80/", "http://[::1]:8080"] {
            assert!(Peer::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "unix:",
            "unix:app.sock",
            "app:3000",
            "https://app",
            "http://",
            "http://a/b",
            "http://a?b",
            "http://u@a",
            "http://u:p@a",
            "http://a#b",
            "ftp://a",
        ] {
            assert!(Peer::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Peer::parse("http://app:80/").unwrap().url("/x?y"), "http://app:80/x?y");
    }
}
