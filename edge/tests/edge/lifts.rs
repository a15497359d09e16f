//! What lifts an entry of database 3, and what does not; and how long an edge goes on without knowing.

use std::time::Duration;

use keychain::Digest;
use keychain::directory::Db;
use keychain::feed::Position;

use crate::directory::is;
use crate::support::feed::banned;
use crate::support::fixture::Session;
use crate::support::until;
use crate::support::world::{World, ago};

async fn answers(world: &World, session: &Session, status: u16) {
    let what = format!("the answer {status}");
    until(&what, async || (world.ask(session).await.status == status).then_some(())).await;
}

/// Waits until the edge says that so many entries were lost.
async fn lost(world: &World, count: usize) {
    let line = format!("verifier_revocations_lost {count}\n");
    until(&line, async || world.metrics().await.contains(&line).then_some(())).await;
}

/// Bans the session by an entry, and waits until it bites.
async fn ban(world: &World, number: u32) -> (Session, Digest) {
    let session = world.session(number);
    answers(world, &session, 200).await;
    let who = session.claims.identity;
    world.directory.revoke(&who, None).await.unwrap();
    answers(world, &session, 403).await;
    (session, who)
}

async fn still_denied(world: &World, session: &Session) {
    assert_eq!(world.ask(session).await.code(), "BA304");
}

