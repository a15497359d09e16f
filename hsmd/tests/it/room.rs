//! The ledger's disk is full, its file exchanged, its trail emptied: what goes on, what is refused, and how it ends.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use keychain::{audit::Kind, endorsement::Purpose};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    daemon::{Answer, request, try_request},
    disk::Disk,
    eventually, in_parallel, trail,
    world::{Database, World, service_key, sign_request},
};

/// Within this a state begins or ends.
const SOON: Duration = Duration::from_secs(8);

/// The same if a lease has to end by its silence first.
const LATER: Duration = Duration::from_secs(25);

fn endorse(world: &World) -> Answer {
    let body = sign_request(Purpose::Response, service_key(5), Duration::from_mins(5));
    try_request(&world.socket("edge"), "POST", "/sign", body.as_bytes())
        .unwrap_or(Answer { status: 0, body: String::new() })
}

/// Taints the newest generation.
fn taint(world: &World) -> Answer {
    let newest = world.chain().last().unwrap().id();
    let body = format!("{{\"generationId\":\"{newest}\",\"reason\":\"drill\"}}");
    try_request(&world.socket("admin"), "POST", "/taint", body.as_bytes()).unwrap()
}

fn health(world: &World) -> String {
    request(&world.socket("edge"), "GET", "/health", "").body
}

/// No byte is free and another process takes each one that comes: endorsements stop, and taints go on.
#[test]
fn a_full_disk_stops_no_taint() {
    let world = World::new(Database::Sqlite);
    let folder = world.path().join("disk");
    fill_up(&world, &folder, &Disk::new("16m", &folder));
}

/// The same on the file system that most hosts have, whose journal takes room too.
#[test]
fn a_full_ext4_stops_no_taint() {
    let world = World::new(Database::Sqlite);
    let folder = world.path().join("disk");
    match Disk::ext4("32M", &folder) {
        Some(disk) => fill_up(&world, &folder, &disk),
        None => println!("ext4 is not tried: there is no loop device, or no right to mount one"),
    }
}

fn fill_up(world: &World, folder: &Path, disk: &Disk) {
    let config = fs::read_to_string(world.config()).unwrap();
    let ledger = format!("sqlite://{}/ledger.db", folder.display());
    fs::write(world.config(), config.replace(&world.ledger, &ledger)).unwrap();
    let mut hsmd = disk.spawn(world);
    hsmd.ready().unwrap();
    assert_eq!(endorse(world).status, 200);
    world.rotate("{}");
    let eater = disk.eater(folder);
    eventually("the floor", SOON, || endorse(world).status == 503);
    assert_eq!(endorse(world).code(), "BA606");
    eventually("health", SOON, || health(world).contains("bytes free") || health(world).contains("KiB free"));
    for events in 3..6 {
        let answer = taint(world);
        assert_eq!(answer.status, 200, "{}: {}", answer.body, hsmd.log());
        assert_eq!(world.chain().len(), events);
    }
    world.rotate("{}");
    assert_eq!(endorse(world).code(), "BA606");

    eater.stop();
    eventually("an endorsement", SOON, || endorse(world).status == 200);
    let chain = world.chain();
    hsmd.stop();
    let copy = world.path().join("kept.db");
    fs::copy(disk.inside(folder).join("ledger.db"), &copy).unwrap();
    let lines = trail::read(&format!("sqlite://{}", copy.display()));
    for event in &chain[1..] {
        let id = event.id().to_string();
        let is_told =
            lines.iter().any(|line| line.kind == Kind::Outcome && line.raw("details").contains(&id));
        assert!(is_told, "no line about generation {id}");
    }
}

/// The ledger's file, or its WAL, deleted or replaced under a running hsmd: nothing is acknowledged into a file that
/// is gone, and what was put back goes on.
#[test]
fn an_exchanged_ledger_acknowledges_nothing() {
    for file in ["ledger.db", "ledger.db-wal"] {
        let world = World::new(Database::Sqlite);
        let mut hsmd = world.start();
        world.rotate("{}");
        let (path, aside) = (world.path().join(file), world.path().join("aside"));
        fs::rename(&path, &aside).unwrap();
        for replaced in [false, true] {
            if replaced {
                fs::copy(&aside, &path).unwrap();
            }
            let answer = try_request(&world.socket("admin"), "POST", "/rotate", b"{}").unwrap();
            assert_eq!((answer.status, answer.code()), (503, "BA603"), "{file}");
            assert_eq!(endorse(&world).status, 503, "{file}");
            eventually("health", SOON, || health(&world).contains("is not the one that hsmd has open"));
            assert_eq!(world.chain().len(), 2, "{file}");
            assert_eq!(world.softhsm.objects(), 4, "no key was destroyed");
        }
        fs::rename(&aside, &path).unwrap();
        eventually("an endorsement", SOON, || endorse(&world).status == 200);
        world.rotate("{}");
        assert_eq!(world.chain().len(), 3, "{file}");
        hsmd.stop();
    }
}

