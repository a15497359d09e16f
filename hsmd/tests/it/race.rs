//! Two hsmd on one ledger and one token, racing, with a storm of endorsements alongside: one chain, clear
//! losers, and no endorsement that bears another generation's name.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use keychain::endorsement::Purpose;

use crate::faults;
use crate::support::{
    daemon::request,
    world::{Database, Verifier, World, service_key, sign_request},
};

/// How many rotations are won between the two: 1,000 in the full form (see `faults::matrix`), on a machine that
/// does nothing else. SoftHSM 2.6.1 now and then loses a new key's name when two processes use one token and
/// the machine is busy, and a chain that has committed to that key cannot go on.
fn rotations() -> usize {
    if faults::everything() { 1000 } else { 20 }
}

/// Threads that have keys endorsed, at each hsmd.
const STORMS: u8 = 2;

#[test]
fn two_hsmd_make_one_chain_and_every_endorsement_names_its_signer() {
    let world = World::new(Database::Postgres);
    let mut first = world.start();
    let other = World::beside(&world);
    let mut second = other.start();
    let (wanted, won) = (rotations(), AtomicUsize::new(0));
    let (wanted, won) = (&wanted, &won);
    let start = Instant::now();
    let racing = || won.load(Ordering::Relaxed) < *wanted;
    let (lost, endorsed) = std::thread::scope(|scope| {
        let worlds = [&world, &other];
        let racers = worlds.map(|world| scope.spawn(move || race(world, won, &racing)));
        let storms: Vec<_> = worlds
            .into_iter()
            .flat_map(|world| (1..=STORMS).map(move |number| (world, number)))
            .map(|(world, number)| scope.spawn(move || storm(world, number, &racing)))
            .collect();
        let lost: usize = racers.into_iter().map(|racer| racer.join().unwrap()).sum();
        let endorsed: Vec<_> = storms.into_iter().flat_map(|storm| storm.join().unwrap()).collect();
        (lost, endorsed)
    });
    let (won, took) = (won.load(Ordering::Relaxed), start.elapsed());
    first.stop();
    second.stop();
    let _hsmd = world.start();
    let chain = world.chain();
    assert_eq!(chain.len(), won + 1, "one chain, of what was answered and nothing else");
    assert!(lost > 0, "nobody lost: it was no race");
    assert_eq!(world.softhsm.objects(), 4);

    let verifier = Verifier::new(&chain);
    let signers: BTreeSet<_> = endorsed
        .iter()
        .map(|(number, text)| verifier.verify(text, Purpose::Response, &service_key(*number), "edge:demo"))
        .collect();
    println!(
        "{won} rotations won and {lost} lost in {:.1} s; {} endorsements by {} generations, all of them verify",
        took.as_secs_f64(),
        endorsed.len(),
        signers.len()
    );
    assert!(endorsed.len() > won && signers.len() > wanted / 10, "{} {}", endorsed.len(), signers.len());
}

/// Rotates whatever is current, again and again; how often another was first.
fn race(world: &World, won: &AtomicUsize, racing: &(impl Fn() -> bool + Sync)) -> usize {
    let mut lost = 0;
    while racing() {
        let answer = request(&world.socket("admin"), "POST", "/rotate", "{}");
        match (answer.status, answer.body.contains("BA602")) {
            (200, _) => drop(won.fetch_add(1, Ordering::Relaxed)),
            (409, true) => lost += 1,
            _ => panic!("{answer:?}: {}", troubles(world)),
        }
    }
    lost
}

/// The last words of an hsmd's log.
fn troubles(world: &World) -> String {
    let log = std::fs::read_to_string(world.path().join("hsmd.log")).unwrap();
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

fn storm(world: &World, number: u8, racing: &(impl Fn() -> bool + Sync)) -> Vec<(u8, String)> {
    let mut endorsed = Vec::new();
    while racing() {
        let body = sign_request(Purpose::Response, service_key(number), Duration::from_mins(5));
        let answer = request(&world.socket("edge"), "POST", "/sign", &body);
        assert_eq!(answer.status, 200, "{}", troubles(world));
        endorsed.push((number, answer.body));
    }
    endorsed
}
