//! `[[listen]]`: the sockets.

use std::sync::Arc;

use serde::Deserialize;
use systemd::listen::{Address, Mode};

use crate::{
    http::tls::{self, Tls},
    policy::{Entrance, Role},
};

/// A socket to be opened.
#[derive(Clone, Debug)]
pub struct Socket {
    /// Where, and what it is for.
    pub entrance: Entrance,
    /// Permission bits of a Unix socket.
    pub mode: Mode,
    /// How callers of other hosts prove who they are; none for a Unix socket.
    pub tls: Option<Arc<Tls>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listen {
    pub(super) address: Address,
    role: Role,
    mode: Option<Mode>,
    tls: Option<tls::Files>,
}

impl Listen {
    /// Refuses what parses but cannot be meant.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        match (&self.address, &self.tls) {
            (Address::Tcp(_), _) => Err("must be a Unix socket or fd:NAME: hsmd opens no network socket"),
            (Address::Unix(_), Some(_)) => Err(
                "`tls` is for a TCP socket that systemd passes: on a Unix socket the kernel says who calls",
            ),
            (_, Some(_)) if self.role != Role::Endorse => Err(
                "`tls` is for role endorse: operators and the publisher come through a Unix socket on this host",
            ),
            (_, Some(files)) if files.paths().any(|path| !path.is_absolute()) => {
                Err("the paths under `tls` must be absolute")
            }
            _ => Ok(()),
        }
    }

    pub(super) fn entrance(&self) -> Entrance {
        Entrance { address: self.address.clone(), role: self.role }
    }

    /// The socket, with the files of its TLS read and checked.
    pub(super) fn socket(&self) -> Result<Socket, tls::Error> {
        let tls = self.tls.clone().map(Tls::open).transpose()?;
        Ok(Socket { entrance: self.entrance(), mode: self.mode.unwrap_or(Mode::GROUP), tls })
    }

    /// Checks the files of its TLS. Whoever checks a configuration by hand has no credentials: a key that
    /// would be one is not looked for then.
    pub(super) fn check_files(&self) -> Result<(), tls::Error> {
        match self.socket() {
            Ok(_) | Err(tls::Error::Key(systemd::credential::Error::NotPassed { .. })) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
