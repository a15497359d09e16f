//! Loopback ports for servers that are started with a port number.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt};

/// A free port, held by a socket that is bound but never listens: Linux lets a server that reuses
/// addresses listen on it, and gives it to nobody who asks for any free one. A port that was only free a
/// moment ago can be another's by the time the server starts.
pub struct Port {
    number: u16,
    _held: OwnedFd,
}

impl Port {
    /// Reserves one.
    pub fn reserve() -> Self {
        let held = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        sockopt::set_socket_reuseaddr(&held, true).unwrap();
        bind(&held, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
        let number = SocketAddr::try_from(getsockname(&held).unwrap()).unwrap().port();
        Self { number, _held: held }
    }

    /// Its number.
    pub const fn number(&self) -> u16 {
        self.number
    }
}
