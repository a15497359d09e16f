//! The binary: reads the configuration, puts the parts together, serves until it is asked to stop.

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::dev::ServerHandle;
use hsmd::{
    audit::Audit,
    chain::statement::Statements,
    chain::{self, Keeper, State},
    clock::{System, TrustedClock},
    daemon::audit as trail,
    daemon::device,
    daemon::process,
    daemon::reload::Reload,
    daemon::supervise::{Ending, ModuleFailure, exit_in_any_case, supervise},
    daemon::{
        self,
        config::{Config, Socket},
        tokens,
    },
    health::Health,
    http::{Door, Listener, serve},
    ledger::{self, Condition, Ledger},
    policy::{Gate, PolicyFile},
    token::backend::Fault,
    token::signer,
    token::{self, Threads, Tokens, Unopened},
};
use systemd::{
    arguments::Arguments,
    exit::{self, Failure},
    listen::{self, Address},
    notify, shutdown,
    telemetry::{self, Metrics},
};

/// How often the whole way to a signature is tried, if the unit's watchdog does not want it oftener. Below
/// the 30 s after which an idle session of a YubiHSM dies.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// How often while something is wrong: hsmd signs again within 5 s of a fault's end.
const TROUBLE_INTERVAL: Duration = Duration::from_secs(2);

/// How soon once somebody's signature has failed: that hsmd is not ready is told within two seconds.
const SUSPICION_INTERVAL: Duration = Duration::from_millis(500);

/// How long one such attempt may take, so that the watchdog hears of it in time: what a caller waits.
const PROBE_MAX: Duration = signer::DEADLINE;

fn main() -> ExitCode {
    match Arguments::read("hsmd", "Owns the key chain and signs endorsements") {
        Ok(arguments) => exit::run("hsmd", || run(arguments)),
        Err(code) => code,
    }
}

async fn run(arguments: Arguments) -> Result<(), Failure> {
    process::harden().map_err(Failure::io)?;
    let config = Config::load(&arguments.config())?;
    let policy = Arc::new(config.policy(Box::new(System::start()))?);
    if arguments.check_config() {
        config.check_files().map_err(Failure::config)?;
        say_ok();
        return Ok(());
    }
    let sockets = config.sockets().map_err(Failure::config)?;
    let reload = Reload::on_hangup(Arc::clone(&policy), &sockets).map_err(Failure::io)?;
    // Heard from now on: systemd may change its mind as soon as it has started us.
    let mut stop = tokio::spawn(shutdown::signal());
    let metrics = Metrics::install("hsmd")?;
    let (keeper, threads) = tokio::select! {
        opened = open(&config) => opened?,
        // Nothing that a start does is spoilt by ending in the midst of it.
        _ = &mut stop => return Ok(()),
    };
    let keeper = Arc::new(keeper);
    let audit = Audit::new(keeper.ledger().clone());
    let health = Arc::new(Health::new());
    let statements = Statements::open(Arc::clone(&keeper), config.statements()).await.map_err(failure)?;
    let statements = Arc::new(statements);
    if let Err(error) = trail::start(&audit, &keeper, &policy).await {
        tracing::error!(error = &error as &dyn std::error::Error, "nothing can be signed or changed");
    }
    let parts =
        Parts { policy: &policy, keeper: &keeper, health: &health, statements: &statements, audit: &audit };
    let servers = listen(sockets, &parts)?;
    let told = Arc::clone(&health);
    let metrics = metrics.serve(&config.metrics, move || describe(&told))?;
    let ended = tokio::select! {
        _ = stop => Ok(()),
        ending = work(&keeper, &health) => Err(ending),
        ending = supervise(&keeper) => Err(ending),
        () = device::tend(&keeper, &health) => Ok(()),
        () = tokens::watch(&keeper, &health) => Ok(()),
        () = statements.run(&health) => Ok(()),
        () = follow(reload, &audit, &keeper, &health) => Ok(()),
        () = trail::attend(&audit, &keeper) => Ok(()),
        () = follow_ledger(&keeper, &health) => Ok(()),
        () = daemon::clock::follow(&keeper, &health, || notify::status(&status(&keeper, &health))) => Ok(()),
    };
    // Whoever cannot go on does not wait for a token that does not answer.
    ended.map_err(restart)?;
    notify::stopping();
    health.close();
    let stopping: Vec<_> = servers.iter().map(|server| tokio::spawn(server.stop(true))).collect();
    for server in stopping {
        // One that ended badly serves nobody any more.
        drop(server.await);
    }
    metrics.stop(false).await;
    trail::stop(&audit, &keeper).await;
    if let Err(error) = keeper.keep_trusted_time().await {
        tracing::warn!(error = &error as &dyn std::error::Error, "the trusted time is not kept");
    }
    if let Err(error) = keeper.close().await {
        tracing::warn!(error = &error as &dyn std::error::Error, "cannot close the ledger");
    }
    drop((keeper, statements, audit));
    close("a signer thread", move || threads.join()).await
}