/// Written again and deleted, as an operator lifts what was lost.
async fn lift(world: &World, session: &Session, who: &Digest) {
    world.directory.revoke(who, None).await.unwrap();
    lost(world, 0).await;
    world.directory.lift(who).await.unwrap();
    answers(world, session, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_lifts_nothing() {
    let world = World::start().await;
    let (session, who) = ban(&world, 200).await;
    redis::cmd("FLUSHDB").exec_async(&mut world.redis.database(3).await).await.unwrap();
    lost(&world, 1).await;
    still_denied(&world, &session).await;
    assert!(world.edge.log().contains("not certainly by deletion"), "{}", world.edge.log());
    lift(&world, &session, &who).await;

    // One that ends denies to its end, and no longer.
    world.directory.revoke(&who, Some(Duration::from_secs(3))).await.unwrap();
    answers(&world, &session, 403).await;
    world.redis.flush().await;
    lost(&world, 1).await;
    still_denied(&world, &session).await;
    answers(&world, &session, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_eviction_lifts_nothing_and_is_warned_of() {
    let world = World::start().await;
    let position = world.begin_epoch(100, &[]).await;
    let (session, who) = ban(&world, 200).await;
    let page = async |part: &str| {
        until(part, async || world.daemon_page("readyz").await.contains(part).then_some(())).await;
    };
    page("directory_eviction: noeviction").await;
    world.redis.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-random"]).await;
    world.redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    // Every write makes room first; it fails itself once nothing is left to delete.
    let gone = async || {
        let mut redis = world.redis.database(3).await;
        let _no_room = redis::cmd("SET").arg(&["a", "b"]).exec_async(&mut redis).await;
        let left: u64 = redis::cmd("DBSIZE").query_async(&mut redis).await.unwrap();
        (left == 0).then_some(())
    };
    until("the eviction", gone).await;
    world.redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    lost(&world, 1).await;
    still_denied(&world, &session).await;

    // A new connection asks the server anew.
    world.redis.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    page("directory_eviction: allkeys-random").await;
    let metrics = world.metrics().await;
    assert!(metrics.contains("verifier_directory_evicts 1"), "{metrics}");
    assert!(world.edge.log().contains("may delete entries by itself"), "{}", world.edge.log());

    // authd's word lifts it.
    world.teller().publish_batch(&world.directory, position.next(), &[banned(who, false)]).await;
    answers(&world, &session, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_of_databases_lifts_nothing() {
    let world = World::start_with("reread_every = \"1s\"").await;
    let (session, who) = ban(&world, 200).await;
    world.redis.command(&["SWAPDB", "3", "9"]).await;
    lost(&world, 1).await;
    still_denied(&world, &session).await;
    lift(&world, &session, &who).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_directory_lifts_nothing() {
    let mut world = World::start().await;
    let (session, who) = ban(&world, 200).await;
    world.redis.stop();
    world.redis.start_again().await;
    lost(&world, 1).await;
    still_denied(&world, &session).await;
    lift(&world, &session, &who).await;
}

/// An edge that may not ask the server what it has been through says so, and takes no deletion for certain.
#[tokio::test(flavor = "multi_thread")]
async fn without_info_no_deletion_is_certain() {
    let mut world = World::start().await;
    world.edge.terminate();
    assert!(world.edge.ended().await.success());
    world.redis.command(&["ACL", "SETUSER", "default", "-info"]).await;
    world.restart();
    world.edge.ready().await;
    let page = world.daemon_page("readyz").await;
    assert!(page.contains("directory_eviction: not known"), "{page}");
    assert!(world.edge.log().contains("may delete entries by itself"), "{}", world.edge.log());
    let (session, who) = ban(&world, 200).await;
    world.directory.lift(&who).await.unwrap();
    lost(&world, 1).await;
    still_denied(&world, &session).await;
    // Written with an end, it ends.
    world.directory.deny_exactly(&who, Some(Duration::from_secs(1))).await.unwrap();
    answers(&world, &session, 200).await;
    // What the feed denied for as long, the feed lifts: its copy in database 3 may go as it likes.
    let position = world.begin_epoch(100, &[banned(who, true)]).await;
    answers(&world, &session, 403).await;
    world.directory.revoke(&who, None).await.unwrap();
    let held = "edge_cache_entries{kind=\"revocation\"} 1\n";
    until("the copy", async || world.metrics().await.contains(held).then_some(())).await;
    world.teller().publish_batch(&world.directory, position.next(), &[banned(who, false)]).await;
    world.directory.lift(&who).await.unwrap();
    answers(&world, &session, 200).await;
}

/// Revocations may have been confirmed at most so long ago. Half of that is told, all of it refused; with authd's next
/// word everything is well.
#[tokio::test(flavor = "multi_thread")]
async fn without_confirmed_revocations_nothing_is_admitted() {
    let mut world = World::start_with("revocations_max_age = \"10m\"").await;
    let session = world.session(200);
    answers(&world, &session, 200).await;
    let page = world.daemon_page("readyz").await;
    assert!(page.contains("revocations: ok") && page.contains("revocations_seconds_left: "), "{page}");

    world.edge.terminate();
    assert!(world.edge.ended().await.success());
    world.forget_state();
    let issuer = world.directory.endorsement(Db::Access, &world.authd.public_key()).await.unwrap().unwrap();
    world.redis.flush().await;
    world.hsm.publish(&world.directory).await;
    let day = Duration::from_hours(24);
    world.directory.publish(Db::Access, &world.authd.public_key(), &issuer, day).await.unwrap();
    let snapshot = |seconds| {
        let epoch = u64::try_from(ago(seconds).unix_millis()).unwrap();
        (Position { epoch, number: 0 }, ago(seconds))
    };
    let (position, long_ago) = snapshot(660);
    world.teller().publish_snapshot_at(&world.directory, position, &[], long_ago).await;
    world.restart();
    world.edge.ready().await;
    let answer = world.ask(&session).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "BA608"));
    let because = is(&world, "revocations", "lost").await;
    assert!(because.contains("revocations_max_age"), "{because}");
    until("the log to say so", async || world.edge.log().contains("refusing with BA608").then_some(())).await;
    let page = world.daemon_page("readyz").await;
    assert!(page.starts_with("not ready") && page.contains("revocations_seconds_left: 0\n"), "{page}");
    // Whoever is denied for certain is told so even then.
    world.directory.revoke(&session.claims.device, None).await.unwrap();
    answers(&world, &session, 403).await;
    world.directory.lift(&session.claims.device).await.unwrap();
    answers(&world, &session, 503).await;

    let (position, while_ago) = snapshot(360);
    world.teller().publish_snapshot_at(&world.directory, position, &[], while_ago).await;
    answers(&world, &session, 200).await;
    until("the log to say so", async || world.edge.log().contains("for half of `revo").then_some(())).await;
    let metrics = world.metrics().await;
    assert!(metrics.contains("verifier_revocations_max_age_seconds 600"), "{metrics}");
    world.teller().publish_batch(&world.directory, position.next(), &[]).await;
    until("the log to say so", async || world.edge.log().contains("confirmed again").then_some(())).await;
    is(&world, "revocations", "ok").await;
}
