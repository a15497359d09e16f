//! A SoftHSM token of the test's own.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::process::{command, run};

/// Where Debian puts the module.
pub const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";

/// An initialised token in a temporary folder, gone when dropped.
pub struct Token {
    folder: TempDir,
}

impl Token {
    /// The user PIN of every token made here.
    pub const PIN: &'static str = "1234567890";
    /// Its label.
    pub const LABEL: &'static str = "keelson";

    /// Makes one.
    pub fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tokens = folder.path().join("tokens");
        std::fs::create_dir(&tokens).unwrap();
        let token = Self { folder };
        let text = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            tokens.display()
        );
        std::fs::write(token.configuration(), text).unwrap();
        let mut make = command("softhsm2-util");
        make.env("SOFTHSM2_CONF", token.configuration());
        make.args(["--init-token", "--free", "--label", Self::LABEL, "--pin", Self::PIN]);
        make.args(["--so-pin", "0987654321"]);
        run(make);
        token
    }

    /// The file for `SOFTHSM2_CONF`.
    pub fn configuration(&self) -> PathBuf {
        self.folder.path().join("softhsm2.conf")
    }
}
