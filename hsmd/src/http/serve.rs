//! Servers: one for each socket, so that no request can come through one and be judged by another.

use std::{any::Any, io, time::Duration};

use actix_web::{
    App, HttpServer,
    dev::{Extensions, Server},
    rt::net::{TcpStream, UnixStream},
    web,
};
use systemd::listen::{self, Socket};

use super::{Door, routes};
use crate::policy::Caller;

/// Connections that one socket serves at a time: services hold one or two each.
const CONNECTIONS_MAX: usize = 256;

/// How long a caller may take to send its request's head.
const HEAD_MAX: Duration = Duration::from_secs(5);

/// How long a connection may be idle. Longer than services keep one (90 s).
const IDLE_MAX: Duration = Duration::from_mins(2);

/// How long requests under way may take once the daemon is asked to stop, in seconds.
const DRAIN_MAX: u64 = 15;

/// A socket and what it opens to.
pub struct Listener {
    /// The socket.
    pub socket: Socket,
    /// What it opens to.
    pub door: Door,
}

/// Serves one socket, on a thread of its own, until its handle stops it.
pub fn serve(listener: Listener) -> io::Result<Server> {
    let role = listener.door.policy.role();
    let door = web::Data::new(listener.door);
    let app = move || App::new().app_data(door.clone()).configure(routes(role));
    let server = HttpServer::new(app)
        .workers(1)
        .max_connections(CONNECTIONS_MAX)
        .client_request_timeout(HEAD_MAX)
        .keep_alive(IDLE_MAX)
        .shutdown_timeout(DRAIN_MAX)
        .disable_signals()
        .on_connect(remember_caller);
    Ok(listen::attach(server, listener.socket)?.run())
}

/// Asks the kernel who connected, once, at accept: a process cannot change it afterwards.
fn remember_caller(connection: &dyn Any, data: &mut Extensions) {
    if let Some(connection) = connection.downcast_ref::<UnixStream>() {
        if let Ok(peer) = connection.peer_cred() {
            data.insert(Caller::User(peer.uid()));
        }
    } else if let Some(connection) = connection.downcast_ref::<TcpStream>()
        && connection.peer_addr().is_ok_and(|peer| peer.ip().is_loopback())
    {
        data.insert(Caller::Loopback);
    }
}
