//! An edge whose dependencies go away: what it says of it, and what it goes on doing.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::until;
use crate::support::world::World;

/// Within two seconds, and what a busy machine may add.
const SEEN: Duration = Duration::from_secs(5);

async fn page(world: &World) -> Value {
    serde_json::from_str(&world.daemon_page("readyz?verbose").await).unwrap()
}

fn dependency<'a>(page: &'a Value, name: &str) -> &'a Value {
    page["dependencies"].as_array().unwrap().iter().find(|one| one["name"] == name).unwrap()
}

/// Waits until one is in that state, and says since when.
async fn is_seen(world: &World, name: &str, state: &str) -> String {
    let started = Instant::now();
    let since = until(&format!("{name} to be {state}"), async || {
        let page = page(world).await;
        let one = dependency(&page, name);
        (one["state"] == state && page["ready"] == (state == "ok")).then(|| one["since"].to_string())
    })
    .await;
    assert!(started.elapsed() < SEEN, "{name} {state}: {:?}", started.elapsed());
    since
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_names_what_is_lost_and_what_is_back_with_one_line_each() {
    let mut world = World::start().await;
    world.hsm.tell();
    until("all to be there", async || (page(&world).await["ready"] == true).then_some(())).await;
    let session = world.session(200);
    assert_eq!(world.ask(&session).await.status, 200);

    world.redis.stop();
    let since = is_seen(&world, "directory", "lost").await;
    let seen = page(&world).await;
    assert!((10 * 3_600..=11 * 3_600).contains(&seen["budget"]["secondsLeft"].as_u64().unwrap()), "{seen}");
    assert_eq!((&seen["serving"], &seen["budget"]["endsBy"]), (&true.into(), &"head".into()), "{seen}");
    assert_eq!(world.ask(&session).await.status, 200, "sessions go on");
    until("the service manager to be told", async || {
        let told =
            format!("edge test: serving in an outage; directory: lost since {}", since.trim_matches('"'));
        world.edge.said_with(&told).then_some(())
    })
    .await;
    world.redis.start_again().await;
    is_seen(&world, "directory", "ok").await;

    world.app.stop().await;
    is_seen(&world, "app", "lost").await;
    world.restart_app();
    is_seen(&world, "app", "ok").await;

    world.hsm.stop().await;
    is_seen(&world, "hsmd", "lost").await;
    let log = world.edge.log();
    for (name, lost, back) in [("directory", 1, 1), ("app", 1, 1), ("hsmd", 1, 0)] {
        let lines = |what: &str| {
            let of = |line: &&str| line.contains(&format!("dependency=\"{name}\"")) && line.contains(what);
            log.lines().filter(of).count()
        };
        assert!(lines("a dependency is lost") >= lost, "{name}: {log}");
        // hsmd was not asked to tell anything before.
        let most = if name == "hsmd" { 2 } else { lost };
        assert!(
            lines("a dependency is lost") <= most && lines("a dependency is back") >= back,
            "{name}: {log}"
        );
    }
}

/// A directory that hangs is as good as gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_hangs_is_seen_to_be_lost() {
    let world = World::start().await;
    world.hsm.tell();
    until("all to be there", async || (page(&world).await["ready"] == true).then_some(())).await;
    world.redis.hang(true);
    is_seen(&world, "directory", "lost").await;
    world.redis.hang(false);
    is_seen(&world, "directory", "ok").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_in_an_outage_answers_and_says_what_it_waits_for() {
    let mut world = World::start().await;
    let session = world.session(200);
    world.edge.terminate();
    assert!(world.edge.ended().await.success());
    world.forget_state();
    world.redis.stop();
    world.restart();
    let answer = until("an answer", async || world.try_ask(&session).await).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "BA603"));
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    let waits_for = body["error"]["context"]["waitsFor"].as_str().unwrap();
    assert!(waits_for.contains("directory"), "{waits_for}");
    until("the reason", async || {
        let page = page(&world).await;
        let is_lost = dependency(&page, "directory")["state"] == "lost";
        (is_lost && page["serving"] == false && page["ready"] == false).then_some(())
    })
    .await;
    until("more time to be asked for", async || {
        world.edge.said("EXTEND_TIMEOUT_USEC=120000000").then_some(())
    })
    .await;

    world.redis.start_again().await;
    world.hsm.publish(&world.directory).await;
    world.publish_issuer(100).await;
    world.edge.ready().await;
    assert_eq!(world.ask(&session).await.status, 200);
}
