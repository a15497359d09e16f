//! A world whose module fails on command.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use keychain::{chain::SignedEvent, endorsement::Purpose};
use p11fault::{CONTROL, Plan, log_of};

use crate::support::{
    daemon::{Daemon, try_request},
    operators_word,
    world::{Database, World, read_chain, service_key, sign_request, verify},
};

/// Within this after a fault's end hsmd signs again.
pub const SOON: Duration = Duration::from_secs(5);

/// How the configuration names the second token of [`Fixture::pair`].
const SPARE: &str = "token_label = \"spare\"";

/// A world whose module is the fault module.
pub struct Fixture {
    pub world: World,
    control: PathBuf,
    plans: AtomicU64,
}

impl Fixture {
    pub fn new() -> Self {
        Self::around(World::new(Database::Sqlite))
    }

    fn around(world: World) -> Self {
        let folder = world.path().join("fault");
        fs::create_dir(&folder).unwrap();
        let config = fs::read_to_string(world.config()).unwrap();
        let module = module().to_str().unwrap().to_owned();
        fs::write(world.config(), config.replace(crate::support::softhsm::MODULE, &module)).unwrap();
        Self { world, control: folder.join("control"), plans: AtomicU64::new(0) }
    }

    /// The same with a second token, labelled `spare`, that is paired with the first.
    pub fn pair() -> Self {
        let fixture = Self::new();
        fixture.world.softhsm.add_token("spare");
        fixture.add_second(SPARE);
        fixture.world.softhsm.pair(fixture.world.path());
        fixture
    }

    /// A copy of the whole host, without faults. hsmd must not run.
    pub fn copy(&self) -> Self {
        let copy = Self::around(self.world.copy());
        if fs::read_to_string(self.world.config()).unwrap().contains(SPARE) {
            copy.add_second(SPARE);
        }
        copy
    }

    /// Adds the second token's table to the configuration.
    pub fn add_second(&self, keys: &str) {
        let config = fs::read_to_string(self.world.config()).unwrap();
        let (module, pin) = (module(), self.world.softhsm.pin_file());
        let (module, pin) = (module.display(), pin.display());
        let refused = self.world.path().join("second-refused-pin");
        let refused = refused.display();
        let table = format!(
            "[second_hsm]\nmodule = \"{module}\"\npin = \"{pin}\"\nrefused_pin = \"{refused}\"\n{keys}\n"
        );
        fs::write(self.world.config(), format!("{config}{table}")).unwrap();
    }

    pub fn spawn_with(&self, environment: &[(&str, &str)]) -> Daemon {
        let control = self.control.to_str().unwrap();
        let environment = [environment, &[(CONTROL, control)]].concat();
        let softhsm = self.world.softhsm.conf();
        let program = env!("CARGO_BIN_EXE_hsmd");
        Daemon::spawn_with(program, &self.world.config(), self.world.path(), &softhsm, &environment)
    }

    pub fn start(&self) -> Daemon {
        let mut hsmd = self.spawn_with(&[]);
        if let Err(status) = hsmd.ready() {
            panic!("hsmd ended: {status}; {}", hsmd.log());
        }
        hsmd
    }

    /// Puts a plan into force, with an empty log.
    pub fn plan(&self, plan: Plan) {
        fs::remove_file(log_of(&self.control)).ok();
        self.keep_on(plan);
    }

    /// Puts a plan into force; the log goes on.
    pub fn keep_on(&self, plan: Plan) {
        let number = self.plans.fetch_add(1, Ordering::Relaxed);
        Plan { number, ..plan }.write(&self.control).unwrap();
    }

    /// Ends every fault.
    pub fn lift(&self) {
        self.keep_on(Plan::default());
    }

    /// An operator's word that each PIN is right.
    pub fn retry_pin(&self) {
        operators_word("retry-pin", &self.world.config());
    }

    /// How many lines of the module's log begin so.
    pub fn logged(&self, beginning: &str) -> usize {
        let log = fs::read_to_string(log_of(&self.control)).unwrap_or_default();
        log.lines().filter(|line| line.starts_with(beginning)).count()
    }

    pub fn post(&self, socket: &str, path: &str, body: &str) -> (u16, String) {
        match try_request(&self.world.socket(socket), "POST", path, body.as_bytes()) {
            Ok(answer) => (answer.status, answer.body),
            Err(error) => (0, error.to_string()),
        }
    }

    /// Asks for an endorsement.
    pub fn endorse(&self, number: u8) -> (u16, String) {
        let body = sign_request(Purpose::Response, service_key(number), Duration::from_mins(30));
        self.post("edge", "/sign", &body)
    }

    /// Whether an endorsement is answered, and verifies against the chain as it is then published.
    pub fn signs(&self) -> bool {
        let (status, text) = self.endorse(9);
        if status != 200 {
            return false;
        }
        let Some(chain) = self.chain() else { return false };
        verify(&text, &chain, Purpose::Response, &service_key(9), "edge:demo");
        true
    }

    /// The chain as published, verified; nothing while hsmd does not tell it.
    pub fn chain(&self) -> Option<Vec<SignedEvent>> {
        let answer = try_request(&self.world.socket("edge"), "GET", "/chain", b"").ok()?;
        (answer.status == 200).then(|| read_chain(&answer.body))
    }

    pub fn metrics(&self) -> String {
        try_request(&self.world.socket("metrics"), "GET", "/metrics", b"").unwrap().ok()
    }

    pub fn health(&self) -> (u16, String) {
        match try_request(&self.world.socket("edge"), "GET", "/health", b"") {
            Ok(answer) => (answer.status, answer.body),
            Err(error) => (0, error.to_string()),
        }
    }
}

/// The shared library of `p11fault`, which cargo builds beside this binary.
pub fn module() -> PathBuf {
    let path = std::env::current_exe().unwrap().parent().unwrap().join("libp11fault.so");
    assert!(Path::new(&path).exists(), "{} is not built", path.display());
    path
}
