//! New keys on order: `POST /roll` on a Unix socket of this host, and SIGHUP. The old keys sign until the new ones are in
//! use, and what they signed stays good: no request is dropped.
//!
//! Root and the user of this process may order it; the kernel says who asks. Both are told apart from others in a user
//! namespace too.

use std::any::Any;
use std::error::Error;
use std::io;
use std::time::Duration;

use actix_web::dev::{Extensions, ServerHandle};
use actix_web::http::StatusCode;
use actix_web::rt::net::UnixStream;
use actix_web::web::{self, Data};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use keychain::{Code, Refusal};
use systemd::listen::{self, Address, Mode, Socket};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::http;
use crate::own_key::OwnKey;
use crate::task::Task;

/// How long an answer waits for the new keys. It takes well under a second.
const ROLL_WITHIN: Duration = Duration::from_secs(5);

/// Connections at a time: operators are few.
const CONNECTIONS_MAX: usize = 16;

/// How long a caller may take to send its request's head.
const HEAD_MAX: Duration = Duration::from_secs(5);

/// The keys of a service, those first for which others wait.
#[derive(Debug, Clone)]
pub struct Roll {
    keys: Vec<OwnKey>,
}

/// The user of the process at the other end, by the kernel's word at accept.
#[derive(Clone, Copy, Debug)]
struct Caller(u32);

impl Roll {
    /// Orders new keys for `keys`, in this order.
    pub const fn new(keys: Vec<OwnKey>) -> Self {
        Self { keys }
    }

    /// Orders a new key for each, and answers with the numbers of their endorsements once they are in use.
    pub async fn now(&self) -> Result<String, Refusal> {
        let mut numbers = Vec::with_capacity(self.keys.len());
        for key in &self.keys {
            let new = key.roll(ROLL_WITHIN).await?;
            numbers.push(new.endorsement().number.unwrap_or(0).to_string());
        }
        Ok(format!("{{\"endorsements\":[{}]}}", numbers.join(",")))
    }

    /// Takes from SIGHUP its power to end this process: a service that has no keys yet goes on asking for them.
    pub fn outlive_hangups() -> io::Result<()> {
        // The handler stays for the life of the process.
        signal(SignalKind::hangup()).map(drop)
    }

    /// Rolls at each SIGHUP, as long as what it returns is kept.
    pub fn on_hangup(self) -> io::Result<Hangups> {
        let hangups = signal(SignalKind::hangup())?;
        Ok(Hangups { _task: Task::spawn(self.follow(hangups)) })
    }

    async fn follow(self, mut hangups: Signal) {
        while hangups.recv().await.is_some() {
            match self.now().await {
                Ok(_) => tracing::info!("new keys are in use, as SIGHUP asked for"),
                Err(refusal) => {
                    tracing::warn!(%refusal, "SIGHUP asked for new keys; they are still being asked for");
                }
            }
        }
    }

    /// Serves `POST /roll` at an address, on a thread of its own, until the handle stops it.
    pub fn serve(self, address: &Address) -> io::Result<ServerHandle> {
        let socket = address.bind_with(Mode::PRIVATE).map_err(io::Error::other)?;
        if matches!(socket, Socket::Tcp(_)) {
            return Err(io::Error::other("`admin` is no Unix socket: over TCP nobody knows who calls"));
        }
        let roll = Data::new(self);
        let app = move || {
            App::new()
                .app_data(roll.clone())
                .service(http::write("/roll", order))
                .default_service(web::to(http::no_such_route))
        };
        let server = HttpServer::new(app)
            .workers(1)
            .max_connections(CONNECTIONS_MAX)
            .client_request_timeout(HEAD_MAX)
            .shutdown_timeout(ROLL_WITHIN.as_secs())
            .disable_signals()
            .on_connect(remember_caller);
        let server = listen::attach(server, socket)?.run();
        let handle = server.handle();
        tokio::spawn(server);
        Ok(handle)
    }
}

/// Rolls at each SIGHUP as long as it is kept.
#[derive(Debug)]
pub struct Hangups {
    _task: Task,
}

async fn order(request: HttpRequest, roll: Data<Roll>) -> HttpResponse {
    let caller = request.conn_data::<Caller>().map(|caller| caller.0);
    let outcome = match demand_allowed(caller, rustix::process::geteuid().as_raw()) {
        Ok(()) => roll.now().await,
        Err(refusal) => Err(refusal),
    };
    match outcome {
        Ok(body) => {
            tracing::info!(caller, "new keys are in use, as was ordered");
            http::json(StatusCode::OK, body)
        }
        Err(refusal) => {
            tracing::warn!(
                caller,
                error = &refusal as &dyn Error,
                "an order of new keys was not carried out"
            );
            http::refuse(&refusal)
        }
    }
}

/// Root and the own user, and nobody else.
fn demand_allowed(caller: Option<u32>, own: u32) -> Result<(), Refusal> {
    match caller {
        Some(user) if user == 0 || user == own => Ok(()),
        _ => Err(Refusal::new(Code::Forbidden, "root and the user of this service may order new keys")),
    }
}

fn remember_caller(connection: &dyn Any, data: &mut Extensions) {
    if let Some(connection) = connection.downcast_ref::<UnixStream>()
        && let Ok(peer) = connection.peer_cred()
    {
        data.insert(Caller(peer.uid()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_own_user_may_order_new_keys() {
        for (caller, own, allowed) in [
            (Some(0), 7, true),
            (Some(7), 7, true),
            (Some(8), 7, false),
            (Some(65_534), 7, false),
            (None, 7, false),
            (None, 0, false),
        ] {
            assert_eq!(demand_allowed(caller, own).is_ok(), allowed, "{caller:?} {own}");
        }
    }
}