/// What every socket opens to.
struct Parts<'a> {
    policy: &'a Arc<PolicyFile>,
    keeper: &'a Arc<Keeper>,
    health: &'a Arc<Health>,
    statements: &'a Arc<Statements>,
    audit: &'a Audit,
}

/// Opens the configured sockets: last, so that nobody is let in before everything stands.
fn listen(sockets: Vec<Socket>, parts: &Parts<'_>) -> Result<Vec<ServerHandle>, Failure> {
    let mut servers = Vec::new();
    for Socket { entrance, mode, tls } in sockets {
        let socket = entrance.address.bind_with(mode)?;
        demand_tls(&entrance.address, &socket, tls.is_some())?;
        let door = Door {
            keeper: Arc::clone(parts.keeper),
            policy: Gate::new(entrance, Arc::clone(parts.policy)),
            health: Arc::clone(parts.health),
            tls,
            statements: Arc::clone(parts.statements),
            audit: parts.audit.clone(),
        };
        let server = serve(Listener { socket, door }).map_err(Failure::io)?;
        servers.push(server.handle());
        tokio::spawn(server);
    }
    Ok(servers)
}

/// What systemd passes shows only when it is there: a TCP socket is served with TLS, a Unix socket without.
fn demand_tls(address: &Address, socket: &listen::Socket, tls: bool) -> Result<(), Failure> {
    let because = match (address, socket, tls) {
        (Address::Inherited(_), listen::Socket::Tcp(_), false) => {
            "a TCP socket was passed: callers of other hosts need `tls` to say who they are"
        }
        (_, listen::Socket::Unix(_), true) => "a Unix socket was passed: `tls` is for TCP",
        _ => return Ok(()),
    };
    Err(Failure::config(format!("hsmd.toml, key `listen`: at `{address}`: {because}")))
}

#[expect(clippy::print_stdout, reason = "the answer of --check-config")]
fn say_ok() {
    println!("ok");
}

/// Connects to token and ledger, reconciles them, and signs once to see that it works. A ledger that is
/// behind its token is no reason to end: hsmd signs nothing until it is recovered, which hsmd itself does.
async fn open(config: &Config) -> Result<(Keeper, Threads), Failure> {
    let (first, second) = config.tokens();
    let (tokens, threads) = token::open(first, second).await.map_err(|unopened| match unopened {
        Unopened::Hangs => {
            exit_in_any_case();
            restart(Ending::Hangs)
        }
        Unopened::Settings(failure) => failure,
        Unopened::Thread(error) => Failure::software(error),
        Unopened::Token(fault) => failure(fault.into()),
    })?;
    match settle(config, tokens.requiring_both(config.requires_both_tokens())).await {
        Ok(keeper) => Ok((keeper, threads)),
        Err(error) => {
            abandon(threads).await;
            Err(failure(error))
        }
    }
}

async fn settle(config: &Config, tokens: Tokens) -> Result<Keeper, chain::Error> {
    let clock = Arc::new(TrustedClock::with(Box::new(System::start()), config.clock()));
    let settings = ledger::Settings { clock: Box::new(Arc::clone(&clock)), ..config.ledger_settings() };
    let ledger = Ledger::open(settings).await?;
    daemon::clock::learn_kept(&clock, &ledger).await;
    let keeper = Keeper::new(ledger, tokens, clock, config.key_ids());
    match keeper.probe().await {
        Ok(()) => metrics::gauge!("hsmd_token_up").set(1.0),
        Err(error @ (chain::Error::State(_) | chain::Error::Ledger(ledger::Error::Unwritten(_)))) => {
            tracing::error!(problem = %error, "not ready");
        }
        // The live key's token is silent and the next key's is not: the chain can go on.
        Err(error @ chain::Error::Hsm(Fault::Silent { .. })) if keeper.view().is_some() => {
            tracing::error!(problem = %failure(error), "not ready");
        }
        Err(error) => return Err(error),
    }
    Ok(keeper)
}

