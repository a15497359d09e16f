//! The SoftHSM token of `opsctl dev`.
//!
//! `softhsm2-util` takes the PIN as an argument, where every user of the machine can read it. So the
//! token is initialised through PKCS#11 itself, by a second process of this program: SoftHSM reads
//! its configuration from the environment, which a process had better not change in itself.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use zeroize::Zeroizing;

use super::layout::{make_directory, secret, write_private};
use super::render::TOKEN_LABEL;
use crate::failure::{Exit, Failure, OrFail};
use crate::out;

/// Where distributions put SoftHSM's module.
const MODULES: [&str; 5] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib/pkcs11/libsofthsm2.so",
];
/// Said by the second process when the token is there: its exit code alone does not tell, because
/// SoftHSM can crash at exit after all is done.
const DONE: &str = "token initialised\n";
/// The longest PIN that SoftHSM takes.
const LONGEST_PIN: u64 = 255;

/// A token ready for hsmd.
#[derive(Debug)]
pub(crate) struct Token {
    pub(crate) module: PathBuf,
    /// For hsmd's environment as `SOFTHSM2_CONF`.
    pub(crate) configuration: PathBuf,
}

/// Options of the hidden command that [`Token::open`] runs as a second process.
#[derive(Debug, clap::Args)]
pub(crate) struct Initialise {
    /// The PKCS#11 module
    #[arg(long)]
    module: PathBuf,
}

impl Token {
    /// The token in `folder`, made when missing.
    pub(crate) async fn open(folder: &Path) -> Result<Self, Failure> {
        let module = module()?;
        let configuration = folder.join("softhsm2.conf");
        let tokens = folder.join("tokens");
        let made = folder.join("tokens.made");
        if !made.exists() {
            // Half a token is worth nothing: hsmd has never run with it.
            match std::fs::remove_dir_all(&tokens) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    let what = format!("cannot remove the unfinished token in `{}`", tokens.display());
                    return Err(Failure::new(Exit::Io, what).because(error));
                }
                _ => {}
            }
            make_directory(&tokens)?;
            let text = format!(
                "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n",
                tokens.display()
            );
            write_private(&configuration, text.as_bytes())?;
            let pins = [secret(&folder.join("pin"))?, secret(&folder.join("officer-pin"))?];
            run_initialise(&module, &configuration, &pins).await?;
            write_private(&made, b"")?;
        }
        Ok(Self { module, configuration })
    }
}

fn module() -> Result<PathBuf, Failure> {
    MODULES.iter().map(PathBuf::from).find(|path| path.exists()).or_fail(
        Exit::Config,
        || "SoftHSM is not installed: install the package softhsm2 (`apt-get install softhsm2`)",
    )
}

async fn run_initialise(
    module: &Path,
    configuration: &Path,
    pins: &[impl AsRef<str>; 2],
) -> Result<(), Failure> {
    let context = || "cannot initialise the SoftHSM token";
    let program = std::env::current_exe().or_fail(Exit::Software, context)?;
    let mut command = Command::new(program);
    command.arg("initialise-token").arg("--module").arg(module).env("SOFTHSM2_CONF", configuration);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().or_fail(Exit::Software, context)?;
    let mut stdin = child.stdin.take().or_fail(Exit::Software, context)?;
    for pin in pins {
        stdin.write_all(pin.as_ref().as_bytes()).await.or_fail(Exit::Io, context)?;
        stdin.write_all(b"\n").await.or_fail(Exit::Io, context)?;
    }
    drop(stdin);
    let output = child.wait_with_output().await.or_fail(Exit::Io, context)?;
    if output.stdout == DONE.as_bytes() {
        return Ok(());
    }
    let said = output.stderr.trim_ascii().escape_ascii();
    Err(Failure::new(Exit::Config, format!("{}: {said} ({})", context(), output.status)))
}

/// The second process: initialises a token with the user's PIN and the officer's, lines of standard input.
pub(crate) fn initialise(options: &Initialise) -> Result<(), Failure> {
    let mut pins = Zeroizing::new(String::new());
    std::io::stdin()
        .take(LONGEST_PIN * 2)
        .read_to_string(&mut pins)
        .or_fail(Exit::Io, || "cannot read the PIN from standard input")?;
    let context = || format!("module `{}`", options.module.display());
    let pkcs11 = Pkcs11::new(&options.module).or_fail(Exit::Config, context)?;
    pkcs11
        .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
        .or_fail(Exit::Config, context)?;
    let slots = pkcs11.get_slots_with_token().or_fail(Exit::Config, context)?;
    let slot = *slots.first().or_fail(Exit::Config, || "SoftHSM shows no free slot")?;
    let (pin, officer) = pins
        .trim_end()
        .split_once('\n')
        .or_fail(Exit::Io, || "standard input has no two lines, the user's PIN and the officer's")?;
    // Kept beside the user's, in a laboratory: a second token is paired with it.
    let officer = AuthPin::new(officer.into());
    pkcs11.init_token(slot, &officer, TOKEN_LABEL).or_fail(Exit::Config, context)?;
    let session = pkcs11.open_rw_session(slot).or_fail(Exit::Config, context)?;
    session.login(UserType::So, Some(&officer)).or_fail(Exit::Config, context)?;
    session.init_pin(&AuthPin::new(pin.into())).or_fail(Exit::Config, context)?;
    out::text(DONE);
    Ok(())
}
