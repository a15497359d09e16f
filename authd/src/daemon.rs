//! From a configuration to a running server, and down again.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix_web::App;
use actix_web::dev::ServerHandle;
use actix_web::middleware::from_fn;
use actix_web::web::Data;
use edge::acknowledger::{Acknowledger, Speaker};
use edge::clock::Clock;
use edge::endorser::Endorser;
use edge::health::{self, Condition, Dependencies, End, Ends, Report, Watcher};
use edge::http::Renewal;
use edge::http::server::{self, Door};
use edge::own_key::{OwnKey, Plan};
use edge::roll::{Hangups, Roll};
use edge::trust::{self, TrustFeed};
use edge::updates::{self, Updates};
use edge::verifier::{self, AccessVerifier};
use keychain::Timestamp;
use keychain::directory::Directory;
use keychain::feed::Position;
use systemd::exit::Failure;
use systemd::listen;
use systemd::telemetry::Health;
use systemd::tls::Certificate;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use zeroize::Zeroizing;

use crate::admin;
use crate::admin::policy::Policy;
use crate::challenge::Challenger;
use crate::config::Config;
use crate::http::{self, Entrance, Places};
use crate::issuer::Issuers;
use crate::service::Service;
use crate::store::{Durability, Fault, MacKeys, Store};
use crate::throttle::Throttles;
use crate::{endorsements, feed, outbox, pruning};

/// Connections that a worker holds at once. Each may be sending short bodies: one, or with HTTP/2 a few.
const CONNECTIONS_MAX: usize = 2_048;

/// How long a device's connection may be idle: a device comes back at once or in a quarter of an hour.
const IDLE_MAX: Duration = Duration::from_secs(15);

/// How long the end waits until another authd may write the denial feed.
const LEASE_WAIT: Duration = Duration::from_secs(1);

/// How often the database is asked whether it is there, and how long it may take.
const PROBE_EVERY: Duration = Duration::from_millis(700);
const PROBE_DEADLINE: Duration = Duration::from_secs(1);
/// How many probes in a row have to be late for requests to be refused at once.
const LATE_MAX: u32 = 2;

/// Pause before a database that does not answer is tried again.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// What authd rests on.
const RESTS_ON: [&str; 9] = [
    health::ACCESS_KEY,
    health::CHAIN,
    health::DIRECTORY,
    health::DIRECTORY_CHAIN,
    health::DIRECTORY_DENIALS,
    health::HEAD,
    health::HSMD,
    health::RESPONSE_KEY,
    health::STORE,
];

/// A running authd.
pub struct Daemon {
    service: Data<Service>,
    address: Option<SocketAddr>,
    server: ServerHandle,
    ended: JoinHandle<std::io::Result<()>>,
    admin: Option<ServerHandle>,
    outbox: JoinHandle<()>,
    pruning: JoinHandle<()>,
    endorsements: JoinHandle<()>,
    feed: JoinHandle<()>,
    _acknowledger: Acknowledger,
    _hangups: Hangups,
    _renewal: Renewal,
    probe: JoinHandle<()>,
    watcher: Watcher,
    // Ends with the daemon: whoever follows the directory hears of it through this.
    _updates: Updates,
}

/// An authd that listens, and answers 503 until it has what it needs.
pub struct Starting {
    config: Config,
    macs: MacKeys,
    policy: Option<Policy>,
    directory: Directory,
    entrance: Data<Entrance>,
    address: Option<SocketAddr>,
    server: ServerHandle,
    ended: JoinHandle<std::io::Result<()>>,
    renewal: Renewal,
    watcher: Watcher,
}

impl Starting {
    /// Begins to listen.
    pub fn open(config: &Config, clock: Clock) -> Result<Self, Failure> {
        config.check().map_err(Failure::config)?;
        Roll::outlive_hangups().map_err(Failure::io)?;
        let policy = config.policy().map_err(Failure::config)?;
        let macs = config.mac_keys().map_err(Failure::config)?;
        let directory = Directory::connect(&config.redis).map_err(Failure::config)?;
        let dependencies = Dependencies::expect(&RESTS_ON, clock.clone());
        let entrance = Data::new(Entrance::new(dependencies.clone()));
        let watcher = Watcher::new("authd", clock, health::starting(dependencies, None));
        let certificate = config.tls.clone().map(Certificate::open).transpose().map_err(Failure::config)?;
        let renewal = Renewal::on_hangup(certificate.as_ref()).map_err(Failure::io)?;
        let socket = config.listen.bind().map_err(Failure::unavailable)?;
        let address = socket.tcp_address();
        let (server, ended) = serve(config, &entrance, (socket, certificate))?;
        let config = config.clone();
        Ok(Self { config, macs, policy, directory, entrance, address, server, ended, renewal, watcher })
    }

