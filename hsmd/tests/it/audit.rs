//! The audit trail of a running hsmd: what is in it, and what happens while it cannot be written.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hsmd::failure_point::LABELS;
use keychain::{
    Digest,
    audit::{Kind, Record},
    chain::SignedEvent,
    endorsement::{Endorsement, Purpose},
};

use crate::support::{
    daemon::{Answer, Daemon, request, try_request},
    eventually,
    trail::{self, Line},
    world::{Database, World, service_key, sign_request, verify},
};

/// Within this after a disk has room again hsmd signs again.
const SOON: Duration = Duration::from_secs(5);

/// How many days are played at a time.
const WORKERS: usize = 4;

fn folder(world: &World) -> PathBuf {
    world.path().join("audit")
}

fn endorse(world: &World, key: u8) -> Answer {
    let body = sign_request(Purpose::Response, service_key(key), Duration::from_mins(5));
    try_request(&world.socket("edge"), "POST", "/sign", body.as_bytes())
        .unwrap_or(Answer { status: 0, body: String::new() })
}

fn admin(world: &World, path: &str, body: &str) -> Answer {
    try_request(&world.socket("admin"), "POST", path, body.as_bytes())
        .unwrap_or(Answer { status: 0, body: String::new() })
}

/// What came of an operation, by the lines about it.
fn outcome<'a>(lines: &'a [Line], operation: &str) -> (&'a Line, &'a Line) {
    let outcome = lines.iter().rfind(|line| line.is(Kind::Outcome, operation)).expect(operation);
    let intent = lines.iter().find(|line| line.number.to_string() == outcome.raw("intent")).expect(operation);
    assert!(intent.is(Kind::Intent, operation) && intent.number < outcome.number);
    (intent, outcome)
}

#[test]
fn everything_that_was_done_is_in_the_trail() {
    let world = World::new(Database::Sqlite);
    let mut hsmd = world.start();
    let caller = format!("uid {}", rustix::process::geteuid().as_raw());
    let first = world.chain()[0].id().to_string();
    let endorsement = endorse(&world, 3).ok();
    for _ in 0..3 {
        assert_eq!(request(&world.socket("other"), "POST", "/sign", "{}").status, 403);
    }
    let taint = format!("{{\"generationId\":\"{first}\",\"reason\":\"stolen \\\"disk\\\" of Zoë\"}}");
    admin(&world, "/taint", &taint).ok();
    let key = service_key(9).to_string();
    admin(&world, "/revoke-keys", &format!("{{\"publicKeys\":[\"{key}\"],\"reason\":\"drill\"}}")).ok();
    assert_eq!(admin(&world, "/rotate", &format!("{{\"from\":\"{}\"}}", Digest::of("nobody"))).status, 409);
    world.write_policy(&format!("{}\n# changed", world.policy()));
    hsmd.reload();
    let chain = world.chain();
    hsmd.stop();

    let lines = trail::read(&folder(&world));
    let kinds: Vec<_> = lines.iter().map(|line| line.kind).collect();
    assert_eq!((kinds[0], kinds[1], kinds[kinds.len() - 1]), (Kind::Trail, Kind::Start, Kind::Stop));
    assert_eq!(lines[1].text("generation"), first);

    let endorsed = lines.iter().find(|line| line.kind == Kind::Endorsement).unwrap();
    let told = Endorsement::parse(&endorsement).unwrap();
    for (name, value) in [
        ("caller", caller.clone()),
        ("purpose", "response".to_owned()),
        ("service", "edge:demo".to_owned()),
        ("key", service_key(3).to_string()),
        ("generation", told.generation_id.to_string()),
        ("expiration", told.subject.expiration.to_string()),
        ("outcome", "ok".to_owned()),
    ] {
        assert_eq!(endorsed.text(name), value, "{name}");
    }
    let (intent, done) = outcome(&lines, "taint");
    assert_eq!((intent.text("caller"), intent.text("reason")), (caller, "stolen \"disk\" of Zoë".to_owned()));
    assert!(done.raw("details").contains(&chain[1].id().to_string()) && done.raw("details").contains(&first));
    let (intent, _) = outcome(&lines, "revoke-keys");
    assert_eq!(intent.raw("details"), format!("{{\"keys\":[\"{key}\"]}}"));
    let (intent, done) = outcome(&lines, "rotate");
    assert_eq!(done.text("outcome"), "BA602");
    assert_eq!(intent.text("reason"), "");
    let (intent, _) = outcome(&lines, "policy");
    assert_eq!(intent.text("caller"), "SIGHUP");
    let refused = lines.iter().find(|line| line.is(Kind::Refused, "sign")).unwrap();
    assert_eq!((refused.raw("count"), refused.text("code").as_str()), ("3", "BA303"));

    // The last checkpoint vouches for all but itself and the end.
    assert_eq!(trail::covered(&lines, &chain), Some(lines[lines.len() - 1].number - 2));

    // After a restart the trail goes on, in the same file.
    world.start().stop();
    assert_eq!(trail::segments(&folder(&world)).len(), 1);
    let more = trail::read(&folder(&world));
    assert_eq!(more[lines.len()].kind, Kind::Start);
}

