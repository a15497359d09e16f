//! Sample app in Rust: answers POST /foo/bar. It knows nothing of the protocol; the edge before it does.
//!
//! Usage: `app-rust [ADDRESS:PORT [SECRET_FILE]]` (without arguments: 127.0.0.1 and the port in `PORT`)
//!
//! With `SECRET_FILE` only requests whose header `keelson-edge-secret` holds that secret are answered.

use actix_web::http::StatusCode;
use actix_web::web::{Bytes, Data, PayloadConfig, ServiceConfig};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

const LONGEST_BODY: usize = 1 << 20; // bytes; what an edge forwards by default

#[derive(Deserialize)]
struct Request {
    foo: Box<RawValue>, // as it came: a parsed number could come back as another
    bar: Box<RawValue>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    was_foo: Box<RawValue>,
    was_bar: Box<RawValue>,
    server_name: &'static str,
}

struct Secret(Option<Vec<u8>>);

impl Secret {
    fn is_in(&self, request: &HttpRequest) -> bool {
        let given = request.headers().get("keelson-edge-secret").map_or(&b""[..], |value| value.as_bytes());
        self.0.as_ref().is_none_or(|secret| verify_slices_are_equal(given, secret).is_ok())
    }
}

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let listen = arguments.next().unwrap_or_else(|| {
        format!("127.0.0.1:{}", std::env::var("PORT").unwrap_or_else(|_| "3000".to_owned()))
    });
    let secret = Data::new(Secret(arguments.next().map(std::fs::read).transpose()?.map(without_newline)));
    HttpServer::new(move || App::new().app_data(secret.clone()).configure(routes))
        .workers(1)
        .shutdown_timeout(5)
        .bind(listen)?
        .run()
        .await
}

fn routes(config: &mut ServiceConfig) {
    let foo_bar = web::resource("/foo/bar")
        .route(web::post().to(foo_bar))
        .default_service(web::to(|| async { fault(405, "POST only") }));
    config
        .app_data(PayloadConfig::new(LONGEST_BODY))
        .service(foo_bar)
        .default_service(web::to(|| async { fault(404, "no such path") }));
}

async fn foo_bar(
    request: HttpRequest,
    body: Result<Bytes, actix_web::Error>,
    secret: Data<Secret>,
) -> HttpResponse {
    if !secret.is_in(&request) {
        return fault(403, "only the edge may call this app");
    }
    let Ok(body) = body else {
        return fault(413, "the body is too large");
    };
    match serde_json::from_slice::<Request>(&body) {
        Ok(asked) => {
            HttpResponse::Ok().json(Answer { was_foo: asked.foo, was_bar: asked.bar, server_name: "rust" })
        }
        Err(_) => fault(400, "the body must be a JSON object with foo and bar"),
    }
}

fn fault(status: u16, error: &'static str) -> HttpResponse {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    HttpResponse::build(status).json(serde_json::json!({ "error": error }))
}

fn without_newline(mut secret: Vec<u8>) -> Vec<u8> {
    while secret.pop_if(|byte| matches!(byte, b'\n' | b'\r')).is_some() {}
    secret
}