/// Lets the threads of a start that failed close their tokens: a module that is called while its exit handlers
/// run crashes. One that hangs in a call is not waited for.
async fn abandon(threads: Threads) {
    let closing = close("a signer thread", move || threads.join());
    if tokio::time::timeout(TROUBLE_INTERVAL, closing).await.is_err() {
        exit_in_any_case();
    }
}

/// What goes on while the sockets are served.
async fn work(keeper: &Keeper, health: &Health) -> Ending {
    await_recovery(keeper, health).await;
    let status = status(keeper, health);
    notify::ready(&status);
    tracing::info!(status, "ready");
    watch(keeper, health).await
}

/// Waits until a ledger that is behind its token is recovered, or a live key is there again or left: a person has
/// to act. systemd is told why hsmd is not ready, and asked for patience again and again.
async fn await_recovery(keeper: &Keeper, health: &Health) {
    let mut head = keeper.watch();
    while let Err(error) = keeper.probe().await {
        let behind = matches!(error, chain::Error::State(_)) && !keeper.chain_state().passes_by_itself();
        note(keeper, health, Some(error));
        notify::status(&status(keeper, health));
        // A standby is as ready as it gets: it serves what can be read, and takes over.
        if matches!(keeper.chain_state(), State::Standby { .. }) {
            return;
        }
        notify::extend(PROBE_INTERVAL.saturating_mul(3));
        // Late or not: it is looked at again.
        let interval = if behind { PROBE_INTERVAL } else { TROUBLE_INTERVAL };
        drop(tokio::time::timeout(interval, head.changed()).await);
    }
    note(keeper, health, None);
}

/// Waits until a thread has closed what it works with: a module that is still open when the process ends may
/// crash it. One of two tokens may hang, or a disk; then what holds up the end is cut short.
async fn close<E: Send + 'static>(
    name: &str,
    join: impl FnOnce() -> Result<(), E> + Send + 'static,
) -> Result<(), Failure> {
    let (ended, end) = tokio::sync::oneshot::channel();
    let join = move || drop(ended.send(join()));
    std::thread::Builder::new().name("close".to_owned()).spawn(join).map_err(Failure::io)?;
    match tokio::time::timeout(signer::DEADLINE, end).await {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(_) => Err(Failure::software(format!("{name} ended badly"))),
        Err(_) => {
            tracing::error!(name, "does not end: what it calls does not return");
            exit_in_any_case();
            Ok(())
        }
    }
}

/// Tries the whole way to a signature again and again, and says how it went. The watchdog hears of it only
/// once an attempt has ended, well or badly, or timed out behind others: a dead token makes hsmd unready, not
/// a process to be killed; a thread that hangs in the module is what the watchdog is for.
async fn watch(keeper: &Keeper, health: &Health) -> Ending {
    let interval = notify::watchdog().map_or(PROBE_INTERVAL, |wanted| wanted.min(PROBE_INTERVAL));
    let mut module = ModuleFailure::default();
    loop {
        let attempts = keeper.attempts();
        let outcome = tokio::time::timeout(PROBE_MAX, keeper.probe()).await;
        let outcome = outcome.unwrap_or(Err(Fault::Timeout { seconds: PROBE_MAX.as_secs() }.into()));
        metrics::gauge!("hsmd_token_up").set(if outcome.is_ok() { 1.0 } else { 0.0 });
        let fault = outcome.as_ref().err().and_then(|error| match error {
            chain::Error::Hsm(fault) => Some(fault),
            _ => None,
        });
        if let Some(ending) = module.note(fault, Instant::now()) {
            return ending;
        }
        let ok = outcome.is_ok() && !keeper.has_strays();
        note(keeper, health, outcome.err());
        if keeper.at_the_token().is_none() || keeper.attempts() != attempts {
            notify::ping();
        }
        pause(keeper, if ok { interval } else { TROUBLE_INTERVAL.min(interval) }).await;
    }
}

