//! Another server behind the directory's name: one that is still loading its data, and the replica of a primary that lives.

use keychain::access::Response;
use keychain::directory::{Db, Directory};
use serde_json::Value;
use tests::port::Port;

use crate::acknowledgements::acknowledged;
use crate::directory::{dependency, is};
use crate::support::fixture::Session;
use crate::support::redis::Redis;
use crate::support::until;
use crate::support::world::World;

async fn is_ready(world: &World) -> bool {
    let page: Value = serde_json::from_str(&world.daemon_page("readyz?verbose").await).unwrap();
    page["ready"] == true
}

/// Denies the session at the server of `directory`. It is pushed: everything is read again only a minute later.
async fn is_denied(world: &World, directory: &Directory, session: &Session) {
    directory.revoke(&session.claims.identity, None).await.unwrap();
    until("the denial", async || (world.ask(session).await.status == 403).then_some(())).await;
}

/// The server of before is gone, and the one behind its name loads its data: that is named, and sessions go on.
async fn behind_a_loading_server(world: &mut World, session: &Session, loading: Redis) {
    let mut first = world.redis.replace_by(loading);
    first.stop();
    let because = is(world, "directory", "lost").await;
    assert!(because.contains("is not fit for it") && because.contains("loading"), "{because}");
    assert!(!is_ready(world).await);
    let metrics = world.metrics().await;
    assert!(metrics.contains("verifier_dependency_up{dependency=\"directory\"} 0"), "{metrics}");
    assert_eq!(world.ask(session).await.status, 200, "sessions go on");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_waits_for_a_server_that_is_loading() {
    let mut world = World::start().await;
    world.hsm.tell();
    let session = world.session(200);
    assert_eq!(world.ask(&session).await.status, 200);
    let folder = tempfile::tempdir().unwrap();
    let loading = world.redis.twin(folder.path(), true).await;
    behind_a_loading_server(&mut world, &session, loading).await;
    world.redis.load_the_rest().await;
    is(&world, "directory", "ok").await;
    until("readiness", async || is_ready(&world).await.then_some(())).await;
    acknowledged(&world.directory, &world.hsm, "main").await;
    is_denied(&world, &world.directory, &session).await;
}

/// It is not held on to, though it answers and calls itself a master: the name may lead to another one.
#[tokio::test(flavor = "multi_thread")]
async fn an_edge_leaves_a_server_that_is_loading() {
    let mut world = World::start().await;
    let session = world.session(200);
    assert_eq!(world.ask(&session).await.status, 200);
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let healthy = world.redis.twin(folders[0].path(), false).await;
    let loading = world.redis.twin(folders[1].path(), true).await;
    behind_a_loading_server(&mut world, &session, loading).await;
    let _loads_on = world.redis.replace_by(healthy);
    is(&world, "directory", "ok").await;
    is_denied(&world, &world.directory, &session).await;
    acknowledged(&world.directory, &world.hsm, "main").await;
}

/// A replica that hears its primary is good to read: what is written to the primary denies. What an edge writes it
/// refuses, and the edge says so, until the replica is promoted.
#[tokio::test(flavor = "multi_thread")]
async fn an_edge_reads_from_a_replica_and_says_that_it_cannot_write() {
    let mut world = World::start().await;
    world.hsm.tell();
    let (session, other) = (world.session(200), world.session(201));
    let signer = async |world: &World| {
        let answer = world.ask(&session).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        Response::parse(answer.body.as_bytes()).unwrap().server_identity
    };
    let before = signer(&world).await;
    is(&world, "directory writes", "ok").await;
    let (folder, port) = (tempfile::tempdir().unwrap(), Port::reserve());
    let number = port.number().to_string();
    world.redis.command(&["CONFIG", "SET", "port", &number]).await;
    let replica = Redis::start(folder.path()).await;
    replica.command(&["REPLICAOF", "127.0.0.1", &number]).await;
    until("the replica to hear its primary", async || {
        let info: String = redis::cmd("INFO").query_async(&mut replica.database(0).await).await.unwrap();
        info.contains("master_link_status:up").then_some(())
    })
    .await;
    let _primary = world.redis.replace_by(replica);
    let at_primary = format!("redis://127.0.0.1:{number}");
    let operator = redis::Client::open(at_primary.as_str()).unwrap();
    let mut operator = operator.get_multiplexed_async_connection().await.unwrap();
    redis::cmd("CLIENT").arg(&["KILL", "TYPE", "normal"]).exec_async(&mut operator).await.unwrap();

    let because = is(&world, "directory writes", "lost").await;
    assert!(because.contains("point the name at the master") && because.contains("replica"), "{because}");
    assert_eq!(dependency(&world, "directory").await["state"], "ok");
    assert!(!is_ready(&world).await);
    let metrics = world.metrics().await;
    assert!(metrics.contains("verifier_dependency_up{dependency=\"directory writes\"} 0"), "{metrics}");
    is_denied(&world, &Directory::connect(&at_primary).unwrap(), &other).await;
    // A key that no device could find is not taken into use.
    world.edge.hang_up();
    until("the refusal", async || world.edge.log().contains("no new key yet").then_some(())).await;
    assert_eq!(signer(&world).await, before);

    world.redis.command(&["REPLICAOF", "NO", "ONE"]).await;
    is(&world, "directory writes", "ok").await;
    let after = until("the new key", async || {
        let key = signer(&world).await;
        (key != before).then_some(key)
    })
    .await;
    assert!(world.directory.endorsement(Db::Response, &after).await.unwrap().is_some());
    acknowledged(&world.directory, &world.hsm, "main").await;
    until("readiness", async || is_ready(&world).await.then_some(())).await;
}
