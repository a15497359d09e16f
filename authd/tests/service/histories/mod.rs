//! Random concurrent histories, each checked against the pure decisions in some order.
//!
//! Clients that share what they know of some devices' keys create, link, rotate, open and refresh sessions, unlink,
//! recover, delete, repeat what was sent before, and operators ban and restore meanwhile, all at once and at either of two
//! authd; connections are cut, and (in [`killed`]) authd is. `search` then looks for an order in which the decisions of
//! [`authd::operation`], one after the other, give every answer that was read and leave the rows that are there at the
//! end. There is none if an answer was given and not kept, kept and not given, given twice, or given on rows that were
//! no more.
//!
//! `KEELSON_HISTORIES=100000` checks so many, `KEELSON_KILLED=10000` so many with kills. A failure names its number; `KEELSON_SEED=NUMBER` plays that plan a hundred
//! times: what is asked follows from the number, and when it is asked does not.

mod book;
mod call;
mod cast;
mod killed;
mod perform;
mod plan;
mod rows;
mod search;
mod sham;
mod wrong;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use authd::config::Config;
use futures_util::StreamExt as _;
use sea_orm::DatabaseConnection;
use tests::craft::{key, random};
use tests::wire::Place;

use crate::stage::{Stage, load};
use perform::{Instance, Servers, Stagehand};
use rows::Names;
use search::Rules;

/// Histories in a short run.
const SHORT: u64 = 300;

/// Histories of one database: its tables and the feed's snapshot stay of a size.
const BATCH: usize = 5_000;

/// Histories under way at once.
const AT_ONCE: usize = 12;

/// How often one plan is played that is asked for by its number.
const ONE_PLAN: usize = 100;

/// Of ten histories on PostgreSQL with two authd, so many are on SQLite besides.
const ON_SQLITE_OF_TEN: usize = 2;

/// Which histories are to be checked.
struct Wanted {
    /// The number of each plan.
    seeds: Vec<u64>,
}

impl Wanted {
    /// So many, unless the environment says how many, or which.
    fn read(variable: &str, short: u64) -> Self {
        let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
        if let Some(seed) = number("KEELSON_SEED") {
            return Self { seeds: vec![seed; ONE_PLAN] };
        }
        let count = number(variable).unwrap_or(short);
        let first = u64::from_be_bytes(random()) >> 16;
        Self { seeds: (first..first + count).collect() }
    }
}

/// What a run of histories came to.
#[derive(Default)]
struct Totals {
    histories: AtomicUsize,
    calls: AtomicUsize,
    unanswered: AtomicUsize,
    refused: AtomicUsize,
}

impl Totals {
    fn count(&self, calls: &[call::Call]) {
        let of = |is: fn(&call::Call) -> bool| calls.iter().filter(|call| is(call)).count();
        self.histories.fetch_add(1, Ordering::Relaxed);
        self.calls.fetch_add(calls.len(), Ordering::Relaxed);
        self.unanswered.fetch_add(of(|call| call.answer.is_none()), Ordering::Relaxed);
        let refused = of(|call| matches!(call.outcome(), Some(call::Outcome::Refused(_))));
        self.refused.fetch_add(refused, Ordering::Relaxed);
    }

    fn say(&self, what: &str, begun: Instant) {
        let [histories, calls, unanswered, refused] =
            [&self.histories, &self.calls, &self.unanswered, &self.refused]
                .map(|number| number.load(Ordering::Relaxed));
        println!(
            "counted: {what}: {histories} histories, {calls} requests, {refused} refused, {unanswered} without an answer; {:?}",
            begun.elapsed()
        );
    }
}

/// Plays one plan before real servers, and checks it.
async fn check(seed: u64, servers: Servers, sql: &DatabaseConnection, rules: Arc<Rules>, totals: &Totals) {
    let plan = plan::of(seed);
    let stagehand = Stagehand::new(servers, plan.accounts);
    stagehand.play(&plan).await;
    let identities = stagehand.identities();
    let names = stagehand.with_calls(|calls| Names::of(identities, calls));
    let rows = rows::read(sql, &names).await;
    stagehand.look(rows);
    let calls = stagehand.into_calls();
    totals.count(&calls);
    let explained = tokio::task::spawn_blocking(move || search::explain(&calls, &rules)).await.unwrap();
    if let Err(report) = explained {
        panic!("history {seed} (KEELSON_SEED={seed} plays it again): {report}\nplan: {plan:#?}");
    }
}

/// Checks these histories, some at a time.
async fn check_all(seeds: &[u64], servers: &Servers, stage: &Stage, totals: &Totals) {
    let rules = Arc::new(rules(&stage.configuration("rules")));
    let one = |seed: &u64| check(*seed, servers.clone(), &stage.sql, Arc::clone(&rules), totals);
    futures_util::stream::iter(seeds.iter().map(one)).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
}

fn rules(path: &std::path::Path) -> Rules {
    let config: Config = load(path);
    Rules {
        lifetimes: config.lifetimes(),
        denial: config.denial(),
        roles: config.roles().unwrap(),
        operator: format!("uid {}", rustix::process::getuid().as_raw()),
        key: key(),
    }
}

/// Where an authd of a stage listens whose configuration has that name.
fn instance(stage: &Stage, name: &str, address: std::net::SocketAddr) -> Instance {
    let admin = Place::Unix(stage.folder.path().join(format!("{name}.sock")));
    Instance { public: Place::Tcp(address.to_string()), admin }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_two_authd_on_postgresql() {
    let (wanted, totals, begun) =
        (Wanted::read("KEELSON_HISTORIES", SHORT), Totals::default(), Instant::now());
    for seeds in wanted.seeds.chunks(BATCH) {
        let mut stage = Stage::unlimited_on_postgres().await;
        let (second, _) = stage.another("second").await;
        let servers = Servers::Real(vec![
            instance(&stage, "authd", stage.address()),
            instance(&stage, "second", second.address().unwrap()),
        ]);
        check_all(seeds, &servers, &stage, &totals).await;
        second.run_until(std::future::ready(())).await.unwrap();
        stage.dismiss().await;
    }
    totals.say("two authd on PostgreSQL", begun);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sqlite() {
    let (wanted, totals, begun) =
        (Wanted::read("KEELSON_HISTORIES", SHORT), Totals::default(), Instant::now());
    let count = (wanted.seeds.len() * ON_SQLITE_OF_TEN).div_ceil(10);
    for seeds in wanted.seeds[..count].chunks(BATCH) {
        let mut stage = Stage::unlimited_on_sqlite().await;
        let servers = Servers::Real(vec![instance(&stage, "authd", stage.address())]);
        check_all(seeds, &servers, &stage, &totals).await;
        stage.dismiss().await;
    }
    totals.say("SQLite", begun);
}
