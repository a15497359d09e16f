//! From a configuration to a serving edge, and to its end.

use std::fmt::Display;
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::middleware::from_fn;
use actix_web::{App as Server, web};
use keychain::Timestamp;
use keychain::directory::Directory;
use reqwest::header::{HeaderName, HeaderValue};
use systemd::config::Error;
use systemd::exit::Failure;
use systemd::telemetry::Metrics;
use systemd::tls::{self, Certificate};
use systemd::{credential, shutdown};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::app::{App, AppSettings};
use super::config::Config;
use super::routes::Routes;
use super::{Entrance, IN_PROGRESS_MAX, Places, Shared, handle};
use crate::acknowledger::{Acknowledger, Speaker};
use crate::clock::Clock;
use crate::denials::{self, DenialFeed};
use crate::endorser::Endorser;
use crate::gate::Gate;
use crate::health::{self, Dependencies, End, Ends, Report, Watcher};
use crate::http::server::{self, Door};
use crate::http::{self, Renewal};
use crate::own_key::{OwnKey, Plan};
use crate::peer::Peer;
use crate::revocations;
use crate::roll::{Hangups, Roll};
use crate::task::Task;
use crate::trust::{self, Confirmation, TrustFeed};
use crate::updates::{self, Updates};
use crate::verifier::{Audience, Settings};

/// Longest secret between edge and app.
const SECRET_MAX: usize = 1_024;

/// Connections that a worker holds at once.
const CONNECTIONS_MAX: usize = 25_000;

/// How long an idle connection of a device stays open.
const IDLE_MAX: Duration = Duration::from_mins(1);

/// How often memory is given back and gauges are set.
const TIDY_EVERY: Duration = Duration::from_secs(5);

/// How often the app is tried, and how long it may take to take a connection.
const PROBE_EVERY: Duration = Duration::from_millis(700);
const PROBE_DEADLINE: Duration = Duration::from_secs(1);

/// What an edge rests on.
const RESTS_ON: [&str; 11] = [
    health::APP,
    health::CHAIN,
    health::DIRECTORY,
    health::DIRECTORY_CHAIN,
    health::DIRECTORY_DENIALS,
    health::DIRECTORY_ISSUERS,
    health::DIRECTORY_REVOCATIONS,
    health::HEAD,
    health::HSMD,
    health::RESPONSE_KEY,
    health::REVOCATIONS,
];

/// Runs an edge as `file` says, until it is asked to stop; with `check_only`, says whether it could.
pub async fn run(file: &Path, check_only: bool) -> Result<(), Failure> {
    let setup = Setup::read(file)?;
    if check_only {
        println!("ok");
        return Ok(());
    }
    Roll::outlive_hangups().map_err(Failure::io)?;
    let metrics = setup.config.metrics.clone();
    let starting = Starting::open(setup, Clock::system())?;
    let watcher = starting.watcher();
    // Both doors are open from the first moment: a start that waits says for what.
    let seen = watcher.clone();
    Metrics::install("edge")?.serve(&metrics, move || seen.health())?;
    shutdown::serve(watcher.start(Box::pin(starting.ready())), async |edge, stop| {
        watcher.ready();
        edge.run_until(stop).await
    })
    .await
}

/// A configuration whose every value was found to be good.
pub struct Setup {
    config: Config,
    routes: Routes,
    app: AppSettings,
    endorser: Endorser,
    directory: Directory,
}

impl Setup {
    /// Reads the configuration in `file`.
    pub fn read(file: &Path) -> Result<Self, Failure> {
        let config = Config::load(file)?;
        let wrong = |key, error: &dyn Display| Failure::from(Error::value(file, key, error.to_string()));
        let routes = Routes::new(&config.route, config.default).map_err(|error| wrong("route", &error))?;
        let peer = Peer::parse(&config.app).map_err(|error| wrong("app", &error))?;
        let app = app_settings(&config, peer)?;
        let endorser = Endorser::new(&config.endorse, config.endorse_tls.as_ref());
        let endorser = endorser.map_err(|error| wrong("endorse", &error))?;
        let directory = Directory::connect(&config.redis).map_err(|error| wrong("redis", &error))?;
        let tls = config.tls.as_ref().map_or(Ok(()), tls::Files::check);
        tls.map_err(|error| wrong("tls", &Failure::config(error)))?;
        Ok(Self { config, routes, app, endorser, directory })
    }
}

/// An edge that listens, and answers 503 until it has what it needs.
pub struct Starting {
    setup: Setup,
    entrance: web::Data<Entrance>,
    server: ServerHandle,
    ended: Ended,
    renewal: Renewal,
    watcher: Watcher,
    tasks: [Task; 2],
}

