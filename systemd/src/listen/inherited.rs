//! Sockets passed by systemd, by the name that their `.socket` unit gives them.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType};

use super::{Error, Socket};
use crate::passed;

/// Takes the socket called `name`; a second call for the same name finds it gone.
pub(super) fn take(name: &str) -> Result<Socket, Error> {
    let Some(descriptor) = passed::take_first(name) else {
        let names = passed::names();
        let passed = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        return Err(Error::NotPassed { name: name.to_owned(), passed });
    };
    listener(descriptor).map_err(|source| Error::NotStream { name: name.to_owned(), source })
}

fn listener(descriptor: OwnedFd) -> io::Result<Socket> {
    let is_listening = socket_type(&descriptor)? == SocketType::STREAM && socket_acceptconn(&descriptor)?;
    match socket_domain(&descriptor)? {
        AddressFamily::UNIX if is_listening => Ok(Socket::Unix(UnixListener::from(descriptor))),
        AddressFamily::INET | AddressFamily::INET6 if is_listening => {
            Ok(Socket::Tcp(TcpListener::from(descriptor)))
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "it does not listen for streams")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn a_name_that_was_not_passed_is_an_error_that_says_what_was() {
        let error = take("endorse").unwrap_err().to_string();
        assert!(error.contains("FileDescriptorName=endorse") && error.contains("passed: none"), "{error}");
    }

    #[test]
    fn only_what_listens_is_taken_for_a_listener() {
        let folder = tempfile::tempdir().unwrap();
        let unix = UnixListener::bind(folder.path().join("x.sock")).unwrap();
        assert!(matches!(listener(unix.into()), Ok(Socket::Unix(_))));
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        let connected = std::net::TcpStream::connect(address).unwrap();
        assert!(matches!(listener(tcp.into()), Ok(Socket::Tcp(_))));
        assert!(listener(connected.into()).is_err());
        assert!(listener(UnixDatagram::unbound().unwrap().into()).is_err());
        assert!(listener(File::open("/dev/null").unwrap().into()).is_err());
    }
}
