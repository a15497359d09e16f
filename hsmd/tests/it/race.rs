//! Two hsmd on one ledger and one token: one writes, the other stands by and takes over when it dies in the midst of
//! rotations and endorsements. One chain, nothing that was answered is lost, and no endorsement bears another
//! generation's name.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use keychain::{Digest, chain::SignedEvent, endorsement::Purpose};

use crate::faults;
use crate::support::{
    daemon::{Daemon, try_request},
    eventually,
    trail::{self, Line},
    world::{Database, Verifier, World, service_key, sign_request},
};

/// How often the one that writes is killed.
fn rounds() -> usize {
    if faults::everything() { 40 } else { 3 }
}

/// Within this the other has taken over.
const SOON: Duration = Duration::from_secs(20);

/// What was answered.
#[derive(Default)]
struct Answered {
    generations: Mutex<Vec<Digest>>,
    endorsed: Mutex<Vec<String>>,
    over: AtomicBool,
}

#[test]
fn a_standby_takes_over_in_the_midst_of_everything() {
    for database in [Database::Postgres, Database::Sqlite] {
        take_over(database);
    }
}

fn take_over(database: Database) {
    let world = World::new(database);
    let mut active = world.start();
    let other = World::beside(&world);
    let mut standby = other.start();
    let answered = Answered::default();
    let mut longest = Duration::ZERO;
    std::thread::scope(|scope| {
        for world in [&world, &other] {
            scope.spawn(|| rotate(world, &answered));
            scope.spawn(|| endorse(world, &answered));
        }
        let worlds = [&world, &other];
        for round in 0..rounds() {
            let before = answered.generations.lock().unwrap().len();
            let more = || answered.generations.lock().unwrap().len() > before + 2;
            eventually("rotations", SOON, more);
            active.kill();
            let start = Instant::now();
            let before = answered.generations.lock().unwrap().len();
            eventually("a take-over", SOON, || answered.generations.lock().unwrap().len() > before + 1);
            longest = longest.max(start.elapsed());
            std::mem::swap(&mut active, &mut standby);
            standby = worlds[round % 2].start();
        }
        answered.over.store(true, Ordering::Relaxed);
    });
    check(&world, &mut [active, standby], &answered, longest);
}

fn check(world: &World, hsmd: &mut [Daemon], answered: &Answered, longest: Duration) {
    hsmd.iter_mut().for_each(Daemon::stop);
    let mut last = world.start();
    let chain = world.chain();
    last.stop();
    let ids: BTreeSet<_> = chain.iter().map(SignedEvent::id).collect();
    let generations = answered.generations.lock().unwrap();
    let lost = generations.iter().filter(|id| !ids.contains(id)).count();
    assert_eq!(lost, 0, "answered rotations that the chain lacks");
    let lines = trail::read(&world.ledger);
    let is_told = |id: &Digest| lines.iter().any(|line: &Line| line.raw("details").contains(&id.to_string()));
    for id in generations.iter() {
        assert!(is_told(id), "no line about generation {id}");
    }
    let verifier = Verifier::new(&chain);
    let endorsed = answered.endorsed.lock().unwrap();
    for text in endorsed.iter() {
        verifier.verify(text, Purpose::Response, &service_key(7), "edge:demo");
    }
    assert_eq!(world.softhsm.objects(), 4);
    println!(
        "{} take-overs, the longest in {:.1} s; {} rotations and {} endorsements were answered, none is lost",
        rounds(),
        longest.as_secs_f64(),
        generations.len(),
        endorsed.len()
    );
}

/// Rotates whatever is current, again and again.
fn rotate(world: &World, answered: &Answered) {
    while !answered.over.load(Ordering::Relaxed) {
        if let Ok(answer) = try_request(&world.socket("admin"), "POST", "/rotate", b"{}")
            && answer.status == 200
        {
            let (_, rest) = answer.body.split_once("\"newGenerationId\":\"").unwrap();
            let id = Digest::parse(&rest[..44]).unwrap();
            answered.generations.lock().unwrap().push(id);
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

fn endorse(world: &World, answered: &Answered) {
    while !answered.over.load(Ordering::Relaxed) {
        let body = sign_request(Purpose::Response, service_key(7), Duration::from_mins(5));
        match try_request(&world.socket("edge"), "POST", "/sign", body.as_bytes()) {
            Ok(answer) if answer.status == 200 => answered.endorsed.lock().unwrap().push(answer.body),
            _ => std::thread::park_timeout(Duration::from_millis(10)),
        }
    }
}
