//! authd whose dependencies go away: what it says of it, and what it goes on doing.

use std::time::{Duration, Instant};

use authd::daemon::{Daemon, Starting};
use edge::clock::Clock;
use keychain::acknowledgement::Instance;
use keychain::directory::Directory;
use keychain::{Code, Timestamp};
use serde_json::Value;
use tests::craft::{Device, now};
use tests::http::Http;
use tests::name::Name;
use tests::redis_server::RedisServer;
use tests::until;

use crate::hsm::Hsm;
use crate::stage::{Stage, gated, load};

/// Within two seconds, and what a busy machine may add.
const SEEN: Duration = Duration::from_secs(6);

fn dependency<'a>(page: &'a Value, name: &str) -> &'a Value {
    page["dependencies"].as_array().unwrap().iter().find(|one| one["name"] == name).unwrap()
}

async fn is_seen(stage: &Stage, name: &str, state: &str) {
    let started = Instant::now();
    until(&format!("{name} to be {state}"), Duration::from_secs(20), || async {
        let page = stage.health();
        (dependency(&page, name)["state"] == state && page["ready"] == (state == "ok")).then_some(())
    })
    .await;
    assert!(started.elapsed() < SEEN, "{name} {state}: {:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_directory_sessions_go_on_and_readiness_says_for_how_long() {
    let mut stage = Stage::on_sqlite().await;
    let mut device = Device::create(&stage.auth).await;
    device.open_session(&stage.auth).await;
    is_seen(&stage, "directory", "ok").await;
    stage.redis.process().stop();
    is_seen(&stage, "directory", "lost").await;
    let page = stage.health();
    assert_eq!((&page["serving"], &page["budget"]["endsBy"]), (&true.into(), &"head".into()), "{page}");
    assert!((11 * 3_600..=12 * 3_600).contains(&page["budget"]["secondsLeft"].as_u64().unwrap()), "{page}");
    device.try_refresh(&stage.auth).await.response();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_database_authd_says_so_and_a_start_waits_for_it() {
    let mut stage = Stage::on_postgres().await;
    is_seen(&stage, "store", "ok").await;
    stage.end_postgres().await;
    is_seen(&stage, "store", "lost").await;
    assert_eq!(stage.health()["serving"], false);

    let starting = Starting::open(&load(&stage.configuration("another")), Clock::system()).unwrap();
    let (auth, watcher) = (Http::to(&format!("http://{}", starting.address().unwrap())), starting.watcher());
    let start = tokio::spawn(starting.ready());
    until("the reason", Duration::from_secs(20), || async {
        let page: Value = serde_json::from_str(&watcher.health().verbose.unwrap()).unwrap();
        (dependency(&page, "store")["state"] == "lost").then_some(())
    })
    .await;
    for path in ["/session/request", "/health"] {
        let answer = if path == "/health" { auth.get(path).await } else { auth.post(path, "{}").await };
        assert!(answer.body.contains("\"waitsFor\":") && answer.body.contains("store"), "{}", answer.body);
        answer.refused(Code::Unavailable);
    }
    start.abort();
}

const SECOND: Duration = Duration::from_secs(1);

/// Takes hsmd and the directory away, and walks past the end of the budget: a session is refreshed a second before and
/// refused a second after.
async fn ends_by(mut stage: Stage, limit: &str, code: Code) {
    let mut device = Device::create(&stage.auth).await;
    stage.hsm.break_down();
    stage.redis.process().stop();
    let end = until(&format!("the budget to end by the {limit}"), Duration::from_secs(20), || async {
        let page = stage.health();
        let is_lost = page["ready"] == false && page["serving"] == true;
        let until = page["budget"]["until"].as_str().unwrap_or_default();
        (is_lost && page["budget"]["endsBy"] == limit).then(|| Timestamp::parse(until).unwrap())
    })
    .await;
    stage.hand.set(end.minus(Duration::from_mins(10)));
    device.open_session(&stage.auth).await;
    stage.hand.set(end.minus(SECOND));
    device.try_refresh(&stage.auth).await.response();
    assert_eq!(stage.health()["budget"]["secondsLeft"], 1);
    stage.hand.set(end.plus(SECOND));
    device.try_refresh(&stage.auth).await.refused(code);
    let page = stage.health();
    assert_eq!((&page["budget"]["secondsLeft"], &page["serving"]), (&0.into(), &false.into()), "{page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_age_of_the_newest_head_ends_refreshes() {
    let stage = Stage::prepared("head_max_age = \"1h\"", |_| {}).await;
    ends_by(stage, "head", Code::StaleHead).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_that_signs_answers_ends_refreshes() {
    let stage = Stage::prepared("insecure_any_head_age = true", |_| {}).await;
    ends_by(stage, "response key", Code::Unavailable).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_that_signs_tokens_ends_refreshes() {
    let brief = |hsm: &Hsm| hsm.limit_access(Duration::from_hours(2));
    let stage = Stage::prepared("insecure_any_head_age = true", brief).await;
    ends_by(stage, "access key", Code::Unavailable).await;
}

/// The generation that endorsed authd's keys was replaced half a minute before it endorsed them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_window_of_the_generation_ends_refreshes() {
    let stage = Stage::prepared("insecure_any_head_age = true", |_| {}).await;
    stage.hsm.rotate_at(now().minus(Duration::from_secs(30)), false);
    stage.hsm.publish(&stage.directory).await;
    until("the rotation to be heard of", Duration::from_secs(20), || async {
        (stage.health()["budget"]["endsBy"] == "generation").then_some(())
    })
    .await;
    ends_by(stage, "generation", Code::Unavailable).await;
}

/// The directory's server is demoted, and another one stands behind its name: authd says there all that it has to say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authd_leaves_a_demoted_directory_by_itself() {
    let mut stage = Stage::on_sqlite().await;
    stage.dismiss().await;
    let name = Name::of(&stage.redis.url()).await;
    let mut config = load(&stage.configuration("another"));
    config.redis = name.url("redis");
    let daemon = Daemon::start(&config, Clock::system()).await.unwrap();
    let auth = Http::to(&format!("http://{}", daemon.address().unwrap()));
    let mut device = Device::create(&auth).await;
    device.open_session(&auth).await;

    stage.redis(0, &["REPLICAOF", "127.0.0.1", "1"]).await;
    let (delete, _, _) = gated(&device, Device::rotate_request);
    auth.post("/account/delete", delete).await.response();
    let second = RedisServer::start().await;
    let directory = Directory::connect(&second.url()).unwrap();
    stage.hsm.publish(&directory).await;
    name.leads_to(&second.url());

    let patience = Duration::from_secs(20);
    until("the denial in database 3", patience, || async {
        directory.denials(&[device.device]).await.unwrap()[0].map(drop)
    })
    .await;
    until("the denial feed", patience, || async {
        directory.newest_of_feed(&stage.hsm.identity()).await.unwrap().map(drop)
    })
    .await;
    until("an acknowledgement", patience, || async {
        directory.acknowledgements(&[("authd", &Instance::only())]).await.unwrap().remove(0).map(drop)
    })
    .await;
    let mut other = Device::create(&auth).await;
    other.open_session(&auth).await;
    other.try_refresh(&auth).await.response();
}
