//! Loopback ports for servers that are started with a port number.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU16, Ordering};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

/// The first port that is tried.
const FIRST: u16 = 16_384;

/// How many ports are tried.
const COUNT: u16 = 16_384;

/// How many ports this process has tried.
static TRIED: AtomicU16 = AtomicU16::new(0);

/// A free port, held by a socket that is bound but never listens: Linux lets a server that reuses
/// addresses listen on it. A port that was only free a moment ago can be another's by the time the server
/// starts.
pub struct Port {
    number: u16,
    _held: OwnedFd,
}

impl Port {
    /// Reserves one.
    pub fn reserve() -> Self {
        let (number, held) = hold().expect("a port to be free");
        Self { number, _held: held }
    }

    /// Its number.
    pub const fn number(&self) -> u16 {
        self.number
    }
}

/// Holds the next port that no other process holds.
///
/// The ports stand below those that Linux takes for outgoing connections (`ip_local_port_range`), or such a
/// connection could stand on a port between two starts of its server. The socket binds before it lets
/// addresses be reused, or two processes could hold one port.
fn hold() -> io::Result<(u16, OwnedFd)> {
    // Processes that start together begin apart.
    let first = u16::try_from(std::process::id() % u32::from(COUNT)).unwrap_or_default().wrapping_mul(97);
    for _ in 0..COUNT {
        let port = FIRST + first.wrapping_add(TRIED.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let held = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        match bind(&held, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)) {
            Ok(()) => {
                sockopt::set_socket_reuseaddr(&held, true)?;
                return Ok((port, held));
            }
            Err(Errno::ADDRINUSE) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}
