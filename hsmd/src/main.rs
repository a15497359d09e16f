//! The binary: reads the configuration, puts the parts together, serves until it is asked to stop.

use std::{process::ExitCode, sync::Arc, time::Duration};

use actix_web::dev::ServerHandle;
use hsmd::{
    backend::{Fault, pkcs11::Token},
    clock::{Calendar, System},
    config::Config,
    health::Health,
    http::{Door, Listener, serve},
    ledger::Ledger,
    process,
    rotation::{self, Keeper},
    signer::Signer,
};
use systemd::{
    arguments::Arguments,
    exit::{self, Failure},
    notify, shutdown,
    telemetry::{self, Metrics},
};

/// How often the whole way to a signature is tried, if the unit's watchdog does not want it oftener. Below
/// the 30 s after which an idle session of a YubiHSM dies.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    match Arguments::read("hsmd", "Owns the key chain and signs endorsements") {
        Ok(arguments) => exit::run("hsmd", || run(arguments)),
        Err(code) => code,
    }
}

async fn run(arguments: Arguments) -> Result<(), Failure> {
    process::harden().map_err(Failure::io)?;
    let config = Config::load(&arguments.config())?;
    if arguments.check_config() {
        config.sockets().map_err(Failure::io)?;
        say_ok();
        return Ok(());
    }
    // Heard from now on: systemd may change its mind as soon as it has started us.
    let mut stop = tokio::spawn(shutdown::signal());
    let metrics = Metrics::install("hsmd")?;
    let (keeper, signer_thread) = tokio::select! {
        opened = open(&config) => opened?,
        // Nothing that a start does is spoilt by ending in the midst of it.
        _ = &mut stop => return Ok(()),
    };
    let keeper = Arc::new(keeper);
    let health = Arc::new(Health::new());
    let servers = listen(&config, &keeper, &health)?;
    let told = Arc::clone(&health);
    let metrics = metrics.serve(&config.metrics, move || describe(&told))?;
    let status = status(&keeper, &health).await;
    notify::ready(&status);
    tracing::info!(status, "ready");
    tokio::select! {
        _ = stop => {}
        () = watch(&keeper, &health) => {}
    }
    notify::stopping();
    health.close();
    for server in servers {
        server.stop(true).await;
    }
    metrics.stop(false).await;
    if let Err(error) = keeper.close().await {
        tracing::warn!(error = &error as &dyn std::error::Error, "cannot close the ledger");
    }
    drop(keeper);
    close(signer_thread).await
}

/// Opens the configured sockets: last, so that nobody is let in before everything stands.
fn listen(config: &Config, keeper: &Arc<Keeper>, health: &Arc<Health>) -> Result<Vec<ServerHandle>, Failure> {
    let mut servers = Vec::new();
    for socket in config.sockets().map_err(Failure::io)? {
        let door = Door { keeper: Arc::clone(keeper), policy: socket.policy, health: Arc::clone(health) };
        let socket = socket.address.bind_with(socket.mode)?;
        let server = serve(Listener { socket, door }).map_err(Failure::io)?;
        servers.push(server.handle());
        tokio::spawn(server);
    }
    Ok(servers)
}

#[expect(clippy::print_stdout, reason = "the answer of --check-config")]
fn say_ok() {
    println!("ok");
}

/// Connects to token and ledger, reconciles them, and signs once to see that it works.
async fn open(config: &Config) -> Result<(Keeper, std::thread::JoinHandle<()>), Failure> {
    let settings = config.token()?;
    let token =
        tokio::task::spawn_blocking(move || Token::open(settings)).await.map_err(Failure::software)?;
    let token = token.map_err(|fault| failure(fault.into()))?;
    let (signer, thread) = Signer::start(Box::new(token)).map_err(Failure::io)?;
    let ledger = Ledger::open(&config.ledger).await.map_err(|error| failure(error.into()))?;
    let calendar = Calendar::new(Box::new(System::start()));
    let keeper = Keeper::start(ledger, signer, calendar, config.key_ids()).await.map_err(failure)?;
    keeper.probe().await.map_err(failure)?;
    metrics::gauge!("hsmd_token_up").set(1.0);
    Ok((keeper, thread))
}

/// Waits until the token is closed: a module that is still open when the process ends may crash it.
async fn close(signer: std::thread::JoinHandle<()>) -> Result<(), Failure> {
    match tokio::task::spawn_blocking(|| signer.join()).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(Failure::software("the signer thread ended badly")),
    }
}

/// Tries the whole way to a signature again and again, and says how it went. The watchdog hears of it only
/// once an attempt has ended, well or badly: a dead token makes hsmd unready, not a process to be killed.
async fn watch(keeper: &Keeper, health: &Health) {
    let interval = notify::watchdog().map_or(PROBE_INTERVAL, |wanted| wanted.min(PROBE_INTERVAL));
    let mut interval = tokio::time::interval(interval);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let outcome = keeper.probe().await;
        metrics::gauge!("hsmd_token_up").set(if outcome.is_ok() { 1.0 } else { 0.0 });
        let problem = outcome.err().map(|error| failure(error).to_string());
        if let Some(problem) = &problem {
            tracing::error!(problem, "cannot sign");
        }
        if health.note("signing", problem) {
            notify::status(&status(keeper, health).await);
        }
        notify::ping();
    }
}

async fn status(keeper: &Keeper, health: &Health) -> String {
    let problems = health.problems();
    if let Some((part, problem)) = problems.first() {
        return format!("not ready: {part}: {problem}");
    }
    match keeper.view().await {
        Some(view) => {
            let live = view.live().event();
            format!("generation {} of {} since {}", live.sequence_number, live.prefix, live.created_at)
        }
        None => "not ready: token and ledger are not reconciled".to_owned(),
    }
}

fn describe(health: &Health) -> telemetry::Health {
    let problems = health.problems();
    telemetry::Health { ready: problems.is_empty(), detail: problems }
}

/// Says who has to act: on configuration, on a dependency, or on contradicting state.
fn failure(error: rotation::Error) -> Failure {
    match &error {
        rotation::Error::Hsm(fault) if fault.is_configuration() => Failure::config(error),
        rotation::Error::Ledger(hsmd::ledger::Error::File { .. }) => Failure::config(error),
        rotation::Error::Contradiction(_) | rotation::Error::Unverifiable(_) => Failure::software(error),
        rotation::Error::Clock(_) | rotation::Error::Hsm(Fault::Busy { .. }) => {
            Failure::new(exit::TEMPORARY, error)
        }
        _ => Failure::unavailable(error),
    }
}
