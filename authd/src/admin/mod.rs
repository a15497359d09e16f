//! The admin socket: what operators ask of authd, through a Unix socket whose peers the kernel names.
//!
//! | method, path | asks for | row of the policy |
//! |---|---|---|
//! | `POST /ban`, `/unban` | a ban, for ever or for a time; its end | `ban`, `unban` |
//! | `GET /account`, `POST /account/delete`, `/account/restore` | what the rows say; a tombstone; its end | `account-show`, `account-delete`, `account-restore` |
//! | `GET /account/export` | every row that names an identity, in pages | `account-export` |
//! | `POST /devices/revoke` | one device, all, or all but one | `device-revoke` |
//! | `POST /roles/grant`, `/roles/revoke` | a role besides those that all have | `role-grant`, `role-revoke` |
//! | `GET /feed`, `POST /feed/lift`, `/feed/reopen` | where the denial feed stands, and what of it no record says; its end; a new epoch | `feed-show`, `feed-lift`, `feed-reopen` |
//! | `GET /feed/position` | how far the denial feed is written | any row |
//! | `POST /reset` | an end of every account | `reset` |
//! | `POST /roll` | new keys of authd's own | `roll` |
//! | `GET /audit` | lines of the trail | `audit` |
//!
//! An order is one transaction: its records, signed by the access key, its denials, and its two lines of the audit
//! trail. The answer comes after the commit, and says whether the directory has it, and with which position the denial
//! feed told it. An order that was refused, or that found everything as ordered, has its lines as well. Who may not ask
//! is counted and logged, without a line: a flood of refusals must not fill the disk.

mod feed;
mod http;
mod orders;
pub mod policy;

use std::any::Any;
use std::io;
use std::time::{Duration, Instant};

use actix_web::dev::{Extensions, Server};
use actix_web::rt::net::UnixStream;
use actix_web::web::Data;
use actix_web::{App, HttpServer};
use systemd::listen::{self, Socket};

use crate::service::Service;
use policy::Policy;

/// Connections at a time: operators are few.
const CONNECTIONS_MAX: usize = 64;

/// How long a caller may take to send its request's head.
const HEAD_MAX: Duration = Duration::from_secs(5);

/// How long orders under way may take once the daemon is asked to stop, in seconds.
const DRAIN_MAX: u64 = 15;

/// What the admin socket opens to.
pub struct Door {
    service: Data<Service>,
    policy: Policy,
    /// When the monotonic clock of the policy's rates began.
    begun: Instant,
}

/// The user of the process at the other end, by the kernel's word at accept.
#[derive(Clone, Copy, Debug)]
struct Caller(u32);

impl Door {
    /// A door that `policy` guards.
    pub fn new(service: Data<Service>, policy: Policy) -> Self {
        Self { service, policy, begun: Instant::now() }
    }
}

/// Serves the admin socket, on a thread of its own, until its handle stops it.
pub fn serve(socket: Socket, door: Door) -> io::Result<Server> {
    if matches!(socket, Socket::Tcp(_)) {
        return Err(io::Error::other("the admin socket is no Unix socket: over TCP nobody knows who calls"));
    }
    let door = Data::new(door);
    let app = move || App::new().app_data(door.clone()).configure(http::routes);
    let server = HttpServer::new(app)
        .workers(1)
        .max_connections(CONNECTIONS_MAX)
        .client_request_timeout(HEAD_MAX)
        .shutdown_timeout(DRAIN_MAX)
        .disable_signals()
        .on_connect(remember_caller);
    Ok(listen::attach(server, socket)?.run())
}

fn remember_caller(connection: &dyn Any, data: &mut Extensions) {
    if let Some(connection) = connection.downcast_ref::<UnixStream>()
        && let Ok(peer) = connection.peer_cred()
    {
        data.insert(Caller(peer.uid()));
    }
}
