//! `opsctl hsm backup`, `restore`, `pair`, `replace`, `pin retry` and `token accept`: handed on to `hsm-backup`,
//! which talks to the devices itself.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use crate::failure::{Exit, Failure};

/// The program that exports, imports and carries keys; it comes with hsmd.
const PROGRAM: &str = "hsm-backup";

/// What is handed on as it is.
#[derive(Debug, clap::Args)]
pub(crate) struct HandedOn {
    /// What `hsm-backup` takes after the verb; `-- --help` prints that
    #[arg(value_name = "ARGUMENT", trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// `opsctl hsm backup`.
pub(crate) fn backup(options: &HandedOn) -> Failure {
    hand_on("backup", &options.arguments)
}

/// `opsctl hsm restore`.
pub(crate) fn restore(options: &HandedOn) -> Failure {
    hand_on("restore", &options.arguments)
}

/// `opsctl hsm pair`.
pub(crate) fn pair(options: &HandedOn) -> Failure {
    hand_on("pair", &options.arguments)
}

/// `opsctl hsm replace`.
pub(crate) fn replace(options: &HandedOn) -> Failure {
    hand_on("replace", &options.arguments)
}

/// `opsctl hsm pin retry`.
pub(crate) fn retry_pin(options: &HandedOn) -> Failure {
    hand_on("retry-pin", &options.arguments)
}

/// `opsctl hsm token accept`.
pub(crate) fn accept_token(options: &HandedOn) -> Failure {
    hand_on("accept-token", &options.arguments)
}

/// Becomes `hsm-backup`, whose output and exit code are then the command's own; returns only if that fails.
pub(super) fn hand_on(verb: &str, arguments: &[impl AsRef<OsStr>]) -> Failure {
    let program = program();
    let error = Command::new(&program).arg(verb).args(arguments).exec();
    let what = format!(
        "cannot run `{}`, which does the officers' acts on tokens; it comes with hsmd: install that here, or put \
         `{PROGRAM}` on the PATH",
        program.display()
    );
    Failure::new(Exit::Unavailable, what).because(error)
}

/// The one beside this program, or else whichever is on the PATH.
fn program() -> PathBuf {
    let beside = std::env::current_exe().ok().map(|program| program.with_file_name(PROGRAM));
    beside.filter(|program| program.is_file()).unwrap_or_else(|| PROGRAM.into())
}
