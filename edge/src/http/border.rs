//! What every answer to a device has, whatever it says.

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, CACHE_CONTROL, HeaderValue,
};
use actix_web::middleware::Next;
use actix_web::{Error, HttpResponse};

use super::request_id::{self, RequestId};

/// Middleware: answers OPTIONS on every path, and gives every answer, errors included, its request's id, an origin that
/// may read it (each one), and the order to keep no copy of it.
///
/// Nothing here rests on a browser's origin: requests carry signatures, never cookies. No answer is to be kept: what is
/// signed counts for one request, and what lists keys must be as new as can be had.
pub async fn border(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let id = RequestId::take(&request);
    let mut answer = if request.method() == Method::OPTIONS {
        let mut answer = HttpResponse::Ok().finish();
        let headers = answer.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, GET, OPTIONS"));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("Content-Type, Authorization"));
        request.into_response(answer)
    } else {
        next.call(request).await?.map_into_boxed_body()
    };
    let headers = answer.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers
        .insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("Link, Retry-After, X-Request-Id"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(request_id::NAME, id.value());
    Ok(answer)
}
