//! Where a daemon listens: TCP, a Unix socket, or a socket inherited from systemd.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use actix_http::{Request, Response};
use actix_service::{IntoServiceFactory, ServiceFactory};
use actix_web::HttpServer;
use actix_web::body::MessageBody;
use actix_web::dev::{AppConfig, Service};
use serde::de::Deserializer;

mod inherited;

/// An address in a configuration: `127.0.0.1:8080`, `[::1]:8080`, `unix:/run/x.sock`, or
/// `fd:NAME`, the socket that systemd passes under that `FileDescriptorName=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A socket passed by systemd, by name.
    Inherited(String),
    /// A TCP address. Port 0 lets the system choose; [`Socket::tcp_address`] tells which it was.
    Tcp(SocketAddr),
    /// A Unix stream socket at an absolute path.
    Unix(PathBuf),
}

impl Address {
    /// Opens the address for listening. A Unix socket gets mode 0600.
    pub fn bind(&self) -> Result<Socket, Error> {
        self.bind_with(Mode::PRIVATE)
    }

    /// The same, with `mode` for a Unix socket. An inherited socket keeps the mode that its
    /// `.socket` unit gave it.
    ///
    /// A socket file that nobody listens on any more is replaced; one that is still served, and
    /// any other file, is left alone and refused.
    pub fn bind_with(&self, mode: Mode) -> Result<Socket, Error> {
        let failed = |source| Error::Bind { address: self.clone(), source };
        match self {
            Self::Inherited(name) => inherited::take(name),
            Self::Tcp(address) => TcpListener::bind(address).map(Socket::Tcp).map_err(failed),
            Self::Unix(path) => bind_unix(path, mode).map(Socket::Unix).map_err(failed),
        }
        .and_then(|socket| socket.set_nonblocking().map_err(failed))
    }

    /// Whether only processes on this host can reach the address, as far as the address alone
    /// tells; for an inherited socket ask its [`Socket`].
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
            Self::Inherited(_) => false,
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let explain =
            |because: &str| format!("`{text}` {because}; write 127.0.0.1:8080, unix:/run/x.sock or fd:NAME");
        if let Some(path) = text.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return if path.is_absolute() {
                Ok(Self::Unix(path))
            } else {
                Err(explain("needs an absolute path"))
            };
        }
        if let Some(name) = text.strip_prefix("fd:") {
            return if name.is_empty() {
                Err(explain("names no socket"))
            } else {
                Ok(Self::Inherited(name.into()))
            };
        }
        text.parse().map(Self::Tcp).map_err(|_| explain("is no address with a port"))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inherited(name) => write!(formatter, "fd:{name}"),
            Self::Tcp(address) => address.fmt(formatter),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

impl<'de> serde::Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::config::deserialize_text(deserializer, "an address such as \"127.0.0.1:8080\"")
    }
}

/// The permission bits of a Unix socket: `"0660"`. Connecting takes the write bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mode(u32);

impl Mode {
    /// Only the daemon's own user (and root) can connect.
    pub const PRIVATE: Self = Self(0o600);

    /// The daemon's user and group can connect.
    pub const GROUP: Self = Self(0o660);

    /// The bits.
    pub const fn bits(self) -> u32 {
        self.0
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        u32::from_str_radix(text, 8)
            .ok()
            .filter(|bits| {
                bits & !0o777 == 0 && text.len() <= 4 && text.bytes().all(|byte| byte.is_ascii_digit())
            })
            .map(Self)
            .ok_or_else(|| format!("`{text}` is no mode of a socket; write for example \"0660\""))
    }
}

impl<'de> serde::Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::config::deserialize_text(deserializer, "a mode such as \"0660\"")
    }
}

/// A listening socket, not blocking.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpListener),
    /// Unix stream.
    Unix(UnixListener),
}

impl Socket {
    /// The TCP address, with the port that the system chose; nothing for a Unix socket.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    fn set_nonblocking(self) -> io::Result<Self> {
        match &self {
            Self::Tcp(listener) => listener.set_nonblocking(true)?,
            Self::Unix(listener) => listener.set_nonblocking(true)?,
        }
        Ok(self)
    }
}

/// Lets `server` accept connections from `socket`.
pub fn attach<F, I, S, B>(
    server: HttpServer<F, I, S, B>,
    socket: Socket,
) -> io::Result<HttpServer<F, I, S, B>>
where
    F: Fn() -> I + Send + Clone + 'static,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = AppConfig> + 'static,
    S::Error: Into<actix_web::Error> + 'static,
    S::InitError: fmt::Debug,
    S::Response: Into<Response<B>> + 'static,
    <S::Service as Service<Request>>::Future: 'static,
    S::Service: 'static,
    B: MessageBody + 'static,
{
    match socket {
        Socket::Tcp(listener) => server.listen(listener),
        Socket::Unix(listener) => server.listen_uds(listener),
    }
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused.
    #[error("cannot listen on `{address}`")]
    Bind {
        /// The address.
        address: Address,
        /// What the system said.
        source: io::Error,
    },
    /// systemd passed no socket of that name, or it is in use already.
    #[error(
        "no socket `{name}` was passed: start the .socket unit that has FileDescriptorName={name} (passed: {passed})"
    )]
    NotPassed {
        /// The name asked for.
        name: String,
        /// The names that were passed, or "none".
        passed: String,
    },
    /// What was passed is neither a TCP nor a Unix stream socket.
    #[error("the socket `{name}` that was passed is neither TCP nor Unix stream: correct its .socket unit")]
    NotStream {
        /// The name.
        name: String,
        /// What was found.
        source: io::Error,
    },
}

/// Binds under a temporary name and renames: whoever can see the socket sees it with its mode, and
/// a stale one is replaced in one step.
fn bind_unix(path: &Path, mode: Mode) -> io::Result<UnixListener> {
    refuse_in_use(path)?;
    let fresh = path.with_extension(format!("{}.new", std::process::id()));
    let listener = UnixListener::bind(&fresh)?;
    let placed = std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(mode.bits()))
        .and_then(|()| std::fs::rename(&fresh, path));
    if let Err(error) = placed {
        std::fs::remove_file(&fresh)?;
        return Err(error);
    }
    Ok(listener)
}

fn refuse_in_use(path: &Path) -> io::Result<()> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "another file is in its place: move it away",
        ));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(error),
        Ok(_) => {
            Err(io::Error::new(io::ErrorKind::AddrInUse, "another process serves it: stop that one first"))
        }
    }
}

#[cfg(test)]
mod tests;