/// Refused while the disk is full, all of it; answered as before are those who only read; and then nothing is
/// missing.
#[test]
fn a_full_disk_refuses_what_cannot_be_written_down_and_loses_nothing() {
    let world = World::new(Database::Sqlite);
    let disk = Disk::new("64k", &folder(&world));
    let mut hsmd = disk.spawn(&world);
    hsmd.ready().unwrap();
    let inside = disk.inside(&folder(&world));
    let mut endorsed: Vec<_> = (0..20).map(|_| endorse(&world, 5).ok()).collect();
    world.rotate("{}");
    let filler = inside.join("filler");
    fill(&filler);
    // What is left of the last page is used up.
    let mut answered = 0;
    while endorse(&world, 5).status == 200 {
        answered += 1;
        assert!(answered < 100, "the disk is not full");
    }
    for path in ["/rotate", "/taint"] {
        let answer = admin(&world, path, "{}");
        assert_eq!((answer.status, answer.code()), (503, "BA603"), "{path}");
    }
    let told = hsmd.told("STATUS=not ready: audit: ").unwrap();
    assert!(told.contains("see that its disk has room"), "{told}");
    let health = request(&world.socket("edge"), "GET", "/health", "");
    assert!(health.status == 503 && health.body.contains("\"audit\":"), "{}", health.body);
    assert_eq!(world.chain().len(), 2);
    request(&world.socket("edge"), "GET", "/statements", "").ok();

    // Whoever starts it again now helps nothing, and spoils nothing.
    hsmd.kill();
    let mut hsmd = disk.spawn(&world);
    hsmd.told("STATUS=not ready: audit: ").unwrap();
    eventually("the sockets", SOON, || endorse(&world, 5).status == 503);
    assert_eq!(world.chain().len(), 2);

    fs::remove_file(&filler).unwrap();
    eventually("an endorsement", SOON, || endorse(&world, 6).status == 200);
    endorsed.push(endorse(&world, 7).ok());
    world.rotate("{}");
    let chain = world.chain();
    assert_eq!(chain.len(), 3);
    let kept = world.path().join("kept");
    copy(&inside, &kept);
    let lines = trail::read(&kept);
    let resumed = lines.iter().find(|line| line.kind == Kind::Resumed).unwrap();
    assert!(resumed.text("because").contains("No space left"), "{resumed:?}");
    assert!(resumed.raw("refused").parse::<u64>().unwrap() >= 1, "{resumed:?}");
    for event in chain.iter().skip(1) {
        assert!(tells(&lines, event), "no word of generation {}", event.id());
    }
    let written = lines.iter().filter(|line| line.kind == Kind::Endorsement).count();
    assert!(written > endorsed.len() + answered, "{written}");
    hsmd.stop();
}

