//! Every state that tokens and ledger can be in, from the damage to the first endorsement again, by the commands of the
//! state's section of `RECOVERY.md`.

use std::{path::PathBuf, process::Command, time::Duration};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    object::Attribute,
    session::UserType,
};
use hsmd::token::backend::KeyIds;
use keychain::{chain::SignedEvent, endorsement::Purpose};

use p11fault::{Mode, Plan, Rule};

use crate::faults::Place;
use crate::support::{
    daemon::{Answer, Daemon, request, try_request},
    eventually, in_parallel,
    softhsm::{MODULE, PIN},
    world::{Database, World, service_key, sign_request, verify},
};

const PAGE: &str = include_str!("../../RECOVERY.md");

/// Which key `destroy_inside` destroys.
const DESTROYED: &str = "KEELSON_DESTROYED_KEY";

/// From a damage that ends to the first endorsement: a ledger that was restored is compared with the published chain
/// for half a minute before it endorses.
const SOON: Duration = Duration::from_mins(1);

/// A chain that was, with copies of ledger and tokens from after each of its first rotations.
struct Past {
    world: World,
    chain: Vec<SignedEvent>,
    ledgers: Vec<Vec<u8>>,
}

impl Past {
    /// Three generations, hsmd stopped.
    fn new() -> Self {
        let world = World::new(Database::Sqlite);
        let mut past = Self { world, chain: Vec::new(), ledgers: Vec::new() };
        for rotates in [false, true, true] {
            let mut hsmd = past.world.start();
            if rotates {
                past.world.rotate("{}");
            }
            past.chain = past.world.chain();
            hsmd.stop();
            past.ledgers.push(past.world.back_up_ledger());
            copy(&past.world.softhsm.tokens(), &past.tokens(past.ledgers.len() - 1));
        }
        past
    }

    /// The tokens as they were after so many rotations.
    fn tokens(&self, rotations: usize) -> PathBuf {
        self.world.path().join(format!("tokens-{rotations}"))
    }

    fn restore_tokens(&self, rotations: usize) {
        copy(&self.tokens(rotations), &self.world.softhsm.tokens());
    }

    fn published(&self) -> String {
        let texts: Vec<_> = self.chain.iter().map(SignedEvent::text).collect();
        format!("[{}]", texts.join(","))
    }