/// Waits, but no longer than a fault may stand once something is seen or suspected to be wrong.
async fn pause(keeper: &Keeper, interval: Duration) {
    let start = Instant::now();
    let mut condition = keeper.ledger().condition();
    condition.mark_unchanged();
    while let Some(left) = interval.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) {
        let wrong = keeper.has_strays() || keeper.view().is_none();
        if wrong && start.elapsed() >= TROUBLE_INTERVAL {
            return;
        }
        tokio::select! {
            // The lease was taken over, or the database answers again.
            Ok(()) = condition.changed() => return,
            () = keeper.suspected() => return tokio::time::sleep(SUSPICION_INTERVAL).await,
            () = tokio::time::sleep(left.min(TROUBLE_INTERVAL)) => {}
        }
    }
}

/// Tells under the name of the part that failed.
fn note(keeper: &Keeper, health: &Health, error: Option<chain::Error>) {
    let part = error.as_ref().map(|error| match error {
        chain::Error::Ledger(_) => "ledger",
        chain::Error::State(_) => "chain",
        _ => "signing",
    });
    let problem = error.map(|error| failure(error).to_string());
    if let Some(problem) = &problem {
        tracing::error!(problem, "cannot sign");
    }
    let strays = keeper.has_strays().then(|| "keys that nothing needs are still on the token".to_owned());
    let mut changed = health.warn("token", strays);
    for each in ["chain", "ledger", "signing"] {
        let problem = problem.clone().filter(|_| part == Some(each));
        changed |= health.note(each, problem);
    }
    if changed {
        notify::status(&status(keeper, health));
    }
}

/// The exit code that has systemd start hsmd anew, and says why.
fn restart(ending: Ending) -> Failure {
    match ending {
        Ending::Hangs | Ending::ModuleFails => Failure::new(exit::TEMPORARY, ending),
        Ending::ThreadGone => Failure::software(ending),
    }
}

/// Reads again what SIGHUP asks for, and says how it went.
async fn follow(mut reload: Reload, audit: &Audit, keeper: &Keeper, health: &Health) {
    loop {
        reload.next(audit, health).await;
        notify::status(&status(keeper, health));
    }
}

/// Says so while the ledger is not written: nothing is signed or changed meanwhile; and what else is to be seen to.
async fn follow_ledger(keeper: &Keeper, health: &Health) {
    const INTERVAL: Duration = Duration::from_secs(1);
    let mut condition = keeper.ledger().condition();
    loop {
        let now = condition.borrow_and_update().clone();
        let problem = (now != Condition::Writing).then(|| now.to_string());
        let mut changed = health.note("journal", problem);
        let warnings = keeper.ledger().warnings();
        for part in ledger::WARNINGS {
            let warning = warnings.iter().find(|(name, _)| *name == part).map(|(_, text)| text.clone());
            changed |= health.warn(part, warning);
        }
        if changed {
            notify::status(&status(keeper, health));
        }
        drop(tokio::time::timeout(INTERVAL, condition.changed()).await);
    }
}

fn status(keeper: &Keeper, health: &Health) -> String {
    let problems = health.problems();
    if let Some((part, problem)) = problems.first() {
        return format!("not ready: {part}: {problem}");
    }
    let warnings = health
        .warnings()
        .iter()
        .fold(String::new(), |all, (part, warning)| format!("{all}; {part}: {warning}"));
    match keeper.view() {
        Some(view) => {
            let live = view.live().event();
            let (number, prefix) = (live.sequence_number, &live.prefix);
            format!("generation {number} of {prefix} since {}{warnings}", live.created_at)
        }
        None => format!("not ready: {}", keeper.chain_state()),
    }
}

fn describe(health: &Health) -> telemetry::Health {
    let problems = health.problems();
    telemetry::Health { ready: problems.is_empty(), detail: problems }
}

/// Says who has to act: on configuration, on a dependency, or on contradicting state.
fn failure(error: chain::Error) -> Failure {
    match &error {
        chain::Error::Hsm(fault) if fault.is_configuration() => Failure::config(error),
        chain::Error::Ledger(ledger::Error::File { .. }) => Failure::config(error),
        chain::Error::State(_) | chain::Error::Unverifiable(_) => Failure::software(error),
        chain::Error::Clock(_) | chain::Error::Hsm(Fault::Busy { .. }) => {
            Failure::new(exit::TEMPORARY, error)
        }
        _ => Failure::unavailable(error),
    }
}