/// A ledger whose disk is full makes no event; everything else goes on.
#[test]
fn a_full_disk_under_the_ledger_stops_rotations_and_nothing_else() {
    let world = World::new(Database::Sqlite);
    let config = fs::read_to_string(world.config()).unwrap();
    let disk = world.path().join("disk");
    let ledger = format!("sqlite://{}/ledger.db", disk.display());
    fs::write(world.config(), config.replace(&world.ledger, &ledger)).unwrap();
    let small = Disk::new("2m", &disk);
    let mut hsmd = small.spawn(&world);
    hsmd.ready().unwrap();
    let filler = small.inside(&disk).join("filler");
    world.rotate("{}");
    fill(&filler);
    for path in ["/rotate", "/taint", "/rotate"] {
        let answer = admin(&world, path, "{}");
        assert_eq!((answer.status, answer.code()), (503, "BA603"), "{path}: {}", hsmd.log());
        endorse(&world, 5).ok();
        assert_eq!(world.chain().len(), 2);
    }
    fs::remove_file(&filler).unwrap();
    eventually("a rotation", SOON, || admin(&world, "/rotate", "{}").status == 200);
    assert_eq!(world.chain().len(), 3);
    assert_eq!(world.softhsm.objects(), 4);
    hsmd.stop();
    let lines = trail::read(&folder(&world));
    let refused = |line: &&Line| line.kind == Kind::Outcome && line.text("outcome") == "BA603";
    assert!(lines.iter().filter(refused).count() >= 3);
}

/// A small disk of a test's own, at a folder that only those see it at who are started inside.
struct Disk(Child);

impl Disk {
    fn new(size: &str, folder: &Path) -> Self {
        fs::create_dir(folder).unwrap();
        let launch = "mount -t tmpfs -o size=\"$1\",mode=0700 tmpfs \"$2\" && echo mounted && exec sleep 600";
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--map-current-user", "--keep-caps"]);
        }
        command.args(["--mount", "sh", "-c", launch, "sh", size]).arg(folder).stdout(Stdio::piped());
        let mut holder = command.spawn().unwrap();
        let mut told = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut told).unwrap();
        assert_eq!(told, "mounted\n");
        Self(holder)
    }

    /// Where a folder inside is seen from outside.
    fn inside(&self, folder: &Path) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{}", self.0.id(), folder.display()))
    }

    /// Starts hsmd inside.
    fn spawn(&self, world: &World) -> Daemon {
        let mut command = Command::new("nsenter");
        if !rustix::process::geteuid().is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.args(["--mount", "--target", &self.0.id().to_string(), env!("CARGO_BIN_EXE_hsmd")]);
        Daemon::launch(command, "hsmd", &world.config(), world.path(), &world.softhsm.conf())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Writes until there is no room.
fn fill(file: &Path) {
    let full = Command::new("sh")
        .args(["-c", "cat /dev/zero > \"$0\""])
        .arg(file)
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(!full.success(), "the disk has room without end");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for file in trail::segments(from) {
        fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
}

/// Whether an outcome tells of the event.
fn tells(lines: &[Line], event: &SignedEvent) -> bool {
    let id = event.id().to_string();
    lines.iter().any(|line| line.kind == Kind::Outcome && line.raw("details").contains(&id))
}

/// At every place where the trail is written, at each pass of an ordinary day: the process killed, and the write
/// failing, whether it came to the disk or not.
#[test]
fn whatever_the_disk_does_nothing_answered_is_lost() {
    let labels = LABELS.iter().filter(|label| label.name.starts_with("audit/"));
    let plans: Vec<_> = labels
        .flat_map(|label| ["kill", "fail"].map(|action| format!("{}:{action}", label.name)))
        .flat_map(|plan| (1..=6).map(move |pass| format!("{plan}:{pass}")))
        .collect();
    let (tried, left, met) = (plans.len(), Mutex::new(plans), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(plan) = { left.lock().unwrap().pop() } {
                    met.fetch_add(usize::from(a_day(&plan)), Ordering::Relaxed);
                }
            });
        }
    });
    let met = met.into_inner();
    println!("{tried} plans tried, {met} carried out");
    assert!(met >= tried / 2, "{met} of {tried} plans were carried out");
}

