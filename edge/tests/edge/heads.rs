//! What the HSM's heads deny and revoke, at an edge that runs.

use std::time::{Duration, Instant};

use keychain::access::Response;
use keychain::directory::Db;
use keychain::endorsement::Endorsement;
use keychain::statement::Entries;
use keychain::{Digest, PublicKey, Timestamp};
use redis::AsyncCommands as _;

use crate::support::fixture::{Hsm, Session, denying, key, revoking, revoking_service};
use crate::support::hsm::publish_head;
use crate::support::until;
use crate::support::world::{World, ago};

fn soon() -> Timestamp {
    crate::support::clock::now().plus(Duration::from_hours(1))
}

async fn admitted(world: &World, session: &Session) {
    until("the session to be admitted", async || (world.ask(session).await.status == 200).then_some(()))
        .await;
}

/// Waits for that refusal. Until then the request is admitted, or the edge has no key of its own.
async fn refused(world: &World, session: &Session, code: &str) {
    until("the head to bite", async || {
        let answer = world.ask(session).await;
        let other = answer.status == 200 || answer.code() == "BA603";
        assert!(other || answer.code() == code, "{}", answer.body);
        (!other).then_some(())
    })
    .await;
}

/// The key that signs the edge's answers now.
async fn own_key(world: &World, session: &Session) -> PublicKey {
    let answer = until("an answer", async || {
        let answer = world.ask(session).await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    Response::parse(answer.body.as_bytes()).unwrap().server_identity
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_head_lists_is_refused_at_once() {
    let mut world = World::start().await;
    let mut listed = denying(world.hsm.hsm.lock().unwrap().prefix());
    let session = world.session(200);
    world.hsm.rotate(&world.directory, ago(1), false).await;
    admitted(&world, &session).await;
    let stated = Instant::now();
    world.hsm.state(&world.directory, &listed).await;
    refused(&world, &session, "BA207").await;
    assert!(stated.elapsed() < Duration::from_secs(5), "{:?}", stated.elapsed());

    world.authd = world.publish_issuer(101).await;
    let session = world.session(200);
    admitted(&world, &session).await;
    listed.join(&revoking(&world.authd, soon()));
    world.hsm.state(&world.directory, &listed).await;
    refused(&world, &session, "BA304").await;

    world.authd = world.publish_issuer(102).await;
    let session = world.session(200);
    admitted(&world, &session).await;
    let text = world.directory.endorsement(Db::Access, &world.authd.public_key()).await.unwrap().unwrap();
    let number = Endorsement::parse(&text).unwrap().number.unwrap();
    listed.join(&revoking_service("authd", number, soon()));
    world.hsm.state(&world.directory, &listed).await;
    refused(&world, &session, "BA304").await;

    world.authd = world.publish_issuer(103).await;
    admitted(&world, &world.session(200)).await;
}

/// The edge's own key, revoked: its entry is gone for good, also after the directory lost everything, and there is a
/// new key.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_is_replaced_and_not_put_back() {
    let world = World::start().await;
    let session = world.session(200);
    let old = own_key(&world, &session).await;
    let mut revoked = Entries::default();
    revoked.keys.insert(old.name(), soon());
    world.hsm.state(&world.directory, &revoked).await;
    world.withdraw(Db::Response, old).await;
    let new = until("a new key", async || {
        let new = own_key(&world, &session).await;
        (new != old).then_some(new)
    })
    .await;
    let published = async |key| world.directory.endorsement(Db::Response, key).await.unwrap();
    assert_eq!(published(&old).await, None);
    world.redis.flush().await;
    until("the new key to be put back", async || published(&new).await).await;
    assert_eq!(published(&old).await, None);
}

/// Whatever stands among the heads, the one that counts is found.
#[tokio::test(flavor = "multi_thread")]
async fn junk_among_the_heads_hides_nothing() {
    let mut world = World::start().await;
    let session = world.session(200);
    let (stranger, own) = {
        let hsm = world.hsm.hsm.lock().unwrap();
        let stranger = Hsm::new(50, ago(3_600)).head(1, &revoking(&world.authd, soon()), ago(1));
        let own = hsm.head(2, &revoking(&world.authd, soon()), ago(1));
        (stranger, own)
    };
    let forged = own.replace("\"number\":2", "\"number\":9");
    let mut heads = world.redis.database(5).await;
    for (place, junk) in ["junk", &"y".repeat(100_000), "{}", &stranger, &forged].into_iter().enumerate() {
        heads.set::<_, _, ()>(Digest::of(format!("{place}")).to_string(), junk).await.unwrap();
    }
    heads.lpush::<_, _, ()>(Digest::of("another type").to_string(), "x").await.unwrap();
    world.edge.terminate();
    assert!(world.edge.ended().await.success());
    world.restart();
    world.edge.ready().await;
    admitted(&world, &session).await;
    let metrics = world.metrics().await;
    for counted in ["{code=\"BA101\"} 2", "{code=\"BA201\"} 1"] {
        assert!(metrics.contains(&format!("verifier_heads_refused_total{counted}")), "{metrics}");
    }
    publish_head(&world.directory, &own).await;
    refused(&world, &session, "BA304").await;
}

/// A later head that lacks a denial, and a second body of one number: both are reported, and everything goes on
/// counting.
#[tokio::test(flavor = "multi_thread")]
async fn a_denial_is_never_lost_to_another_head() {
    let mut world = World::start().await;
    let first = world.hsm.hsm.lock().unwrap().prefix();
    let of_first = world.session(200);
    world.hsm.rotate(&world.directory, ago(1), false).await;
    world.authd = world.publish_issuer(101).await;
    let of_second = world.session(200);
    world.hsm.state(&world.directory, &denying(first)).await;
    refused(&world, &of_first, "BA207").await;
    admitted(&world, &of_second).await;

    world.hsm.state(&world.directory, &Entries::default()).await;
    let counted = async |line: &str| {
        until(line, async || world.metrics().await.contains(line).then_some(())).await;
    };
    counted("verifier_heads_irregular_total{kind=\"lost\"} 1").await;
    refused(&world, &of_first, "BA207").await;

    let other = world.hsm.hsm.lock().unwrap().head(3, &revoking(&world.authd, soon()), ago(1));
    publish_head(&world.directory, &other).await;
    counted("verifier_heads_irregular_total{kind=\"theft\"} 1").await;
    refused(&world, &of_second, "BA304").await;
    refused(&world, &of_first, "BA207").await;
    world.authd = key(102);
    world.publish_issuer(102).await;
    admitted(&world, &world.session(200)).await;
}

/// A head may have shown at most so long ago that nothing newer exists. Half of that is told, all of it refused; with
/// the next head everything is well.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_recent_head_nothing_is_admitted() {
    let mut world = World::start_with("head_max_age = \"2h\"").await;
    let session = world.session(200);
    admitted(&world, &session).await;
    world.edge.terminate();
    assert!(world.edge.ended().await.success());
    world.forget_state();
    let aged = |number, minutes: u64| {
        world.hsm.hsm.lock().unwrap().head(number, &Entries::default(), ago(minutes * 60))
    };
    let (stale, late, fresh) = (aged(2, 121), aged(3, 61), aged(4, 1));
    publish_head(&world.directory, &stale).await;
    world.restart();
    world.edge.ready().await;
    let answer = world.ask(&session).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "BA607"));
    let ready = async || world.daemon_page("readyz").await;
    let health = ready().await;
    assert!(health.starts_with("not ready") && health.contains("head_seconds_left: 0\n"), "{health}");
    until("the log to say so", async || world.edge.log().contains("refusing with BA607").then_some(())).await;

    publish_head(&world.directory, &late).await;
    admitted(&world, &session).await;
    until("the page to say so", async || ready().await.contains("head_seconds_left: 35").then_some(())).await;
    until("the log to say so", async || world.edge.log().contains("for half of").then_some(())).await;
    let metrics = world.metrics().await;
    assert!(metrics.contains("verifier_head_max_age_seconds 7200"), "{metrics}");

    publish_head(&world.directory, &fresh).await;
    until("a fresh head", async || ready().await.contains("head: ok").then_some(())).await;
    until("the log to say so", async || world.edge.log().contains("shows again").then_some(())).await;
}