    /// Where it listens, if that is TCP.
    pub const fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Sees how it is, from now on.
    pub fn watcher(&self) -> Watcher {
        self.watcher.clone()
    }

    /// Opens the store and gets its own keys endorsed, waiting for the database, hsmd and the directory as long as it
    /// takes, and only then lets requests in.
    pub async fn ready(self) -> Result<Daemon, Failure> {
        let dependencies = self.entrance.dependencies();
        let store = open_store(&self.config.database, &self.macs, dependencies).await?;
        let durability = durability(&store, self.config.insecure_lossy_database, dependencies).await?;
        let every = updates::reread_every(self.config.reread_every).map_err(Failure::config)?;
        let updates = Updates::follow(&self.directory, dependencies.clone(), every);
        let service =
            Data::new(service(&self.config, store, self.directory.clone(), &updates, &self.watcher).await?);
        let admin = admin(&self.config, self.policy, &service)?;
        let outbox = tokio::spawn(outbox::run(service.clone().into_inner(), updates.subscribe()));
        let pruning = tokio::spawn(pruning::run(service.clone().into_inner()));
        let endorsements = tokio::spawn(endorsements::run(service.clone().into_inner(), updates.subscribe()));
        let feed = tokio::spawn(feed::run(service.clone().into_inner(), updates.subscribe()));
        let acknowledger = acknowledge(&self.config, &service, &updates);
        let hangups = service.roll().on_hangup().map_err(Failure::io)?;
        let (insecure, found) = (self.config.insecure_lossy_database, watch::Sender::new(durability));
        let durability = found.subscribe();
        let probe = tokio::spawn(probe(service.clone().into_inner(), found, insecure));
        let (seen, seen_by) = (service.clone().into_inner(), dependencies.clone());
        let (eviction, certificate) = (updates.eviction().clone(), self.renewal.detail());
        self.watcher.replace(move |now| {
            let details = vec![eviction.detail(), durability.borrow().detail()];
            report(&seen, &seen_by, now).with(details).with(certificate())
        });
        self.entrance.open(service.clone());
        let Self { address, server, ended, renewal, watcher, .. } = self;
        Ok(Daemon {
            service,
            address,
            server,
            ended,
            admin,
            outbox,
            pruning,
            endorsements,
            feed,
            probe,
            watcher,
            _acknowledger: acknowledger,
            _hangups: hangups,
            _renewal: renewal,
            _updates: updates,
        })
    }
}

impl Daemon {
    /// Starts, and waits until requests are let in.
    pub async fn start(config: &Config, clock: Clock) -> Result<Self, Failure> {
        Starting::open(config, clock)?.ready().await
    }

    /// What the operations work with.
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// Where it listens, if that is TCP.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// How it is, for `/readyz`; does not block.
    pub fn health(&self) -> impl Fn() -> Health + Send + Sync + Clone + 'static {
        let watcher = self.watcher.clone();
        move || watcher.health()
    }

    /// Serves until `signal`, then answers what has begun, and ends.
    pub async fn run_until(self, signal: impl Future<Output = ()>) -> Result<(), Failure> {
        let ended = tokio::select! {
            () = signal => {
                self.watcher.stopping();
                if let Some(admin) = &self.admin {
                    admin.stop(true).await;
                }
                self.server.stop(true).await;
                Ok(())
            }
            ended = self.ended => ended.map_err(Failure::software)?.map_err(Failure::io),
        };
        self.outbox.abort();
        self.pruning.abort();
        self.endorsements.abort();
        self.probe.abort();
        self.service.stopping.notify_one();
        let feed = self.feed.abort_handle();
        // Late, the lease ends by itself.
        drop(tokio::time::timeout(LEASE_WAIT, self.feed).await);
        feed.abort();
        ended
    }
}

