//! A chain of three generations, and what can befall it.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use hsmd::token::backend::KeyIds;
use keychain::{chain::SignedEvent, endorsement::Purpose};
use sea_orm::{ConnectionTrait as _, Database as Connection, DatabaseConnection};
use tokio::runtime::Runtime;

use crate::{
    faults::Fixture,
    support::{
        daemon::{Answer, Daemon, request, try_request},
        eventually, page,
        world::{World, service_key, sign_request, verify},
    },
};

/// From a damage that ends to the first endorsement: a ledger that was restored is compared with the published chain
/// for half a minute before it endorses.
pub const SOON: Duration = Duration::from_mins(1);

/// Three generations, hsmd stopped, with copies of ledger and tokens from after the start and each rotation.
pub struct Template {
    fixture: Fixture,
    chain: Vec<SignedEvent>,
    ledgers: Vec<Vec<u8>>,
}

impl Template {
    pub fn new(fixture: Fixture) -> Arc<Self> {
        let mut template = Self { fixture, chain: Vec::new(), ledgers: Vec::new() };
        for rotates in [false, true, true] {
            let world = &template.fixture.world;
            let mut hsmd = template.fixture.start();
            if rotates {
                world.rotate("{}");
            }
            template.chain = world.chain();
            hsmd.stop();
            let rotations = template.ledgers.len();
            template.ledgers.push(world.back_up_ledger());
            copy(&world.softhsm.tokens(), &template.tokens(rotations));
        }
        Arc::new(template)
    }

    /// The tokens as they were after so many rotations.
    fn tokens(&self, rotations: usize) -> PathBuf {
        self.fixture.world.path().join(format!("tokens-{rotations}"))
    }

    /// A host of its own with that chain.
    pub fn past(self: &Arc<Self>) -> Past {
        Past { fixture: self.fixture.copy(), template: Arc::clone(self), lock: Mutex::new(None) }
    }
}

/// One host on which a chain of three generations was made.
pub struct Past {
    pub fixture: Fixture,
    template: Arc<Template>,
    /// What keeps hsmd from writing its ledger.
    lock: Mutex<Option<(Runtime, DatabaseConnection)>>,
}

impl Past {
    pub fn world(&self) -> &World {
        &self.fixture.world
    }

    /// The tokens as they were after so many rotations.
    pub fn restore_tokens(&self, rotations: usize) {
        copy(&self.template.tokens(rotations), &self.world().softhsm.tokens());
    }

    /// The ledger as it was after so many rotations.
    pub fn restore_ledger(&self, rotations: usize) {
        self.world().restore_ledger(Some(&self.template.ledgers[rotations]));
    }

    /// Destroys the key of a generation on the first token.
    pub fn destroy_key(&self, generation: u64) {
        self.destroy_key_on("keelson", generation);
    }

    pub fn destroy_key_on(&self, label: &str, generation: u64) {
        self.world().softhsm.destroy(label, KeyIds::default().of(generation));
    }

    /// Changes the ledger of an hsmd that is stopped.
    pub fn change_ledger(&self, statement: &str) {
        let (runtime, database) = self.open_ledger();
        runtime.block_on(async {
            assert_eq!(database.execute_unprepared(statement).await.unwrap().rows_affected(), 1);
            database.close().await.unwrap();
        });
    }

    /// Takes the lock of the ledger's database, as a process does that hangs in a transaction, and has hsmd notice.
    pub fn lock_ledger(&self) {
        let (runtime, database) = self.open_ledger();
        runtime.block_on(database.execute_unprepared("BEGIN IMMEDIATE")).unwrap();
        *self.lock.lock().unwrap() = Some((runtime, database));
        assert_eq!(self.sign().status, 503);
    }

    pub fn unlock_ledger(&self) {
        let (runtime, database) = self.lock.lock().unwrap().take().unwrap();
        runtime.block_on(database.close()).unwrap();
    }

