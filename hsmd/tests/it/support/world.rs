//! One hsmd with its token, its ledger and its sockets, and what a verifier makes of its answers.

use std::{
    fs,
    os::{fd::OwnedFd, unix::fs::PermissionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use keychain::{
    Digest, PublicKey, SigningKey, Timestamp,
    chain::{Chain, Settings, SignedEvent, verify_whole, windows},
    endorsement::{Endorsement, Expected, Purpose, SignRequest},
    statement::Head,
};
use serde_json::value::RawValue;

use super::{
    daemon::{Answer, Daemon, request},
    eventually, listens,
    servers::{self, Server},
    softhsm::{MODULE, SoftHsm},
};

/// The variable that says where hsmd is to fail: `hsmd::failure_point::VARIABLE`, which a release build lacks, and the
/// bench shares this file.
pub const FAILURE_POINT: &str = "HSMD_FAILURE_POINT";

/// The variable that names the file with the clock's offset: `hsmd::clock::offset::VARIABLE`, for the same reason.
pub const CLOCK_OFFSET: &str = "HSMD_CLOCK_OFFSET";

/// Which database the ledger is in.
#[derive(Clone, Copy, Debug)]
pub enum Database {
    Postgres,
    Sqlite,
}

pub struct World {
    pub folder: tempfile::TempDir,
    pub softhsm: SoftHsm,
    pub ledger: String,
    pub postgres: Option<Server>,
}

impl World {
    pub fn new(database: Database) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let softhsm = SoftHsm::new(folder.path());
        let (ledger, postgres) = match database {
            Database::Sqlite => (format!("sqlite://{}/ledger.db", folder.path().display()), None),
            Database::Postgres => {
                let server = servers::postgres(folder.path());
                (server.url.clone(), Some(server))
            }
        };
        let world = Self { folder, softhsm, ledger, postgres };
        world.configure("");
        world
    }

    /// Another hsmd's world on the same ledger and token.
    pub fn beside(world: &Self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (softhsm, ledger) = (world.softhsm.share(), world.ledger.clone());
        let beside = Self { folder, softhsm, ledger, postgres: None };
        beside.configure("");
        beside
    }

    /// A copy of the whole host, as from a snapshot: token, ledger, and what stands beside it. hsmd must not run.
    pub fn copy(&self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let softhsm = SoftHsm::new(folder.path());
        copy_folder(&self.softhsm.tokens(), &softhsm.tokens());
        let ledger = format!("sqlite://{}/ledger.db", folder.path().display());
        let copy = Self { folder, softhsm, ledger, postgres: None };
        copy.restore_ledger(Some(&self.back_up_ledger()));
        copy_folder(&self.path().join("copy"), &copy.path().join("copy"));
        copy.configure("");
        copy
    }

    /// Writes the configuration; `more` stands at its top level.
    pub fn configure(&self, more: &str) {
        let folder = self.path().display();
        let text = format!(
            r#"{more}
ledger = "{ledger}"
policy = "{folder}/policy.toml"
chain_copy = "{folder}/copy/chain.jsonl"
room_floor = "1MiB"
metrics = "unix:{folder}/metrics.sock"
[hsm]
module = "{MODULE}"
token_label = "keelson"
pin = "{pin}"
refused_pin = "{folder}/refused-pin"
[[listen]]
address = "unix:{folder}/authd.sock"
role = "endorse"
[[listen]]
address = "unix:{folder}/edge.sock"
role = "endorse"
[[listen]]
address = "unix:{folder}/other.sock"
role = "endorse"
[[listen]]
address = "unix:{folder}/admin.sock"
role = "admin"
[[listen]]
address = "unix:{folder}/other-admin.sock"
role = "admin"
[[listen]]
address = "unix:{folder}/publish.sock"
role = "publish"
"#,
            ledger = self.ledger,
            pin = self.softhsm.pin_file().display(),
        );
        fs::write(self.config(), text).unwrap();
        self.write_policy(&self.policy());
    }

    /// Everything runs as one user here, so services are told apart by their sockets; the sockets `other`
    /// and `other-admin` are another user's.
    pub fn policy(&self) -> String {
        let uid = rustix::process::geteuid().as_raw();
        let folder = self.path().display();
        let other = uid + 1;
        format!(
            r#"
[[allow]]
user = {uid}
socket = "unix:{folder}/authd.sock"
operations = ["endorse"]
service = "authd"
purposes = ["access", "response"]
rate = "1000000/s"
[[allow]]
user = {uid}
socket = "unix:{folder}/edge.sock"
operations = ["endorse"]
service = "edge:demo"
purposes = ["response"]
longest_response = "1h"
rate = "1000000/s"
[[allow]]
user = {other}
socket = "unix:{folder}/other.sock"
operations = ["endorse"]
service = "edge:other"
purposes = ["response"]
[[allow]]
user = {uid}
socket = "unix:{folder}/admin.sock"
operations = ["accept-clock", "audit", "rotate", "taint", "revoke-keys", "revoke-service", "open-service", "roll-service", "recover"]
rate = "1000000/s"
[[allow]]
user = {uid}
socket = "unix:{folder}/publish.sock"
operations = ["report"]
rate = "1000000/s"
[[allow]]
user = {other}
socket = "unix:{folder}/other-admin.sock"
operations = ["accept-clock", "audit", "rotate", "taint", "revoke-keys", "revoke-service", "open-service", "roll-service", "recover"]
"#
        )
    }

    /// Replaces the policy; hsmd reads it at its start and at SIGHUP.
    pub fn write_policy(&self, text: &str) {
        fs::write(self.path().join("policy.toml"), text).unwrap();
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn config(&self) -> PathBuf {
        self.path().join("hsmd.toml")
    }

    pub fn socket(&self, name: &str) -> PathBuf {
        self.path().join(format!("{name}.sock"))
    }

    /// Starts hsmd and waits until it is ready.
    pub fn start(&self) -> Daemon {
        let mut daemon = self.spawn();
        if let Err(status) = daemon.ready() {
            panic!("hsmd ended: {status}; {}", daemon.log());
        }
        daemon
    }

    pub fn spawn(&self) -> Daemon {
        Daemon::spawn(env!("CARGO_BIN_EXE_hsmd"), &self.config(), self.path(), &self.softhsm.conf())
    }

    /// Starts hsmd with a socket that it inherits, and does not wait.
    pub fn spawn_inheriting(&self, socket: &str, listener: OwnedFd) -> Daemon {
        let conf = self.softhsm.conf();
        let program = env!("CARGO_BIN_EXE_hsmd");
        Daemon::spawn_inheriting(program, &self.config(), self.path(), &conf, (socket, listener))
    }

    /// Sets hsmd's clock off by so many milliseconds, also while it runs: see [`Self::spawn_off`].
    pub fn set_clock(&self, offset_ms: i64) {
        let (file, fresh) = (self.path().join("clock"), self.path().join("clock.new"));
        fs::write(&fresh, offset_ms.to_string()).unwrap();
        fs::rename(fresh, file).unwrap();
    }

    /// Starts hsmd with a clock that [`Self::set_clock`] sets, and does not wait.
    pub fn spawn_off(&self) -> Daemon {
        let file = self.path().join("clock");
        let environment = [(CLOCK_OFFSET, file.to_str().unwrap())];
        let conf = self.softhsm.conf();
        Daemon::spawn_with(env!("CARGO_BIN_EXE_hsmd"), &self.config(), self.path(), &conf, &environment)
    }

    /// Starts hsmd with a plan to fail, and does not wait.
    pub fn spawn_to_fail(&self, plan: &str) -> Daemon {
        let environment = [(FAILURE_POINT, plan)];
        let conf = self.softhsm.conf();
        Daemon::spawn_with(env!("CARGO_BIN_EXE_hsmd"), &self.config(), self.path(), &conf, &environment)
    }

    /// Starts hsmd with a ledger that is behind its token, and waits until it says so and serves its sockets.
    pub fn start_behind(&self, plan: Option<&str>) -> Daemon {
        let mut daemon = plan.map_or_else(|| self.spawn(), |plan| self.spawn_to_fail(plan));
        for shown in ["opsctl hsm recover", "EXTEND_TIMEOUT_USEC="] {
            if let Err(status) = daemon.notified(shown) {
                panic!("hsmd ended: {status}; {}", daemon.log());
            }
        }
        eventually("the admin socket", Duration::from_secs(10), || listens(&self.socket("admin")));
        daemon
    }

    /// The files of the ledger in SQLite.
    fn ledger_files(&self) -> [PathBuf; 3] {
        ["db", "db-wal", "db-shm"].map(|ending| self.path().join("ledger").with_extension(ending))
    }

    /// A backup of the ledger in SQLite, while hsmd is stopped.
    pub fn back_up_ledger(&self) -> Vec<u8> {
        fs::read(&self.ledger_files()[0]).unwrap()
    }

    /// Takes the ledger in SQLite away, and brings a backup of it back if there is one.
    pub fn restore_ledger(&self, backup: Option<&[u8]>) {
        let files = self.ledger_files();
        for file in &files {
            fs::remove_file(file).ok();
        }
        if let Some(backup) = backup {
            fs::write(&files[0], backup).unwrap();
            fs::set_permissions(&files[0], fs::Permissions::from_mode(0o600)).unwrap();
        }
    }

    /// Brings a chain to hsmd, and then reports it as published, as a publisher does at once.
    pub fn recover(&self, query: &str, chain: &str) -> Answer {
        let answer = request(&self.socket("admin"), "POST", &format!("/recover{query}"), chain);
        if answer.status == 200 {
            self.report(&[]);
        }
        answer
    }

    /// Reports the whole chain as published, and heads; answers what hsmd made of that.
    pub fn report(&self, heads: &[&Head]) -> String {
        self.report_with(&[], heads)
    }

    /// The same with events that hsmd did not make.
    pub fn report_with(&self, events: &[&SignedEvent], heads: &[&Head]) -> String {
        let chain = self.chain();
        let (newest, held) = (chain.last().unwrap().id(), chain.len());
        let heads = heads.iter().map(|head| head.text()).collect::<Vec<_>>().join(",");
        let events = events.iter().map(|event| event.text()).collect::<Vec<_>>().join(",");
        let body =
            format!("{{\"events\":[{events}],\"heads\":[{heads}],\"held\":{held},\"newest\":\"{newest}\"}}");
        let answer = request(&self.socket("publish"), "POST", "/published", &body).ok();
        answer.trim_matches(['{', '}']).trim_start_matches("\"finding\":").trim_matches('"').to_owned()
    }

    /// The chain as published, every rule verified.
    pub fn chain(&self) -> Vec<SignedEvent> {
        read_chain(&request(&self.socket("edge"), "GET", "/chain", "").ok())
    }

    /// How many endorsements were made since hsmd started.
    pub fn endorsed(&self) -> usize {
        let page = request(&self.socket("metrics"), "GET", "/metrics", "").ok();
        let counter = "hsmd_sign_duration_seconds_count{op=\"sign\",result=\"ok\"} ";
        let count = page.lines().find_map(|line| line.strip_prefix(counter));
        count.map_or(0, |count| count.parse().unwrap())
    }

    pub fn rotate(&self, body: &str) -> String {
        request(&self.socket("admin"), "POST", "/rotate", body).ok()
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::remove_dir_all(to).ok();
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

pub fn read_chain(text: &str) -> Vec<SignedEvent> {
    let events: Vec<&RawValue> = serde_json::from_str(text).unwrap();
    let events: Vec<_> = events.into_iter().map(|event| SignedEvent::parse(event.get()).unwrap()).collect();
    verify_whole(&events, &events[0].event().prefix, now(), Duration::ZERO).unwrap();
    events
}

pub fn now() -> Timestamp {
    SystemTime::now().into()
}

pub fn service_key(number: u8) -> PublicKey {
    SigningKey::from_seed(&[number; 32]).unwrap().public_key()
}

/// The body of `POST /sign`.
pub fn sign_request(purpose: Purpose, public_key: PublicKey, life: Duration) -> String {
    SignRequest { purpose, public_key, expiration: now().plus(life) }.to_json()
}

/// Verifies an endorsement against the chain, as a service does before it uses it.
pub fn verify(
    text: &str,
    events: &[SignedEvent],
    purpose: Purpose,
    key: &PublicKey,
    service: &str,
) -> Digest {
    Verifier::new(events).verify(text, purpose, key, service)
}

/// Verifies many endorsements against one chain.
pub struct Verifier(Chain);

impl Verifier {
    pub fn new(events: &[SignedEvent]) -> Self {
        let mut chain = Chain::new(events[0].id(), Settings::default());
        chain.merge(events.iter().cloned(), now());
        Self(chain)
    }

    /// The generation that the endorsement names, whose key signed it.
    pub fn verify(&self, text: &str, purpose: Purpose, key: &PublicKey, service: &str) -> Digest {
        let endorsement = Endorsement::parse(text).unwrap();
        let expected = Expected { purpose, public_key: key, service: Some(service) };
        endorsement.verify(&self.0, expected, windows::AUTHD, now()).unwrap();
        endorsement.generation_id
    }
}
