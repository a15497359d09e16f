//! A SoftHSM token in a folder of its own.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    object::{Attribute, ObjectHandle},
    session::{Session, UserType},
    slot::Slot,
};
use hsmd::token::backend::KeyId;

pub const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
pub const PIN: &str = "7340-abcd";

/// The PIN of each token's security officer.
pub const SO_PIN: &str = "so-7340-abcd";

/// The variable that names the token whose objects are counted or destroyed.
const TOKEN: &str = "KEELSON_TOKEN";

/// The variable that names the id of the key that is destroyed.
const DESTROYED: &str = "KEELSON_DESTROYED_KEY";

pub struct SoftHsm {
    folder: PathBuf,
}

impl SoftHsm {
    /// Makes a token labelled `keelson` below `folder`.
    pub fn new(folder: &Path) -> Self {
        let this = Self { folder: folder.join("softhsm") };
        fs::create_dir_all(this.tokens()).unwrap();
        let conf = format!("directories.tokendir = {}\nlog.level = ERROR\n", this.tokens().display());
        fs::write(this.conf(), conf).unwrap();
        fs::write(this.pin_file(), PIN).unwrap();
        fs::set_permissions(this.pin_file(), fs::Permissions::from_mode(0o600)).unwrap();
        this.add_token("keelson");
        this
    }

    /// The same tokens.
    pub fn share(&self) -> Self {
        Self { folder: self.folder.clone() }
    }

    pub fn add_token(&self, label: &str) {
        let made = Command::new("softhsm2-util")
            .env("SOFTHSM2_CONF", self.conf())
            .args(["--init-token", "--free", "--label", label, "--so-pin", SO_PIN, "--pin", PIN])
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(made.success());
    }

    /// Has the officers pair the tokens `keelson` and `spare`, by the tool that ships.
    pub fn pair(&self, folder: &Path) {
        let config = folder.join("pair.toml");
        let pin = self.pin_file();
        let token = |label| {
            format!("module = \"{MODULE}\"\ntoken_label = \"{label}\"\npin = \"{}\"\n", pin.display())
        };
        let (first, second) = (token("keelson"), token("spare"));
        let text = format!("policy = \"/nowhere/policy.toml\"\n[hsm]\n{first}[second_hsm]\n{second}");
        fs::write(&config, text).unwrap();
        let shown = self.ceremony("pair", &config);
        assert!(shown.contains("the tokens are paired by the wrap key"), "{shown}");
    }

    /// Runs an act of the officers on the tokens that `config` names; answers what was said.
    pub fn ceremony(&self, verb: &str, config: &Path) -> String {
        let officer_pin = self.folder.join("officer-pin");
        fs::write(&officer_pin, SO_PIN).unwrap();
        fs::set_permissions(&officer_pin, fs::Permissions::from_mode(0o600)).unwrap();
        let done = Command::new(env!("CARGO_BIN_EXE_hsm-backup"))
            .args([verb, "--config"])
            .arg(config)
            .arg("--officer-pin")
            .arg(&officer_pin)
            .arg("--second-officer-pin")
            .arg(&officer_pin)
            .env("SOFTHSM2_CONF", self.conf())
            .output()
            .unwrap();
        [done.stdout, done.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat()
    }

    /// The folders of the tokens.
    pub fn token_folders(&self) -> BTreeSet<PathBuf> {
        fs::read_dir(self.tokens()).unwrap().map(|folder| folder.unwrap().path()).collect()
    }

    pub fn conf(&self) -> PathBuf {
        self.folder.join("softhsm2.conf")
    }

    pub fn pin_file(&self) -> PathBuf {
        self.folder.join("pin")
    }

    pub fn tokens(&self) -> PathBuf {
        self.folder.join("tokens")
    }

    /// How many key objects the token `keelson` holds, ours or not: a whole key is two.
    ///
    /// Asked through the module, in a process of its own: SoftHSM reads its environment once.
    pub fn objects(&self) -> usize {
        self.objects_of("keelson")
    }

    /// The same of another token.
    pub fn objects_of(&self, label: &str) -> usize {
        let listed = self.run_with("conformance::objects_inside", &[(TOKEN, label)]);
        let count = listed.split("objects: ").nth(1).and_then(|rest| rest.lines().next());
        count.expect(&listed).parse().unwrap()
    }

    /// Destroys both objects of the key under an id on the token with that label.
    pub fn destroy(&self, label: &str, id: KeyId) {
        let id = id.number().to_string();
        let done = self.run_with("conformance::destroy_inside", &[(TOKEN, label), (DESTROYED, &id)]);
        assert!(done.contains("destroyed: 2"), "{done}");
    }

    /// Runs an ignored test of this binary with this token in its environment; answers what it printed.
    pub fn run_inside(&self, test: &str) -> String {
        self.run_with(test, &[])
    }

    /// The same with more in its environment.
    pub fn run_with(&self, test: &str, environment: &[(&str, &str)]) -> String {
        let done = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--ignored", "--nocapture"])
            .env("SOFTHSM2_CONF", self.conf())
            .envs(environment.iter().copied())
            .output()
            .unwrap();
        let shown = [done.stdout, done.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        assert!(done.status.success() && shown.contains("1 passed"), "{shown}");
        shown
    }
}

/// A session of the user with the token that the environment names, in a process of its own: SoftHSM reads its
/// environment once.
pub fn log_in_inside() -> Session {
    let module = Pkcs11::new(MODULE).unwrap();
    let label = std::env::var(TOKEN).unwrap();
    let is_ours = |slot: &&Slot| module.get_token_info(**slot).unwrap().label() == label;
    // SoftHSM passes over a token that another process is just logging in to.
    let slot = (0..100).find_map(|_| {
        module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
        let slots = module.get_slots_with_initialized_token().unwrap();
        let found = slots.iter().find(is_ours).copied();
        if found.is_none() {
            module.clone().finalize().unwrap();
            std::thread::park_timeout(Duration::from_millis(20));
        }
        found
    });
    let session = module.open_rw_session(slot.unwrap()).unwrap();
    session.login(UserType::User, Some(&PIN.to_owned().into())).unwrap();
    session
}

/// The objects under the id that the environment names.
pub fn named_inside(session: &Session) -> Vec<ObjectHandle> {
    let id: u16 = std::env::var(DESTROYED).unwrap().parse().unwrap();
    session.find_objects(&[Attribute::Id(id.to_be_bytes().to_vec())]).unwrap()
}