    fn open_ledger(&self) -> (Runtime, DatabaseConnection) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let database = runtime.block_on(Connection::connect(&self.world().ledger)).unwrap();
        (runtime, database)
    }

    /// A copy of the host rotates, and its event is in the directory.
    pub fn meet_copy(&self) {
        let copy = self.template.fixture.copy();
        let mut hsmd = copy.start();
        copy.world.rotate("{}");
        let chain = copy.world.chain();
        hsmd.stop();
        assert_eq!(self.world().report_with(&[chain.last().unwrap()], &[]), "rival");
    }

    /// Runs the commands of the page's block with that marker, as an operator types them.
    pub fn run(&self, marker: &str) {
        for command in page::commands(marker) {
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
                    self.world().recover(&format!("?unfinished={unfinished}"), &self.published())
                }
                ["opsctl", "hsm", "recover", "--dry-run"] => self.get("/restored"),
                ["opsctl", "hsm", "recover"] => self.take_over(),
                ["opsctl", "hsm", "recover", "--copy-stopped"] => self.post("/copy-stopped", "{}"),
                ["opsctl", "hsm", "pin", "retry"] => {
                    self.fixture.retry_pin();
                    continue;
                }
                ["opsctl", "rotate"] => self.post("/rotate", "{}"),
                ["opsctl", "taint", ..] => self.post("/taint", "{}"),
                _ => panic!("the test knows no `{command}`"),
            };
            answer.ok();
        }
    }

    /// Waits until hsmd serves and is in a state, and checks what it says and allows in it.
    pub fn wait_for(&self, hsmd: &Daemon, label: &str) {
        let admin = self.world().socket("admin");
        let named = format!("\"state\":{{\"name\":\"{label}\"");
        let health = || try_request(&admin, "GET", "/health", b"");
        let start = Instant::now();
        while !health().is_ok_and(|health| health.body.contains(&named)) {
            assert!(start.elapsed() < SOON, "not {label}: {:?}; {}", health(), hsmd.log());
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let health = health().unwrap();
        let allows = |what: &str| health.body.contains(&format!("\"{what}\":true"));
        assert_eq!(health.status, if allows("signs") { 200 } else { 503 }, "{}", health.body);
        assert!(label == "ready" || health.body.contains("\"cure\":\""), "{}", health.body);
        let signed = self.sign();
        assert_eq!(signed.status, if allows("signs") { 200 } else { 503 }, "{label}: {}", signed.body);
        if !allows("signs") {
            assert_eq!(signed.code(), "BA603");
            assert!(signed.body.contains(&format!("\"state\":\"{label}\"")), "{label}: {}", signed.body);
        }
        // While something is reconciled it has the turn that a rotation waits for.
        if !allows("rotates") && label != "interrupted" {
            let rotated = self.post("/rotate", "{}");
            assert_eq!((rotated.status, rotated.code()), (503, "BA603"), "{label}: {}", rotated.body);
        }
    }

    /// It is whole again: the chain goes on from what was published, endorses, rotates, and survives a restart.
    pub fn lives_on(&self, mut hsmd: Daemon) {
        let start = Instant::now();
        while self.sign().status != 200 {
            assert!(start.elapsed() < SOON, "no endorsement: {}; {}", self.sign().body, hsmd.log());
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let chain = self.world().chain();
        let ids = |events: &[SignedEvent]| events.iter().map(SignedEvent::id).collect::<Vec<_>>();
        assert!(ids(&chain).starts_with(&ids(&self.template.chain)), "nothing that was published is gone");
        verify(&self.sign().ok(), &chain, Purpose::Response, &service_key(9), "edge:demo");
        // A token that has just come back is surveyed before anything is made on it.
        eventually("a rotation", SOON, || self.post("/rotate", "{}").status == 200);
        assert_eq!(self.world().chain().len(), chain.len() + 1);
        eventually("the live and the next key alone", SOON, || self.world().softhsm.objects() == 4);
        hsmd.stop();
        self.fixture.start().stop();
    }

    pub fn sign(&self) -> Answer {
        let body = sign_request(Purpose::Response, service_key(9), Duration::from_mins(5));
        request(&self.world().socket("edge"), "POST", "/sign", &body)
    }

    pub fn post(&self, path: &str, body: &str) -> Answer {
        request(&self.world().socket("admin"), "POST", path, body)
    }

    fn get(&self, path: &str) -> Answer {
        request(&self.world().socket("admin"), "GET", path, "")
    }

    /// Takes over what the restored ledger lacks, as `opsctl` does: what was shown. It is compared then.
    fn take_over(&self) -> Answer {
        let shown: serde_json::Value = serde_json::from_str(&self.get("/restored").ok()).unwrap();
        let proof = shown["restored"]["proof"].as_str().unwrap();
        let taken = self.post("/take-over", &format!("{{\"proof\":\"{proof}\",\"take\":\"sound\"}}"));
        self.world().report(&[]);
        taken
    }

    fn published(&self) -> String {
        let texts: Vec<_> = self.template.chain.iter().map(SignedEvent::text).collect();
        format!("[{}]", texts.join(","))
    }
}

/// The copy appears at once and whole: a token that is half there may refuse its PIN.
pub fn copy(from: &Path, to: &Path) {
    let new = to.with_extension("new");
    assert!(Command::new("cp").arg("-r").args([from, &new]).status().unwrap().success());
    std::fs::remove_dir_all(to).ok();
    std::fs::rename(new, to).unwrap();
}