    /// Destroys the key of a generation, in a process of its own.
    fn destroy_key(&self, generation: u64) {
        let id = KeyIds::default().of(generation).number().to_string();
        let done = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "states::destroy_inside", "--ignored", "--nocapture"])
            .env("SOFTHSM2_CONF", self.world.softhsm.conf())
            .env(DESTROYED, id)
            .output()
            .unwrap();
        let told = String::from_utf8(done.stdout).unwrap();
        assert!(done.status.success() && told.contains("destroyed: 2"), "{told}");
    }

    /// Runs the commands of a section, as an operator types them.
    fn run(&self, section: &str) {
        let admin = self.world.socket("admin");
        for command in commands(section) {
            let words: Vec<_> = command.split_whitespace().collect();
            let answer = match words[..] {
                ["opsctl", "chain", "show", "--json", "--from", _, ">", "chain.json"] => continue,
                ["opsctl", "hsm", "recover", "--chain", "chain.json", ref flags @ ..] => {
                    let unfinished = match flags {
                        [] => "refuse",
                        ["--discard-unfinished"] => "discard",
                        ["--live-key-lost"] => "live-key-lost",
                        _ => panic!("{command}"),
                    };
                    self.world.recover(&format!("?unfinished={unfinished}"), &self.published())
                }
                ["opsctl", "rotate"] => request(&admin, "POST", "/rotate", "{}"),
                ["opsctl", "taint", ..] => {
                    let newest = self.world.chain().last().unwrap().id();
                    request(&admin, "POST", "/taint", &format!("{{\"generationId\":\"{newest}\"}}"))
                }
                _ => panic!("the test knows no `{command}`"),
            };
            answer.ok();
        }
    }

    /// Waits until hsmd serves and is in a state, and checks what it says and allows in it.
    fn wait_for(&self, hsmd: &Daemon, label: &str) {
        let admin = self.world.socket("admin");
        let told = format!("\"state\":{{\"name\":\"{label}\"");
        let health = || try_request(&admin, "GET", "/health", b"");
        let start = std::time::Instant::now();
        while !health().is_ok_and(|health| health.body.contains(&told)) {
            assert!(start.elapsed() < SOON, "not {label}: {:?}; {}", health(), hsmd.log());
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let health = health().unwrap();
        let allows = |what: &str| health.body.contains(&format!("\"{what}\":true"));
        assert_eq!(health.status, if allows("signs") { 200 } else { 503 }, "{}", health.body);
        assert!(health.body.contains("\"cure\":\""), "{}", health.body);
        let signed = self.sign();
        assert_eq!(signed.status, if allows("signs") { 200 } else { 503 }, "{label}: {}", signed.body);
        if !allows("signs") {
            assert_eq!(signed.code(), "BA603");
            assert!(signed.body.contains(&format!("\"state\":\"{label}\"")), "{}", signed.body);
        }
        if !allows("rotates") {
            let rotated = request(&admin, "POST", "/rotate", "{}");
            assert_eq!((rotated.status, rotated.code()), (503, "BA603"), "{label}: {}", rotated.body);
        }
    }

    fn sign(&self) -> Answer {
        let body = sign_request(Purpose::Response, service_key(9), Duration::from_mins(5));
        request(&self.world.socket("edge"), "POST", "/sign", &body)
    }

    /// It is whole again: the chain goes on from what was published, endorses, rotates, and survives a restart.
    fn lives_on(&self, mut hsmd: Daemon) {
        let start = std::time::Instant::now();
        while self.sign().status != 200 {
            assert!(start.elapsed() < SOON, "no endorsement: {}; {}", self.sign().body, hsmd.log());
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let chain = self.world.chain();
        let ids = |events: &[SignedEvent]| events.iter().map(SignedEvent::id).collect::<Vec<_>>();
        assert!(ids(&chain).starts_with(&ids(&self.chain)), "nothing that was published is gone");
        verify(&self.sign().ok(), &chain, Purpose::Response, &service_key(9), "edge:demo");
        self.world.rotate("{}");
        assert_eq!(self.world.chain().len(), chain.len() + 1);
        assert_eq!(self.world.softhsm.objects(), 4);
        hsmd.stop();
        self.world.start().stop();
    }
}

/// The commands in the block that follows a section's marker.
fn commands(section: &str) -> Vec<&'static str> {
    let (_, rest) = PAGE.split_once(&format!("<!-- {section} -->\n```sh\n")).expect(section);
    rest.split_once("```").unwrap().0.lines().collect()
}

/// The copy appears at once and whole: a token that is half there may refuse its PIN.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    let new = to.with_extension("new");
    assert!(Command::new("cp").arg("-r").args([from, &new]).status().unwrap().success());
    std::fs::remove_dir_all(to).ok();
    std::fs::rename(new, to).unwrap();
}

/// A damage to a chain of three generations while hsmd is stopped, and the state that its start finds.
#[test]
fn each_state_at_a_start_has_its_way_back() {
    type Damage = fn(&Past);
    let rows: [(Damage, &str, Option<&str>, Damage); 9] = [
        (|past| past.world.restore_ledger(Some(&past.ledgers[0])), "ledger-behind", Some("recover"), |_| {}),
        (|past| past.world.restore_ledger(Some(&past.ledgers[1])), "ledger-behind", Some("recover"), |_| {}),
        (|past| past.world.restore_ledger(None), "ledger-empty", Some("recover"), |_| {}),
        (|past| past.destroy_key(2), "live-key-missing", Some("live-key-missing"), |_| {}),
        (|past| past.destroy_key(3), "next-key-lost", None, |past| past.restore_tokens(2)),
        (
            |past| {
                past.destroy_key(2);
                past.destroy_key(3);
            },
            "keys-lost",
            None,
            |past| past.restore_tokens(2),
        ),
        (
            |past| {
                // Another chain's token, no further than this one.
                let other = World::new(Database::Sqlite);
                other.start().stop();
                copy(&other.softhsm.tokens(), &past.world.softhsm.tokens());
            },
            "foreign-token",
            None,
            |past| past.restore_tokens(2),
        ),
        (|past| past.restore_tokens(1), "next-key-lost", None, |past| past.restore_tokens(2)),
        (|past| past.restore_tokens(0), "keys-lost", None, |past| past.restore_tokens(2)),
    ];
    in_parallel(rows, |(damage, label, section, cure)| {
        let past = Past::new();
        damage(&past);
        let hsmd = past.world.spawn();
        past.wait_for(&hsmd, label);
        match section {
            Some(section) => past.run(section),
            None => cure(&past),
        }
        past.lives_on(hsmd);
    });
}

