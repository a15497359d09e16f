//! The HTTP border: few routes, small bodies, every refusal in the protocol's form.
//!
//! Only POST changes anything. A caller is judged before its body is read, and what a handler does to the
//! chain takes a value that only the policy hands out.

mod border;
mod chain;
mod serve;

use std::{sync::Arc, time::Instant};

use actix_web::{HttpRequest, HttpResponse, web};
use keychain::{Code, Digest, Refusal, endorsement::SignRequest, json::Object};

use crate::{
    health::Health,
    policy::{Authority, Caller, Policy, Role},
    rotation::{Advance, Advanced, Keeper},
};

pub use serve::{Listener, serve};

/// One socket's view of the daemon.
pub struct Door {
    /// The chain's keeper.
    pub keeper: Arc<Keeper>,
    /// Who may do what through this socket.
    pub policy: Policy,
    /// How the daemon is.
    pub health: Arc<Health>,
}

/// Longest reason that comes with a taint; it goes to the log, on one line.
const REASON_MAX: usize = 500;

fn routes(role: Role) -> impl FnOnce(&mut web::ServiceConfig) {
    move |config| {
        match role {
            Role::Endorse => {
                config.service(border::resource("/sign", web::post().to(sign)));
            }
            Role::Admin => {
                config.service(border::resource("/rotate", web::post().to(rotate)));
                config.service(border::resource("/taint", web::post().to(taint)));
            }
        }
        config
            .service(border::resource("/chain", web::get().to(chain::chain)))
            .service(border::resource("/health", web::get().to(health)))
            .default_service(web::to(border::no_such_route));
    }
}

async fn sign(request: HttpRequest, door: web::Data<Door>, payload: web::Payload) -> HttpResponse {
    border::answer("sign", Instant::now(), try_sign(&request, &door, payload).await)
}

async fn try_sign(request: &HttpRequest, door: &Door, payload: web::Payload) -> Result<String, Refusal> {
    let caller = caller(request);
    door.policy.demand_known(caller)?;
    let body = border::read(payload).await?;
    let wanted = SignRequest::parse(&body)?;
    let permission = door.policy.permit_endorsement(caller, &wanted, door.keeper.now())?;
    door.keeper.endorse(&permission).await.map_err(|error| border::refuse(&error))
}

async fn rotate(request: HttpRequest, door: web::Data<Door>, payload: web::Payload) -> HttpResponse {
    border::answer("rotate", Instant::now(), try_rotate(&request, &door, payload).await)
}

async fn try_rotate(request: &HttpRequest, door: &Door, payload: web::Payload) -> Result<String, Refusal> {
    let authority = door.policy.permit_administration(caller(request))?;
    let body = border::read(payload).await?;
    let mut object = optional_object(&body)?;
    let from = optional(&mut object, "from")?;
    object.finish()?;
    let advanced = advance(&authority, request, door, Advance { from, taint: false }, "").await?;
    Ok(format!(
        "{{\"newPublicKey\":\"{}\",\"newGenerationId\":\"{}\"}}",
        advanced.new_public_key, advanced.new_generation
    ))
}

async fn taint(request: HttpRequest, door: web::Data<Door>, payload: web::Payload) -> HttpResponse {
    border::answer("taint", Instant::now(), try_taint(&request, &door, payload).await)
}

async fn try_taint(request: &HttpRequest, door: &Door, payload: web::Payload) -> Result<String, Refusal> {
    let authority = door.policy.permit_administration(caller(request))?;
    let body = border::read(payload).await?;
    let mut object = optional_object(&body)?;
    let from = optional(&mut object, "generationId")?;
    let reason = match object.take("reason") {
        Some(raw) => read_reason(raw)?,
        None => String::new(),
    };
    object.finish()?;
    let advanced = advance(&authority, request, door, Advance { from, taint: true }, &reason).await?;
    Ok(format!(
        "{{\"taintedGenerationId\":\"{}\",\"newGenerationId\":\"{}\"}}",
        advanced.left, advanced.new_generation
    ))
}

async fn advance(
    _: &Authority,
    request: &HttpRequest,
    door: &Door,
    advance: Advance,
    reason: &str,
) -> Result<Advanced, Refusal> {
    let caller = caller(request);
    tracing::info!(?caller, taint = advance.taint, from = ?advance.from, reason, "asked to leave a generation");
    let done = door.keeper.advance(advance).await;
    match &done {
        Ok(done) => tracing::info!(
            ?caller,
            taint = advance.taint,
            repeated = done.repeated,
            left = %done.left,
            new = %done.new_generation,
            reason,
            "left a generation"
        ),
        Err(error) => tracing::error!(?caller, error = error as &dyn std::error::Error, "left no generation"),
    }
    done.map_err(|error| border::refuse(&error))
}

async fn health(door: web::Data<Door>) -> HttpResponse {
    let (ready, body) = door.health.describe(&door.keeper).await;
    border::json(if ready { 200 } else { 503 }, body)
}

fn caller(request: &HttpRequest) -> Option<Caller> {
    request.conn_data::<Caller>().copied()
}

/// An empty body stands for an object without members, as the command line of an operator sends it.
fn optional_object(body: &[u8]) -> Result<Object<'_>, Refusal> {
    Object::parse_bytes(if body.is_empty() { b"{}" } else { body })
}

fn optional(object: &mut Object<'_>, name: &str) -> Result<Option<Digest>, Refusal> {
    object.take(name).map(|raw| Digest::parse(keychain::json::plain_string(raw)?)).transpose()
}

/// Reads the reason: any text, but bounded and on one line, because it ends in a log.
fn read_reason(raw: &str) -> Result<String, Refusal> {
    let bad =
        Refusal::new(Code::InvalidMessage, "`reason` is not a text of at most 500 bytes without line breaks");
    let reason: String = serde_json::from_str(raw).map_err(|_| bad.clone())?;
    let fits = reason.len() <= REASON_MAX && !reason.contains(char::is_control);
    if fits { Ok(reason) } else { Err(bad) }
}
