//! The sidecar as a process: requests per second and CPU seconds per 1,000 requests, with 1 and with 16
//! connections; beside it, in the same run, the same server passing to the same app with no checks, no
//! signature of its own and one bare verification a request.
//!
//! `cargo bench --profile ci -p edge --bench sidecar`. Client, edge (or bare proxy) and app are three
//! processes on this machine, so they share its cores; redis-server must be installed. The app answers at
//! once with what it was asked. The edge does everything that it does in production: it verifies (a known
//! token), reserves the nonce, respells the answer and signs it.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a bench ends at the first surprise"
)]

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use keychain::PublicKey;
use keychain::signed::Envelope;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

#[path = "../tests/edge/support/mod.rs"]
#[expect(dead_code, reason = "shared with the tests, which use other parts")]
mod support;

use support::fixture::Session;
use support::world::World;
use tests::process::cpu_seconds;

const INNER: &str = r#"{"foo":"bar","bar":"foo"}"#;

/// Requests in one measurement; the best of a few measurements counts, as the machine is not ours alone.
const REQUESTS: usize = 6_000;
const ROUNDS: usize = 3;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["app", address] => runtime.block_on(serve_app(address)),
        ["bare", address, app, key] => runtime.block_on(serve_bare(address, app, key)),
        _ => runtime.block_on(measure()),
    }
}

/// The app: answers what it was asked.
async fn serve_app(address: &str) {
    let app = || {
        App::new().default_service(web::to(async |body: web::Bytes| {
            HttpResponse::Ok().content_type("application/json").body(body)
        }))
    };
    HttpServer::new(app).bind(address).unwrap().run().await.unwrap();
}

/// A proxy as the edge is, but for what the edge is for: one bare verification, and the inner request on.
async fn serve_bare(address: &str, app: &str, key: &str) {
    let app = app.to_owned();
    let public_key = PublicKey::parse(key).unwrap();
    let server = HttpServer::new(move || {
        let parsed = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public_key.sec1()).unwrap();
        let client = edge::peer::Peer::parse(&app).unwrap().client(Duration::from_secs(30)).unwrap();
        App::new().app_data(web::Data::new((parsed, client, app.clone()))).default_service(web::to(pass))
    });
    server.bind(address).unwrap().run().await.unwrap();
}

async fn pass(
    request: HttpRequest,
    body: web::Bytes,
    tools: web::Data<(ParsedPublicKey, reqwest::Client, String)>,
) -> HttpResponse {
    let (key, client, app) = tools.as_ref();
    let envelope = Envelope::parse_bytes(&body).unwrap();
    key.verify_sig(envelope.payload.as_bytes(), envelope.signature.unwrap().bytes()).unwrap();
    let inner =
        envelope.payload.split_once(",\"request\":").unwrap().1.trim_end_matches('}').to_owned() + "}";
    let url = format!("{app}{}", request.path());
    let answer =
        client.post(url).header("content-type", "application/json").body(inner).send().await.unwrap();
    HttpResponse::Ok().content_type("application/json").body(answer.bytes().await.unwrap())
}

async fn measure() {
    let (app_at, edge_at, bare_at) = (free(), free(), free());
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "secret").unwrap();
    let _app = OwnProcess::start(&["app", &app_at.to_string()], app_at).await;
    let app_url = format!("http://{app_at}");
    let lines = format!("app_secret = \"{}\"", secret.path().display());
    let world = World::start_between(Some(&edge_at.to_string()), Some(&app_url), &lines).await;
    let session = world.session(200);
    let key = session.key.public_key().to_string();
    let bare = OwnProcess::start(&["bare", &bare_at.to_string(), &app_url, &key], bare_at).await;
    println!("{:<24}{:>12}{:>14}{:>22}", "", "connections", "requests/s", "CPU s / 1,000 requests");
    for connections in [1, 16] {
        let edge = best("edge", edge_at, world.edge.id(), connections, &session).await;
        let bare = best("bare proxy", bare_at, bare.0.id(), connections, &session).await;
        println!("{:<24}{connections:>12}{:>13.0}%", "edge / bare proxy", 100.0 * edge / bare);
    }
}

/// The best of the rounds, in requests per second.
async fn best(name: &str, address: SocketAddr, process: u32, connections: usize, session: &Session) -> f64 {
    let mut found: Option<(f64, f64)> = None;
    for _ in 0..=ROUNDS {
        let (rate, cpu) = round(address, process, connections, session).await;
        if found.is_none_or(|(best, _)| rate > best) {
            found = Some((rate, cpu));
        }
    }
    let (rate, cpu) = found.unwrap();
    println!("{name:<24}{connections:>12}{rate:>14.0}{cpu:>22.3}");
    rate
}

/// Requests per second, and CPU seconds of the process per 1,000 requests.
async fn round(address: SocketAddr, process: u32, connections: usize, session: &Session) -> (f64, f64) {
    let now = edge::clock::Clock::system().now();
    let requests: Vec<Vec<u8>> = (0..REQUESTS)
        .map(|_| {
            let nonce = keychain::Nonce::from_bytes(random());
            let body = session.request(nonce, now, INNER);
            let length = body.len();
            format!("POST /foo/bar HTTP/1.1\r\nhost: edge\r\ncontent-length: {length}\r\n\r\n{body}")
                .into_bytes()
        })
        .collect();
    let requests = Arc::new(requests);
    let (started, used) = (Instant::now(), cpu_seconds(process));
    let mut tasks = tokio::task::JoinSet::new();
    for connection in 0..connections {
        let requests = Arc::clone(&requests);
        tasks.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            for request in requests.iter().skip(connection).step_by(connections) {
                stream.write_all(request).await.unwrap();
                read_answer(&mut stream).await;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let count = f64::from(u32::try_from(REQUESTS).unwrap());
    let rate = count / started.elapsed().as_secs_f64();
    (rate, (cpu_seconds(process) - used) * 1_000.0 / count)
}

fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    bytes
}

/// Reads one answer, which must be a success.
async fn read_answer(stream: &mut TcpStream) {
    let mut bytes = Vec::with_capacity(1_024);
    loop {
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "closed");
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = std::str::from_utf8(&bytes[..end]).unwrap().to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{}", std::str::from_utf8(&bytes).unwrap());
        let length = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap();
        if bytes.len() >= end + 4 + length.parse::<usize>().unwrap() {
            return;
        }
    }
}

/// An address that was free a moment ago.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// This program once more, in another part; stopped when dropped.
struct OwnProcess(Child);

impl OwnProcess {
    async fn start(arguments: &[&str], address: SocketAddr) -> Self {
        let program = std::env::current_exe().unwrap();
        let process = Self(Command::new(program).args(arguments).spawn().unwrap());
        support::until("it to listen", async || TcpStream::connect(address).await.ok()).await;
        process
    }
}

impl Drop for OwnProcess {
    fn drop(&mut self) {
        let _already_dead = self.0.kill();
        let _already_reaped = self.0.wait();
    }
}