/// The ledger is known to be the newest once every copy that was there before ends with its newest event.
#[test]
fn a_missing_live_key_is_settled_by_what_is_published() {
    let past = Past::new();
    past.destroy_key(2);
    let hsmd = past.world.spawn();
    past.wait_for(&hsmd, "live-key-missing");
    assert_eq!(past.world.report(&[]), "agrees");
    past.wait_for(&hsmd, "live-key-lost");
    past.run("live-key-lost");
    past.lives_on(hsmd);
}

/// What the publisher has put there itself proves nothing: the first report found the directory empty.
#[test]
fn a_missing_live_key_is_not_settled_by_what_was_put_back() {
    let past = Past::new();
    past.destroy_key(2);
    let mut hsmd = past.world.spawn();
    past.wait_for(&hsmd, "live-key-missing");
    let empty = "{\"events\":[],\"heads\":[],\"held\":0,\"newest\":null}";
    request(&past.world.socket("publish"), "POST", "/published", empty).ok();
    past.world.report(&[]);
    past.wait_for(&hsmd, "live-key-missing");
    hsmd.stop();
}

/// The same under a running hsmd.
#[test]
fn each_state_that_befalls_a_running_hsmd_has_its_way_back() {
    type Damage = fn(&Past);
    let rows: [(Damage, &str, Option<&str>, Damage); 3] = [
        (|past| past.destroy_key(2), "live-key-lost", Some("live-key-lost"), |_| {}),
        (
            |past| {
                past.destroy_key(2);
                past.destroy_key(3);
            },
            "keys-lost",
            None,
            |past| past.restore_tokens(2),
        ),
        (
            |past| std::fs::rename(past.world.softhsm.tokens(), past.world.path().join("gone")).unwrap(),
            "token-silent",
            None,
            |past| past.restore_tokens(2),
        ),
    ];
    in_parallel(rows, |(damage, label, section, cure)| {
        let past = Past::new();
        let hsmd = past.world.start();
        damage(&past);
        past.wait_for(&hsmd, label);
        match section {
            Some(section) => past.run(section),
            None => cure(&past),
        }
        past.lives_on(hsmd);
    });
}

/// While the token is silent a request is refused with the state that is known: only the watcher initialises the module
/// again, however many ask.
#[test]
fn a_thousand_refused_requests_reconcile_nothing() {
    let place = Place::new();
    let _hsmd = place.start();
    place.plan(Plan::of(Rule::new("*", "CKR_DEVICE_REMOVED", Mode::Before)));
    let silent = |health: String| health.contains("\"state\":{\"name\":\"token-silent\"");
    // Somebody's signature fails, which the watcher is told.
    place.endorse(9);
    eventually("the state", SOON, || silent(place.health().1));
    let (before, start) = (place.logged("fault C_Initialize"), std::time::Instant::now());
    for _ in 0..1000 {
        assert_eq!(place.endorse(9).0, 503);
    }
    let rounds = usize::try_from(start.elapsed().as_secs() / 2).unwrap() + 1;
    let made = place.logged("fault C_Initialize") - before;
    assert!(made <= rounds * 4, "{made} initialisations in {rounds} rounds of the watcher");
}

/// Destroys both objects of the key whose id the environment names, on the token labelled `keelson`.
#[test]
#[ignore = "run by `Past::destroy_key` in a process of its own"]
fn destroy_inside() {
    let id: u16 = std::env::var(DESTROYED).unwrap().parse().unwrap();
    let module = Pkcs11::new(MODULE).unwrap();
    let slot = (0..100).find_map(|_| {
        module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
        let slots = module.get_slots_with_initialized_token().unwrap();
        let found = slots.into_iter().find(|slot| module.get_token_info(*slot).unwrap().label() == "keelson");
        if found.is_none() {
            module.clone().finalize().unwrap();
            std::thread::park_timeout(Duration::from_millis(20));
        }
        found
    });
    let session = module.open_rw_session(slot.unwrap()).unwrap();
    session.login(UserType::User, Some(&PIN.to_owned().into())).unwrap();
    let objects = session.find_objects(&[Attribute::Id(id.to_be_bytes().to_vec())]).unwrap();
    for object in &objects {
        session.destroy_object(*object).unwrap();
    }
    println!("destroyed: {}", objects.len());
}
