//! The HTTP border: routes, sizes, and the form of answers (`PROTOCOL.md#operations`, `PROTOCOL.md#owner`,
//! `PROTOCOL.md#errors`).

use std::error::Error;
use std::sync::OnceLock;
use std::time::Instant;

use actix_web::http::StatusCode;
use actix_web::web::{self, Data, Payload, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use edge::health::Dependencies;
use edge::http::{self, Document, RefusalLog, RequestId};
use keychain::message::Operation;
use keychain::{Code, Refusal, Timestamp, limits};
use systemd::telemetry::Quota;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::operation::owner;
use crate::service::{Answer, Service};
use crate::store::Failure;

/// Requests worked on at once: what the connections to the database can serve within a device's patience.
/// Further ones are told so at once.
const REQUESTS_MAX: usize = 512;

/// How many of them may be unsigned. What anyone can send for nothing must not stand in the way of what
/// takes a key: at a read each, these delay the others by milliseconds.
const UNSIGNED_MAX: usize = 64;

/// What every caller can look up: the interface of authd.
const INTERFACE: Document = Document::interface(include_str!("../openapi.json"));

/// Strangers cause these lines, so that only some of them are written.
static REFUSALS: RefusalLog = RefusalLog::new();
static STORE_FAULTS: Quota = Quota::per_minute(12);

/// What a path is for.
#[derive(Clone, Copy)]
enum Route {
    /// An operation of a device.
    Device(Operation),
    /// An access request of an owner.
    Owner(owner::Operation),
}

impl Route {
    fn all() -> impl Iterator<Item = Self> {
        let owner = owner::Operation::ALL.into_iter().map(Self::Owner);
        Operation::ALL.into_iter().map(Self::Device).chain(owner)
    }

    const fn path(self) -> &'static str {
        match self {
            Self::Device(operation) => operation.path(),
            Self::Owner(operation) => operation.path(),
        }
    }

    async fn answer(self, service: &Service, body: &[u8], now: Timestamp) -> Result<Answer, Failure> {
        match self {
            Self::Device(operation) => service.answer(operation, body, now).await,
            Self::Owner(operation) => service.answer_owner(operation, body, now).await,
        }
    }
}

impl From<Operation> for Route {
    fn from(operation: Operation) -> Self {
        Self::Device(operation)
    }
}

/// The places that requests take while they are worked on.
pub struct Places {
    all: Semaphore,
    unsigned: Semaphore,
}

impl Places {
    /// A place for a request, held until it is dropped.
    fn take(&self, route: impl Into<Route>) -> Result<[Option<SemaphorePermit<'_>>; 2], Refusal> {
        let full = |_| Refusal::new(Code::TooMany, "every place is taken");
        let unsigned = match route.into() {
            Route::Device(Operation::SessionRequest) => Some(self.unsigned.try_acquire().map_err(full)?),
            _ => None,
        };
        Ok([unsigned, Some(self.all.try_acquire().map_err(full)?)])
    }
}

impl Default for Places {
    fn default() -> Self {
        Self { all: Semaphore::new(REQUESTS_MAX), unsigned: Semaphore::new(UNSIGNED_MAX) }
    }
}

/// What workers have from the first moment: the service, once it has what it needs.
pub struct Entrance {
    service: OnceLock<Data<Service>>,
    dependencies: Dependencies,
}

impl Entrance {
    /// An entrance that is closed, and says why by `dependencies`.
    pub const fn new(dependencies: Dependencies) -> Self {
        Self { service: OnceLock::new(), dependencies }
    }

    /// Lets requests in. Once.
    pub fn open(&self, service: Data<Service>) {
        self.service.get_or_init(|| service);
    }

    /// What the service rests on.
    pub const fn dependencies(&self) -> &Dependencies {
        &self.dependencies
    }

    fn service(&self) -> Result<&Service, Refusal> {
        self.service.get().map(Data::get_ref).ok_or_else(|| self.dependencies.refusal())
    }
}

/// The routes, for an app that has [`Entrance`], [`Places`] and [`http::Proxies`] as its data and [`http::border`] around
/// it.
pub fn routes(config: &mut ServiceConfig) {
    for route in Route::all() {
        let handler =
            move |request, payload, entrance, places| handle(route, request, payload, entrance, places);
        config.service(http::write(route.path(), handler));
    }
    config.service(http::read("/health", health)).service(http::read("/", index));
    config.service(http::read(Document::INTERFACE_PATH, async || INTERFACE.answer()));
    config.service(http::read(Document::ERRORS_PATH, async || Document::ERRORS.answer()));
    config.default_service(web::to(http::no_such_route));
}

