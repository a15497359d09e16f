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
use tests::postgres::PgBouncer;
use tests::redis_server::{RedisServer, load_the_rest, save_much};
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

/// Sessions of authd that begin from now on may only read, as at a standby, and those that it has are ended.
const DEMOTE: [&str; 2] = [
    "ALTER DATABASE postgres SET default_transaction_read_only = on",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'authd'",
];
/// The name leads to the primary again: sessions that have begun stay with the standby.
const PROMOTE: [&str; 2] = [
    "SET default_transaction_read_only = off",
    "ALTER DATABASE postgres RESET default_transaction_read_only",
];

/// A standby behind the same name: authd says so and refuses at once, and finds the primary again by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_behind_the_same_name_is_left_once_there_is_a_primary() {
    let stage = Stage::on_postgres().await;
    let mut device = Device::create(&stage.auth).await;
    device.open_session(&stage.auth).await;
    is_seen(&stage, "store", "ok").await;
    stage.sql(&DEMOTE).await;
    is_seen(&stage, "store", "lost").await;
    for _ in 0..3 {
        device.try_refresh(&stage.auth).await.refused(Code::Unavailable);
    }
    assert_eq!(stage.auth.get("/health").await.status, 503);
    stage.sql(&PROMOTE).await;
    is_seen(&stage, "store", "ok").await;
    device.try_refresh(&stage.auth).await.response();
    device.rotate(&stage.auth).await.response();
}

/// A primary that becomes a standby under open connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demoted_primary_is_seen_through_open_connections() {
    let stage = Stage::on_postgres().await;
    let mut device = Device::create(&stage.auth).await;
    device.open_session(&stage.auth).await;
    is_seen(&stage, "store", "ok").await;
    stage.sql(&["ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()"]).await;
    is_seen(&stage, "store", "lost").await;
    device.try_refresh(&stage.auth).await.refused(Code::Unavailable);
    stage
        .sql(&[
            "SET default_transaction_read_only = off",
            "ALTER SYSTEM RESET default_transaction_read_only",
            "SELECT pg_reload_conf()",
        ])
        .await;
    is_seen(&stage, "store", "ok").await;
    device.try_refresh(&stage.auth).await.response();
}

/// Connections that are cut while they are idle cost no request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_were_cut_while_idle_are_replaced() {
    let stage = Stage::on_postgres().await;
    let mut device = Device::create(&stage.auth).await;
    device.open_session(&stage.auth).await;
    stage.sql(&[DEMOTE[1]]).await;
    device.try_refresh(&stage.auth).await.response();
    assert_eq!(stage.health()["serving"], true);
}

/// A pooler in transaction mode is refused by its name: it would be taken for a database that does not answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_is_refused_and_named() {
    let stage = Stage::on_postgres().await;
    let pooler = PgBouncer::before(stage.postgres()).await;
    let path = stage.configuration("pooled");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace(&stage.database, &pooler.url())).unwrap();
    let refused = Daemon::start(&load(&path), Clock::system()).await.err().unwrap();
    assert!(refused.to_string().contains("it is a pooler"), "{refused}");
    assert_eq!(refused.code(), systemd::exit::CONFIG);
}

/// A database that loses in a crash what it acknowledged is refused, and taken if the configuration says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lossy_database_is_refused_unless_it_is_configured() {
    let stage = Stage::on_postgres().await;
    let page = stage.health();
    assert!(page["detail"]["database_durability"].as_str().unwrap().contains("`fsync` is `off`"), "{page}");
    let path = stage.configuration("strict");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("insecure_lossy_database = true\n", "")).unwrap();
    let refused = Daemon::start(&load(&path), Clock::system()).await.err().unwrap();
    let told = refused.to_string();
    assert!(told.contains("`fsync` is `off`") && told.contains("insecure_lossy_database"), "{told}");
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

/// A directory under a name of its own, and an authd that goes by the name.
async fn behind_a_name(stage: &mut Stage) -> (Name, Daemon, Http, Device) {
    stage.dismiss().await;
    let name = Name::of(&stage.redis.url()).await;
    let mut config = load(&stage.configuration("another"));
    config.redis = name.url("redis");
    let daemon = Daemon::start(&config, Clock::system()).await.unwrap();
    let auth = Http::to(&format!("http://{}", daemon.address().unwrap()));
    let mut device = Device::create(&auth).await;
    device.open_session(&auth).await;
    (name, daemon, auth, device)
}

/// Deletes the account while the directory does not take the denial.
async fn delete(auth: &Http, device: &Device) {
    let (delete, _, _) = gated(device, Device::rotate_request);
    auth.post("/account/delete", delete).await.response();
}

