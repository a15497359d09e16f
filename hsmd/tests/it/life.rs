//! The life of a chain: first start, endorsements, rotations, taints, restarts.

use std::{
    collections::BTreeSet,
    os::unix::fs::PermissionsExt as _,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use keychain::{chain::SignedEvent, endorsement::Purpose};

use crate::support::{
    daemon::{raw, request},
    world::{Database, World, now, read_chain, service_key, sign_request, verify},
};

const HOUR: Duration = Duration::from_hours(1);

#[test]
fn a_chain_lives_on_sqlite() {
    lives(Database::Sqlite);
}

#[test]
fn a_chain_lives_on_postgres() {
    lives(Database::Postgres);
}

/// First start, endorsement, restart with the same identity, rotation, taint, the same again.
fn lives(database: Database) {
    let world = World::new(database);
    let mut hsmd = world.start();
    let first = world.chain();
    assert_eq!(first.len(), 1);
    assert_eq!(world.softhsm.objects(), 4, "live and next");
    assert!(first[0].event().created_at <= now());

    let key = service_key(7);
    let sign = |socket: &str, purpose| {
        let body = sign_request(purpose, key, HOUR);
        request(&world.socket(socket), "POST", "/sign", &body).ok()
    };
    verify(&sign("authd", Purpose::Access), &first, Purpose::Access, &key, "authd");
    verify(&sign("authd", Purpose::Response), &first, Purpose::Response, &key, "authd");
    verify(&sign("edge", Purpose::Response), &first, Purpose::Response, &key, "edge:demo");

    hsmd.stop();
    let mut hsmd = world.start();
    assert_eq!(texts(&world.chain()), texts(&first));

    let rotated = world.rotate("{}");
    let second = world.chain();
    let head = second[1].event();
    assert_eq!(
        rotated,
        format!(
            "{{\"newPublicKey\":\"{}\",\"newGenerationId\":\"{}\",\"liveFrom\":\"{}\"}}",
            head.public_key, head.id, head.created_at
        )
    );
    assert_eq!(world.softhsm.objects(), 4);

    let taint = format!("{{\"generationId\":\"{}\",\"reason\":\"stolen \\\"laptop\\\"\"}}", head.id);
    let tainted = request(&world.socket("admin"), "POST", "/taint", &taint).ok();
    let third = world.chain();
    assert!(third[2].event().taint_previous);
    assert_eq!(
        tainted,
        format!(
            "{{\"taintedGenerationId\":\"{}\",\"newGenerationId\":\"{}\",\"liveFrom\":\"{}\",\"effect\":\"tainted\"}}",
            head.id,
            third[2].id(),
            third[2].event().created_at
        )
    );
    assert!(hsmd.log().contains("stolen"), "the reason is logged");
    assert_eq!(
        verify(&sign("edge", Purpose::Response), &third, Purpose::Response, &key, "edge:demo"),
        third[2].id()
    );

    hsmd.kill();
    let mut hsmd = world.start();
    assert_eq!(texts(&world.chain()), texts(&third));
    assert_eq!(world.softhsm.objects(), 4);
    hsmd.stop();
}

#[test]
fn the_ledger_is_private() {
    let world = World::new(Database::Sqlite);
    let mut hsmd = world.start();
    let ledger = world.path().join("ledger.db");
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&ledger), 0o600);
    assert_eq!(mode(&world.socket("admin")), 0o660);
    hsmd.stop();
    std::fs::set_permissions(&ledger, std::fs::Permissions::from_mode(0o666)).unwrap();
    let mut hsmd = world.spawn();
    assert_eq!(hsmd.ready().unwrap_err().code(), Some(78));
    assert!(hsmd.log().contains("chmod 0600"), "{}", hsmd.log());
}

/// Fifty rotations in a row, far quicker than the clock moves, and no event from the future.
#[test]
fn fifty_rotations_in_a_storm_of_endorsements() {
    let world = World::new(Database::Sqlite);
    let mut hsmd = world.start();
    let done = AtomicBool::new(false);
    let endorsed = std::thread::scope(|scope| {
        let storms: Vec<_> = (1..=4)
            .map(|number| {
                let (world, done) = (&world, &done);
                scope.spawn(move || storm(world, number, done))
            })
            .collect();
        let rotated: Vec<_> = (0..50).map(|_| world.rotate("{}")).collect();
        assert_eq!(rotated.iter().collect::<BTreeSet<_>>().len(), 50);
        done.store(true, Ordering::Relaxed);
        storms.into_iter().flat_map(|storm| storm.join().unwrap()).collect::<Vec<_>>()
    });
    let chain = world.chain();
    assert_eq!(chain.len(), 51);
    assert_eq!(world.softhsm.objects(), 4);
    let generations: BTreeSet<_> = endorsed
        .iter()
        .map(|(number, text)| verify(text, &chain, Purpose::Response, &service_key(*number), "edge:demo"))
        .collect();
    assert!(endorsed.len() > 100, "{}", endorsed.len());
    assert!(generations.len() > 10, "{}", generations.len());
    hsmd.stop();
}

fn storm(world: &World, number: u8, done: &AtomicBool) -> Vec<(u8, String)> {
    let mut endorsed = Vec::new();
    while !done.load(Ordering::Relaxed) {
        let body = sign_request(Purpose::Response, service_key(number), HOUR);
        endorsed.push((number, request(&world.socket("edge"), "POST", "/sign", &body).ok()));
    }
    endorsed
}