/// Whether the plan was carried out.
fn a_day(plan: &str) -> bool {
    let world = World::new(Database::Sqlite);
    let mut hsmd = world.spawn_to_fail(plan);
    if let Err(status) = hsmd.ready() {
        assert_eq!(status.signal(), Some(9), "{plan}: {}", hsmd.log());
        hsmd = world.start();
    }
    let mut answered = Vec::new();
    for key in 1..=3 {
        let body = sign_request(Purpose::Response, service_key(key), Duration::from_mins(5));
        let endorsed = insist(&world, &mut hsmd, plan, "edge", "/sign", &body);
        answered.push((key, endorsed));
        let from = world.chain().last().unwrap().id();
        insist(&world, &mut hsmd, plan, "admin", "/rotate", &format!("{{\"from\":\"{from}\"}}"));
    }
    let chain = world.chain();
    assert_eq!(chain.len(), 4, "{plan}: one command, one event");
    let met = hsmd.log().contains("failure point");
    hsmd.stop();
    let lines = trail::read(&folder(&world));
    for (key, endorsed) in answered {
        verify(&endorsed, &chain, Purpose::Response, &service_key(key), "edge:demo");
        let key = service_key(key).to_string();
        let told = lines.iter().any(|line| line.kind == Kind::Endorsement && line.text("key") == key);
        assert!(told, "{plan}: no word of an endorsement");
    }
    for event in &chain[1..] {
        assert!(tells(&lines, event), "{plan}: no word of generation {}", event.id());
    }
    assert_eq!(lines.last().unwrap().kind, Kind::Stop, "{plan}");
    assert!(trail::covered(&lines, &chain).is_some(), "{plan}");
    met
}

/// Asks until the answer is a success, starting hsmd again when it has died.
fn insist(world: &World, hsmd: &mut Daemon, plan: &str, socket: &str, path: &str, body: &str) -> String {
    for _ in 0..100 {
        match try_request(&world.socket(socket), "POST", path, body.as_bytes()) {
            Ok(answer) if answer.status == 200 => return answer.body,
            Ok(answer) => {
                assert_eq!(answer.status, 503, "{plan}: {}", answer.body);
                std::thread::park_timeout(Duration::from_millis(100));
            }
            Err(_) => {
                assert_eq!(hsmd.ended().signal(), Some(9), "{plan}: {}", hsmd.log());
                *hsmd = world.start();
            }
        }
    }
    panic!("{plan}: no success: {}", hsmd.log());
}

/// A trail that somebody else writes to, or may, is no trail.
#[test]
fn a_folder_that_cannot_be_trusted_is_a_wrong_configuration() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new(Database::Sqlite);
    let mut hsmd = world.start();
    let beside = World::beside(&world);
    let config = fs::read_to_string(beside.config()).unwrap();
    let theirs = format!("{}/audit", beside.path().display());
    fs::write(beside.config(), config.replace(&theirs, &folder(&world).display().to_string())).unwrap();
    let mut second = beside.spawn();
    // The other may only just be ending: systemd is to try again.
    assert_eq!(second.ready().unwrap_err().code(), Some(75));
    assert!(second.log().contains("another hsmd writes"), "{}", second.log());
    hsmd.stop();
    fs::set_permissions(folder(&world), fs::Permissions::from_mode(0o777)).unwrap();
    let mut hsmd = world.spawn();
    assert_eq!(hsmd.ready().unwrap_err().code(), Some(78));
    assert!(hsmd.log().contains("chmod 0700"), "{}", hsmd.log());
}

/// A line of the longest caller, reason and list of keys that hsmd takes has room in a trail.
#[test]
fn the_longest_request_has_room() {
    let world = World::new(Database::Sqlite);
    let mut hsmd = world.start();
    let keys: Vec<_> = (1..=64).map(|number| format!("\"{}\"", service_key(number))).collect();
    let reason = "\"".repeat(250);
    let reason = serde_json::to_string(&reason).unwrap();
    let body = format!("{{\"publicKeys\":[{}],\"reason\":{reason}}}", keys.join(","));
    admin(&world, "/revoke-keys", &body).ok();
    hsmd.stop();
    let lines = trail::read(&folder(&world));
    let (intent, _) = outcome(&lines, "revoke-keys");
    assert!(intent.raw("details").contains(&service_key(64).to_string()));
    let longest = Record::new(Kind::Intent).text("reason", &"\"".repeat(500));
    assert!(longest.line_length_max() < 2048);
}
