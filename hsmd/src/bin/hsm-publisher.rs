//! The binary: follows hsmd's chain and statements and the directory's changes, and publishes what is pending.

use std::{
    collections::BTreeSet,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hsmd::{
    clock::{Clock as _, System},
    publisher::{
        Carrier, Config, DeadEntries, Found, Received, Source, StatementCarrier, follow, follow_statements,
    },
};
use keychain::{
    chain::SignedEvent,
    directory::{self, Change, Directory, Retention},
    statement::Head,
};
use systemd::{
    arguments::Arguments,
    exit::{self, Failure},
    notify, shutdown,
    telemetry::{Health, Metrics},
};
use tokio::{sync::mpsc, time};

/// How often the whole copy is compared, in case a change was not pushed.
const SWEEP: Duration = Duration::from_secs(30);

/// How often it is reported to hsmd what is published.
const REPORT: Duration = Duration::from_mins(1);

/// How often while hsmd says that something is wrong with it.
const REPORT_AGAIN: Duration = Duration::from_secs(10);

/// How soon what is pending is tried again, and how often the watchdog is pinged.
const TICK: Duration = Duration::from_millis(250);

/// Answers of hsmd that wait while the directory is slow; hsmd is asked again only once there is room.
const ANSWERS_MAX: usize = 4;

type Shared = Arc<Mutex<Health>>;

fn main() -> ExitCode {
    match Arguments::read("hsm-publisher", "Carries the key chain from hsmd into the key directory") {
        Ok(arguments) => exit::run("hsm-publisher", || run(arguments)),
        Err(code) => code,
    }
}

async fn run(arguments: Arguments) -> Result<(), Failure> {
    let config = Config::load(&arguments.config())?;
    let directory = Directory::connect(&config.redis).map_err(Failure::config)?;
    if arguments.check_config() {
        say_ok();
        return Ok(());
    }
    let metrics = Metrics::install("hsm-publisher")?;
    let health = Shared::default();
    let served = Arc::clone(&health);
    let metrics = metrics.serve(&config.metrics, move || read(&served))?;
    let source = Source::new(&config.socket()).map_err(Failure::software)?;
    let report_to = Source::new(&config.report_socket()).map_err(Failure::software)?;
    tokio::select! {
        () = shutdown::signal() => {}
        () = carry(source, report_to, directory, &health) => {}
    }
    notify::stopping();
    metrics.stop(false).await;
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the answer of --check-config")]
fn say_ok() {
    println!("ok");
}

async fn carry(source: Source, report_to: Source, directory: Directory, health: &Shared) {
    let (to, mut events) = mpsc::channel(ANSWERS_MAX);
    let chain = tokio::spawn(follow(source.clone(), to));
    let (to, mut statements) = mpsc::channel(ANSWERS_MAX);
    let stated = tokio::spawn(follow_statements(source, to));
    let mut changes = directory.changes();
    let mut carried = Carried {
        chain: Carrier::new(directory.clone()),
        statements: StatementCarrier::new(directory.clone()),
        dead: DeadEntries::new(directory.clone()),
        directory,
        retention: None,
        has_more: false,
        clock: System::start(),
        reports: Reports { source: report_to, reported: None, problem: None },
    };
    let mut sweep = time::interval(SWEEP);
    let mut tick = time::interval(TICK);
    let mut state = State::default();
    loop {
        let done = tokio::select! {
            Some(answer) = events.recv() => match answer {
                Ok(events) => {
                    state.hsmd = None;
                    carried.learn_events(events).await
                }
                // An hsmd that comes back may have another ledger: it gets a report of what is published first.
                Err(error) => {
                    state.hsmd = Some(Failure::unavailable(error).to_string());
                    carried.reports.reported = None;
                    carried.chain.begin_anew();
                    carried.dead.begin_anew();
                    Ok(())
                }
            },
            Some(answer) = statements.recv() => match answer {
                Ok(received) => {
                    state.statements = None;
                    carried.learn_statements(received).await
                }
                Err(error) => {
                    state.statements = Some(Failure::unavailable(error).to_string());
                    Ok(())
                }
            },
            batch = changes.batch() => carried.notice(&batch).await,
            _ = sweep.tick() => carried.sweep().await,
            _ = tick.tick() => {
                notify::ping();
                carried.report_again().await
            }
            // The next page; what hsmd declares meanwhile is not kept waiting by more than one.
            () = std::future::ready(()), if carried.has_more => Ok(()),
            else => break,
        };
        let settled = match done {
            Ok(()) => carried.settle().await,
            // What changed is not known any more: everything is compared once the directory answers.
            Err(error) => {
                carried.mark_all_pending();
                Err(error)
            }
        };
        state.report = carried.reports.problem.clone();
        state.retention = carried.retention;
        state.directory = settled.err().map(|error| Failure::unavailable(error).to_string());
        state.show(&carried.chain, health);
    }
    chain.abort();
    stated.abort();
}

/// All that is carried.
struct Carried {
    chain: Carrier,
    statements: StatementCarrier,
    dead: DeadEntries,
    directory: Directory,
    /// What the directory does when its memory is full, as it was asked last.
    retention: Option<Retention>,
    /// Whether dead entries are being looked for.
    has_more: bool,
    clock: System,
    reports: Reports,
}

/// What is reported to hsmd of the directory.
struct Reports {
    source: Source,
    /// When it was sent last.
    reported: Option<time::Instant>,
    /// Why it could not be sent, or what hsmd found wrong.
    problem: Option<String>,
}

impl Carried {
    async fn notice(&mut self, changes: &BTreeSet<Change>) -> Result<(), directory::Error> {
        self.statements.notice(changes);
        self.dead.notice(changes);
        self.chain.notice(changes).await
    }

    async fn sweep(&mut self) -> Result<(), directory::Error> {
        self.statements.mark_all_pending();
        self.dead.sweep();
        let found = self.chain.sweep().await?;
        self.ask_retention().await?;
        let is_due = self.reports.is_due();
        if let Some(newest) = self.chain.newest().filter(|_| is_due) {
            let heads = self.statements.found(&newest.id()).await?;
            self.reports.send(&found, &heads).await;
        }
        Ok(())
    }

    /// Asks at each sweep: the configuration can be changed while the server runs.
    async fn ask_retention(&mut self) -> Result<(), directory::Error> {
        let answer = self.directory.retention().await?;
        if self.retention.replace(answer) == Some(answer) {
            return Ok(());
        }
        let evicts = matches!(answer, Retention::Evicts(_));
        metrics::gauge!("hsm_publisher_directory_evicts").set(if evicts { 1.0 } else { 0.0 });
        if answer != Retention::Keeps {
            tracing::warn!(eviction = %answer, "the key directory may delete entries by itself");
        }
        Ok(())
    }

    /// Takes in events. Before anything of the first is written, what is published is read.
    async fn learn_events(&mut self, events: Vec<SignedEvent>) -> Result<(), directory::Error> {
        self.dead.learn(&events, self.clock.now());
        self.chain.learn(events);
        self.hear_head();
        self.report_first().await
    }

    async fn learn_statements(&mut self, received: Received) -> Result<(), directory::Error> {
        let reported = self.report_first().await;
        self.statements.learn(received);
        self.hear_head();
        reported
    }

    /// Either of a head and its event may come first.
    fn hear_head(&mut self) {
        if let Some(head) = self.statements.head() {
            self.dead.hear(head, self.clock.now());
        }
    }

    /// Reports sooner than at the next sweep, while something is wrong.
    async fn report_again(&mut self) -> Result<(), directory::Error> {
        let is_wrong = self.reports.reported.is_some() && self.reports.problem.is_some();
        if is_wrong && self.reports.is_due() { self.sweep().await } else { Ok(()) }
    }

    /// Reports what is published, if that was not done since hsmd was there.
    async fn report_first(&mut self) -> Result<(), directory::Error> {
        if self.reports.reported.is_some() { Ok(()) } else { self.sweep().await }
    }

    fn mark_all_pending(&mut self) {
        self.chain.mark_all_pending();
        self.statements.mark_all_pending();
    }

    /// Events first: a head never stands there before the event that it names. Dead entries go last: their services, which
    /// would put them back, have the reason before them.
    async fn settle(&mut self) -> Result<(), directory::Error> {
        self.has_more = false;
        if self.chain.newest().is_none() {
            return Ok(());
        }
        self.chain.settle(self.statements.head()).await?;
        let chain = &self.chain;
        self.statements.settle(|id| chain.event(id)).await?;
        if self.chain.is_settled() && self.statements.is_settled() {
            self.has_more = self.dead.settle(self.clock.now()).await?;
        }
        Ok(())
    }
}

impl Reports {
    /// An operator may be deciding about what was found: the next report follows soon.
    fn is_due(&self) -> bool {
        let every = if self.problem.is_some() { REPORT_AGAIN } else { REPORT };
        self.reported.is_none_or(|reported| reported.elapsed() >= every)
    }

    async fn send(&mut self, found: &Found, heads: &[Head]) {
        self.reported = Some(time::Instant::now());
        self.problem = match self.source.report(found, heads).await {
            Ok(finding) if finding == "agrees" || finding == "nothing" => None,
            Ok(finding) => {
                Some(format!("what is published is not what hsmd made: {finding}; see its health"))
            }
            Err(error) => Some(format!(
                "it cannot be reported to hsmd what is published: {}",
                Failure::unavailable(error)
            )),
        };
    }
}

/// How both ends are, and whether readiness was announced.
#[derive(Default)]
struct State {
    hsmd: Option<String>,
    /// Whether the statements can be read. Without them the chain is still carried, so this is shown but makes
    /// nothing unready: verifiers can do without new heads for hours.
    statements: Option<String>,
    directory: Option<String>,
    /// Why hsmd cannot compare what is published with what it made, or what it found. This makes nothing unready
    /// either: it is for hsmd to act on.
    report: Option<String>,
    /// What the directory does when its memory is full. This makes nothing unready either.
    retention: Option<Retention>,
    announced: bool,
    status: String,
}

impl State {
    fn show(&mut self, carrier: &Carrier, health: &Shared) {
        let ok = |problem: &Option<String>| problem.clone().unwrap_or_else(|| "ok".to_owned());
        let parts = [
            ("hsmd", &self.hsmd),
            ("statements", &self.statements),
            ("directory", &self.directory),
            ("report", &self.report),
        ];
        let mut detail = parts.map(|(part, problem)| (part.to_owned(), ok(problem))).to_vec();
        if let Some(retention) = self.retention {
            detail.push(("directory_eviction".to_owned(), retention.to_string()));
        }
        let up = |problem: &Option<String>| if problem.is_none() { 1.0 } else { 0.0 };
        metrics::gauge!("hsm_publisher_source_up").set(up(&self.hsmd));
        metrics::gauge!("hsm_publisher_statements_up").set(up(&self.statements));
        metrics::gauge!("hsm_publisher_directory_up").set(up(&self.directory));
        metrics::gauge!("hsm_publisher_report_ok").set(up(&self.report));
        let ready = carrier.is_settled() && self.hsmd.is_none() && self.directory.is_none();
        *health.lock().unwrap_or_else(PoisonError::into_inner) =
            Health { ready, detail, ..Health::default() };
        let status = match (&self.hsmd, &self.directory) {
            (Some(problem), _) => format!("hsmd: {problem}"),
            (_, Some(problem)) => format!("directory: {problem}"),
            _ if self.statements.is_some() => format!("statements: {}", ok(&self.statements)),
            _ if self.report.is_some() => format!("report: {}", ok(&self.report)),
            _ => format!("{} events published", carrier.events()),
        };
        if ready && !self.announced {
            self.announced = true;
            notify::ready(&status);
        }
        if status != self.status {
            tracing::info!(status, "changed");
            notify::status(&status);
            self.status = status;
        }
    }
}

fn read(health: &Shared) -> Health {
    health.lock().unwrap_or_else(PoisonError::into_inner).clone()
}
