//! authd whose dependencies go away: what it says of it, and what it goes on doing.

use std::time::{Duration, Instant};

use authd::daemon::Starting;
use keychain::Code;
use serde_json::Value;
use tests::craft::Device;
use tests::http::Http;
use tests::until;

use crate::stage::{Stage, load};

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

    let starting = Starting::open(&load(&stage.configuration("another"))).unwrap();
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
