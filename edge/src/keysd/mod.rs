//! The public key directory (`PROTOCOL.md#directory-service`): what devices need to verify answers.
//!
//! It serves from memory: no request reaches Redis, and none can cost more than copying an answer. It
//! shows nothing that does not verify against the pinned chain, and of a contested chain the surviving
//! branch alone.

mod config;
mod copy;

use std::error::Error;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::from_fn;
use actix_web::{App, HttpRequest, HttpResponse, web};
use keychain::acknowledgement::Instance;
use keychain::directory::Directory;
use keychain::{Code, PublicKey, Refusal, Timestamp};
use systemd::exit::Failure;
use systemd::listen::Address;
use systemd::shutdown;
use systemd::telemetry::Metrics;
use systemd::tls::Certificate;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::acknowledger::{Acknowledger, Speaker};
use crate::clock::Clock;
use crate::endorser::Endorser;
use crate::health::{self, Dependencies, End, Ends, Report, Watcher};
use crate::http::server::{self, Door};
use crate::http::{self, Document, Renewal};
use crate::own_key::{Beginning, Plan};
use crate::roll::Roll;
use crate::task::Task;
use crate::trust::{self, TrustFeed};
use crate::updates::{self, Updates};
pub use config::Config;
use copy::Copy;

/// How long a question for an unknown key waits for it: a key that was published a moment ago is on its
/// way, and its owner's first answer may be faster.
const GRACE: Duration = Duration::from_millis(100);

/// Questions that may wait at a time; beyond, the answer is given at once.
const WAITING_MAX: usize = 256;

/// How long an idle connection of a device stays open.
const IDLE_MAX: Duration = Duration::from_secs(15);

/// Connections that a worker holds at once.
const CONNECTIONS_MAX: usize = 25_000;

/// The age at which the key for acknowledgements is replaced.
const CYCLE: Duration = Duration::from_hours(6);

/// Pause before it is asked for again.
const KEY_PAUSE: Duration = Duration::from_secs(1);

/// What `/` answers.
const INDEX: &str =
    r#"{"routes":["/","/health","/keys","/keys/{publicKey}","/hsm/keys","/hsm/heads","/errors"]}"#;

/// What keysd rests on.
const RESTS_ON: [&str; 5] =
    [health::CHAIN, health::DIRECTORY, health::DIRECTORY_CHAIN, health::DIRECTORY_KEYS, health::HEAD];

/// What workers have from the first moment.
struct Entrance {
    shared: OnceLock<Shared>,
    dependencies: Dependencies,
}

struct Shared {
    copy: Copy,
    feed: TrustFeed,
    waiting: Semaphore,
}

/// Runs keysd as `file` says, until it is asked to stop; with `check_only`, says whether it could.
pub async fn run(file: &Path, check_only: bool) -> Result<(), Failure> {
    let config = Config::load(file)?;
    let directory = Directory::connect(&config.redis)
        .map_err(|error| systemd::config::Error::value(file, "redis", error.to_string()))?;
    if check_only {
        println!("ok");
        return Ok(());
    }
    Roll::outlive_hangups().map_err(Failure::io)?;
    let endorser = config.endorser().map_err(Failure::config)?;
    let dependencies = Dependencies::expect(&RESTS_ON, Clock::system());
    if endorser.is_some() {
        dependencies.also_expect(health::HSMD);
    }
    let entrance = web::Data::new(Entrance { shared: OnceLock::new(), dependencies: dependencies.clone() });
    let watcher = Watcher::new("keysd", Clock::system(), health::starting(dependencies.clone(), None));
    // Both doors are open from the first moment: a start that waits says for what.
    let seen = watcher.clone();
    Metrics::install("keysd")?.serve(&config.metrics, move || seen.health())?;
    let certificate = config.tls.clone().map(Certificate::open).transpose().map_err(Failure::config)?;
    let renewal = Renewal::on_hangup(certificate.as_ref()).map_err(Failure::io)?;
    let (server, ended) = listen(&config, entrance.clone(), certificate)?;
    let _task = Task::spawn(watcher.clone().run());
    // Kept to the end: whoever follows the directory hears of it through this.
    let every = updates::reread_every(config.reread_every).map_err(Failure::config)?;
    let updates = Arc::new(Updates::follow(&directory, dependencies.clone(), every));
    let feed = TrustFeed::start(&directory, &updates, endorser.clone(), &trust_settings(&config)?)?;
    watcher.replace(health::starting(dependencies, Some(feed.clone())));
    let copy = Copy::start(&directory, &updates, feed.clone(), &config.state);
    let start = async {
        let mut ended = ended;
        tokio::select! {
            () = watcher.start(first_listing(&feed, &copy)) => Ok(ended),
            end = &mut ended => {
                end.map_err(Failure::software)?.map_err(Failure::io)?;
                Err(Failure::software("the HTTP server ended during the start"))
            }
        }
    };
    shutdown::serve(start, async |mut ended, mut stop| {
        let (report, certificate) = (serving(feed.clone(), &updates), renewal.detail());
        watcher.replace(move |now| report(now).with(certificate()));
        let _speaker = endorser.map(|endorser| {
            let (speaker, updates) = ((config.instance.clone(), config.admin.clone()), Arc::clone(&updates));
            Task::spawn(speak(speaker, endorser, directory.clone(), updates, feed.clone()))
        });
        let (copy, feed) = (copy.clone(), feed.clone());
        entrance.shared.get_or_init(|| Shared { copy, feed, waiting: Semaphore::new(WAITING_MAX) });
        tracing::info!(listen = %config.listen, "serving");
        watcher.ready();
        tokio::select! {
            () = &mut stop => {}
            end = &mut ended => return end.map_err(Failure::software)?.map_err(Failure::io),
        }
        watcher.stopping();
        server.stop(true).await;
        ended.await.map_err(Failure::software)?.map_err(Failure::io)
    })
    .await
}

