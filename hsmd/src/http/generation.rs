//! `POST /rotate` and `POST /taint`: a generation is left for the next, or denied if it was left before.

use std::time::Instant;

use actix_web::{HttpRequest, HttpResponse, web};
use keychain::{Code, Digest, Refusal, json::Object};

use super::{Door, border, caller};
use crate::{
    policy::{Authority, Operation},
    rotation::{Advance, Advanced, Error},
    statement::{Denial, Effect},
};

/// Longest reason that comes with a taint; it goes to the log, on one line.
const REASON_MAX: usize = 500;

pub(super) async fn rotate(
    request: HttpRequest,
    door: web::Data<Door>,
    payload: web::Payload,
) -> HttpResponse {
    border::answer("rotate", Instant::now(), try_rotate(&request, &door, payload).await)
}

async fn try_rotate(request: &HttpRequest, door: &Door, payload: web::Payload) -> Result<String, Refusal> {
    let authority = door.policy.permit(Operation::Rotate, caller(request))?;
    let body = border::read(payload).await?;
    let mut object = optional_object(&body)?;
    let from = optional(&mut object, "from")?;
    object.finish()?;
    let advanced = advance(&authority, door, Advance { from, taint: false }, "")
        .await
        .map_err(|error| border::refuse(&error))?;
    Ok(format!(
        "{{\"newPublicKey\":\"{}\",\"newGenerationId\":\"{}\"}}",
        advanced.new_public_key, advanced.new_generation
    ))
}

pub(super) async fn taint(
    request: HttpRequest,
    door: web::Data<Door>,
    payload: web::Payload,
) -> HttpResponse {
    border::answer("taint", Instant::now(), try_taint(&request, &door, payload).await)
}

async fn try_taint(request: &HttpRequest, door: &Door, payload: web::Payload) -> Result<String, Refusal> {
    let authority = door.policy.permit(Operation::Taint, caller(request))?;
    let body = border::read(payload).await?;
    let mut object = optional_object(&body)?;
    let from = optional(&mut object, "generationId")?;
    let reason = take_reason(&mut object)?;
    object.finish()?;
    let advance = Advance { from, taint: true };
    let done = match (self::advance(&authority, door, advance, &reason).await, from) {
        (Err(Error::LeftUntainted), Some(named)) => door.statements.deny(named).await,
        (done, _) => done.map(|done| Denial {
            generation: done.left,
            successor: done.new_generation,
            effect: Effect::Tainted,
        }),
    };
    let done = done.map_err(|error| border::refuse(&error))?;
    Ok(format!(
        "{{\"taintedGenerationId\":\"{}\",\"newGenerationId\":\"{}\",\"effect\":\"{}\"}}",
        done.generation,
        done.successor,
        done.effect.as_str()
    ))
}

async fn advance(
    authority: &Authority,
    door: &Door,
    advance: Advance,
    reason: &str,
) -> Result<Advanced, Error> {
    let caller = authority.caller();
    tracing::info!(%caller, taint = advance.taint, from = ?advance.from, reason, "asked to leave a generation");
    let done = door.keeper.advance(advance).await;
    match &done {
        Ok(done) => tracing::info!(
            %caller,
            taint = advance.taint,
            repeated = done.repeated,
            left = %done.left,
            new = %done.new_generation,
            reason,
            "left a generation"
        ),
        Err(Error::LeftUntainted) => {
            tracing::info!(%caller, reason, "the generation named is older: denying it");
        }
        Err(error) => tracing::error!(%caller, error = error as &dyn std::error::Error, "left no generation"),
    }
    done
}

/// An empty body stands for an object without members, as the command line of an operator sends it.
fn optional_object(body: &[u8]) -> Result<Object<'_>, Refusal> {
    Object::parse_bytes(if body.is_empty() { b"{}" } else { body })
}

fn optional(object: &mut Object<'_>, name: &str) -> Result<Option<Digest>, Refusal> {
    object.take(name).map(|raw| Digest::parse(keychain::json::plain_string(raw)?)).transpose()
}

/// Takes out the reason, if there is one.
pub(super) fn take_reason(object: &mut Object<'_>) -> Result<String, Refusal> {
    object.take("reason").map_or_else(|| Ok(String::new()), read_reason)
}

/// Reads the reason: any text, but bounded and on one line, because it ends in a log.
fn read_reason(raw: &str) -> Result<String, Refusal> {
    let bad =
        Refusal::new(Code::InvalidMessage, "`reason` is not a text of at most 500 bytes without line breaks");
    let reason: String = serde_json::from_str(raw).map_err(|_| bad.clone())?;
    let fits = reason.len() <= REASON_MAX && !reason.contains(char::is_control);
    if fits { Ok(reason) } else { Err(bad) }
}
