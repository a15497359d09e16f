//! From a configuration to a running server, and down again.

use std::error::Error;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::middleware::from_fn;
use actix_web::web::Data;
use actix_web::{App, HttpServer};
use edge::acknowledger::{Acknowledger, Speaker};
use edge::clock;
use edge::endorser::Endorser;
use edge::own_key::{self, OwnKey, Plan};
use edge::roll::{Hangups, Roll};
use edge::trust::{self, TrustFeed};
use edge::updates::Updates;
use keychain::directory::Directory;
use systemd::exit::Failure;
use systemd::telemetry::Health;
use systemd::{listen, notify};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use crate::admin;
use crate::admin::policy::Policy;
use crate::challenge::Challenger;
use crate::config::Config;
use crate::http::{self, Places};
use crate::issuer::Issuers;
use crate::service::Service;
use crate::store::{Fault, Store};
use crate::{feed, outbox};

/// Connections that a worker holds at once. Each may be sending a body of 64 KiB.
const CONNECTIONS_MAX: usize = 2_048;

/// How long a request begun before the end may still take, in seconds: longer than any wait of the store.
const DRAIN_SECONDS: u64 = 15;

/// How long the end waits until another authd may write the denial feed.
const LEASE_WAIT: Duration = Duration::from_secs(1);

/// Pause before own keys are asked for again: hsmd or its publisher may be starting as well.
const RETRY: Duration = Duration::from_millis(250);

/// A running authd.
pub struct Daemon {
    service: Data<Service>,
    address: Option<SocketAddr>,
    server: ServerHandle,
    ended: JoinHandle<std::io::Result<()>>,
    admin: Option<ServerHandle>,
    outbox: JoinHandle<()>,
    feed: JoinHandle<()>,
    _acknowledger: Acknowledger,
    _hangups: Hangups,
    // Ends with the daemon: whoever follows the directory hears of it through this.
    _updates: Updates,
}

impl Daemon {
    /// Opens the store, gets its own keys endorsed (waiting for hsmd and the directory as long as it
    /// takes), and only then begins to serve.
    pub async fn start(config: &Config) -> Result<Self, Failure> {
        config.check().map_err(Failure::config)?;
        Roll::outlive_hangups().map_err(Failure::io)?;
        let policy = config.policy().map_err(Failure::config)?;
        let store = Store::open(&config.database).await.map_err(store_failure)?;
        let directory = Directory::connect(&config.redis).map_err(Failure::config)?;
        let updates = Updates::follow(&directory);
        let service = Data::new(service(config, store, directory, &updates).await?);
        let acknowledger = acknowledge(config, &service);
        let hangups = service.roll().on_hangup().map_err(Failure::io)?;
        let socket = config.listen.bind().map_err(Failure::unavailable)?;
        let address = socket.tcp_address();
        let (server, ended) = serve(&service, socket)?;
        let admin = admin(config, policy, &service)?;
        let outbox = tokio::spawn(outbox::run(service.clone().into_inner(), updates.subscribe()));
        let feed = tokio::spawn(feed::run(service.clone().into_inner(), updates.subscribe()));
        Ok(Self {
            service,
            address,
            server,
            ended,
            admin,
            outbox,
            feed,
            _acknowledger: acknowledger,
            _hangups: hangups,
            _updates: updates,
        })
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
        let service = self.service.clone().into_inner();
        move || health(&service)
    }