/// A trail that was emptied beside a ledger with events says so, in its first line and in health.
#[test]
fn a_trail_that_is_gone_says_so() {
    use sea_orm::{ConnectionTrait as _, Database as Connection};
    for (change, warning, kind) in [
        ("DELETE FROM audit_lines", "the audit trail is gone", Some(Kind::Trail)),
        ("DELETE FROM audit_lines WHERE number > 1", "lacks lines that a head has covered", None),
    ] {
        let world = World::new(Database::Sqlite);
        let mut hsmd = world.start();
        world.rotate("{}");
        let kept = world.path().join("copy/head.json");
        eventually("a head about that is kept", SOON, || {
            let kept: serde_json::Value = serde_json::from_slice(&fs::read(&kept).unwrap()).unwrap();
            kept["audit"]["number"].as_u64().is_some_and(|number| number > 1)
        });
        hsmd.stop();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let database = Connection::connect(&world.ledger).await.unwrap();
            database.execute_unprepared(change).await.unwrap();
            database.close().await.unwrap();
        });
        let mut hsmd = world.start();
        eventually("a warning", SOON, || health(&world).contains(warning));
        assert_eq!(endorse(&world).status, 200);
        hsmd.stop();
        if let Some(kind) = kind {
            let lines = trail::read(&world.ledger);
            assert_eq!(lines[0].kind, kind);
            assert!(lines[0].text("because").contains("is gone"), "{lines:?}");
        }
    }
}

/// A database that does not answer is named as such, soon, and no token is blamed for it; then everything goes on.
#[test]
fn a_frozen_database_is_named() {
    in_parallel([freeze_and_thaw, end_frozen], |drill: fn()| drill());
}

fn freeze_and_thaw() {
    let world = World::new(Database::Postgres);
    let mut hsmd = world.start();
    world.rotate("{}");
    let server = world.postgres.as_ref().unwrap();
    server.signal(Signal::STOP);
    let answer = try_request(&world.socket("admin"), "POST", "/rotate", b"{}");
    let Ok(answer) = answer else { panic!("{answer:?} {}", hsmd.log()) };
    assert_eq!((answer.status, answer.code()), (503, "BA603"));
    eventually("health", SOON, || health(&world).contains("database does not answer"));
    let start = Instant::now();
    assert_eq!(endorse(&world).code(), "BA603");
    assert!(start.elapsed() < Duration::from_secs(1), "refused at once");
    assert_eq!(world.chain().len(), 2);
    server.signal(Signal::CONT);
    eventually("an endorsement", LATER, || endorse(&world).status == 200);
    eventually("a rotation", LATER, || {
        try_request(&world.socket("admin"), "POST", "/rotate", b"{}").unwrap().status == 200
    });
    assert_eq!(world.softhsm.objects(), 4);
    hsmd.stop();
}

/// An end does not wait for it either.
fn end_frozen() {
    let world = World::new(Database::Postgres);
    let mut hsmd = world.start();
    let server = world.postgres.as_ref().unwrap();
    server.signal(Signal::STOP);
    let start = Instant::now();
    hsmd.stop();
    assert!(start.elapsed() < Duration::from_secs(45), "{:?} {}", start.elapsed(), hsmd.log());
    server.signal(Signal::CONT);
}

/// One that was stopped for a while, as a paused host is, writes nothing after another has taken over.
#[test]
fn a_holder_that_was_stopped_is_fenced() {
    let world = World::new(Database::Postgres);
    let mut first = world.start();
    let other = World::beside(&world);
    let mut second = other.start();
    let refused = try_request(&other.socket("admin"), "POST", "/rotate", b"{}").unwrap();
    assert_eq!(refused.status, 503, "a standby changes nothing");
    world.rotate("{}");
    let process = Pid::from_raw(i32::try_from(first.pid()).unwrap()).unwrap();
    kill_process(process, Signal::STOP).unwrap();
    eventually("a take-over", LATER, || {
        try_request(&other.socket("admin"), "POST", "/rotate", b"{}").unwrap().status == 200
    });
    kill_process(process, Signal::CONT).unwrap();
    // For a moment its HTTP server takes each request for one that came too slowly: its timers stood still too.
    let mut answer = None;
    eventually("an answer of its own", SOON, || {
        let given = try_request(&world.socket("admin"), "POST", "/rotate", b"{}").unwrap();
        let is_own = given.status != 408;
        answer = Some(given);
        is_own
    });
    let answer = answer.unwrap();
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert_eq!(endorse(&world).status, 503);
    eventually("health", SOON, || health(&world).contains("has the lease"));
    other.rotate("{}");
    assert_eq!(other.chain().len(), 4);
    second.stop();
    eventually("it takes over again", LATER, || {
        try_request(&world.socket("admin"), "POST", "/rotate", b"{}").unwrap().status == 200
    });
    assert_eq!(world.chain().len(), 5);
    assert_eq!(world.softhsm.objects(), 4);
    first.stop();
}

