//! The HTTP border: few routes, small bodies, every refusal in the protocol's form.
//!
//! Only POST changes anything. A caller whom the policy does not know is refused before its body is read; what the
//! others may do is judged once it was, and what a handler does to the chain takes a value that only the policy
//! hands out.

mod attestations;
mod audit;
mod border;
mod chain;
mod clock;
mod connections;
mod declared;
mod generation;
mod health;
mod lease;
mod published;
mod recover;
mod restored;
mod serve;
mod services;
mod sign;
mod statements;
pub mod tls;
mod wait;

use std::{sync::Arc, time::Instant};

use crate::{
    audit::Audit,
    chain::Keeper,
    chain::statement::Statements,
    health::Health,
    http::tls::{Presented, Tls},
    policy::{Authority, Caller, Gate, Operation, Role},
};
use actix_web::{HttpRequest, HttpResponse, web};
use keychain::{Code, Refusal};

pub use serve::{Listener, serve};

/// One socket's view of the daemon.
pub struct Door {
    /// The chain's keeper.
    pub keeper: Arc<Keeper>,
    /// Who may do what through this socket.
    pub policy: Gate,
    /// How the daemon is.
    pub health: Arc<Health>,
    /// How callers of other hosts prove who they are.
    pub tls: Option<Arc<Tls>>,
    /// What is stated beside the chain.
    pub statements: Arc<Statements>,
    /// Where everything that changes or signs something is written down.
    pub audit: Audit,
}

fn routes(role: Role) -> impl FnOnce(&mut web::ServiceConfig) {
    move |config| {
        match role {
            Role::Endorse => {
                config.service(border::resource("/sign", web::post().to(sign::sign)));
                config.service(border::resource("/clock", web::get().to(clock::clock)));
            }
            Role::Admin => {
                config.service(border::resource("/rotate", web::post().to(generation::rotate)));
                config.service(border::resource("/taint", web::post().to(generation::taint)));
                // Both methods on one path: a second resource of the same path would never be asked.
                config.service(
                    web::resource("/clock")
                        .route(web::get().to(clock::clock))
                        .route(web::post().to(clock::accept))
                        .default_service(web::to(border::method_not_allowed)),
                );
                config.service(
                    web::resource("/lease")
                        .route(web::get().to(lease::lease))
                        .route(web::post().to(lease::take))
                        .default_service(web::to(border::method_not_allowed)),
                );
                config.service(border::resource("/recover", web::post().to(recover::recover)));
                config.service(border::resource("/audit", web::get().to(audit::lines)));
                config.service(border::resource("/audit/cut", web::post().to(audit::cut)));
                config.service(border::resource("/restored", web::get().to(restored::restored)));
                config.service(border::resource("/take-over", web::post().to(restored::take_over)));
                config.service(border::resource("/copy-stopped", web::post().to(restored::copy_stopped)));
                config.service(border::resource("/services", web::get().to(services::services)));
                config.service(border::resource("/revoke-service", web::post().to(services::revoke_service)));
                config.service(border::resource("/open-service", web::post().to(services::open_service)));
                config.service(border::resource("/roll-service", web::post().to(services::roll_service)));
                let revoke_keys = web::post().to(statements::revoke_keys);
                config.service(border::resource("/revoke-keys", revoke_keys));
            }
            Role::Publish => {
                config.service(border::resource("/published", web::post().to(published::published)));
            }
        }
        config
            .service(border::resource("/attestations", web::get().to(attestations::attestations)))
            .service(border::resource("/chain", web::get().to(chain::chain)))
            .service(border::resource("/statements", web::get().to(statements::statements)))
            .service(border::resource("/health", web::get().to(health::health)))
            .default_service(web::to(border::no_such_route));
    }
}

impl Door {
    /// Reads the body of an operation, and answers who may do it. A stranger's body is not read; what a caller may do is
    /// decided by the policy that holds once the body is whole.
    async fn admit(
        &self,
        request: &HttpRequest,
        payload: web::Payload,
        operation: Operation,
    ) -> Result<(Authority, web::Bytes), Refusal> {
        self.policy.demand_known(caller(request))?;
        let body = border::read(payload).await?;
        let authority = self.policy.permit(operation, caller(request))?;
        Ok((authority, body))
    }

    /// Writes the answer to an operation, and counts and times it.
    fn answer(
        &self,
        request: &HttpRequest,
        operation: &'static str,
        start: Instant,
        outcome: Result<String, Refusal>,
    ) -> HttpResponse {
        if let Err(refusal) = &outcome {
            self.count_refused(request, operation, refusal.code());
        }
        border::answer(operation, start, outcome)
    }

    fn count_refused(&self, request: &HttpRequest, operation: &'static str, code: Code) {
        self.audit.refused(request.conn_data::<Caller>(), operation, code, self.keeper.now());
    }
}

/// Who is at the other end, if it is known: for a client certificate, if it still holds.
fn caller(request: &HttpRequest) -> Option<&Caller> {
    let caller = request.conn_data::<Caller>()?;
    let holds = !matches!(caller, Caller::Named(_)) || certificate_holds(request).unwrap_or(false);
    holds.then_some(caller)
}

fn certificate_holds(request: &HttpRequest) -> Option<bool> {
    let door = request.app_data::<web::Data<Door>>()?;
    Some(door.tls.as_ref()?.trusts(request.conn_data::<Presented>()?, door.keeper.now()))
}