/// Waits until authd has told `directory` all that it has to say, the denial of `device` among it.
async fn is_told(stage: &Stage, directory: &Directory, device: &Device) {
    let patience = Duration::from_secs(20);
    until("the denial in database 3", patience, || async {
        directory.denials(&[device.device]).await.ok()?[0].map(drop)
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
}

async fn serves(auth: &Http) {
    let mut other = Device::create(auth).await;
    other.open_session(auth).await;
    other.try_refresh(auth).await.response();
}

/// How the daemon says that a dependency is, once it is in that state.
async fn state(daemon: &Daemon, name: &str, state: &str) -> String {
    until(&format!("{name} to be {state}"), Duration::from_secs(20), || async {
        let page: Value = serde_json::from_str(&daemon.health()().verbose.unwrap()).unwrap();
        let found = dependency(&page, name);
        (found["state"] == state).then(|| format!("ready {} {}", page["ready"], found["because"]))
    })
    .await
}

/// The directory's server is demoted, and another one stands behind its name: authd says there all that it has to say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authd_leaves_a_demoted_directory_by_itself() {
    let mut stage = Stage::on_sqlite().await;
    let (name, _daemon, auth, device) = behind_a_name(&mut stage).await;
    stage.redis(0, &["REPLICAOF", "127.0.0.1", "1"]).await;
    delete(&auth, &device).await;
    let second = RedisServer::start().await;
    let directory = Directory::connect(&second.url()).unwrap();
    stage.hsm.publish(&directory).await;
    name.leads_to(&second.url());
    is_told(&stage, &directory, &device).await;
    serves(&auth).await;
}

/// The directory's server is one that is loading its data: authd says so, refreshes sessions, and tells it everything
/// once it serves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authd_waits_for_a_directory_that_is_loading() {
    let mut stage = Stage::on_sqlite().await;
    let (name, daemon, auth, device) = behind_a_name(&mut stage).await;
    let mut other = Device::create(&auth).await;
    other.open_session(&auth).await;
    state(&daemon, "directory", "ok").await;
    save_much(&mut stage.connection(15).await).await;
    let second = RedisServer::start_loading(&stage.redis.saved());
    name.leads_to(&second.url());
    stage.redis.process().stop();
    let lost = state(&daemon, "directory", "lost").await;
    assert!(lost.contains("ready false"), "{lost}");
    delete(&auth, &device).await;
    other.try_refresh(&auth).await.response();
    // It answers, calls itself a master, and is not taken for one that can be followed.
    let mut operator =
        redis::Client::open(second.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    until("authd to have asked it what it is, more than once", Duration::from_secs(20), async || {
        let stats: String = redis::cmd("INFO").arg("commandstats").query_async(&mut operator).await.unwrap();
        let calls = stats.split_once("cmdstat_role:calls=")?.1.split(',').next()?.parse::<u64>().ok()?;
        (calls > 2).then_some(())
    })
    .await;
    assert_eq!(state(&daemon, "directory", "lost").await, lost);
    load_the_rest(&second.url()).await;
    state(&daemon, "directory", "ok").await;
    is_told(&stage, &Directory::connect(&second.url()).unwrap(), &device).await;
    serves(&auth).await;
}

/// The directory's name leads to the replica of a primary that lives: it takes nothing, and authd says so. Promoted, it is
/// told everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authd_waits_for_a_replica_to_be_promoted() {
    let mut stage = Stage::on_sqlite().await;
    let (name, daemon, auth, device) = behind_a_name(&mut stage).await;
    let replica = RedisServer::start().await;
    let mut operator =
        redis::Client::open(replica.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    let primary = stage.redis.url().rsplit_once(':').unwrap().1.to_owned();
    redis::cmd("REPLICAOF").arg(&["127.0.0.1", &primary]).exec_async(&mut operator).await.unwrap();
    until("the replica to hear its primary", Duration::from_secs(20), || {
        let mut operator = operator.clone();
        async move {
            let info: String = redis::cmd("INFO").query_async(&mut operator).await.unwrap();
            info.contains("master_link_status:up").then_some(())
        }
    })
    .await;
    name.leads_to(&replica.url());
    stage.redis(0, &["CLIENT", "KILL", "TYPE", "normal"]).await;
    delete(&auth, &device).await;
    for name in ["directory denial feed", "directory writes"] {
        let lost = state(&daemon, name, "lost").await;
        assert!(lost.contains("ready false") && lost.contains("point the name at the master"), "{lost}");
    }
    state(&daemon, "directory", "ok").await;
    let directory = Directory::connect(&replica.url()).unwrap();
    assert!(directory.denials(&[device.device]).await.unwrap()[0].is_none(), "the replica took nothing");
    redis::cmd("REPLICAOF").arg(&["NO", "ONE"]).exec_async(&mut operator).await.unwrap();
    for name in ["directory denial feed", "directory writes"] {
        state(&daemon, name, "ok").await;
    }
    is_told(&stage, &directory, &device).await;
    serves(&auth).await;
}
