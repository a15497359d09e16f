//! A directory whose server is another one than before, says nothing of what changes, or does not let an edge in.

use std::time::Duration;

use keychain::Digest;
use keychain::access::Response;
use keychain::directory::Db;
use keychain::endorsement::Purpose;
use redis::AsyncCommands as _;
use serde_json::Value;

use crate::acknowledgements::acknowledged;
use crate::support::fixture::{Session, key};
use crate::support::redis::Redis;
use crate::support::until;
use crate::support::world::{World, ago};

/// What the verbose page says of a dependency.
pub(crate) async fn dependency(world: &World, name: &str) -> Value {
    let page: Value = serde_json::from_str(&world.daemon_page("readyz?verbose").await).unwrap();
    page["dependencies"].as_array().unwrap().iter().find(|one| one["name"] == name).unwrap().clone()
}

/// Waits until a dependency is in that state; why and since when.
pub(crate) async fn is(world: &World, name: &str, state: &str) -> String {
    until(&format!("{name} to be {state}"), async || {
        let found = dependency(world, name).await;
        (found["state"] == state).then(|| format!("{} {}", found["since"], found["because"]))
    })
    .await
}

async fn answers(world: &World, session: &Session, status: u16) {
    let what = format!("the answer {status}");
    until(&what, async || (world.ask(session).await.status == status).then_some(())).await;
}

/// The server is demoted and another one stands behind its name: whatever an edge does there, it does there again.
#[tokio::test(flavor = "multi_thread")]
async fn an_edge_leaves_a_demoted_server_by_itself() {
    let mut world = World::start().await;
    let session = world.session(200);
    let own = Response::parse(world.ask(&session).await.body.as_bytes()).unwrap().server_identity;
    let issuer = world.directory.endorsement(Db::Access, &world.authd.public_key()).await.unwrap().unwrap();

    world.redis.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let because = is(&world, "directory", "lost").await;
    assert!(because.contains("a replica without a link to its master"), "{because}");
    let metrics = world.metrics().await;
    assert!(metrics.contains("verifier_dependency_up{dependency=\"directory\"} 0"), "{metrics}");
    assert!(world.edge.log().contains("a replica without a link"), "{}", world.edge.log());
    assert_eq!(world.ask(&session).await.status, 200, "sessions go on");

    let folder = tempfile::tempdir().unwrap();
    let second = Redis::start(folder.path()).await;
    let _first = world.redis.replace_by(second);
    // A writer that holds a connection to the first server gets over as well.
    world.hsm.publish(&world.directory).await;
    let day = Duration::from_hours(24);
    world.directory.publish(Db::Access, &world.authd.public_key(), &issuer, day).await.unwrap();
    world.begin_epoch(100, &[]).await;
    is(&world, "directory", "ok").await;
    world.directory.revoke(&session.claims.identity, None).await.unwrap();
    answers(&world, &session, 403).await;
    let back = async || world.directory.endorsement(Db::Response, &own).await.unwrap();
    until("the edge's key to be there", back).await;
    acknowledged(&world.directory, &world.hsm, "main").await;
}

/// `SWAPDB` announces nothing. What it brings is seen when everything is read again.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_announced_is_read_at_the_interval() {
    let world = World::start_with("reread_every = \"1s\"").await;
    let session = world.session(200);
    assert_eq!(world.ask(&session).await.status, 200);
    let day = edge::clock::now().plus(Duration::from_hours(24));
    let issuer = key(101).public_key();
    let (endorsed, event, head) = {
        let mut hsm = world.hsm.hsm.lock().unwrap();
        hsm.rotate(ago(1), false);
        let head = hsm.newest_head().to_owned();
        (hsm.endorse(Purpose::Access, issuer, day), hsm.events()[1].text().to_owned(), head)
    };
    let id = world.hsm.hsm.lock().unwrap().events()[1].event().id.to_string();
    let entries = [
        (0, issuer.to_string(), endorsed),
        (3, session.claims.identity.to_string(), "1".to_owned()),
        (4, id.clone(), event),
        (5, id, head),
    ];
    // These names are announced while their entries are elsewhere.
    for (database, name, text) in &entries {
        world.redis.database(8 + database).await.set::<_, _, ()>(name, text).await.unwrap();
    }
    world.directory.revoke(&Digest::of("the last announcement"), None).await.unwrap();
    let heard = "edge_cache_entries{kind=\"revocation\"} 1\n";
    until("the last announcement", async || world.metrics().await.contains(heard).then_some(())).await;
    for (database, ..) in &entries {
        world.redis.command(&["SWAPDB", &database.to_string(), &(8 + database).to_string()]).await;
    }
    answers(&world, &session, 403).await;
    for line in ["edge_chain_sequence 1\n", "edge_cache_entries{kind=\"issuer\"} 2\n"] {
        until(line, async || world.metrics().await.contains(line).then_some(())).await;
    }
}