async fn handle(
    route: Route,
    request: HttpRequest,
    payload: Payload,
    entrance: Data<Entrance>,
    places: Data<Places>,
) -> HttpResponse {
    let (begun, id) = (Instant::now(), RequestId::of(&request));
    let outcome = match entrance.service() {
        Ok(service) => answer((route, &id), &request, payload, service, &places).await,
        Err(starting) => Err(starting),
    };
    let op = route.path();
    let mut code = "ok";
    if let Err(refusal) = &outcome {
        code = refusal.code().as_str();
        REFUSALS.note(&id, op, refusal);
    }
    metrics::counter!("authd_operations_total", "op" => op, "code" => code).increment(1);
    metrics::histogram!("authd_operation_seconds", "op" => op).record(begun.elapsed());
    outcome.unwrap_or_else(|refusal| http::refuse(&refusal))
}

async fn answer(
    (route, id): (Route, &RequestId),
    request: &HttpRequest,
    payload: Payload,
    service: &Service,
    places: &Places,
) -> Result<HttpResponse, Refusal> {
    let proxies = request.app_data::<Data<http::Proxies>>();
    let address = proxies.and_then(|proxies| proxies.client(request.peer_addr(), request.headers()));
    if let Some(address) = address {
        service.throttles.count_address(address, service.now())?;
    }
    service.demand_store()?;
    let body = http::body(request, payload, limits::MESSAGE_MAX).await?;
    let _place = places.take(route)?;
    let now = service.now();
    // An answer that cannot be checked is none: without a key for it, now or in a moment, nothing is decided.
    service.response.demand_not_ended(now)?;
    let answer = route.answer(service, &body, now).await.map_err(|failure| explain(route, id, failure))?;
    if answer.repeated {
        metrics::counter!("authd_replayed_operations_total", "op" => route.path()).increment(1);
    }
    // What was decided is not lost to a taint that came meanwhile.
    let key = service.response_key().await?;
    Ok(http::respond(&answer.nonce, &key, &answer.response))
}

/// Says in the log what happened to the store, and to the caller what concerns him.
fn explain(route: Route, id: &RequestId, failure: Failure) -> Refusal {
    if let Failure::Store(fault) = &failure
        && let Some(left_out) = STORE_FAULTS.admit()
    {
        let (operation, error) = (route.path(), fault as &dyn Error);
        tracing::error!(request = %id, operation, error, left_out, "the store failed");
    }
    failure.into_refusal()
}

async fn health(entrance: Data<Entrance>) -> HttpResponse {
    let service = match entrance.service() {
        Ok(service) => service,
        Err(starting) => return http::refuse(&starting),
    };
    let now = service.now();
    let store = service.demand_store().is_ok();
    let keys = service.response.usable(now).is_ok() && service.access.usable(now).is_ok();
    let word = |good| if good { "ok" } else { "down" };
    let (status, verdict) = if store && keys {
        (StatusCode::OK, "healthy")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "unhealthy")
    };
    let body = format!(r#"{{"status":"{verdict}","store":"{}","keys":"{}"}}"#, word(store), word(keys));
    http::json(status, body)
}

async fn index() -> HttpResponse {
    let paths: Vec<_> = Route::all().map(|route| format!(r#""{}""#, route.path())).collect();
    http::json(
        StatusCode::OK,
        format!(
            r#"{{"service":"authd","post":[{}],"get":["/health","{}","{}"]}}"#,
            paths.join(","),
            Document::INTERFACE_PATH,
            Document::ERRORS_PATH
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_unsigned_requests_leaves_places_for_the_others() {
        let places = Places::default();
        let flood: Vec<_> = (0..REQUESTS_MAX).map(|_| places.take(Operation::SessionRequest)).collect();
        assert_eq!(flood.iter().filter(|place| place.is_ok()).count(), UNSIGNED_MAX);
        let others: Vec<_> = (0..REQUESTS_MAX).map(|_| places.take(Operation::SessionCreate)).collect();
        assert_eq!(others.iter().filter(|place| place.is_ok()).count(), REQUESTS_MAX - UNSIGNED_MAX);
        let refused = places.take(Operation::DeviceRotate).map(drop).map_err(|refusal| refusal.code());
        assert_eq!(refused, Err(Code::TooMany));
        drop((flood, others));
        assert!(places.take(Operation::SessionRequest).is_ok());
    }
}
