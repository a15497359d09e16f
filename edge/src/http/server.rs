//! The server of one socket: HTTP/1.1, and where there is TLS, HTTP/2 for whoever asks for it (ALPN).

use std::fmt;
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_http::{HttpService, Request, Response};
use actix_service::{
    IntoServiceFactory, Service, ServiceFactory, ServiceFactoryExt as _, fn_factory, fn_service, map_config,
};
use actix_tls::accept::rustls_0_23::{Acceptor, TlsStream};
use actix_web::body::MessageBody;
use actix_web::dev::{AppConfig, Server};
use actix_web::rt::net::TcpStream;
use actix_web::{HttpResponse, HttpServer};
use systemd::config::Span;
use systemd::listen::{self, Address, Socket};
use systemd::tls::{Bounded, Certificate, Files, Handshakes};

use super::h2;

/// What is spoken inside TLS, the best first.
const PROTOCOLS: [&[u8]; 2] = [h2::PROTOCOL, b"http/1.1"];

/// How long a TLS handshake may take, from the first byte to the last.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// Handshakes of one address at a time. One takes a round trip or two; many devices may share an address.
const HANDSHAKES_MAX: usize = 128;

/// How long a caller may take to send the head of its request.
const HEAD_MAX: Duration = Duration::from_secs(5);

/// How long the end of a connection may take.
const CLOSE_MAX: Duration = Duration::from_secs(1);

/// Longest time that requests may be given at the end. A service manager waits 90 s for all of it.
const DRAIN_MAX: Duration = Duration::from_mins(1);

/// What stands at a socket.
pub struct Door {
    /// The socket.
    pub socket: Socket,
    /// Its certificate, if it has TLS.
    pub certificate: Option<Arc<Certificate>>,
    /// How long requests under way may take once the server is stopped, in seconds.
    pub drain: u64,
    /// How long a connection may be idle.
    pub idle_max: Duration,
    /// Connections that each worker holds at once.
    pub connections_max: usize,
    /// The metric that counts handshakes refused to an address that has too many under way.
    pub refused_handshakes: &'static str,
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// The time to drain.
    #[error("give 1s to {} s: whoever stops a service waits for it", DRAIN_MAX.as_secs())]
    Drain,
    /// TLS where none is spoken.
    #[error("a Unix socket has no TLS: file permissions guard it; leave `tls` out, or listen on TCP")]
    TlsOnUnix,
}

/// Reads how long requests may take at the end, in seconds.
pub fn drain(setting: Span) -> Result<u64, Unusable> {
    let drain = setting.duration();
    if drain < Duration::from_secs(1) || drain > DRAIN_MAX {
        return Err(Unusable::Drain);
    }
    Ok(drain.as_secs())
}

/// Refuses TLS at an address that is known to have none.
pub fn check_tls(address: &Address, tls: Option<&Files>) -> Result<(), Unusable> {
    match (address, tls) {
        (Address::Unix(_), Some(_)) => Err(Unusable::TlsOnUnix),
        _ => Ok(()),
    }
}

/// Serves `app` at a socket, on threads of its own, until its handle stops it: then nobody is let in any more,
/// connections that are idle end, requests under way are answered, and those that are not done in time are cut off.
pub fn serve<F, I, S, B>(door: Door, app: F) -> io::Result<Server>
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
    match (door.socket, &door.certificate) {
        (Socket::Tcp(socket), Some(certificate)) => {
            let tls = certificate.server_config(&PROTOCOLS).map_err(io::Error::other)?;
            let mut acceptor = Acceptor::new(tls);
            acceptor.set_handshake_timeout(HANDSHAKE_MAX);
            let handshakes = Handshakes::new(HANDSHAKES_MAX, door.refused_handshakes);
            let limits = Limits { drain: door.drain, idle: door.idle_max, connections: door.connections_max };
            serve_tls(socket, &Bounded::new(acceptor, handshakes), limits, app)
        }
        (Socket::Unix(_), Some(_)) => Err(io::Error::other(Unusable::TlsOnUnix)),
        (socket, None) => {
            let server = HttpServer::new(app)
                .max_connections(door.connections_max)
                .client_request_timeout(HEAD_MAX)
                .client_disconnect_timeout(CLOSE_MAX)
                .keep_alive(door.idle_max)
                .shutdown_timeout(door.drain)
                .disable_signals();
            Ok(listen::attach(server, socket)?.run())
        }
    }
}

#[derive(Clone, Copy)]
struct Limits {
    drain: u64,
    idle: Duration,
    connections: usize,
}

/// The same with TLS. `HttpServer` bounds neither the handshakes of an address nor the streams and header fields of an
/// HTTP/2 connection, and does not tell such connections of the end: so the parts are put together here.
fn serve_tls<F, I, S, B>(
    socket: TcpListener,
    acceptor: &Bounded,
    limits: Limits,
    app: F,
) -> io::Result<Server>
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
    let server = Server::build()
        .max_concurrent_connections(limits.connections)
        .shutdown_timeout(limits.drain)
        .disable_signals();
    let (acceptor, ending) = (acceptor.clone(), server.graceful_shutdown_signal());
    let stack = move || {
        let bare = || {
            let app = app().into_factory();
            map_config(app.map_err(HttpResponse::from_error), |()| AppConfig::default())
        };
        let told = ending.clone();
        let http1 = HttpService::build()
            .client_request_timeout(HEAD_MAX)
            .client_disconnect_timeout(CLOSE_MAX)
            .keep_alive(limits.idle)
            .graceful_shutdown_signal(move || {
                let told = told.clone();
                async move { told.notified().await }
            })
            .h1(bare());
        let (http2, ending) = (bare(), ending.clone());
        let either = fn_factory(move || {
            let (http1, http2, ending) = (http1.new_service(()), http2.new_service(()), ending.clone());
            async move {
                let http1 = Rc::new(http1.await?);
                let unmade = |error| tracing::error!(?error, "an HTTP/2 service cannot be made");
                let http2 = Rc::new(http2.await.map_err(unmade)?);
                Ok::<_, ()>(fn_service(move |stream: TlsStream<TcpStream>| {
                    let (http1, http2, ending) = (Rc::clone(&http1), Rc::clone(&http2), ending.clone());
                    async move {
                        let (connection, tls) = stream.get_ref();
                        let peer = connection.peer_addr().ok();
                        if tls.alpn_protocol() == Some(h2::PROTOCOL) {
                            let ending = async move { ending.notified().await };
                            h2::serve(stream, peer, http2, limits.idle, ending).await;
                            return Ok(());
                        }
                        http1.call((stream, peer)).await.map_err(drop)
                    }
                }))
            }
        });
        acceptor.clone().map_err(drop).and_then(either)
    };
    Ok(server.listen("tls", socket, stack)?.run())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_be_meant_are_refused() {
        for (seconds, wanted) in [(0, None), (1, Some(1)), (60, Some(60)), (61, None)] {
            assert_eq!(drain(Span::seconds(seconds)).ok(), wanted, "{seconds}");
        }
        let files = Files { certificate: "/c".into(), key: "k".to_owned() };
        for (address, tls, allowed) in [
            ("unix:/run/x.sock", true, false),
            ("unix:/run/x.sock", false, true),
            ("127.0.0.1:1", true, true),
            ("fd:http", true, true),
        ] {
            let checked = check_tls(&address.parse().unwrap(), tls.then_some(&files));
            assert_eq!(checked.is_ok(), allowed, "{address} {tls}");
        }
    }
}
