//! A SoftHSM token in a folder of its own.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

pub const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
pub const PIN: &str = "7340-abcd";

/// The variable that names the token whose objects are counted.
pub const TOKEN: &str = "KEELSON_TOKEN";

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
            .args(["--init-token", "--free", "--label", label, "--so-pin", "so-7340-abcd", "--pin", PIN])
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(made.success());
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

    /// Runs an ignored test of this binary with this token in its environment; answers what it printed.
    pub fn run_inside(&self, test: &str) -> String {
        self.run_with(test, &[])
    }

    fn run_with(&self, test: &str, environment: &[(&str, &str)]) -> String {
        let done = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--ignored", "--nocapture"])
            .env("SOFTHSM2_CONF", self.conf())
            .envs(environment.iter().copied())
            .output()
            .unwrap();
        let told = [done.stdout, done.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        assert!(done.status.success() && told.contains("1 passed"), "{told}");
        told
    }
}
