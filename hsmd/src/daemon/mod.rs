//! The daemon around the chain: loaded, opened, served, stopped.
//!
//! *Load* reads every file that the configuration names, so that what is wrong in them ends hsmd with status 78 before
//! anything is opened. *Open* opens and verifies the ledger, and begins to open the tokens without waiting for them.
//! *Serve* opens the sockets at once: the chain, the statements and the health need no token. What does need one is
//! answered with the state of the chain until the [`monitor`] has signed, and then says that hsmd is ready. *Stop* answers
//! what was begun, and writes what is to be written.

pub mod audit;
pub mod clock;
pub mod config;
pub mod device;
pub mod journal;
pub mod monitor;
pub mod process;
pub mod reload;
mod sockets;
pub mod status;
pub mod supervise;
pub mod tokens;

use std::{sync::Arc, time::Duration};

use systemd::{
    exit::{self, Failure},
    notify,
    telemetry::Metrics,
};
use tokio::task::JoinHandle;

use crate::{
    audit::Audit,
    chain::{Keeper, statement::Statements},
    clock::{System, TrustedClock},
    health::Health,
    ledger::{self, Ledger},
    policy::PolicyFile,
    token::{self, KnownToken, Threads, signer},
};
use config::{Config, Socket};
use reload::Reload;
use status::{failure, status};
use supervise::{Ending, exit_in_any_case};

/// How long tokens may take to close after a start that failed, or when this process cannot go on.
const ABANDON_MAX: Duration = Duration::from_secs(2);

/// What was read before anything is opened.
pub struct Loaded {
    config: Config,
    policy: Arc<PolicyFile>,
    sockets: Vec<Socket>,
    reload: Reload,
}

impl Loaded {
    /// Reads every file that the configuration names. SIGHUP is heard from now on.
    pub fn load(config: Config, policy: PolicyFile) -> Result<Self, Failure> {
        let policy = Arc::new(policy);
        let sockets = config.sockets().map_err(Failure::config)?;
        let reload = Reload::on_hangup(Arc::clone(&policy), &sockets).map_err(Failure::io)?;
        Ok(Self { config, policy, sockets, reload })
    }
}

/// A daemon whose ledger is open and verified; its tokens may not be open yet.
pub struct Daemon {
    keeper: Arc<Keeper>,
    statements: Arc<Statements>,
    audit: Audit,
    health: Arc<Health>,
    policy: Arc<PolicyFile>,
    known_tokens: Vec<KnownToken>,
}

/// Opens, and serves until `stop` ends.
pub async fn run(loaded: Loaded, metrics: Metrics, mut stop: JoinHandle<()>) -> Result<(), Failure> {
    let Loaded { config, policy, sockets, reload } = loaded;
    let (ledger, clock) = tokio::select! {
        opened = open_ledger(&config) => opened?,
        // Nothing that a start does is spoilt by ending in the midst of it.
        _ = &mut stop => return Ok(()),
    };
    let (first, second) = config.tokens();
    let (tokens, threads) = token::start(first, second)?;
    let tokens = tokens.requiring_both(config.requires_both_tokens());
    let keeper = Arc::new(Keeper::new(ledger, tokens, clock, config.key_ids()));
    let opened = Daemon::open(keeper, &config, policy).await.and_then(|daemon| {
        let servers = sockets::open(sockets, &daemon)?;
        let health = Arc::clone(&daemon.health);
        let metrics = metrics.serve(&config.metrics, move || status::readiness(&health))?;
        Ok((daemon, servers, metrics))
    });
    let (daemon, servers, metrics) = match opened {
        Ok(opened) => opened,
        Err(failure) => {
            abandon(threads).await;
            return Err(failure);
        }
    };
    // After what a start writes into the ledger: SoftHSM rewrites its token in place at a login, and a process that dies
    // at a commit must not die in the midst of that.
    threads.begin();
    if let Err(ending) = Box::pin(daemon.serve(reload, stop)).await {
        abandon(threads).await;
        return Err(restart(ending));
    }
    notify::stopping();
    daemon.health.close();
    sockets::close(servers).await;
    metrics.stop(false).await;
    daemon.stop().await;
    close(threads).await
}