/// Acknowledges what is applied here, once there is a key for it. What is served waits for none of it.
async fn speak(
    (instance, admin): (Instance, Option<Address>),
    endorser: Endorser,
    directory: Directory,
    updates: Arc<Updates>,
    feed: TrustFeed,
) {
    let mut is_told = false;
    let mut beginning = Beginning::new(Plan::unlisted(CYCLE), endorser, directory.clone(), feed.clone());
    let key = loop {
        match beginning.attempt(&updates).await {
            Ok(key) => break key,
            Err(error) if !is_told => {
                is_told = true;
                let error = &error as &dyn Error;
                tracing::warn!(error, "no key for acknowledgements yet; trying again");
            }
            Err(_told) => {}
        }
        tokio::time::sleep(KEY_PAUSE).await;
    };
    let roll = Roll::new(vec![key.clone()]);
    if let Some(address) = &admin
        && let Err(error) = roll.clone().serve(address)
    {
        tracing::error!(error = &error as &dyn Error, "cannot serve orders of new keys");
    }
    let hangups = roll.on_hangup();
    if let Err(error) = &hangups {
        tracing::error!(error = error as &dyn Error, "cannot listen for SIGHUP");
    }
    let version = env!("CARGO_PKG_VERSION");
    let speaker = Speaker { instance, version, response: key, access: None, feed: None, ends: ends() };
    let _acknowledger = Acknowledger::start(speaker, directory, &updates, feed);
    std::future::pending::<()>().await;
}

async fn first_listing(feed: &TrustFeed, copy: &Copy) {
    feed.wait_until(|chain| chain.head().is_some()).await;
    let mut version = copy.version();
    while copy.listing().chain.len() <= "[]".len() {
        if version.changed().await.is_err() {
            std::future::pending::<()>().await; // the copy never ends before its owner
        }
    }
}

type Ended = JoinHandle<std::io::Result<()>>;

/// Listens, and answers 503 until `entrance` is opened.
fn listen(
    config: &Config,
    entrance: web::Data<Entrance>,
    certificate: Option<Arc<Certificate>>,
) -> Result<(ServerHandle, Ended), Failure> {
    let door = Door {
        socket: config.listen.bind()?,
        certificate,
        drain: server::drain(config.drain).map_err(Failure::config)?,
        idle_max: IDLE_MAX,
        connections_max: CONNECTIONS_MAX,
        refused_handshakes: "keysd_handshakes_refused_total",
    };
    let proxies = web::Data::new(config.trusted_proxies.clone());
    let app = move || {
        let app = App::new().wrap(from_fn(http::border)).app_data(entrance.clone());
        app.app_data(proxies.clone()).default_service(web::to(answer))
    };
    let server = server::serve(door, app).map_err(Failure::io)?;
    Ok((server.handle(), tokio::spawn(server)))
}

