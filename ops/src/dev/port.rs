//! Loopback ports that stay ours for as long as we run.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt};

/// A free port, held by a socket that is bound but never listens.
///
/// Linux lets another socket that reuses addresses (every server here does) listen on such a port,
/// but hands it to nobody who asks for any free one. So a daemon finds its port free at its first
/// start and at each later one, with no race in between.
#[derive(Debug)]
pub(crate) struct Port {
    address: SocketAddr,
    _held: OwnedFd,
}

impl Port {
    pub(crate) fn reserve() -> io::Result<Self> {
        let held = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_reuseaddr(&held, true)?;
        bind(&held, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
        let address = SocketAddr::try_from(getsockname(&held)?)?;
        Ok(Self { address, _held: held })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
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
