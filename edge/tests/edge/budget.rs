//! The ends of an outage's budget, in an edge whose clock the tests move: admitted a second before, refused a second
//! after, with hsmd and the directory gone.

use std::time::Duration;

use edge::clock::{Clock, Hand};
use edge::health::Watcher;
use edge::proxy::{Edge, Setup, Starting};
use keychain::Timestamp;
use keychain::directory::Db;
use serde_json::Value;

use crate::support::fixture::{Session, key};
use crate::support::until;
use crate::support::world::{INNER, World, ago, url};

const SECOND: Duration = Duration::from_secs(1);

/// An edge in this process, in a world that has another one.
struct Beside {
    world: World,
    hand: Hand,
    watcher: Watcher,
    client: reqwest::Client,
    _edge: Edge,
}

impl Beside {
    async fn start(world: World, lines: &str) -> Self {
        let (file, socket) = world.beside(lines);
        let (clock, hand) = Clock::with_hand();
        let starting = Starting::open(Setup::read(&file).unwrap(), clock).unwrap();
        let watcher = starting.watcher();
        let edge = starting.ready().await.unwrap();
        let client = reqwest::Client::builder().unix_socket(socket).build().unwrap();
        Self { world, hand, watcher, client, _edge: edge }
    }

    fn page(&self) -> Value {
        serde_json::from_str(&self.watcher.health().verbose.unwrap()).unwrap()
    }

    /// What a session of that moment is answered: nothing if it is admitted, the code otherwise.
    async fn ask_at(&self, time: Timestamp) -> String {
        self.hand.set(time);
        let session = Session::open(&self.world.authd, 200, time);
        let body = session.request(self.world.nonce(), time, INNER);
        self.world.send(self.client.post(url("/foo/bar")).body(body)).await.code()
    }

    /// Takes hsmd and the directory away, and walks past the end of the budget.
    async fn ends_by(mut self, limit: &str, code: &str) {
        self.world.hsm.stop().await;
        self.world.redis.stop();
        let end = until(&format!("the budget to end by the {limit}"), async || {
            let page = self.page();
            let is_lost = page["ready"] == false && page["serving"] == true;
            let until = page["budget"]["until"].as_str().unwrap_or_default();
            (is_lost && page["budget"]["endsBy"] == limit).then(|| Timestamp::parse(until).unwrap())
        })
        .await;
        assert_eq!(self.ask_at(end.minus(SECOND)).await, "", "a second before the {limit} ends");
        assert_eq!(self.page()["budget"]["secondsLeft"], 1);
        assert_eq!(self.ask_at(end.plus(SECOND)).await, code, "a second after the {limit} has ended");
        assert_eq!(self.page()["budget"]["secondsLeft"], 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_age_of_the_newest_head_ends_it() {
    let beside = Beside::start(World::start().await, "head_max_age = \"2h\"").await;
    beside.ends_by("head", "BA607").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_edges_own_key_ends_it() {
    let lines = "insecure_any_head_age = true\nrevocations_max_age = \"24h\"";
    let beside = Beside::start(World::start().await, lines).await;
    beside.ends_by("response key", "BA603").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_age_of_what_is_known_of_revocations_ends_it() {
    let beside = Beside::start(World::start().await, "revocations_max_age = \"1h\"").await;
    beside.ends_by("revocations", "BA608").await;
}

/// Without a feed, database 3 alone confirms them.
#[tokio::test(flavor = "multi_thread")]
async fn the_age_of_the_entries_ends_it_where_there_is_no_feed() {
    let lines = "denial_feed = \"absent\"\nrevocations_max_age = \"1h\"";
    let beside = Beside::start(World::start().await, lines).await;
    let page = beside.page().to_string();
    assert!(!page.contains("denial feed"), "no feed is waited for: {page}");
    beside.ends_by("revocations", "BA608").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_tokens_ends_it() {
    let mut world = World::start().await;
    world.authd = world.publish_issuer_for(101, Duration::from_hours(2)).await;
    world.withdraw(Db::Access, key(100).public_key()).await;
    let beside = Beside::start(world, "insecure_any_head_age = true").await;
    beside.ends_by("access key", "BA207").await;
}

/// The generation that endorsed the edge's key was replaced half an hour ago.
#[tokio::test(flavor = "multi_thread")]
async fn the_window_of_the_generation_behind_the_edges_key_ends_it() {
    let beside = Beside::start(World::start().await, "insecure_any_head_age = true").await;
    beside.world.hsm.rotate(&beside.world.directory, ago(1_800), false).await;
    until("the rotation to be heard of", async || {
        (beside.page()["budget"]["endsBy"] == "generation").then_some(())
    })
    .await;
    beside.ends_by("generation", "BA603").await;
}

/// The same for the key of tokens; the edge's own key is the new generation's.
#[tokio::test(flavor = "multi_thread")]
async fn the_window_of_the_generation_behind_the_key_of_tokens_ends_it() {
    let world = World::start().await;
    world.hsm.rotate(&world.directory, ago(1_800), false).await;
    let beside = Beside::start(world, "insecure_any_head_age = true").await;
    beside.ends_by("generation", "BA207").await;
}
