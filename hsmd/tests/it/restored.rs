//! A ledger restored from an old backup, and a copy of the whole host beside the original: named, and led back to work.

use std::time::Duration;

use keychain::{endorsement::Purpose, statement::Head};

use crate::{
    publisher::{Published, spawn},
    support::{
        daemon::request,
        eventually, in_parallel, listens,
        world::{Database, World, service_key, sign_request},
    },
};

/// hsm-publisher's reports come within half a minute while something is wrong.
const SOON: Duration = Duration::from_mins(1);

impl World {
    fn health(&self) -> serde_json::Value {
        let answer = request(&self.socket("admin"), "GET", "/health", "");
        serde_json::from_str(&answer.body).unwrap()
    }

    /// Whether answer and metrics say so.
    fn is_in(&self, state: &str) -> bool {
        let health = self.health();
        let metrics = request(&self.socket("metrics"), "GET", "/metrics", "").ok();
        let shown = match state {
            "ledger-restored" => health["problems"]["restored"].is_string(),
            "rival" => health["warnings"]["rival"].is_string(),
            _ => health["status"] == "healthy" && health["warnings"]["rival"].is_null(),
        };
        let gauge = format!("hsmd_chain_state{{state=\"{state}\"}} 1\n");
        shown && health["state"]["name"] == state && metrics.contains(&gauge)
    }

