//! The configured sockets, opened and served.

use std::sync::Arc;

use actix_web::dev::ServerHandle;
use systemd::{
    exit::Failure,
    listen::{self, Address},
};

use super::{Daemon, config::Socket};
use crate::{
    http::{Door, Listener, serve},
    policy::Gate,
};

/// Opens the sockets: last, so that no caller is let in before everything stands.
pub(super) fn open(sockets: Vec<Socket>, daemon: &Daemon) -> Result<Vec<ServerHandle>, Failure> {
    let mut servers = Vec::new();
    for Socket { entrance, mode, tls } in sockets {
        let socket = entrance.address.bind_with(mode)?;
        demand_tls(&entrance.address, &socket, tls.is_some())?;
        let door = Door {
            keeper: Arc::clone(&daemon.keeper),
            policy: Gate::new(entrance, Arc::clone(&daemon.policy)),
            health: Arc::clone(&daemon.health),
            tls,
            statements: Arc::clone(&daemon.statements),
            audit: daemon.audit.clone(),
        };
        let server = serve(Listener { socket, door }).map_err(Failure::io)?;
        servers.push(server.handle());
        tokio::spawn(server);
    }
    Ok(servers)
}

/// Stops serving: requests under way are answered.
pub(super) async fn close(servers: Vec<ServerHandle>) {
    let stopping: Vec<_> = servers.iter().map(|server| tokio::spawn(server.stop(true))).collect();
    for server in stopping {
        // One that ended badly answers no caller any more.
        drop(server.await);
    }
}

/// What systemd passes shows only when it is there: a TCP socket is served with TLS, a Unix socket without.
fn demand_tls(address: &Address, socket: &listen::Socket, tls: bool) -> Result<(), Failure> {
    let because = match (address, socket, tls) {
        (Address::Inherited(_), listen::Socket::Tcp(_), false) => {
            "a TCP socket was passed: callers of other hosts need `tls` to say who they are"
        }
        (_, listen::Socket::Unix(_), true) => "a Unix socket was passed: `tls` is for TCP",
        _ => return Ok(()),
    };
    Err(Failure::config(format!("hsmd.toml, key `listen`: at `{address}`: {because}")))
}