impl Starting {
    /// Begins to listen.
    pub fn open(setup: Setup, clock: Clock) -> Result<Self, Failure> {
        let dependencies = Dependencies::expect(&rests_on(setup.config.denial_feed), clock.clone());
        let entrance =
            web::Data::new(Entrance { shared: OnceLock::new(), dependencies: dependencies.clone() });
        let name = format!("edge {}", setup.config.name);
        let watcher = Watcher::new(&name, clock, health::starting(dependencies.clone(), None));
        let certificate =
            setup.config.tls.clone().map(Certificate::open).transpose().map_err(Failure::config)?;
        let renewal = Renewal::on_hangup(certificate.as_ref()).map_err(Failure::io)?;
        let (server, ended) = listen(&setup.config, entrance.clone(), certificate, &setup.app)?;
        let probe = probe(setup.app.peer.clone(), dependencies);
        let tasks = [Task::spawn(watcher.clone().run()), Task::spawn(probe)];
        Ok(Self { setup, entrance, server, ended, renewal, watcher, tasks })
    }

    /// Sees how it is, from now on.
    pub fn watcher(&self) -> Watcher {
        self.watcher.clone()
    }

    /// Learns what it must know and gets its own key endorsed, waiting for hsmd and the directory as long as it takes,
    /// and only then lets requests in.
    pub async fn ready(self) -> Result<Edge, Failure> {
        let Self { setup, entrance, server, mut ended, renewal, watcher, tasks } = self;
        let Setup { config, routes, endorser, directory, .. } = setup;
        let every = updates::reread_every(config.reread_every).map_err(Failure::config)?;
        let updates = Updates::follow(&directory, entrance.dependencies.clone(), every);
        let feed = TrustFeed::start(&directory, &updates, Some(endorser.clone()), &trust_settings(&config)?)?;
        watcher.replace(health::starting(entrance.dependencies.clone(), Some(feed.clone())));
        let denials = DenialFeed::start(&directory, &updates, feed.clone(), &denial_settings(&config))?;
        let applied = denials.applied();
        let demand = demand(&config)?;
        let settings = verifier_settings(&config);
        let gate = Gate::start(&directory, &updates, feed.clone(), denials, demand, settings, &config.state);
        let plan = Plan::response(config.cycle.duration());
        let ready = async {
            gate.ready().await;
            OwnKey::await_first(plan, endorser, directory.clone(), &updates, feed.clone()).await
        };
        let key = tokio::select! {
            key = ready => key,
            end = &mut ended => {
                end.map_err(Failure::software)?.map_err(Failure::io)?;
                return Err(Failure::software(ServerEnded));
            }
        };
        let ends = ends(&gate, &key);
        let speaker = Speaker {
            instance: config.instance.clone(),
            version: env!("CARGO_PKG_VERSION"),
            response: key.clone(),
            access: None,
            feed: Some(applied),
            ends: ends.clone(),
        };
        let acknowledger = Acknowledger::start(speaker, directory, &updates, feed.clone());
        let roll = Roll::new(vec![key.clone()]);
        if let Some(address) = &config.admin {
            roll.clone().serve(address).map_err(Failure::io)?;
        }
        let hangups = roll.on_hangup().map_err(Failure::io)?;
        let shared = Shared {
            gate: gate.clone(),
            key,
            routes,
            request_max: config.max_request.length(),
            in_progress: Places::new(IN_PROGRESS_MAX),
            key_wait: config.deadline.duration(),
        };
        let (report, certificate) = (serving(&shared, &updates, feed, ends), renewal.detail());
        watcher.replace(move |now| report(now).with(certificate()));
        entrance.open(shared);
        tracing::info!(edge = config.name, listen = %config.listen, "serving");
        Ok(Edge {
            gate,
            server,
            ended,
            _tasks: tasks,
            _acknowledger: acknowledger,
            _hangups: hangups,
            _renewal: renewal,
            watcher,
            _updates: updates,
        })
    }
}

/// Without a denial feed nothing is read of one.
fn rests_on(feed: denials::Presence) -> Vec<&'static str> {
    let is_there = |name: &&str| *name != health::DIRECTORY_DENIALS || feed == denials::Presence::Required;
    RESTS_ON.into_iter().filter(is_there).collect()
}

/// The HTTP server ended by itself.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP server ended during the start")]
struct ServerEnded;

/// A serving edge.
pub struct Edge {
    gate: Gate,
    server: ServerHandle,
    ended: Ended,
    _tasks: [Task; 2],
    _acknowledger: Acknowledger,
    _hangups: Hangups,
    _renewal: Renewal,
    watcher: Watcher,
    // Ends with the edge: whoever follows the directory hears of it through this.
    _updates: Updates,
}

impl Edge {
    /// Serves until `signal`, then answers what has begun, and ends.
    pub async fn run_until(mut self, signal: impl Future<Output = ()>) -> Result<(), Failure> {
        let mut tidying = tokio::time::interval(TIDY_EVERY);
        tokio::pin!(signal);
        loop {
            tokio::select! {
                _ = tidying.tick() => self.gate.tidy(),
                () = &mut signal => break,
                end = &mut self.ended => return end.map_err(Failure::software)?.map_err(Failure::io),
            }
        }
        self.watcher.stopping();
        self.server.stop(true).await;
        self.ended.await.map_err(Failure::software)?.map_err(Failure::io)
    }
}