/// Opens the ledger, and has the clock held against the dates that stand beside it.
async fn open_ledger(config: &Config) -> Result<(Ledger, Arc<TrustedClock>), Failure> {
    let clock = Arc::new(TrustedClock::with(Box::new(System::start()), config.clock()));
    let settings = ledger::Settings { clock: Box::new(Arc::clone(&clock)), ..config.ledger_settings() };
    let ledger = Ledger::open(settings).await.map_err(|error| failure(error.into()))?;
    clock::learn_kept(&clock, &ledger).await;
    Ok((ledger, clock))
}

impl Daemon {
    /// Verifies what is in the ledger. What is wrong with ledger or tokens is a state of the chain, unless the database
    /// does not answer at all.
    async fn open(keeper: Arc<Keeper>, config: &Config, policy: Arc<PolicyFile>) -> Result<Self, Failure> {
        if let Err(error) = keeper.read().await {
            tracing::error!(error = &error as &dyn std::error::Error, "the ledger is not read");
        }
        let health = Arc::new(Health::new());
        health.note("chain", Some(keeper.chain_state().to_string()));
        notify::status(&status(&keeper, &health));
        let statements = Statements::open(Arc::clone(&keeper), config.statements()).await.map_err(failure)?;
        let (statements, audit) = (Arc::new(statements), Audit::new(keeper.ledger().clone()));
        if let Err(error) = audit::start(&audit, &keeper, &policy).await {
            tracing::error!(error = &error as &dyn std::error::Error, "nothing can be signed or changed");
        }
        let known_tokens = config.known_tokens();
        Ok(Self { keeper, statements, audit, health, policy, known_tokens })
    }

    /// Works while the sockets are served, until `stop` or the end of what this process can do.
    async fn serve(&self, reload: Reload, stop: JoinHandle<()>) -> Result<(), Ending> {
        let Self { keeper, statements, audit, health, .. } = self;
        let changed = || notify::status(&status(keeper, health));
        tokio::select! {
            _ = stop => Ok(()),
            ending = monitor::run(keeper, statements, health) => Err(ending),
            ending = supervise::run(keeper) => Err(ending),
            () = device::watch(keeper, health) => Ok(()),
            () = tokens::watch(keeper, health, &self.known_tokens) => Ok(()),
            () = statements.run(health) => Ok(()),
            () = reload.run(audit, health, changed) => Ok(()),
            () = audit::run(audit, keeper) => Ok(()),
            () = journal::watch(keeper, health, changed) => Ok(()),
            () = clock::watch(keeper, health, changed) => Ok(()),
        }
    }

    /// Writes what is to be written and closes the ledger. Nothing is served any more.
    async fn stop(self) {
        let Self { keeper, audit, .. } = self;
        audit::stop(&audit, &keeper).await;
        if let Err(error) = keeper.keep_trusted_time().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the trusted time is not kept");
        }
        if let Err(error) = keeper.close().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot close the ledger");
        }
    }
}

/// Lets the threads close their tokens before the process ends: a module that is called while its exit handlers run
/// crashes. One that hangs in a call is not waited for.
async fn abandon(threads: Threads) {
    if tokio::time::timeout(ABANDON_MAX, close(threads)).await.is_err() {
        exit_in_any_case();
    }
}

/// Waits until the threads have closed their tokens: a module that is still open when the process ends may crash it.
/// One may hang; then what holds up the end is cut short.
async fn close(threads: Threads) -> Result<(), Failure> {
    let (ended, end) = tokio::sync::oneshot::channel();
    let join = move || drop(ended.send(threads.join()));
    std::thread::Builder::new().name("close".to_owned()).spawn(join).map_err(Failure::io)?;
    match tokio::time::timeout(signer::DEADLINE, end).await {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(_) => Err(Failure::software("a signer's thread ended badly")),
        Err(_) => {
            tracing::error!("a signer's thread does not end: the call of its module does not return");
            exit_in_any_case();
            Ok(())
        }
    }
}

/// The exit code that has systemd start hsmd anew, and says why.
fn restart(ending: Ending) -> Failure {
    match ending {
        Ending::Hangs | Ending::ModuleFails => Failure::new(exit::TEMPORARY, ending),
        Ending::ThreadGone => Failure::software(ending),
    }
}
