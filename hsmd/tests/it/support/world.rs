//! One hsmd with its token, its ledger and its sockets, and what a verifier makes of its answers.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use keychain::{
    Digest, PublicKey, SigningKey, Timestamp,
    chain::{Chain, Settings, SignedEvent, verify_whole, windows},
    endorsement::{Endorsement, Expected, Purpose, SignRequest},
};
use serde_json::value::RawValue;

use super::{
    daemon::{Daemon, request},
    servers::{self, Server},
    softhsm::{MODULE, SoftHsm},
};

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
    _postgres: Option<Server>,
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
        let world = Self { folder, softhsm, ledger, _postgres: postgres };
        world.configure("");
        world
    }

    /// Another hsmd's world on the same ledger and token.
    pub fn beside(world: &Self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (softhsm, ledger) = (world.softhsm.share(), world.ledger.clone());
        let beside = Self { folder, softhsm, ledger, _postgres: None };
        beside.configure("");
        beside
    }

    /// Writes the configuration; `more` stands at its top level.
    pub fn configure(&self, more: &str) {
        let uid = rustix::process::geteuid().as_raw();
        let folder = self.path().display();
        let other = uid + 1;
        let text = format!(
            r#"{more}
ledger = "{ledger}"
metrics = "unix:{folder}/metrics.sock"
[hsm]
module = "{MODULE}"
token_label = "keelson"
pin = "{pin}"
[[listen]]
address = "unix:{folder}/authd.sock"
role = "endorse"
[[listen.allow]]
user = {uid}
service = "authd"
purposes = ["access", "response"]
[[listen]]
address = "unix:{folder}/edge.sock"
role = "endorse"
[[listen.allow]]
user = {uid}
service = "edge:demo"
purposes = ["response"]
longest_response = "1h"
[[listen]]
address = "unix:{folder}/other.sock"
role = "endorse"
[[listen.allow]]
user = {other}
service = "edge:other"
purposes = ["response"]
[[listen]]
address = "unix:{folder}/admin.sock"
role = "admin"
[[listen.allow]]
user = {uid}
[[listen]]
address = "unix:{folder}/other-admin.sock"
role = "admin"
[[listen.allow]]
user = {other}
"#,
            ledger = self.ledger,
            pin = self.softhsm.pin_file().display(),
        );
        fs::write(self.config(), text).unwrap();
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

    /// The chain as published, every rule verified.
    pub fn chain(&self) -> Vec<SignedEvent> {
        read_chain(&request(&self.socket("edge"), "GET", "/chain", "").ok())
    }

    pub fn rotate(&self, body: &str) -> String {
        request(&self.socket("admin"), "POST", "/rotate", body).ok()
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
    let mut chain = Chain::new(events[0].id(), Settings::default());
    chain.merge(events.iter().cloned(), now());
    let endorsement = Endorsement::parse(text).unwrap();
    let expected = Expected { purpose, public_key: key, service: Some(service) };
    endorsement.verify(&chain, expected, windows::AUTHD, now()).unwrap();
    endorsement.generation_id
}
