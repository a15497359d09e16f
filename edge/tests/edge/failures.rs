//! What befalls the parts around an edge, and what it makes of it.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use keychain::access::Response;
use keychain::directory::Db;
use keychain::statement::Entries;
use keychain::{Digest, PublicKey, SigningKey};
use redis::AsyncCommands as _;

use crate::directory::is;
use crate::support::fixture::{Session, key};
use crate::support::until;
use crate::support::world::{INNER, World, ago};

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_bites_at_once_and_lifting_it_too() {
    let world = World::start().await;
    let session = world.session(200);
    assert_eq!(world.ask(&session).await.status, 200);
    for who in [session.claims.device, session.claims.identity] {
        let banned = Instant::now();
        world.directory.revoke(&who, None).await.unwrap();
        let answer = until("the ban to bite", async || {
            let answer = world.ask(&session).await;
            (answer.status != 200).then_some(answer)
        })
        .await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "BA304"));
        assert!(banned.elapsed() < Duration::from_secs(2), "{:?}", banned.elapsed());
        world.directory.lift(&who).await.unwrap();
        until("the ban to be lifted", async || (world.ask(&session).await.status == 200).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taint_ends_old_tokens_at_once_and_the_edge_heals_itself() {
    let mut world = World::start().await;
    let session = world.session(200);
    let before = world.ask(&session).await;
    let old = Response::parse(before.body.as_bytes()).unwrap().server_identity;
    let tainted = Instant::now();
    world.hsm.rotate(&world.directory, ago(1), true).await;
    let answer = until("the taint to bite", async || {
        let answer = world.ask(&session).await;
        (answer.status == 401).then_some(answer)
    })
    .await;
    assert_eq!(answer.code(), "BA207");
    world.authd = world.publish_issuer(101).await;
    let session = world.session(200);
    let nonce = world.nonce();
    let answer = until("the edge to have a new key", async || {
        let answer =
            world.post("/foo/bar", session.request(nonce, crate::support::clock::now(), INNER)).await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert!(tainted.elapsed() < Duration::from_secs(5), "{:?}", tainted.elapsed());
    world.verified(&answer, &nonce).await;
    assert_ne!(Response::parse(answer.body.as_bytes()).unwrap().server_identity, old);
}

/// The app has acted when the taint comes: its answer waits for the edge's next key.
#[tokio::test(flavor = "multi_thread")]
async fn a_taint_loses_no_answer_of_an_app_that_has_acted() {
    loses_no_answer(async |world, _own| world.hsm.rotate(&world.directory, ago(1), true).await).await;
}

/// The same when the edge's own key is revoked.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_loses_no_answer_of_an_app_that_has_acted() {
    loses_no_answer(async |world, own| {
        let mut revoked = Entries::default();
        revoked.keys.insert(own.name(), crate::support::clock::now().plus(Duration::from_hours(1)));
        world.hsm.state(&world.directory, &revoked).await;
    })
    .await;
}

/// An app holds its answer back while `kill` ends the key that the edge has.
async fn loses_no_answer(kill: impl AsyncFnOnce(&World, PublicKey)) {
    let world = World::start_patient().await;
    let session = world.session(200);
    let before = world.ask(&session).await;
    let own = Response::parse(before.body.as_bytes()).unwrap().server_identity;
    let nonce = world.nonce();
    let body = session.request(nonce, crate::support::clock::now(), INNER);
    world.app.asked();
    world.app.hold(true);
    world.hsm.held.store(true, Ordering::Relaxed);
    let meanwhile = async {
        until("the app to be asked", async || (!world.app.asked().is_empty()).then_some(())).await;
        kill(&world, own).await;
        until("the edge to look for a key", async || {
            world.edge.log().contains("no new key yet").then_some(())
        })
        .await;
        world.app.hold(false);
        // The answer is at the edge by now or soon; either way it waits for a key.
        until("the edge to look again", async || {
            (world.edge.log().matches("no new key yet").count() > 2).then_some(())
        })
        .await;
        world.hsm.held.store(false, Ordering::Relaxed);
    };
    let (answer, ()) = tokio::join!(world.post("/foo/bar", body), meanwhile);
    assert_eq!(answer.status, 200, "{}", answer.body);
    world.verified(&answer, &nonce).await;
}

/// Between a taint and the edge's next key, a request with a good token waits, before its app is asked; one with a token
/// of the tainted generation is told so at once.
#[tokio::test(flavor = "multi_thread")]
async fn between_a_taint_and_the_next_key_a_good_request_waits() {
    let mut world = World::start_patient().await;
    let session = world.session(200);
    assert_eq!(world.ask(&session).await.status, 200);
    world.hsm.held.store(true, Ordering::Relaxed);
    world.hsm.rotate(&world.directory, ago(1), true).await;
    // Not by asking: a request that was admitted just before could not be answered while the HSM is held.
    let grown = "the chain grew sequence=1";
    until("the taint to be known", async || world.edge.log().contains(grown).then_some(())).await;
    assert_eq!(world.ask(&session).await.code(), "BA207");
    world.authd = world.publish_issuer(101).await;
    world.app.asked();
    let meanwhile = async {
        assert!(world.app.asked().is_empty());
        world.hsm.held.store(false, Ordering::Relaxed);
    };
    let session = world.session(200);
    let (answer, ()) = tokio::join!(world.ask(&session), meanwhile);
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_endorsed_again_after_a_taint_is_known_at_once() {
    let world = World::start().await;
    let session = world.session(200);
    assert_eq!(world.ask(&session).await.status, 200);
    world.hsm.rotate(&world.directory, ago(1), true).await;
    until("the taint to bite", async || (world.ask(&session).await.status == 401).then_some(())).await;
    world.publish_issuer(100).await;
    until("the token to be good again", async || (world.ask(&session).await.status == 200).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_directory_stops_nobody_and_gets_its_key_back() {
    let world = World::start().await;
    let session = world.session(200);
    let before = world.ask(&session).await;
    let own = Response::parse(before.body.as_bytes()).unwrap().server_identity;
    world.directory.revoke(&Digest::of("banned"), None).await.unwrap();
    world.redis.flush().await;
    assert_eq!(world.ask(&session).await.status, 200);
    assert_eq!(world.ask(&world.session(300)).await.status, 200, "a token not seen before");
    until("the edge's key to be back", async || {
        world.directory.endorsement(Db::Response, &own).await.unwrap()
    })
    .await;
    let time_left: i64 = world.redis.database(1).await.ttl(own.to_string()).await.unwrap();
    assert!((12 * 3_600 - 60..=12 * 3_600 + 60).contains(&time_left), "{time_left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ban_outlives_the_loss_of_the_directory() {
    let world = World::start().await;
    let session = world.session(200);
    world.directory.revoke(&session.claims.identity, None).await.unwrap();
    until("the ban to bite", async || (world.ask(&session).await.status == 403).then_some(())).await;
    world.redis.flush().await;
    world.directory.revoke(&Digest::of("a later change, heard after the loss"), None).await.unwrap();
    until("the later change to be heard", async || {
        world.metrics().await.contains("edge_cache_entries{kind=\"revocation\"} 2").then_some(())
    })
    .await;
    assert_eq!(world.ask(&session).await.code(), "BA304");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_directory_and_hsm_sessions_go_on() {
    let mut world = World::start().await;
    let session = world.session(200);
    world.redis.stop();
    world.hsm.stop().await;
    assert_eq!(world.ask(&session).await.status, 200);
    assert_eq!(world.ask(&world.session(300)).await.status, 200, "a token not seen before");
    let unknown = Session::open(&key(198), 200, ago(1));
    let answer = world.ask(&unknown).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "BA603"), "cannot know is not denied");
    assert_eq!(answer.headers["retry-after"], "1");
    world.redis.start_again().await;
    world.hsm.publish(&world.directory).await;
    world.publish_issuer(198).await;
    until("the new issuer to be known", async || (world.ask(&unknown).await.status == 200).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_issuer_is_known_before_its_first_token_comes() {
    let mut world = World::start().await;
    for number in 101..110 {
        world.authd = world.publish_issuer(number).await;
        let answer = world.ask(&world.session(200)).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
}

/// U7, U9: whatever keys strangers name, the directory is read at most once a second.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_junk_issuers_causes_one_read_a_second() {
    let world = World::start().await;
    let session = world.session(200);
    assert_eq!(world.ask(&session).await.status, 200);
    let issuers: Vec<SigningKey> = (1_000..1_400).map(key).collect();
    let bodies: Vec<String> =
        issuers.iter().map(|issuer| world.request(&Session::open(issuer, 200, ago(1)), INNER)).collect();
    let (reads, started) = (world.redis.reads().await, Instant::now());
    let mut flood = tokio::task::JoinSet::new();
    for body in bodies {
        let request = world.client().post(crate::support::world::url("/foo/bar")).body(body);
        flood.spawn(async move { request.send().await.unwrap().status().as_u16() });
    }
    assert_eq!(world.ask(&session).await.status, 200, "the honest go on meanwhile");
    while let Some(status) = flood.join_next().await {
        assert!(matches!(status.unwrap(), 401 | 503));
    }
    // A reading of the one database is one SCAN and one value; the chain is read in full once a minute.
    let (reads, seconds) = (world.redis.reads().await - reads, started.elapsed().as_secs() + 2);
    assert!(reads <= 2 * seconds + 4, "{reads} reads in {seconds} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolled_back_chain_is_refused_after_a_restart_too() {
    let mut world = World::start().await;
    let session = world.session(200);
    world.hsm.rotate(&world.directory, ago(2), true).await;
    until("the taint to bite", async || (world.ask(&session).await.status == 401).then_some(())).await;
    let head = world.hsm.hsm.lock().unwrap().events()[1].event().id;
    until("it to be on disk", async || world.remembered().contains(&head.to_string()).then_some(())).await;
    world.edge.terminate();
    assert!(world.edge.ended().await.success());
    // Of the chain it has nothing but the highest event that it accepted.
    std::fs::remove_file(world.state().join("chain.json")).unwrap();
    world.directory.withdraw_event(&head).await.unwrap();
    world.restart();
    let because = is(&world, "chain", "lost").await;
    assert!(because.contains("contested or rolled back"), "{because}");
    assert!(!world.edge.said("READY=1"), "{}", world.edge.log());
    world.hsm.publish(&world.directory).await;
    world.edge.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn junk_in_the_directory_hides_nothing() {
    let mut world = World::start().await;
    let mut chain = world.redis.database(4).await;
    for (name, value) in [("E".repeat(44), "junk".to_owned()), ("x".to_owned(), "y".repeat(100_000))] {
        chain.set::<_, _, ()>(name, value).await.unwrap();
    }
    let mut issuers = world.redis.database(0).await;
    issuers.set::<_, _, ()>(key(500).public_key().to_string(), "junk").await.unwrap();
    issuers.lpush::<_, _, ()>(key(501).public_key().to_string(), "another type").await.unwrap();
    world.edge.terminate();
    assert!(world.edge.ended().await.success());
    world.restart();
    world.edge.ready().await;
    assert_eq!(world.ask(&world.session(200)).await.status, 200);
}
