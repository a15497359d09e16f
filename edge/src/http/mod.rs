//! What every HTTP border of Keelson that devices reach has in common: servers, open CORS, request ids, the one form of
//! refusals, signed answers, bounded bodies (`PROTOCOL.md#directory-service`, `PROTOCOL.md#errors`).

mod border;
mod client;
mod documents;
mod h2;
mod proxies;
mod refusal_log;
mod renewal;
pub mod request_id;
pub mod server;

use std::future::{Ready, ready};
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LINK, RETRY_AFTER};
use actix_web::{FromRequest, Handler, HttpRequest, HttpResponse, Resource, Responder, Route, guard, web};
use futures_util::StreamExt as _;
use keychain::{Code, Nonce, Refusal, access};
use tokio::sync::Semaphore;

use crate::own_key::Endorsed;
pub use border::border;
pub use documents::Document;
pub use proxies::Proxies;
pub use refusal_log::RefusalLog;
pub use renewal::Renewal;
pub use request_id::RequestId;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// How long a request's body may take to arrive. Honest ones come with their head.
const BODY_DEADLINE: Duration = Duration::from_secs(10);

/// Longest body that needs no place, in bytes: as much as a connection costs anyhow. Most are a tenth of it.
const SHORT_BODY_MAX: u64 = 16 * 1024;

/// Longer bodies on their way in at a time. Nothing is proven of who sends them, so they have places of their own: senders
/// who dawdle take them from one another, never from requests that are all there.
const LONG_BODIES_MAX: usize = 256;

static LONG_BODIES: Semaphore = Semaphore::const_new(LONG_BODIES_MAX);

/// Seconds after which a caller may try again where the refusal does not say.
const RETRY_SECONDS: u64 = 1;

/// The answer that carries a refusal: its status, and its body without a `payload`.
pub fn refuse(refusal: &Refusal) -> HttpResponse {
    let status = StatusCode::from_u16(refusal.code().status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = HttpResponse::build(status);
    if matches!(refusal.code(), Code::Unavailable | Code::TooMany) {
        let seconds = refusal.context("retryAfter").and_then(|seconds| seconds.parse().ok());
        answer.insert_header((RETRY_AFTER, HeaderValue::from(seconds.unwrap_or(RETRY_SECONDS))));
    }
    let help = format!("<{}#{}>; rel=\"help\"", Document::ERRORS_PATH, refusal.code().as_str());
    answer.insert_header((LINK, help)).insert_header((CONTENT_TYPE, JSON)).body(refusal.body())
}

/// The same of a place that takes the methods `allowed`, which the answer to any other method names.
pub fn refuse_at(allowed: &'static str, refusal: &Refusal) -> HttpResponse {
    let mut answer = refuse(refusal);
    if refusal.code() == Code::MethodNotAllowed {
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    }
    answer
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
/// the body breaks off or does not arrive in time, `Unavailable` while there is no place for a long one.
pub async fn body(request: &HttpRequest, payload: web::Payload, limit: usize) -> Result<Vec<u8>, Refusal> {
    let declared = declared_length(request.headers());
    if declared.is_some_and(|length| length > limit as u64) {
        return Err(TOO_LARGE);
    }
    // One that does not say its length may be long.
    let is_short = declared.is_some_and(|length| length <= SHORT_BODY_MAX);
    let full = |_| Refusal::new(Code::Unavailable, "too many long bodies are on their way");
    let _place = if is_short { None } else { Some(LONG_BODIES.try_acquire().map_err(full)?) };
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
fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(HeaderName::from_static("content-length"))?.to_str().ok()?.parse().ok()
}

const TOO_LARGE: Refusal = Refusal::new(Code::TooLarge, "the body is beyond its limit");

/// The answer to a path that is not served; for an app's default service.
pub fn no_such_route() -> Ready<HttpResponse> {
    ready(refuse(&Refusal::new(Code::NoSuchRoute, "no such route")))
}

/// The methods of a place that is read.
pub const READ: &str = "GET, HEAD, OPTIONS";

/// The methods of a place that takes requests.
pub const WRITE: &str = "POST, OPTIONS";

/// A path that is read: with GET, and with HEAD by whoever looks at the status alone.
pub fn read<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    let either = guard::Any(guard::Get()).or(guard::Head());
    resource(path, READ, web::route().guard(either).to(handler))
}

/// A path that takes requests: with POST.
pub fn write<F, Args>(path: &str, handler: F) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    resource(path, WRITE, web::post().to(handler))
}

fn resource(path: &str, allowed: &'static str, route: Route) -> Resource {
    let other = move || ready(refuse_at(allowed, &METHOD));
    web::resource(path).route(route).default_service(web::to(other))
}

const METHOD: Refusal = Refusal::new(Code::MethodNotAllowed, "the route does not take this method");