/// A head that lacks what an earlier one lists shows nothing fresh. One that lists it again does.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_lost_an_entry_is_no_proof_of_freshness() {
    let mut world = World::start_with("head_max_age = \"2h\"").await;
    world.edge.terminate();
    assert!(world.edge.ended().await.success());
    world.forget_state();
    let listed = revoking(&key(150), soon());
    let head = |number, minutes: u64, entries: &Entries| {
        world.hsm.hsm.lock().unwrap().head(number, entries, ago(minutes * 60))
    };
    let (first, lacking, whole) =
        (head(2, 61, &listed), head(3, 2, &Entries::default()), head(4, 1, &listed));
    publish_head(&world.directory, &first).await;
    world.restart();
    world.edge.ready().await;
    publish_head(&world.directory, &lacking).await;
    let reported = "verifier_heads_irregular_total{kind=\"lost\"} 1";
    until(reported, async || world.metrics().await.contains(reported).then_some(())).await;
    let left = async |seconds: &str| world.daemon_page("readyz").await.contains(seconds);
    assert!(left("head_seconds_left: 35").await, "{}", world.daemon_page("readyz").await);
    publish_head(&world.directory, &whole).await;
    until("a fresh head", async || left("head_seconds_left: 71").await.then_some(())).await;
}

/// A directory that is rolled back while the edge is away: what was denied before goes on being denied.
#[tokio::test(flavor = "multi_thread")]
async fn a_denial_outlives_a_restart_beside_a_directory_that_was_rolled_back() {
    let mut world = World::start().await;
    let session = world.session(200);
    let older = world.hsm.hsm.lock().unwrap().newest_head().to_owned();
    world.hsm.state(&world.directory, &revoking(&world.authd, soon())).await;
    refused(&world, &session, "BA304").await;
    let key = world.authd.public_key().to_string();
    until("the head to be on disk", async || world.remembered().contains(&key).then_some(())).await;
    world.edge.terminate();
    assert!(world.edge.ended().await.success());
    publish_head(&world.directory, &older).await;
    world.restart();
    world.edge.ready().await;
    // The key was revoked before it could be learnt.
    refused(&world, &session, "BA206").await;
    assert!(world.remembered().contains(&key), "and goes on being remembered");
}