    fn enters(&self, state: &str) {
        eventually("the sockets", SOON, || {
            listens(&self.socket("admin")) && listens(&self.socket("metrics"))
        });
        let start = std::time::Instant::now();
        while !self.is_in(state) {
            assert!(start.elapsed() < SOON, "not {state}: {}", self.health());
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    fn admin(&self, path: &str, body: &str) -> crate::support::daemon::Answer {
        request(&self.socket("admin"), "POST", path, body)
    }

    fn sign(&self, number: u8) -> crate::support::daemon::Answer {
        let body = sign_request(Purpose::Response, service_key(number), Duration::from_mins(5));
        request(&self.socket("edge"), "POST", "/sign", &body)
    }

    fn newest_head(&self) -> Option<Head> {
        let answer = request(&self.socket("edge"), "GET", "/statements", "").ok();
        let head = answer.split_once("\"head\":").unwrap().1.strip_suffix('}').unwrap();
        Head::parse(head).ok()
    }

    /// What the ledger lacks, as an operator sees it.
    fn restored(&self) -> serde_json::Value {
        let shown = request(&self.socket("admin"), "GET", "/restored", "").ok();
        serde_json::from_str::<serde_json::Value>(&shown).unwrap()["restored"].clone()
    }
}

/// Tried: a backup from before a revocation and a denial. It was healthy, and the revoked key was endorsed again.
/// By the head that is kept beside the chain copy.
#[test]
fn a_restored_ledger_is_named_by_what_is_kept() {
    a_restored_ledger_is_named_and_takes_over_what_it_lacks(true);
}

/// By the head that is published: nothing is left of the disk.
#[test]
fn a_restored_ledger_is_named_by_what_is_published() {
    a_restored_ledger_is_named_and_takes_over_what_it_lacks(false);
}

fn a_restored_ledger_is_named_and_takes_over_what_it_lacks(has_copy: bool) {
    let published = Published::new();
    let world = &published.world;
    let mut hsmd = world.start();
    for _ in 0..2 {
        world.rotate("{}");
    }
    hsmd.stop();
    let backup = world.back_up_ledger();
    let mut hsmd = world.start();
    let _publisher = published.start();
    let key = service_key(1).to_string();
    world.admin("/revoke-keys", &format!("{{\"publicKeys\":[\"{key}\"]}}")).ok();
    let zero = world.chain()[0].id();
    world.admin("/taint", &format!("{{\"generationId\":\"{zero}\"}}")).ok();
    let stated = world.newest_head().unwrap();
    assert!(stated.entries().denied.contains(&zero));
    let is_published =
        || published.published_head(&stated.event_id()).is_some_and(|head| head == stated.text());
    eventually("the head in the directory", SOON, is_published);
    hsmd.stop();
    world.restore_ledger(Some(&backup));
    if !has_copy {
        std::fs::remove_dir_all(world.path().join("copy")).unwrap();
    }
    let mut hsmd = world.spawn();
    world.enters("ledger-restored");

    // Nothing is signed but a taint; reads go on.
    assert_eq!(world.sign(2).status, 503);
    assert_eq!(world.admin("/rotate", "{}").status, 503);
    assert_eq!(world.chain().len(), 3);
    let shown = world.restored();
    assert_eq!(shown["lacking"]["denied"][0], zero.to_string());
    assert_eq!(shown["lacking"]["revoked"][0]["publicKey"], key);

    // What was shown is taken over, and nothing else.
    // Also after another start.
    hsmd.kill();
    let mut hsmd = world.spawn();
    world.enters("ledger-restored");
    let other = keychain::Digest::of("other");
    let wrong = world.admin("/take-over", &format!("{{\"proof\":\"{other}\",\"take\":\"sound\"}}"));
    assert_eq!((wrong.status, wrong.code()), (409, "BA602"));
    let proof = shown["proof"].as_str().unwrap();
    world.admin("/take-over", &format!("{{\"proof\":\"{proof}\",\"take\":\"sound\"}}")).ok();
    world.enters("ready");
    assert_eq!((world.sign(1).status, world.sign(1).code()), (403, "BA304"));
    world.sign(2).ok();
    eventually("a head that lists it again", SOON, || {
        world.newest_head().is_some_and(|head| {
            head.entries().denied.contains(&zero) && head.entries().keys.contains_key(&service_key(1).name())
        })
    });
    assert!(world.restored().is_null());
    hsmd.stop();
}

/// Tried: a copy of the key VM beside the original forked the chain, and nothing said so.
#[test]
fn a_copy_beside_the_original_is_named_and_is_led_back_to_work() {
    let published = Published::new();
    let world = &published.world;
    let mut hsmd = world.start();
    world.rotate("{}");
    hsmd.stop();
    let copy = world.copy();
    Published::configure(&copy, published.redis());
    let mut hsmd = world.start();
    let mut publisher = published.start();
    let mut its_hsmd = copy.start();
    copy.rotate("{}");
    let mut its_publisher = spawn(&copy, &[]);
    its_publisher.ready().unwrap_or_else(|status| panic!("{status}: {}", its_publisher.log()));
    // The original reads it back when its publisher starts, or within a minute.
    publisher.stop();
    let mut publisher = published.start();
    world.enters("rival");
    assert_eq!(world.admin("/rotate", "{}").status, 503);
    world.sign(1).ok();
    assert_eq!(world.chain().len(), 2);

    its_publisher.stop();
    its_hsmd.stop();
    world.admin("/copy-stopped", "{}").ok();
    // The second rotation leaves the copy's event below the newest, where it changes nothing any more.
    world.rotate("{}");
    world.rotate("{}");
    publisher.stop();
    let _publisher = published.start();
    assert_eq!(world.chain().len(), 4);
    assert!(world.is_in("ready"), "{}", world.health());
    // The branch that did not survive is gone from the directory.
    let ours: Vec<_> = world.chain().iter().map(|event| event.id().to_string()).collect();
    eventually("the copy's event withdrawn", SOON, || {
        let mut held = published.event_names();
        held.sort();
        let mut ours = ours.clone();
        ours.sort();
        held == ours
    });
    hsmd.stop();
}

/// What a tainted generation listed a thief can have listed: its denials alone are taken over, unless an operator says so.
#[test]
fn after_a_taint_the_denials_alone_are_taken_over() {
    in_parallel(["sound", "all", "nothing"], |take| {
        let world = World::new(Database::Sqlite);
        let mut hsmd = world.start();
        for _ in 0..2 {
            world.rotate("{}");
        }
        hsmd.stop();
        let backup = world.back_up_ledger();
        let mut hsmd = world.start();
        let (key, zero) = (service_key(1).to_string(), world.chain()[0].id());
        world.admin("/revoke-keys", &format!("{{\"publicKeys\":[\"{key}\"]}}")).ok();
        world.admin("/taint", &format!("{{\"generationId\":\"{zero}\"}}")).ok();
        hsmd.stop();
        world.restore_ledger(Some(&backup));
        let mut hsmd = world.spawn();
        world.enters("ledger-restored");

        // A taint goes on, and ends nothing; nor does another start.
        let newest = world.chain().last().unwrap().id();
        world.admin("/taint", &format!("{{\"generationId\":\"{newest}\"}}")).ok();
        assert_eq!(world.chain().len(), 4);
        world.enters("ledger-restored");
        assert_eq!((world.sign(2).status, world.admin("/rotate", "{}").status), (503, 503));
        hsmd.kill();
        let mut hsmd = world.spawn();
        world.enters("ledger-restored");
        let shown = world.restored();
        assert_eq!(shown["eventId"], newest.to_string(), "the head of the generation that was left");
        let proof = shown["proof"].as_str().unwrap();
        let taken = world.admin("/take-over", &format!("{{\"proof\":\"{proof}\",\"take\":\"{take}\"}}")).ok();
        assert_eq!(taken.contains(&key), take == "all", "{taken}");
        assert_eq!(taken.contains(&zero.to_string()), take != "nothing", "{taken}");
        assert_eq!(world.report(&[]), "agrees");
        world.enters("ready");
        eventually("a head of the newest event", SOON, || {
            let head = world.newest_head();
            head.is_some_and(|head| {
                let entries = head.entries();
                (entries.denied.contains(&zero), entries.keys.contains_key(&service_key(1).name()))
                    == (take != "nothing", take == "all")
            })
        });
        assert_eq!(world.sign(1).status, if take == "all" { 403 } else { 200 });
        world.rotate("{}");
        hsmd.stop();
    });
}
