//! Loopback ports that stay ours for as long as we run.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
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

/// A free port, held by a socket that is bound but never listens.
///
/// Linux lets another socket that reuses addresses (every server here does) listen on such a port. So a
/// daemon finds its port free at its first start and at each later one.
#[derive(Debug)]
pub(crate) struct Port {
    address: SocketAddr,
    _held: OwnedFd,
}

impl Port {
    pub(crate) fn reserve() -> io::Result<Self> {
        let (port, held) = hold()?;
        Ok(Self { address: SocketAddrV4::new(Ipv4Addr::LOCALHOST, port).into(), _held: held })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_server_can_listen_again_and_again_on_a_reserved_port() {
        let port = Port::reserve().unwrap();
        for _ in 0..3 {
            let server = TcpListener::bind(port.address()).unwrap();
            assert_eq!(server.local_addr().unwrap(), port.address());
        }
    }

    #[test]
    fn reserved_ports_differ() {
        let ports: Vec<_> = (0..50).map(|_| Port::reserve().unwrap()).collect();
        let mut addresses: Vec<_> = ports.iter().map(Port::address).collect();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), ports.len());
    }
}
