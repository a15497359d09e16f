//! Histories in whose midst an authd is killed, and started again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tests::craft::random;
use tests::http::Http;
use tests::port::Port;
use tests::process::{Process, command};
use tests::until;

use super::perform::Servers;
use super::{Totals, Wanted, check, instance, rules};
use crate::stage::Stage;

/// Histories in a short run, and how many are under way when an authd is killed.
const SHORT: u64 = 96;
const AT_ONCE: usize = 8;

/// The kill comes within so many milliseconds of the beginning.
const KILLED_WITHIN: u64 = 120;

const PATIENCE: Duration = Duration::from_secs(30);

/// An authd that is a process of its own.
struct Mortal {
    name: &'static str,
    port: Port,
    process: Process,
}

impl Mortal {
    async fn start(stage: &Stage, name: &'static str) -> Self {
        let port = Port::reserve();
        let path = stage.configuration(name);
        let text = std::fs::read_to_string(&path).unwrap();
        let listen = format!("listen = \"127.0.0.1:{}\"", port.number());
        std::fs::write(&path, text.replace("listen = \"127.0.0.1:0\"", &listen)).unwrap();
        let process = launch(stage, name);
        let mortal = Self { name, port, process };
        mortal.serves().await;
        mortal
    }

    fn kill(&mut self) {
        self.process.signal(rustix::process::Signal::KILL);
        self.process.stop();
    }

    async fn revive(&mut self, stage: &Stage) {
        self.process = launch(stage, self.name);
        self.serves().await;
    }

    async fn serves(&self) {
        let public = Http::to(&format!("http://127.0.0.1:{}", self.port.number()));
        until("authd to serve", PATIENCE, || async {
            public.try_get("/health").await.ok().filter(|answer| answer.status == 200).map(drop)
        })
        .await;
    }
}

fn launch(stage: &Stage, name: &str) -> Process {
    let mut program = command(env!("CARGO_BIN_EXE_authd"));
    program.arg("--config").arg(stage.folder.path().join(format!("{name}.toml")));
    Process::start(name, program, stage.folder.path())
}

/// Kills one authd after the other while histories are under way.
async fn kill_one_after_the_other(what: &str, mut stage: Stage, names: &[&'static str]) {
    // Its own authd would go on.
    stage.dismiss().await;
    let (wanted, totals, begun) = (Wanted::read("KEELSON_KILLED", SHORT), Totals::default(), Instant::now());
    let mut mortals = Vec::new();
    for name in names {
        mortals.push(Mortal::start(&stage, name).await);
    }
    let address = |mortal: &Mortal| ([127, 0, 0, 1], mortal.port.number()).into();
    let instances = mortals.iter().map(|mortal| instance(&stage, mortal.name, address(mortal)));
    let servers = Servers::Real(instances.collect());
    let rules = Arc::new(rules(&stage.configuration("rules")));
    let mut kills = 0;
    for seeds in wanted.seeds.chunks(AT_ONCE) {
        let count = mortals.len();
        let mortal = &mut mortals[kills % count];
        let histories =
            seeds.iter().map(|seed| check(*seed, servers.clone(), &stage.sql, Arc::clone(&rules), &totals));
        let killing = async {
            let delay = u64::from(u16::from_be_bytes(random())) % KILLED_WITHIN;
            tokio::time::sleep(Duration::from_millis(delay)).await;
            mortal.kill();
            mortal.revive(&stage).await;
        };
        tokio::join!(join_all(histories), killing);
        kills += 1;
    }
    totals.say(&format!("{what}, {kills} kills"), begun);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_authd_on_postgresql_is_killed() {
    let stage = Stage::unlimited_on_postgres().await;
    kill_one_after_the_other("two authd on PostgreSQL", stage, &["one", "two"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_authd_on_sqlite_is_killed() {
    kill_one_after_the_other("SQLite", Stage::unlimited_on_sqlite().await, &["one"]).await;
}
