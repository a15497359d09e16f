//! What an edge makes of its state: damaged, full, hanging, or not written when it was killed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use keychain::Timestamp;
use keychain::feed::Position;
use tests::damage::{Damage, befall, cut, edited, endless, foreign, invented};

use crate::acknowledgements::{acknowledged, acknowledgement, newest};
use crate::keysd::Keysd;
use crate::support::clock;
use crate::support::feed::banned;
use crate::support::fixture::{Session, revoking};
use crate::support::until;
use crate::support::world::World;

const TRUST: &str = "trust.json";
const CHAIN: &str = "chain.json";
const KEYS: &str = "keys.json";
const POSITION: &str = "denials-position.json";
const DENIALS: &str = "denials.json";

fn soon() -> Timestamp {
    clock::now().plus(Duration::from_hours(1))
}

async fn answers(world: &World, session: &Session, status: u16) {
    let what = format!("the answer {status}");
    until(&what, async || (world.ask(session).await.status == status).then_some(())).await;
}

/// What a start on a damaged state comes to.
#[derive(Debug)]
enum Start {
    /// It ends with that status, and names the file.
    Ends(i32),
    /// It serves, and denies whom it denied.
    Serves,
    /// It lets nobody in.
    Waits,
}

#[tokio::test(flavor = "multi_thread")]
async fn each_damage_of_the_state_has_its_outcome() {
    let mut world = World::start().await;
    let (session, gone) = (world.session(200), world.session(300));
    let position = world.begin_epoch(100, &[banned(gone.claims.identity, true)]).await;
    answers(&world, &gone, 403).await;
    answers(&world, &session, 200).await;
    let written = format!("\"epoch\":{}", position.epoch);
    let is_kept = |world: &World| {
        let place = fs::read_to_string(world.state().join(POSITION)).unwrap_or_default();
        place.contains(&written) && world.kept_denials().contains(&written) && !world.remembered().is_empty()
    };
    until("everything to be on disk", async || is_kept(&world).then_some(())).await;
    world.edge.terminate();
    assert!(world.edge.ended().await.success());
    let good: Vec<_> = [TRUST, POSITION, DENIALS]
        .map(|name| (name, fs::read_to_string(world.state().join(name)).unwrap()))
        .into();
    let cases: [(&str, &str, Option<Damage>, Start); 14] = [
        (TRUST, "missing", None, Start::Serves),
        (TRUST, "cut", Some(cut), Start::Ends(78)),
        (TRUST, "edited", Some(edited), Start::Ends(78)),
        (TRUST, "endless", Some(endless), Start::Ends(74)),
        (TRUST, "foreign", Some(foreign), Start::Ends(78)),
        (TRUST, "invented", Some(invented), Start::Waits),
        (POSITION, "missing", None, Start::Serves),
        (POSITION, "cut", Some(cut), Start::Ends(78)),
        (POSITION, "edited", Some(edited), Start::Ends(78)),
        (POSITION, "foreign", Some(foreign), Start::Ends(78)),
        (DENIALS, "missing", None, Start::Serves),
        (DENIALS, "cut", Some(cut), Start::Serves),
        (DENIALS, "edited", Some(edited), Start::Serves),
        (DENIALS, "foreign", Some(foreign), Start::Serves),
    ];
    for (name, how, damage, start) in cases {
        println!("{name} {how}: {start:?}");
        for (name, text) in &good {
            fs::write(world.state().join(name), text).unwrap();
        }
        befall(&world.state().join(name), damage);
        world.restart();
        match start {
            Start::Ends(status) => {
                assert_eq!(world.edge.ended().await.code(), Some(status), "{name} {how}");
                let log = world.edge.log();
                assert!(log.contains(name), "{name} {how}: {log}");
                continue;
            }
            Start::Serves => {
                world.edge.ready().await;
                assert_eq!(world.ask(&gone).await.code(), "BA304", "{name} {how}");
                answers(&world, &session, 200).await;
            }
            Start::Waits => {
                until("the chain to be known", async || {
                    world.edge.log().contains("the chain grew").then_some(())
                })
                .await;
                let answer = until("an answer", async || world.try_ask(&session).await).await;
                assert_eq!(answer.status, 503, "{name} {how}: {}", answer.body);
                assert!(!world.edge.said("READY=1"), "{}", world.edge.log());
            }
        }
        world.edge.terminate();
        world.edge.ended().await;
    }
}

