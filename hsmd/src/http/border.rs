//! What every route shares: bodies read within a bound, answers and refusals written.

use std::time::{Duration, Instant};

use actix_web::{
    HttpRequest, HttpResponse, Resource, Route,
    http::{StatusCode, header},
    web,
};
use keychain::{Code, Refusal};

use super::Door;
use crate::{chain, ledger};

/// Longest body: the longest request is under 300 bytes, and a taint's reason may be 500.
pub(super) const BODY_MAX: usize = 4096;

/// A route that takes one method and refuses the others.
pub(super) fn resource(path: &str, route: Route) -> Resource {
    web::resource(path).route(route).default_service(web::to(method_not_allowed))
}

/// How long a caller may take to send one.
const BODY_TIME: Duration = Duration::from_secs(5);

/// Reads a body.
pub(super) async fn read(payload: web::Payload) -> Result<web::Bytes, Refusal> {
    read_within(payload, BODY_MAX, BODY_TIME).await
}

/// Reads a body of at most `most` bytes, which may take so long to come. The caller is judged after it: what a
/// request may do is decided by what holds when it is whole.
pub(super) async fn read_within(
    payload: web::Payload,
    most: usize,
    time: Duration,
) -> Result<web::Bytes, Refusal> {
    match tokio::time::timeout(time, payload.to_bytes_limited(most)).await {
        Ok(Ok(Ok(body))) => Ok(body),
        Ok(Ok(Err(_))) => Err(Refusal::new(Code::InvalidMessage, "the body ended early")),
        Ok(Err(_)) => Err(Refusal::new(Code::TooLarge, "the body is longer than the route takes")),
        Err(_) => Err(Refusal::new(Code::InvalidMessage, "the body did not come in time")),
    }
}

/// Writes the answer to an operation, and counts and times it.
pub(super) fn answer(op: &'static str, start: Instant, outcome: Result<String, Refusal>) -> HttpResponse {
    let result = outcome.as_ref().map_or_else(|refusal| refusal.code().as_str(), |_| "ok");
    metrics::histogram!("hsmd_sign_duration_seconds", "op" => op, "result" => result).record(start.elapsed());
    match outcome {
        Ok(body) => json(200, body),
        Err(refusal) => refused(&refusal),
    }
}

/// Writes a refusal.
pub(super) fn refused(refusal: &Refusal) -> HttpResponse {
    tracing::debug!(code = refusal.code().as_str(), because = refusal.because(), "refused");
    let mut answer = json(refusal.code().status(), refusal.body());
    if refusal.code() == Code::TooMany {
        // A full queue says no time: it empties within a second or two.
        let seconds = refusal.context("retryAfter").and_then(|seconds| seconds.parse().ok()).unwrap_or(1_u64);
        answer.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    answer
}

/// Turns a fault into the caller's refusal; the log has all of it.
pub(super) fn refuse(error: &chain::Error) -> Refusal {
    tracing::warn!(error = error as &dyn std::error::Error, "an operation failed");
    error.into()
}

/// Turns a fault of the audit trail into the caller's refusal.
pub(super) fn unwritten(error: &ledger::Error) -> Refusal {
    tracing::warn!(error = error as &dyn std::error::Error, "an operation is not in the audit trail");
    error.into()
}

/// Writes JSON.
pub(super) fn json(status: u16, body: String) -> HttpResponse {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    HttpResponse::build(status)
        .insert_header(header::ContentType::json())
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .body(body)
}

pub(super) async fn no_such_route(request: HttpRequest, door: web::Data<Door>) -> HttpResponse {
    // Who asks an endorsement's socket for a rotation is of interest to an auditor.
    door.count_refused(&request, "unknown", Code::NoSuchRoute);
    refused(&Refusal::new(Code::NoSuchRoute, "no such route on this socket"))
}

pub(super) async fn method_not_allowed() -> HttpResponse {
    refused(&Refusal::new(Code::MethodNotAllowed, "the route takes another method"))
}