type Ended = JoinHandle<std::io::Result<()>>;

/// Listens, and answers 503 until `entrance` is opened.
fn listen(
    config: &Config,
    entrance: web::Data<Entrance>,
    certificate: Option<Arc<Certificate>>,
    app: &AppSettings,
) -> Result<(ServerHandle, Ended), Failure> {
    App::new(app.clone()).map_err(Failure::config)?; // a client that cannot be made is known before the workers
    let socket = config.listen.bind()?;
    let (app, proxies) = (app.clone(), web::Data::new(config.trusted_proxies.clone()));
    let factory = move || {
        let server = Server::new().wrap(from_fn(http::border)).app_data(entrance.clone());
        let server = server.app_data(proxies.clone());
        let server = match App::new(app.clone()) {
            Ok(app) => server.app_data(web::Data::new(app)),
            Err(_) => server, // was tried above
        };
        server.default_service(web::to(handle))
    };
    let door = Door {
        socket,
        certificate,
        drain: server::drain(config.drain).map_err(Failure::config)?,
        idle_max: IDLE_MAX,
        connections_max: CONNECTIONS_MAX,
        refused_handshakes: "edge_handshakes_refused_total",
    };
    let server = server::serve(door, factory).map_err(Failure::io)?;
    Ok((server.handle(), tokio::spawn(server)))
}

/// Sees whether the app takes connections, for ever.
async fn probe(app: Peer, dependencies: Dependencies) {
    let mut interval = tokio::time::interval(PROBE_EVERY);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        match app.reach(PROBE_DEADLINE).await {
            Ok(()) => dependencies.good(health::APP),
            Err(error) => dependencies.lost(health::APP, &error),
        }
    }
}

/// What ends an outage's budget here.
fn ends(gate: &Gate, key: &OwnKey) -> Ends {
    let (gate, key) = (gate.clone(), key.clone());
    Ends::new(move |trust| {
        vec![
            key.end(trust),
            gate.verifier().issuers().end(trust),
            End::of_head(trust),
            End::of_revocations(trust.denied()),
        ]
    })
}

/// *Serving* means: a request that is due an admission gets one, and a signed answer.
fn serving(
    shared: &Shared,
    updates: &Updates,
    feed: TrustFeed,
    ends: Ends,
) -> impl Fn(Timestamp) -> Report + Send + Sync + use<> {
    let key = shared.key.clone();
    let (dependencies, eviction) = (updates.dependencies().clone(), updates.eviction().clone());
    move |now| {
        let trust = feed.state();
        dependencies.judge(&trust, now);
        dependencies.judge_key(health::RESPONSE_KEY, &key, now);
        let is_current = trust.demand_fresh(now).is_ok() && trust.denied().demand_confirmed(now).is_ok();
        let serves = key.usable(now).is_ok() && is_current;
        Report::new(dependencies.all(), serves, &ends.list(&trust), now)
            .with(health::trust_detail(&trust))
            .with(vec![eviction.detail()])
            .with(feed.sources())
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

fn demand(config: &Config) -> Result<Confirmation, Failure> {
    Ok(Confirmation {
        max_age: revocations::max_age(config.revocations_max_age).map_err(Failure::config)?,
        skew: config.clock_skew.duration(),
        has_feed: config.denial_feed == denials::Presence::Required,
    })
}

fn denial_settings(config: &Config) -> denials::Settings {
    let (identity, state, presence) = (config.identity, config.state.clone(), config.denial_feed);
    denials::Settings { identity, state, presence }
}

fn verifier_settings(config: &Config) -> Settings {
    let audience = match &config.audience {
        Some(origin) => Audience::new(origin, config.audience_required.unwrap_or(true)),
        None => Audience::default(),
    };
    Settings { clock_skew: config.clock_skew.duration(), audience, nonce_capacity: config.nonce_capacity }
}

fn app_settings(config: &Config, peer: Peer) -> Result<AppSettings, Failure> {
    let secret = config.app_secret.as_deref().map(|name| credential::read(name, SECRET_MAX)).transpose()?;
    let secret =
        secret.map(|secret| HeaderValue::from_bytes(&secret)).transpose().map_err(Failure::config)?;
    let secret = secret.map(|mut secret| {
        secret.set_sensitive(true);
        secret
    });
    let forward = config.forward_headers.iter().map(|name| name.parse::<HeaderName>());
    let forward = forward.collect::<Result<_, _>>().map_err(Failure::config)?;
    let (answer_max, deadline) = (config.max_answer.length(), config.deadline.duration());
    Ok(AppSettings { peer, secret, forward, answer_max, deadline })
}