/// keysd's state: what keeps it from being rolled back is guarded, and what it would start in an outage with is read again
/// from its sources.
#[tokio::test(flavor = "multi_thread")]
async fn each_damage_of_keysds_state_has_its_outcome() {
    let mut keysd = Keysd::start().await;
    let (key, text) = keysd.publish_key(300).await;
    let state = keysd.state();
    let read = |name: &str| fs::read_to_string(state.join(name)).unwrap_or_default();
    until("everything to be on disk", async || {
        let has = |name: &str, part: &str| read(name).contains(part);
        (has(KEYS, &key) && has(CHAIN, "signature") && has(TRUST, "chain-head")).then_some(())
    })
    .await;
    keysd.stop().await;
    let good = [TRUST, CHAIN, KEYS].map(|name| (name, read(name)));
    let guarded: [(&str, Option<Damage>, Start); 6] = [
        ("missing", None, Start::Serves),
        ("cut", Some(cut), Start::Ends(78)),
        ("edited", Some(edited), Start::Ends(78)),
        ("endless", Some(endless), Start::Ends(74)),
        ("foreign", Some(foreign), Start::Ends(78)),
        ("invented", Some(invented), Start::Waits),
    ];
    let read_again = [CHAIN, KEYS].into_iter().flat_map(|name| {
        let damages: [(&str, Option<Damage>); 4] =
            [("missing", None), ("cut", Some(cut)), ("edited", Some(edited)), ("endless", Some(endless))];
        damages.map(|(how, damage)| (name, how, damage, Start::Serves))
    });
    let guarded = guarded.map(|(how, damage, start)| (TRUST, how, damage, start));
    for (name, how, damage, start) in guarded.into_iter().chain(read_again) {
        println!("{name} {how}: {start:?}");
        for (name, text) in &good {
            fs::write(state.join(name), text).unwrap();
        }
        befall(&state.join(name), damage);
        let mut daemon = keysd.start_another();
        match start {
            Start::Ends(status) => {
                assert_eq!(daemon.ended().await.code(), Some(status), "{name} {how}");
                assert!(daemon.log().contains(name), "{name} {how}: {}", daemon.log());
                continue;
            }
            Start::Serves => {
                daemon.ready().await;
                assert_eq!(keysd.get(&format!("/keys/{key}")).await, (200, text.clone()), "{name} {how}");
                let is_warned_of = daemon.log().contains("cannot be read; going on without it");
                assert_eq!(is_warned_of, damage.is_some(), "{name} {how}: {}", daemon.log());
            }
            Start::Waits => {
                let what = "the chain to be seen to be rolled back";
                until(what, async || daemon.log().contains("contested or rolled back").then_some(())).await;
                // It tells the chain, which proves itself, and no keys.
                let (status, body) = keysd.get("/keys").await;
                assert!(status == 503 && body.contains("BA607"), "{name} {how}: {body}");
                assert_eq!(keysd.get(&format!("/keys/{key}")).await.0, 503);
                assert!(keysd.get("/health").await.1.contains("\"unhealthy\""));
            }
        }
        daemon.terminate();
        daemon.ended().await;
    }
}

/// Killed between what it received and the disk: it lets nobody in before it has heard it again.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_heard_and_not_stored_is_heard_again() {
    let mut world = World::start().await;
    let (session, gone) = (world.session(200), world.session(300));
    answers(&world, &session, 200).await;
    let position = world.begin_epoch(100, &[]).await;
    let key = world.authd.public_key().to_string();
    until("what is known to be on disk", async || world.remembered().contains("chain-head").then_some(()))
        .await;
    let epoch = format!("\"epoch\":{}", position.epoch);
    until("the feed to be on disk", async || world.kept_denials().contains(&epoch).then_some(())).await;
    let pipe = world.hang_the_disk();
    let feed = hang(world.state().join("denials-position.new"));
    let teller = world.teller();
    teller.publish_batch(&world.directory, position.next(), &[banned(gone.claims.identity, true)]).await;
    answers(&world, &gone, 403).await;
    world.hsm.state(&world.directory, &revoking(&world.authd, soon())).await;
    answers(&world, &session, 403).await;
    world.edge.kill();
    assert!(!world.remembered().contains(&key), "it was not stored");
    let told = format!("\"position\":{}", position.next().number);
    assert!(!world.kept_denials().contains(&told), "it was not stored");
    pipe.release();
    fs::remove_file(feed).unwrap();

    world.restart();
    world.edge.ready().await;
    // The key is known from before; that it was revoked was heard again.
    assert_eq!(world.ask(&session).await.code(), "BA304");
    world.authd = world.publish_issuer(101).await;
    assert_eq!(world.ask(&world.session(200)).await.status, 200);
    until("it to be stored", async || world.remembered().contains(&key).then_some(())).await;
}

/// No room: what was heard is in force, told in a metric, and written once there is room.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_delays_no_denial() {
    let world = World::start().await;
    let gone = world.session(300);
    answers(&world, &gone, 200).await;
    until("what is known to be on disk", async || world.remembered().contains("chain-head").then_some(()))
        .await;
    let full: Vec<_> = ["trust.new", "denials-position.new"].map(|name| world.state().join(name)).into();
    for path in &full {
        symlink("/dev/full", path).unwrap();
    }
    let position = Position { epoch: u64::try_from(clock::now().unix_millis()).unwrap(), number: 0 };
    let teller = world.teller();
    teller.publish_snapshot(&world.directory, position, &[banned(gone.claims.identity, true)]).await;
    answers(&world, &gone, 403).await;
    let session = world.session(200);
    answers(&world, &session, 200).await;
    world.hsm.state(&world.directory, &revoking(&world.authd, soon())).await;
    answers(&world, &session, 403).await;
    for metric in ["verifier_memory_behind 1", "verifier_denial_memory_behind 1"] {
        until(metric, async || world.metrics().await.contains(metric).then_some(())).await;
    }
    assert!(world.edge.log().contains("cannot keep what"), "{}", world.edge.log());
    // A crash would forget it: it is not acknowledged, which an operator sees.
    let told = acknowledgement(&world.directory, "main").await.head();
    assert!(told.number < newest(&world.hsm).number, "{told:?}");
    for path in &full {
        fs::remove_file(path).unwrap();
    }
    for metric in ["verifier_memory_behind 0", "verifier_denial_memory_behind 0"] {
        until(metric, async || world.metrics().await.contains(metric).then_some(())).await;
    }
    let key = world.authd.public_key().to_string();
    assert!(world.remembered().contains(&key), "{}", world.remembered());
    acknowledged(&world.directory, &world.hsm, "main").await;
}

/// A pipe without a reader: who opens it to write waits.
fn hang(path: PathBuf) -> PathBuf {
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}