/// A disk that hangs in the midst of a write: denials go on, and what could not be written is written later.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_delays_no_denial() {
    let mut world = World::start().await;
    until("what is known to be on disk", async || world.remembered().contains("chain-head").then_some(()))
        .await;
    // Whoever opens a pipe to write to it waits for its reader.
    let pipe = world.hang_the_disk();
    let mut listed = Entries::default();
    for number in [101, 102] {
        world.authd = world.publish_issuer(number).await;
        let session = world.session(200);
        admitted(&world, &session).await;
        listed.join(&revoking(&world.authd, soon()));
        let stated = Instant::now();
        world.hsm.state(&world.directory, &listed).await;
        refused(&world, &session, "BA304").await;
        assert!(stated.elapsed() < Duration::from_secs(5), "{:?}", stated.elapsed());
    }
    assert!(world.metrics().await.contains("verifier_memory_behind 1"), "{}", world.metrics().await);
    assert!(!world.remembered().contains(&world.authd.public_key().to_string()));
    pipe.release();
    until("the disk to catch up", async || {
        let is_kept = world.remembered().contains(&world.authd.public_key().to_string());
        (is_kept && world.metrics().await.contains("verifier_memory_behind 0")).then_some(())
    })
    .await;
}

/// A directory that withholds, or is gone, hides nothing from an edge that may ask hsmd.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_directory_withholds_hsmd_tells() {
    let mut world = World::start().await;
    let session = world.session(200);
    admitted(&world, &session).await;
    let health = world.daemon_page("readyz").await;
    assert!(health.contains("hsmd: lost since 2"), "{health}");
    world.hsm.tell();
    let up = "verifier_source_up{source=\"hsmd\"} 1";
    until("hsmd to be followed", async || world.metrics().await.contains(up).then_some(())).await;
    let health = world.daemon_page("readyz").await;
    assert!(health.contains("hsmd: ok"), "{health}");

    let revoked = revoking(&world.authd, soon());
    world.hsm.hsm.lock().unwrap().state(&revoked, ago(1));
    refused(&world, &session, "BA304").await;

    world.authd = world.publish_issuer(101).await;
    let session = world.session(200);
    admitted(&world, &session).await;
    world.redis.stop();
    until("the loss to be seen", async || {
        world.daemon_page("readyz").await.contains("directory: lost since 2").then_some(())
    })
    .await;
    admitted(&world, &session).await;
    let mut both = revoked;
    both.join(&revoking(&world.authd, soon()));
    world.hsm.hsm.lock().unwrap().state(&both, ago(1));
    refused(&world, &session, "BA304").await;
}
