//! What every HTTP border of Keelson that devices reach has in common: open CORS, the one form of
//! refusals, signed answers, bounded bodies (`PROTOCOL.md#directory-service`, `PROTOCOL.md#errors`).

use std::future::{Ready, ready};
use std::time::Duration;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_TYPE,
    HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{Error, HttpRequest, HttpResponse, web};
use futures_util::StreamExt as _;
use keychain::{Code, Nonce, Refusal, access};

use crate::own_key::Endorsed;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// How long a request's body may take to arrive. Honest ones come with their head.
const BODY_DEADLINE: Duration = Duration::from_secs(10);

/// Seconds after which a caller may try again when the service could not decide.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// Middleware: answers OPTIONS on every path and opens every answer to every origin, errors included.
///
/// Nothing here rests on a browser's origin: requests carry signatures, never cookies.
pub async fn cors(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    if request.method() == Method::OPTIONS {
        let mut answer = HttpResponse::Ok().finish();
        open(answer.headers_mut());
        let headers = answer.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, GET, OPTIONS"));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("Content-Type, Authorization"));
        return Ok(request.into_response(answer));
    }
    let mut answer = next.call(request).await?.map_into_boxed_body();
    open(answer.headers_mut());
    Ok(answer)
}

fn open(headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
}

/// The answer that carries a refusal: its status, and its body without a `payload`.
pub fn refuse(refusal: &Refusal) -> HttpResponse {
    let status = StatusCode::from_u16(refusal.code().status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = HttpResponse::build(status);
    if matches!(refusal.code(), Code::Unavailable | Code::TooMany) {
        answer.insert_header((RETRY_AFTER, RETRY_SECONDS));
    }
    answer.insert_header((CONTENT_TYPE, JSON)).body(refusal.body())
}

/// The signed answer of a success: HTTP 200 around `response` (compact JSON that survives a client's
/// re-serialisation), bound to the request by its nonce.
pub fn respond(nonce: &Nonce, key: &Endorsed, response: &str) -> HttpResponse {
    respond_with(StatusCode::OK, nonce, key, response)
}

/// The same with another status, as when an app's own error is passed on.
pub fn respond_with(status: StatusCode, nonce: &Nonce, key: &Endorsed, response: &str) -> HttpResponse {
    match access::seal_response(key.signing_key(), nonce, response) {
        Ok(message) => json(status, message),
        Err(refusal) => refuse(&refusal),
    }
}

/// An unsigned JSON answer.
pub fn json(status: StatusCode, body: String) -> HttpResponse {
    HttpResponse::build(status).insert_header((CONTENT_TYPE, JSON)).body(body)
}

/// Reads a request's body, at most `limit` bytes of it.
///
/// `TooLarge` as soon as the declared or the received length is beyond the limit, `InvalidMessage` when
/// the body breaks off or does not arrive in time.
pub async fn body(request: &HttpRequest, payload: web::Payload, limit: usize) -> Result<Vec<u8>, Refusal> {
    let declared = declared_length(request.headers());
    if declared.is_some_and(|length| length > limit as u64) {
        return Err(TOO_LARGE);
    }
    let expected = declared.and_then(|length| usize::try_from(length).ok()).unwrap_or_default();
    tokio::time::timeout(BODY_DEADLINE, collect(payload, expected, limit))
        .await
        .unwrap_or(Err(Refusal::new(Code::InvalidMessage, "the body did not arrive in time")))
}

async fn collect(mut payload: web::Payload, expected: usize, limit: usize) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::with_capacity(expected.min(limit));
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_| Refusal::new(Code::InvalidMessage, "the body broke off"))?;
        if bytes.len() + chunk.len() > limit {
            return Err(TOO_LARGE);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// How long a body says that it is; none where it comes in chunks.
pub fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(HeaderName::from_static("content-length"))?.to_str().ok()?.parse().ok()
}

const TOO_LARGE: Refusal = Refusal::new(Code::TooLarge, "the body is beyond its limit");

/// The answer to a path that is not served; for an app's default service.
pub fn no_such_route() -> Ready<HttpResponse> {
    ready(refuse(&Refusal::new(Code::NoSuchRoute, "no such route")))
}

/// The answer to a method that a path does not take; for a resource's default service.
pub fn method_not_allowed() -> Ready<HttpResponse> {
    ready(refuse(&Refusal::new(Code::MethodNotAllowed, "the route does not take this method")))
}
