//! The sidecar: takes signed access requests for an app that knows nothing of the protocol.
//!
//! One request goes: shape of the path → what the path asks for → body, bounded → verdict → app, with
//! the caller in headers → answer, respelt and signed. What the device says about itself in headers
//! never reaches the app, but for an allow-list.

mod app;
pub mod config;
mod daemon;
pub mod routes;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse, web};
use keychain::{Code, Refusal};

use crate::ecma;
use crate::gate::Gate;
use crate::health::Dependencies;
use crate::http::{self, Document, RefusalLog, RequestId};
use crate::own_key::OwnKey;
use crate::verifier::Demand;
use app::App;
pub use app::AppSettings;
pub use daemon::{Edge, Setup, Starting, run};
use routes::{Routes, check_place};

/// Most requests in progress at a time, from the last byte of their body on; each may hold a body and an
/// answer. Beyond it they are told to come again rather than made to wait.
const IN_PROGRESS_MAX: usize = 512;

/// How long a request waits for a key before its app is asked. One comes within a second of a taint, unless this service
/// is revoked.
const KEY_PATIENCE: Duration = Duration::from_secs(5);

/// What every caller can look up: the interface of an edge, whatever its app takes.
const INTERFACE: Document = Document::interface(include_str!("../../openapi.json"));

/// Strangers cause these lines, so that only some of them are written.
static REFUSALS: RefusalLog = RefusalLog::new();

/// What all workers share.
#[derive(Debug)]
struct Shared {
    gate: Gate,
    key: OwnKey,
    routes: Routes,
    request_max: usize,
    in_progress: Places,
    /// How long an app's answer waits for a key to be signed with: as long as the app may take.
    key_wait: Duration,
}

/// What workers have from the first moment.
struct Entrance {
    shared: OnceLock<Shared>,
    dependencies: Dependencies,
}

impl Entrance {
    /// Lets requests in. Once.
    fn open(&self, shared: Shared) {
        self.shared.get_or_init(|| shared);
    }

    fn shared(&self) -> Result<&Shared, Refusal> {
        self.shared.get().ok_or_else(|| self.dependencies.refusal())
    }
}

/// Every path and method comes here. What is read is the edge's own, for apps are asked with POST alone.
async fn handle(
    request: HttpRequest,
    payload: web::Payload,
    entrance: web::Data<Entrance>,
    app: web::Data<App>,
) -> HttpResponse {
    if let Some(document) = document(&request) {
        return document.answer();
    }
    let id = RequestId::of(&request);
    let answer = match entrance.shared() {
        Ok(shared) => serve(&request, payload, shared, &app, &id).await,
        Err(starting) => Err(starting),
    };
    answer.unwrap_or_else(|refusal| {
        REFUSALS.note(&id, "access", &refusal);
        http::refuse_at(http::WRITE, &refusal)
    })
}

fn document(request: &HttpRequest) -> Option<Document> {
    let is_read = request.method() == Method::GET || request.method() == Method::HEAD;
    match request.path() {
        Document::INTERFACE_PATH if is_read => Some(INTERFACE),
        Document::ERRORS_PATH if is_read => Some(Document::ERRORS),
        _ => None,
    }
}

async fn serve(
    request: &HttpRequest,
    payload: web::Payload,
    shared: &Shared,
    app: &App,
    id: &RequestId,
) -> Result<HttpResponse, Refusal> {
    let place = request.uri().path_and_query().map_or("", |place| place.as_str());
    check_place(place)?;
    if request.method() != Method::POST {
        return Err(Refusal::new(Code::MethodNotAllowed, "access requests are POST"));
    }
    let permission = shared.routes.permission(request.path())?;
    let body = http::body(request, payload, shared.request_max).await?;
    let _place = shared.in_progress.enter()?;
    if !ecma::is_shallow(&body) {
        return Err(Refusal::new(Code::InvalidMessage, "the message nests too deeply"));
    }
    let demand = Demand { place, permission };
    // An answer that cannot be signed helps nobody. After a taint the next key is on its way: who would be admitted waits
    // for it, and strangers take no places. The nonce is not spent meanwhile.
    if shared.key.usable(shared.gate.now()).is_err() {
        shared.key.demand_not_ended(shared.gate.now())?;
        shared.gate.would_admit(&body, demand).await?;
        shared.key.usable_within(KEY_PATIENCE).await?;
    }
    let admitted = shared.gate.admit(&body, demand).await?;
    let answer = app.ask(place, &admitted, request.headers(), id).await.inspect_err(note_failure)?;
    // The app has acted: its answer is not lost to a taint that came meanwhile.
    let key = shared.key.usable_within(shared.key_wait).await?;
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::BAD_GATEWAY);
    Ok(http::respond_with(status, &admitted.nonce(), &key, &answer.json))
}

fn note_failure(refusal: &Refusal) {
    metrics::counter!("edge_app_failures_total", "code" => refusal.code().as_str()).increment(1);
}

/// So many places that requests can take at a time.
#[derive(Debug)]
struct Places {
    taken: AtomicUsize,
    most: usize,
}

impl Places {
    const fn new(most: usize) -> Self {
        Self { taken: AtomicUsize::new(0), most }
    }

    /// A place, given back when dropped.
    fn enter(&self) -> Result<Place<'_>, Refusal> {
        let place = Place(&self.taken);
        if self.taken.fetch_add(1, Ordering::Relaxed) >= self.most {
            return Err(Refusal::new(Code::Unavailable, "too many requests are in progress"));
        }
        Ok(place)
    }
}

struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