async fn answer(request: HttpRequest, entrance: web::Data<Entrance>) -> HttpResponse {
    let is_read = request.method() == Method::GET || request.method() == Method::HEAD;
    if is_read && request.path() == Document::ERRORS_PATH {
        return Document::ERRORS.answer();
    }
    let answer = match entrance.shared.get() {
        Some(shared) => route(&request, shared).await,
        None => Err(entrance.dependencies.refusal()),
    };
    let code = answer.as_ref().err().map_or("", |refusal| refusal.code().as_str());
    metrics::counter!("keysd_requests_total", "code" => code).increment(1);
    answer.unwrap_or_else(|refusal| http::refuse_at(http::READ, &refusal))
}

async fn route(request: &HttpRequest, shared: &Shared) -> Result<HttpResponse, Refusal> {
    let is_read = request.method() == Method::GET || request.method() == Method::HEAD;
    let listing = || shared.copy.listing();
    let body = match request.path() {
        "/" => INDEX.to_owned(),
        "/health" => health_body(&shared.feed),
        "/keys" => {
            shared.feed.state().demand_fresh(shared.feed.now())?;
            listing().all.clone()
        }
        "/hsm/keys" => listing().chain.clone(),
        "/hsm/heads" => listing().heads.clone(),
        path => match path.strip_prefix("/keys/") {
            Some(key) if is_read => {
                shared.feed.state().demand_fresh(shared.feed.now())?;
                one_key(key, shared).await?
            }
            Some(_) => String::new(),
            None => return Err(Refusal::new(Code::NoSuchRoute, "no such route")),
        },
    };
    if !is_read {
        return Err(Refusal::new(Code::MethodNotAllowed, "the key directory is read with GET"));
    }
    Ok(http::json(StatusCode::OK, body))
}

/// The endorsement of one key, waiting a moment for one that is not there yet.
async fn one_key(key: &str, shared: &Shared) -> Result<String, Refusal> {
    let unknown = Refusal::new(Code::NoSuchRoute, "no endorsement of that key is known");
    let mut version = shared.copy.version();
    version.mark_unchanged();
    let find = || shared.copy.listing().keys.get(key).map(ToString::to_string);
    if let Some(text) = find() {
        return Ok(text);
    }
    let Ok(_place) = shared.waiting.try_acquire() else { return Err(unknown) };
    if PublicKey::parse(key).is_err() {
        return Err(unknown);
    }
    let appears = async {
        loop {
            if version.changed().await.is_err() {
                return None;
            }
            if let Some(text) = find() {
                return Some(text);
            }
        }
    };
    tokio::time::timeout(GRACE, appears).await.ok().flatten().ok_or(unknown)
}

fn health_body(feed: &TrustFeed) -> String {
    let trust = feed.state();
    let chain = trust.chain();
    let sequence = chain.head().map_or(0, |head| head.event().sequence_number);
    let status = if is_healthy(feed) { "healthy" } else { "unhealthy" };
    let follows = if feed.follows_hsmd() { "hsmd" } else { "directory" };
    format!("{{\"status\":\"{status}\",\"sequenceNumber\":{sequence},\"follows\":\"{follows}\"}}")
}

fn is_healthy(feed: &TrustFeed) -> bool {
    let trust = feed.state();
    let chain = trust.chain();
    let is_settled = chain.head().is_some() && !chain.contested() && !chain.rolled_back();
    is_settled && trust.demand_fresh(feed.now()).is_ok()
}

/// What ends an outage's budget here: the keys told are other services', and each ends by itself.
fn ends() -> Ends {
    Ends::new(|trust| vec![End::of_head(trust)])
}

/// *Serving* means that keys are told.
fn serving(feed: TrustFeed, updates: &Updates) -> impl Fn(Timestamp) -> Report + Send + Sync + use<> {
    let (dependencies, eviction) = (updates.dependencies().clone(), updates.eviction().clone());
    move |now| {
        let trust = feed.state();
        dependencies.judge(&trust, now);
        let sequence =
            trust.chain().head().map_or("none".to_owned(), |head| head.event().sequence_number.to_string());
        Report::new(dependencies.all(), is_healthy(&feed), &ends().list(&trust), now)
            .with(vec![("chain_sequence".to_owned(), sequence), eviction.detail()])
    }
}

fn trust_settings(config: &Config) -> Result<trust::Settings, Failure> {
    Ok(trust::Settings {
        identity: config.identity,
        clock_skew: config.clock_skew.duration(),
        pin: config.chain_pin,
        state: config.state.clone(),
        head_max_age: trust::head_max_age(config.head_max_age, config.insecure_any_head_age)
            .map_err(Failure::config)?,
        keysd: config.keysd().map_err(Failure::config)?,
    })
}