async fn service(
    config: &Config,
    store: Store,
    directory: Directory,
    updates: &Updates,
    watcher: &Watcher,
) -> Result<Service, Failure> {
    let settings = trust::Settings {
        identity: config.identity,
        clock_skew: config.clock_skew.duration(),
        pin: config.chain_pin,
        state: config.state.clone(),
        head_max_age: trust::head_max_age(config.head_max_age, config.insecure_any_head_age)
            .map_err(Failure::config)?,
        keysd: config.keysd().map_err(Failure::config)?,
    };
    let endorser = Endorser::new(&config.endorse, config.endorse_tls.as_ref()).map_err(Failure::config)?;
    let feed = TrustFeed::start(&directory, updates, Some(endorser.clone()), &settings)?;
    watcher.replace(health::starting(updates.dependencies().clone(), Some(feed.clone())));
    let cycle = config.cycle.duration();
    // No endorsement, no service.
    let own =
        |plan: Plan| OwnKey::await_first(plan, endorser.clone(), directory.clone(), updates, feed.clone());
    let (access, response) = (own(Plan::access(cycle)).await, own(Plan::response(cycle)).await);
    let mut fresh = Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(fresh.as_mut()).map_err(Failure::unavailable)?;
    let challenger = Challenger::new(store.challenge_key(&fresh).await.map_err(store_failure)?);
    Ok(Service {
        issuers: Issuers::new(directory.clone(), feed.clone()),
        owners: AccessVerifier::new(verifier::Settings {
            clock_skew: config.clock_skew.duration(),
            audience: config.audience().map_err(Failure::config)?,
            nonce_capacity: 0,
        }),
        trust: feed,
        store,
        directory,
        challenger,
        access,
        response,
        roles: config.roles().map_err(Failure::config)?,
        lifetimes: config.lifetimes(),
        denial: config.denial(),
        margins: config.margins(),
        throttles: Throttles::new(&config.limits),
        public_auth_servers: config.public_auth_servers,
        revoked: Notify::new(),
        denied: Notify::new(),
        fed: watch::Sender::new(None),
        stopping: Notify::new(),
        feed_behind: AtomicBool::new(false),
        store_away: AtomicBool::new(false),
        dependencies: updates.dependencies().clone(),
    })
}

/// Tells operators which head is applied here.
fn acknowledge(config: &Config, service: &Service, updates: &Updates) -> Acknowledger {
    let speaker = Speaker {
        instance: config.instance.clone(),
        version: env!("CARGO_PKG_VERSION"),
        response: service.response.clone(),
        access: Some(service.access.clone()),
        ends: ends(service),
        feed: None,
    };
    Acknowledger::start(speaker, service.directory.clone(), updates, service.trust.clone())
}

/// Opens the database, waiting for it as long as it takes.
async fn open_store(location: &str, macs: &MacKeys, dependencies: &Dependencies) -> Result<Store, Failure> {
    loop {
        match Store::open(location, macs.clone()).await {
            Ok(store) => return Ok(store),
            Err(fault @ Fault::Unavailable(_)) => dependencies.lost(health::STORE, &fault),
            Err(fault) => return Err(store_failure(fault)),
        }
        tokio::time::sleep(STORE_RETRY).await;
    }
}

/// How the database keeps what it acknowledges, waiting for it as long as it takes. Refuses one that does not, unless that
/// is configured.
async fn durability(
    store: &Store,
    insecure: bool,
    dependencies: &Dependencies,
) -> Result<Durability, Failure> {
    loop {
        match store.probe().await {
            Ok(Durability { lossy: Some(lossy), .. }) if !insecure => {
                let cure = "or accept the loss by `insecure_lossy_database`";
                return Err(Failure::config(Fault::Location(format!("{lossy}, {cure}"))));
            }
            Ok(durability) => {
                dependencies.good(health::STORE);
                return Ok(durability);
            }
            Err(fault) => dependencies.lost(health::STORE, &fault),
        }
        tokio::time::sleep(STORE_RETRY).await;
    }
}

