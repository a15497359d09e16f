//! Servers: one for each socket, so that no request can come through one and be judged by another.
//!
//! They speak HTTP/1.1, whose heads the server bounds (128 KiB, 96 fields); HTTP/2 is not built in.

use std::{any::Any, io, net::TcpListener, os::fd::AsFd, time::Duration};

use actix_http::HttpService;
use actix_service::{IntoServiceFactory as _, ServiceFactoryExt as _, map_config};
use actix_tls::accept::{
    TlsError,
    rustls_0_23::{Acceptor, TlsStream, reexports::ServerConfig},
};
use actix_web::{
    App, HttpServer,
    dev::{AppConfig, Extensions, Server, Service, ServiceRequest, ServiceResponse},
    http::ConnectionType,
    rt::net::{TcpStream, UnixStream},
    web,
};
use keychain::{Code, Refusal};
use systemd::{
    listen::{self, Socket},
    tls::{Bounded, Handshakes},
};

use super::{
    Door, border,
    connections::{Connections, Permit},
    routes,
};
use crate::{
    http::tls::Presented,
    policy::{Caller, Gate},
};

/// Connections that one socket serves at a time: services hold one or two each.
const CONNECTIONS_MAX: usize = 256;

/// How long a caller may take to send its request's head.
const HEAD_MAX: Duration = Duration::from_secs(5);

/// Handshakes of one address at a time, of the 256 connections that a socket serves. A service makes one or two; a
/// host with many services behind one address has room for them all.
const HANDSHAKES_MAX: usize = 16;

/// The metric of those beyond.
const HANDSHAKES_REFUSED: &str = "hsmd_handshakes_refused_total";

/// How long a TLS handshake may take, from the first byte to the last.
const HANDSHAKE_MAX: Duration = Duration::from_secs(3);

/// How long a connection may be idle. Longer than services keep one (90 s).
const IDLE_MAX: Duration = Duration::from_mins(2);

/// How long the end of a connection may take.
const CLOSE_MAX: Duration = Duration::from_secs(1);

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
    let door = web::Data::new(listener.door);
    match (listener.socket, &door.tls) {
        (Socket::Tcp(socket), Some(tls)) => serve_tls(socket, tls.server_config()?, door),
        (socket, None) => serve_plain(socket, door),
        (Socket::Unix(_), Some(_)) => {
            Err(io::Error::other("a Unix socket was passed where TLS is configured"))
        }
    }
}

fn serve_plain(socket: Socket, door: web::Data<Door>) -> io::Result<Server> {
    let role = door.policy.role();
    let (gate, connections) = (door.policy.clone(), Connections::default());
    let app = move || App::new().app_data(door.clone()).configure(routes(role)).wrap_fn(refuse_over_limit);
    let server = HttpServer::new(app)
        .workers(1)
        .max_connections(CONNECTIONS_MAX)
        .client_request_timeout(HEAD_MAX)
        .keep_alive(IDLE_MAX)
        .shutdown_timeout(DRAIN_MAX)
        .disable_signals()
        .on_connect(move |connection, data| remember_caller(connection, data, &gate, &connections));
    Ok(listen::attach(server, socket)?.run())
}

