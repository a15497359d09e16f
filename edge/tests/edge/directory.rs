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

/// Waits until a dependency is in that state; why and since when. The edge may be starting meanwhile.
pub(crate) async fn is(world: &World, name: &str, state: &str) -> String {
    until(&format!("{name} to be {state}"), async || {
        let page: Value = serde_json::from_str(&world.try_daemon_page("readyz?verbose").await?).unwrap();
        let found = page["dependencies"].as_array()?.iter().find(|one| one["name"] == name)?;
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
    let day = crate::support::clock::now().plus(Duration::from_hours(24));
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

/// Starts the edge anew with rights at the directory that another user would have.
async fn restart_with(world: &mut World, rights: &[&str]) {
    world.edge.terminate();
    assert!(world.edge.ended().await.success());
    world.forget_state();
    world.redis.command(&[&["ACL", "SETUSER", "default"], rights].concat()).await;
    world.restart();
}

/// The edge cannot follow, for a reason with that in it. It says so, and reads what it is not told of.
async fn reads_without_following(world: &World, session: &Session, said: &str) {
    let because = is(world, "directory", "lost").await;
    assert!(because.contains(said), "{because}");
    let metrics = world.metrics().await;
    assert!(metrics.contains("verifier_dependency_up{dependency=\"directory\"} 0"), "{metrics}");
    assert!(world.edge.log().contains("dependency=\"directory\""), "{}", world.edge.log());
    assert!(world.daemon_page("readyz").await.starts_with("not ready"));
    answers(world, session, 200).await;
    world.directory.revoke(&session.claims.device, None).await.unwrap();
    answers(world, session, 403).await;
    world.directory.lift(&session.claims.device).await.unwrap();
    answers(world, session, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_may_not_track_says_so_and_reads_at_the_interval() {
    let mut world = World::start_with("reread_every = \"1s\"").await;
    let session = world.session(200);
    restart_with(&mut world, &["-client|tracking"]).await;
    world.edge.ready().await;
    reads_without_following(&world, &session, "'client|tracking'").await;
    world.redis.command(&["ACL", "SETUSER", "default", "+client|tracking"]).await;
    is(&world, "directory", "ok").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_is_refused_resp3_says_so_and_reads_at_the_interval() {
    let mut world = World::start_with("reread_every = \"1s\"").await;
    let session = world.session(200);
    let issuer = world.directory.endorsement(Db::Access, &world.authd.public_key()).await.unwrap().unwrap();
    world.redis.stop();
    world.redis.start_again_with(&["--rename-command", "HELLO", ""]).await;
    world.hsm.publish(&world.directory).await;
    let day = Duration::from_hours(24);
    world.directory.publish(Db::Access, &world.authd.public_key(), &issuer, day).await.unwrap();
    world.begin_epoch(100, &[]).await;
    restart_with(&mut world, &["+@all"]).await;
    world.edge.ready().await;
    reads_without_following(&world, &session, "HELLO").await;
}

/// Whichever set cannot be read: nobody is admitted at a first start, and it is named. Once it can be read, all is well.
#[tokio::test(flavor = "multi_thread")]
async fn a_set_that_cannot_be_read_is_named_and_nobody_admitted() {
    let mut world = World::start().await;
    let session = world.session(200);
    let all = ["+select|1", "+select|3", "+select|4", "+select|5", "+select|6", "+select|7"];
    let but = |left_out: &str| {
        let rest = all.into_iter().filter(|right| !right.ends_with(left_out));
        ["-select"].into_iter().chain(rest).collect::<Vec<_>>()
    };
    let cases = [
        ("directory revocations", but("3")),
        ("directory chain", but("4")),
        ("directory chain", but("5")),
        ("directory denial feed", but("6")),
        ("directory issuers", vec!["resetkeys", "~E*", "~ack:*", "~batch:*", "~chunk:*", "~snapshot"]),
    ];
    for (name, rights) in cases {
        restart_with(&mut world, &rights).await;
        let seen = async || {
            let page: Value = serde_json::from_str(&world.try_daemon_page("readyz?verbose").await?).unwrap();
            let found = page["dependencies"].as_array()?.iter().find(|one| one["name"] == name)?.clone();
            (found["state"] == "lost").then_some(found)
        };
        let found = until(&format!("{name} to be lost with {rights:?}"), seen).await;
        assert!(found["since"].is_string() && found["because"].is_string(), "{found}");
        let answer = world.ask(&session).await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "BA603"), "{name}");
        assert!(answer.body.contains(name), "{}", answer.body);
        let metrics = world.metrics().await;
        let down = format!("verifier_dependency_up{{dependency=\"{name}\"}} 0");
        assert!(metrics.contains(&down), "{metrics}");
        assert!(world.edge.log().contains(&format!("dependency=\"{name}\"")), "{}", world.edge.log());
        assert!(!world.edge.said("READY=1"));
        world.redis.command(&["ACL", "SETUSER", "default", "+@all", "~*"]).await;
        world.edge.ready().await;
        assert_eq!(world.ask(&session).await.status, 200, "{name}");
    }
}

/// A set that can be read no longer while the edge serves is named; sessions go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_set_that_can_be_read_no_longer_is_named() {
    let world = World::start_with("reread_every = \"1s\"").await;
    world.hsm.tell();
    let session = world.session(200);
    for (right, name) in [("scan", "directory revocations"), ("getrange", "directory denial feed")] {
        world.redis.command(&["ACL", "SETUSER", "default", &format!("-{right}")]).await;
        let because = is(&world, name, "lost").await;
        assert!(because.contains("NoPerm"), "{because}");
        assert_eq!(world.ask(&session).await.status, 200);
        world.redis.command(&["ACL", "SETUSER", "default", &format!("+{right}")]).await;
        is(&world, name, "ok").await;
    }
}