    /// Serves until `signal`, then answers what has begun, and ends.
    pub async fn run_until(self, signal: impl Future<Output = ()>) -> Result<(), Failure> {
        let ended = tokio::select! {
            () = signal => {
                notify::stopping();
                if let Some(admin) = &self.admin {
                    admin.stop(true).await;
                }
                self.server.stop(true).await;
                Ok(())
            }
            ended = self.ended => ended.map_err(Failure::software)?.map_err(Failure::io),
        };
        self.outbox.abort();
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
) -> Result<Service, Failure> {
    let settings = trust::Settings {
        identity: config.identity,
        clock_skew: config.clock_skew.duration(),
        pin: config.chain_pin,
        state: config.state.clone(),
        head_max_age: trust::head_max_age(config.head_max_age, config.insecure_any_head_age)
            .map_err(Failure::config)?,
    };
    let endorser = Endorser::new(&config.endorse, config.endorse_tls.as_ref()).map_err(Failure::config)?;
    let feed = TrustFeed::start(&directory, updates, Some(endorser.clone()), &settings)
        .map_err(Failure::unavailable)?;
    let cycle = config.cycle.duration();
    let own = |plan: Plan| own_key(plan, &endorser, &directory, updates, &feed);
    let (access, response) = (own(Plan::access(cycle)).await, own(Plan::response(cycle)).await);
    let mut fresh = Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(fresh.as_mut()).map_err(Failure::unavailable)?;
    let challenger = Challenger::new(store.challenge_key(&fresh).await.map_err(store_failure)?);
    Ok(Service {
        issuers: Issuers::new(directory.clone(), feed.clone()),
        trust: feed,
        store,
        directory,
        challenger,
        access,
        response,
        roles: config.roles().map_err(Failure::config)?,
        lifetimes: config.lifetimes(),
        denial: config.denial(),
        revoked: Notify::new(),
        denied: Notify::new(),
        stopping: Notify::new(),
        store_answers: AtomicBool::new(true),
    })
}

/// Tells operators which head is applied here.
fn acknowledge(config: &Config, service: &Service) -> Acknowledger {
    let speaker = Speaker {
        instance: config.instance.clone(),
        version: env!("CARGO_PKG_VERSION"),
        response: service.response.clone(),
        access: Some(service.access.clone()),
    };
    Acknowledger::start(speaker, service.directory.clone(), service.trust.clone())
}

/// No endorsement, no service: asks until there is one, and says what it waits for.
async fn own_key(
    plan: Plan,
    endorser: &Endorser,
    directory: &Directory,
    updates: &Updates,
    feed: &TrustFeed,
) -> OwnKey {
    let mut said = String::new();
    loop {
        match OwnKey::start(plan, endorser.clone(), directory.clone(), updates, feed.clone()).await {
            Ok(key) => return key,
            Err(error) => say(plan, &error, &mut said),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Says why there is no key yet; the same reason once.
fn say(plan: Plan, error: &own_key::Error, said: &mut String) {
    let why = error.to_string();
    if *said != why {
        let purpose = plan.purpose.as_str();
        tracing::warn!(error = error as &dyn Error, purpose, "no key of its own yet; trying again");
        notify::status(&format!("waiting for its {purpose} key: {why}"));
        *said = why;
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
    service: &Data<Service>,
    socket: listen::Socket,
) -> Result<(ServerHandle, JoinHandle<std::io::Result<()>>), Failure> {
    let (service, places) = (service.clone(), Data::new(Places::default()));
    let app = move || {
        App::new()
            .wrap(from_fn(edge::http::cors))
            .app_data(service.clone())
            .app_data(places.clone())
            .configure(http::routes)
    };
    let server = HttpServer::new(app)
        .max_connections(CONNECTIONS_MAX)
        .shutdown_timeout(DRAIN_SECONDS)
        .disable_signals();
    let server = listen::attach(server, socket).map_err(Failure::io)?.run();
    Ok((server.handle(), tokio::spawn(server)))
}

fn health(service: &Arc<Service>) -> Health {
    let now = clock::now();
    let facts = [
        ("store", service.store_answers.load(Ordering::Relaxed)),
        ("access key", service.access.usable(now).is_ok()),
        ("response key", service.response.usable(now).is_ok()),
    ];
    let word = |good| if good { "ok" } else { "down" };
    let trust = service.trust.state();
    let facts_hold = facts.iter().all(|(_, good)| *good);
    let detail = facts.iter().map(|(name, good)| ((*name).to_owned(), word(*good).to_owned()));
    Health {
        ready: facts_hold && trust.demand_fresh(now).is_ok(),
        detail: detail.chain(service.trust.describe(now)).collect(),
    }
}

fn store_failure(fault: Fault) -> Failure {
    match fault {
        Fault::Location(_) => Failure::config(fault),
        Fault::Unavailable(_) | Fault::Lost(_) => Failure::unavailable(fault),
        Fault::Corrupt { .. } => Failure::software(fault),
    }
}