/// The same with TLS. The server that is put together here differs from the other in what stands before the
/// handshake: `HttpServer` has no hook for it.
fn serve_tls(socket: TcpListener, tls: ServerConfig, door: web::Data<Door>) -> io::Result<Server> {
    let role = door.policy.role();
    let (gate, connections, handshakes) =
        (door.policy.clone(), Connections::default(), Handshakes::new(HANDSHAKES_MAX, HANDSHAKES_REFUSED));
    let server = Server::build()
        .workers(1)
        .max_concurrent_connections(CONNECTIONS_MAX)
        .shutdown_timeout(DRAIN_MAX)
        .disable_signals();
    let shutdown = server.graceful_shutdown_signal();
    let stack = move || {
        let app = App::new().app_data(door.clone()).configure(routes(role)).wrap_fn(refuse_over_limit);
        let app = app.into_factory().map_err(|error: actix_web::Error| error.error_response());
        let (gate, connections, shutdown) = (gate.clone(), connections.clone(), shutdown.clone());
        let http = HttpService::build()
            .client_request_timeout(HEAD_MAX)
            .client_disconnect_timeout(CLOSE_MAX)
            .keep_alive(IDLE_MAX)
            .graceful_shutdown_signal(move || {
                let shutdown = shutdown.clone();
                async move { shutdown.notified().await }
            })
            .on_connect_ext(move |connection: &TlsStream<TcpStream>, data: &mut Extensions| {
                remember_caller(connection, data, &gate, &connections);
            })
            .h1(map_config(app, |()| AppConfig::default()));
        let mut acceptor = Acceptor::new(tls.clone());
        acceptor.set_handshake_timeout(HANDSHAKE_MAX);
        Bounded::new(acceptor, handshakes.clone())
            .map_err(TlsError::into_service_error)
            .map(|stream: TlsStream<TcpStream>| {
                let peer = stream.get_ref().0.peer_addr().ok();
                (stream, peer)
            })
            .and_then(http.map_err(TlsError::Service))
    };
    Ok(server.listen("tls", socket, stack)?.run())
}

/// Notes who connected, once, at accept: the kernel's word, which a process cannot change afterwards, or the
/// certificate that a handshake proved.
fn remember_caller(connection: &dyn Any, data: &mut Extensions, gate: &Gate, connections: &Connections) {
    note_caller(connection, data);
    let caller = data.get::<Caller>();
    let name = caller.map_or_else(String::new, Caller::to_string);
    let is_known = gate.demand_known(caller).is_ok();
    let permit = connections.admit(name, is_known);
    if permit.is_far_over() {
        close(connection);
    }
    data.insert(permit);
}

/// Ends a connection without a word: hsmd waits for no peer that opens them by the hundred.
fn close(connection: &dyn Any) {
    let unix = connection.downcast_ref::<UnixStream>().map(AsFd::as_fd);
    let tcp = connection.downcast_ref::<TcpStream>().map(AsFd::as_fd);
    let tls = connection.downcast_ref::<TlsStream<TcpStream>>().map(|stream| stream.get_ref().0.as_fd());
    if let Some(descriptor) = unix.or(tcp).or(tls)
        && let Err(error) = rustix::net::shutdown(descriptor, rustix::net::Shutdown::Both)
    {
        tracing::debug!(%error, "a connection is gone already");
    }
}

fn note_caller(connection: &dyn Any, data: &mut Extensions) {
    if let Some(connection) = connection.downcast_ref::<UnixStream>() {
        if let Ok(peer) = connection.peer_cred() {
            data.insert(Caller::User(peer.uid()));
        }
    } else if let Some(connection) = connection.downcast_ref::<TlsStream<TcpStream>>() {
        if let Some(chain) = connection.get_ref().1.peer_certificates() {
            let (presented, caller) = Presented::new(chain);
            data.insert(presented);
            data.insert(caller);
        }
    } else if let Some(connection) = connection.downcast_ref::<TcpStream>()
        && connection.peer_addr().is_ok_and(|peer| peer.ip().is_loopback())
    {
        data.insert(Caller::Loopback);
    }
}

/// Refuses what comes over a connection for which its caller has no permit, and ends it.
fn refuse_over_limit<S>(
    request: ServiceRequest,
    service: &S,
) -> impl Future<Output = Result<ServiceResponse, actix_web::Error>> + use<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse, Error = actix_web::Error>,
{
    let next = if request.conn_data::<Permit>().is_some_and(Permit::is_over) {
        Err(request)
    } else {
        Ok(service.call(request))
    };
    async {
        match next {
            Ok(answer) => answer.await,
            Err(request) => {
                let refusal =
                    Refusal::new(Code::TooMany, "the caller has too many connections to this socket");
                let mut answer = border::refused(&refusal);
                answer.head_mut().set_connection_type(ConnectionType::Close);
                Ok(request.into_response(answer))
            }
        }
    }
}