/// `rotate` and `taint` are compare-and-swap on the generation named; naming one already left answers the
/// first result again.
#[test]
fn a_repeated_command_leaves_no_second_generation() {
    let world = World::new(Database::Sqlite);
    let _hsmd = world.start();
    let admin = world.socket("admin");
    let id = |index: usize| world.chain()[index].id();
    let zero = id(0);
    let from = format!("{{\"from\":\"{zero}\"}}");
    let first = world.rotate(&from);
    assert_eq!(world.rotate(&from), first);
    assert_eq!(world.chain().len(), 2);

    // Left without a taint: no event can taint it any more, so it is denied, and the healthy one after it is
    // not touched.
    let taint =
        |generation| request(&admin, "POST", "/taint", &format!("{{\"generationId\":\"{generation}\"}}"));
    let denied = taint(zero).ok();
    assert!(denied.contains("\"effect\":\"denied\""), "{denied}");
    assert_eq!(taint(zero).ok(), denied);
    assert_eq!(world.chain().len(), 2);
    let tainted = taint(id(1)).ok();
    assert_eq!(taint(id(1)).ok(), tainted);
    assert_eq!(world.chain().len(), 3);
    // A rotation away from a tainted generation has happened, by the taint.
    let rotated = world.rotate(&format!("{{\"from\":\"{}\"}}", id(1)));
    assert!(rotated.contains(&id(2).to_string()));
    // A generation of no chain.
    let unknown = keychain::Digest::of("unknown");
    assert_eq!(taint(unknown).code(), "BA602");
    assert_eq!(request(&admin, "POST", "/rotate", &format!("{{\"from\":\"{unknown}\"}}")).status, 409);
    assert_eq!(world.chain().len(), 3);

    // Many at once, all naming one generation: one event, one answer.
    let from = format!("{{\"from\":\"{}\"}}", id(2));
    let answers: BTreeSet<_> = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..8).map(|_| scope.spawn(|| world.rotate(&from))).collect();
        racers.into_iter().map(|racer| racer.join().unwrap()).collect()
    });
    assert_eq!(answers.len(), 1);
    assert_eq!(world.chain().len(), 4);
}

#[test]
fn the_chain_can_be_waited_for() {
    let world = World::new(Database::Sqlite);
    let mut hsmd = world.start();
    let edge = world.socket("edge");
    assert_eq!(request(&edge, "GET", "/chain?after=0&wait=0", "").ok(), "[]");
    assert_eq!(request(&edge, "GET", "/chain?after=0", "").ok(), "[]");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| request(&edge, "GET", "/chain?after=0&wait=60", "").ok());
        world.rotate("{}");
        let shown = waiting.join().unwrap();
        let chain = world.chain();
        assert_eq!(shown, format!("[{}]", chain[1].text()));
    });
    assert_eq!(read_chain(&request(&edge, "GET", "/chain", "").ok()).len(), 2);
    assert_eq!(request(&edge, "GET", "/chain?after=1000", "").ok(), "[]");
    // Whoever waits is answered when the daemon ends, and does not hold it up.
    std::thread::scope(|scope| {
        let start = Instant::now();
        let head = b"GET /chain?after=1&wait=60 HTTP/1.1\r\nHost: hsmd\r\nConnection: close\r\n\r\n";
        let waiting = scope.spawn(|| raw(&edge, head));
        // The request is under way once another, sent later on the same server's thread, is answered.
        request(&edge, "GET", "/health", "").ok();
        hsmd.stop();
        drop(waiting.join().unwrap());
        assert!(start.elapsed() < Duration::from_secs(10));
    });
}

#[test]
fn what_is_wrong_is_named_and_has_an_exit_code() {
    let world = World::new(Database::Sqlite);
    let good = std::fs::read_to_string(world.config()).unwrap();
    let pin = world.softhsm.pin_file();
    for (from, to, code, named) in [
        ("libsofthsm2.so", "missing.so", 78, "hsm.module"),
        ("token_label = \"keelson\"", "", 78, "hsm.token_label"),
        ("role = \"admin\"", "role = \"adm\"", 78, "hsmd.toml"),
        ("unix:/", "127.0.0.1:1 /", 78, "address"),
        ("sqlite:", "mysql:", 78, "ledger"),
        ("ledger = ", "ledgre = ", 78, "ledgre"),
        ("ledger.db", "no/such/folder.db", 78, "no/such/folder.db"),
        (pin.to_str().unwrap(), "relative/pin", 78, "relative/pin"),
    ] {
        std::fs::write(world.config(), good.replacen(from, to, 1)).unwrap();
        let mut hsmd = world.spawn();
        let status = hsmd.ready().expect_err(to);
        assert_eq!(status.code(), Some(code), "{to}: {}", hsmd.log());
        assert!(hsmd.log().contains(named), "{to}: {}", hsmd.log());
        std::fs::remove_file(world.path().join("hsmd.log")).unwrap();
    }
    // A wrong PIN is a state of the chain, and callers do not learn of it.
    std::fs::write(world.config(), &good).unwrap();
    std::fs::write(&pin, "wrong-pin").unwrap();
    let mut hsmd = world.spawn();
    hsmd.notified("STATUS=not ready: pin-refused: the token refused the PIN").unwrap();
    assert!(hsmd.log().contains("not tried again"), "{}", hsmd.log());
    assert!(!hsmd.log().contains("wrong-pin"));
    hsmd.stop();
}

fn texts(events: &[SignedEvent]) -> Vec<&str> {
    events.iter().map(SignedEvent::text).collect()
}