/// Serves the admin socket, if there is to be one.
fn admin(
    config: &Config,
    policy: Option<Policy>,
    service: &Data<Service>,
) -> Result<Option<ServerHandle>, Failure> {
    let (Some(admin), Some(policy)) = (&config.admin, policy) else { return Ok(None) };
    let socket = admin.listen.bind_with(admin.mode).map_err(Failure::unavailable)?;
    let server = admin::serve(socket, admin::Door::new(service.clone(), policy)).map_err(Failure::io)?;
    let handle = server.handle();
    tokio::spawn(server);
    Ok(Some(handle))
}

fn serve(
    config: &Config,
    entrance: &Data<Entrance>,
    (socket, certificate): (listen::Socket, Option<Arc<Certificate>>),
) -> Result<(ServerHandle, JoinHandle<std::io::Result<()>>), Failure> {
    let (entrance, places) = (entrance.clone(), Data::new(Places::default()));
    let proxies = Data::new(config.trusted_proxies.clone());
    let app = move || {
        App::new()
            .wrap(from_fn(edge::http::border))
            .app_data(entrance.clone())
            .app_data(places.clone())
            .app_data(proxies.clone())
            .configure(http::routes)
    };
    let door = Door {
        socket,
        certificate,
        drain: server::drain(config.drain).map_err(Failure::config)?,
        idle_max: IDLE_MAX,
        connections_max: CONNECTIONS_MAX,
        refused_handshakes: "authd_handshakes_refused_total",
    };
    let server = server::serve(door, app).map_err(Failure::io)?;
    Ok((server.handle(), tokio::spawn(server)))
}

/// What ends an outage's budget here.
fn ends(service: &Service) -> Ends {
    let (access, response) = (service.access.clone(), service.response.clone());
    Ends::new(move |trust| vec![access.end(trust), response.end(trust), End::of_head(trust)])
}

/// *Serving* means: what a request asks for is decided, and the answer can be checked.
fn report(service: &Service, dependencies: &Dependencies, now: Timestamp) -> Report {
    let trust = service.trust.state();
    dependencies.judge(&trust, now);
    dependencies.judge_key(health::ACCESS_KEY, &service.access, now);
    dependencies.judge_key(health::RESPONSE_KEY, &service.response, now);
    let states = dependencies.all();
    let has_store = states.get(health::STORE).is_some_and(|state| state.condition == Condition::Good);
    let has_keys = service.access.usable(now).is_ok() && service.response.usable(now).is_ok();
    let serves = has_store && has_keys && trust.demand_fresh(now).is_ok();
    let fed = match *service.fed.borrow() {
        Some(Position { epoch, number }) => format!("{epoch}:{number}"),
        None => "by another authd".to_owned(),
    };
    Report::new(states, serves, &ends(service).list(&trust), now)
        .with(vec![("denial_feed_told".to_owned(), fed)])
}

/// Sees whether the database writes, for ever. While it does not, requests are refused at once.
async fn probe(service: Arc<Service>, found: watch::Sender<Durability>, insecure: bool) {
    let mut interval = tokio::time::interval(PROBE_EVERY);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut late = 0_u32;
    loop {
        interval.tick().await;
        let probed = tokio::time::timeout(PROBE_DEADLINE, service.store.probe()).await;
        late = if probed.is_err() { late.saturating_add(1) } else { 0 };
        // A busy database is late now and then.
        let mut is_away = late >= LATE_MAX;
        match probed {
            Ok(Ok(durability)) => {
                let lossy = durability.lossy.clone().filter(|_| !insecure);
                found.send_replace(durability);
                is_away = lossy.is_some();
                match lossy {
                    Some(lossy) => service.dependencies.failed(health::STORE, lossy),
                    None => service.dependencies.good(health::STORE),
                }
            }
            Ok(Err(fault)) => {
                is_away = true;
                service.dependencies.lost(health::STORE, &fault);
            }
            Err(_late) => service.dependencies.failed(health::STORE, "it does not answer in time"),
        }
        service.store_away.store(is_away, Ordering::Relaxed);
    }
}

fn store_failure(fault: Fault) -> Failure {
    match fault {
        Fault::Location(_) => Failure::config(fault),
        Fault::Unavailable(_) | Fault::Lost(_) => Failure::unavailable(fault),
        Fault::Corrupt { .. } => Failure::software(fault),
    }
}
