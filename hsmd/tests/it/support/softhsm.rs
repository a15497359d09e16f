//! A SoftHSM token in a folder of its own.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

pub const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
pub const PIN: &str = "7340-abcd";

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

    pub fn add_token(&self, label: &str) {
        let made = Command::new("softhsm2-util")
            .env("SOFTHSM2_CONF", self.conf())
            .args(["--init-token", "--free", "--label", label, "--so-pin", "so-7340-abcd", "--pin", PIN])
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(made.success());
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

    /// How many objects all tokens hold: a whole key is two.
    pub fn objects(&self) -> usize {
        let object = Some(OsStr::new("object"));
        let token = OsStr::new("token.object");
        let mut count = 0;
        for token_folder in fs::read_dir(self.tokens()).unwrap() {
            for file in fs::read_dir(token_folder.unwrap().path()).unwrap() {
                let path = file.unwrap().path();
                count += usize::from(path.extension() == object && path.file_name() != Some(token));
            }
        }
        count
    }

    /// Takes the objects as they are now, to be brought back later.
    pub fn copy_to(&self, other: &Path) {
        let copied = Command::new("cp").arg("-a").arg(self.tokens()).arg(other).status().unwrap();
        assert!(copied.success());
    }
}