/// A trail of many lines is cut in parts: one that was broken off leaves a trail that verifies from where it was cut, and
/// is finished by the same cut again.
#[tokio::test]
async fn a_large_cut_can_be_broken_off() {
    use keychain::audit::{Head, Record};
    let folder = tempfile::tempdir().unwrap();
    let ledger = crate::support::ledger::open(&folder.path().join("ledger.db")).await.unwrap();
    let mut end: Option<Head> = None;
    for _ in 0..12 {
        let records = vec![Record::new(Kind::Start).plain("version", "1"); 1000];
        end = Some(ledger.append(records).await.unwrap());
    }
    let end = end.unwrap();
    let cutting = tokio::spawn({
        let ledger = ledger.clone();
        async move { ledger.cut(end.number, end.digest, Vec::new()).await }
    });
    let start = Instant::now();
    while ledger.trail().await.unwrap().cut.is_none() {
        assert!(start.elapsed() < LATER, "nothing was cut");
    }
    cutting.abort();
    drop(cutting.await);
    // Whatever part was under way is done before this.
    let newest = ledger.append(vec![Record::new(Kind::Stop)]).await.unwrap();
    let trail = ledger.trail().await.unwrap();
    let cut = trail.cut.unwrap();
    let page = ledger.lines(0).await.unwrap();
    assert_eq!(trail.first, Some(cut.number + 1));
    assert!(page.lines[0].contains(&cut.digest.to_string()), "{}", page.lines[0]);
    // On a busy machine it may have come to its end.
    if cut != end {
        ledger.cut(end.number, end.digest, Vec::new()).await.unwrap();
    }
    let trail = ledger.trail().await.unwrap();
    assert_eq!((trail.cut, trail.first), (Some(end), Some(newest.number)));
    ledger.close().await.unwrap();
}

/// While something reads for long the WAL cannot be copied into the database: that is said, counted as used, and ends
/// with the reader.
#[tokio::test]
async fn a_long_reader_is_named() {
    use keychain::audit::Record;
    use sea_orm::{ConnectionTrait as _, Database as Connection, TransactionTrait as _};
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ledger.db");
    let ledger = crate::support::ledger::open(&file).await.unwrap();
    let backup = Connection::connect(format!("sqlite://{}", file.display())).await.unwrap();
    let reading = backup.begin().await.unwrap();
    reading.execute_unprepared("SELECT COUNT(*) FROM audit_lines").await.unwrap();
    for _ in 0..60 {
        ledger.append(vec![Record::new(Kind::Start).plain("version", "1".repeat(400)); 1000]).await.unwrap();
    }
    let is_named = || ledger.warnings().iter().any(|(part, text)| *part == "wal" && text.contains("MiB"));
    let start = Instant::now();
    while !is_named() {
        assert!(start.elapsed() < LATER, "{:?}", ledger.warnings());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    reading.rollback().await.unwrap();
    backup.close().await.unwrap();
    while is_named() {
        assert!(start.elapsed() < LATER * 2, "{:?}", ledger.warnings());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let wal = fs::metadata(folder.path().join("ledger.db-wal")).unwrap().len();
    assert!(wal < 16 << 20, "{wal}");
    ledger.append(vec![Record::new(Kind::Start)]).await.unwrap();
    ledger.close().await.unwrap();
}

/// Tried: 160 services asked at once for the first time, and half were refused with 429.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_shares_one_reservation_of_numbers() {
    const CROWD: u64 = 300;
    let folder = tempfile::tempdir().unwrap();
    let ledger = crate::support::ledger::open(&folder.path().join("ledger.db")).await.unwrap();
    let asked: Vec<_> = (0..CROWD)
        .map(|_| {
            let ledger = ledger.clone();
            tokio::spawn(async move { ledger.next_endorsement_number().await })
        })
        .collect();
    let mut numbers = std::collections::BTreeSet::new();
    for asked in asked {
        numbers.insert(asked.await.unwrap().unwrap());
    }
    assert_eq!(numbers.len() as u64, CROWD, "each is given out once");
    assert_eq!(ledger.endorsement_mark(), 1000, "one block is enough");
}
