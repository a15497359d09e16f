//! hsm-backup: the officers' acts. The chain's keys of a YubiHSM 2, exported under a wrap key and imported into a spare
//! device; two tokens paired so that they mirror each other, and one of them replaced.
//!
//! It runs beside hsmd, by hand, with the officers' secrets: hsmd's own cannot make wrap keys.

use std::{
    fs::{self, OpenOptions},
    io::{Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use clap::{Args, Parser, Subcommand};
use hsmd::{
    daemon::config::Config,
    token::{
        backend::{
            self as backend, Backend,
            officer::{self, Officer},
            yubihsm::{
                Link,
                backup::{self, Backup},
            },
        },
        ceremony,
    },
};
use keychain::chain::{SignedEvent, verify_whole};
use serde_json::value::RawValue;
use systemd::{credential, exit::Failure};
use yubihsm::{Client, Credentials, device::SerialNumber};

/// Longest password of an authentication key.
const PASSWORD_MAX: usize = 255;

/// Exports the chain's keys from a YubiHSM 2 under a wrap key, and imports them into a spare one
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Export the signing key and the next, encrypted, into a file
    Backup {
        #[command(flatten)]
        device: Device,
        /// The id of the wrap key
        #[arg(long, value_name = "ID")]
        wrap_key: u16,
        /// The file to make; it must not be there
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Import a backup into a spare device, and see that its keys are the ones that were exported
    Restore {
        #[command(flatten)]
        device: Device,
        /// The backup
        #[arg(long, value_name = "FILE")]
        backup: PathBuf,
    },
    /// Pair the two tokens of `hsmd.toml`: from the next two rotations on they mirror each other
    Pair {
        #[command(flatten)]
        officers: Officers,
    },
    /// Pair anew after one of the two tokens was replaced, and carry the chain's keys to the replacement
    Replace {
        #[command(flatten)]
        officers: Officers,
    },
    /// Present a PIN again that a token has refused: it is right now
    RetryPin {
        /// The configuration of hsmd, which names the tokens
        #[arg(long, value_name = "FILE", default_value = "/etc/hsmd/hsmd.toml")]
        config: PathBuf,
    },
    /// Take over whatever token is in each slot: it was exchanged on purpose
    AcceptToken {
        /// The configuration of hsmd, which names the tokens
        #[arg(long, value_name = "FILE", default_value = "/etc/hsmd/hsmd.toml")]
        config: PathBuf,
    },
    /// See that a backup holds what the chain needs to go on
    Verify {
        /// The backup
        #[arg(long, value_name = "FILE")]
        backup: PathBuf,
        /// The published chain, as `GET /chain` of hsmd tells it
        #[arg(long, value_name = "FILE")]
        chain: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Officers {
    /// The configuration of hsmd, which names the tokens
    #[arg(long, value_name = "FILE", default_value = "/etc/hsmd/hsmd.toml")]
    config: PathBuf,
    /// The file or credential with the PIN of the first token's security officer, readable by nobody else
    #[arg(long, value_name = "FILE", default_value = "officer-pin")]
    officer_pin: String,
    /// The same of the second token
    #[arg(long, value_name = "FILE", default_value = "second-officer-pin")]
    second_officer_pin: String,
}

#[derive(Debug, Args)]
struct Device {
    /// `usb`, or the connector on this host, as `http://127.0.0.1:12345`
    #[arg(long, value_name = "WAY", value_parser = Link::parse)]
    connector: Link,
    /// Over USB, the serial number of the device [default: the only one]
    #[arg(long)]
    serial: Option<String>,
    /// The id of an authentication key that can export or import
    #[arg(long, value_name = "ID")]
    auth_key: u16,
    /// The file that holds its password, readable by nobody else
    #[arg(long, value_name = "FILE")]
    password_file: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.verb) {
        Ok(shown) => say(&shown),
        Err(failure) => fail(&failure),
    }
}

fn run(verb: Verb) -> Result<String, Failure> {
    match verb {
        Verb::Backup { device, wrap_key, out } => {
            let backup = Backup::export(&device.open()?, wrap_key).map_err(Failure::unavailable)?;
            write_new(&out, &backup.to_json().map_err(Failure::software)?).map_err(|error| {
                Failure::io(format!("cannot write `{}`: {error}; it must not be there yet", out.display()))
            })?;
            Ok(format!("{} keys are in {}", backup.keys().len(), out.display()))
        }
        Verb::Restore { device, backup } => {
            let backup = read_backup(&backup)?;
            let imported = backup.import(&device.open()?).map_err(Failure::unavailable)?;
            Ok(format!("{imported} of {} keys imported, the others were there", backup.keys().len()))
        }
        Verb::Pair { officers } => {
            let id = ceremony::pair(&mut officers.log_in()?).map_err(Failure::unavailable)?;
            accept_tokens(&Config::load(&officers.config)?)?;
            Ok(format!("the tokens are paired by the wrap key {id}; keys are on both after two rotations"))
        }
        Verb::Replace { officers } => officers.replace(),
        Verb::RetryPin { config } => {
            for memory in Config::load(&config)?.refused_pins() {
                memory.forget().map_err(|error| {
                    Failure::io(format!("cannot remove `{}`: {error}", memory.path().display()))
                })?;
            }
            Ok("each PIN is presented once more, by a running hsmd within seconds".to_owned())
        }
        Verb::AcceptToken { config } => {
            accept_tokens(&Config::load(&config)?)?;
            Ok("the token in each slot is noted anew, by a running hsmd within seconds".to_owned())
        }
        Verb::Verify { backup, chain } => {
            let (backup, chain) = (read_backup(&backup)?, read_chain(&chain)?);
            let newest = chain.last().ok_or_else(|| Failure::config("the chain is empty"))?;
            backup.demand(newest).map_err(Failure::config)?;
            let number = newest.event().sequence_number;
            Ok(format!("the backup holds the signing key and the next of generation {number}"))
        }
    }
}

impl Officers {
    fn log_in(&self) -> Result<[Box<dyn Officer>; 2], Failure> {
        let config = Config::load(&self.config)?;
        let [first, second] = config.officers([&self.officer_pin, &self.second_officer_pin])?;
        let log_in =
            |settings| officer::log_in(settings).map_err(|fault| Failure::unavailable(fault.with_causes()));
        Ok([log_in(first)?, log_in(second)?])
    }

    fn replace(&self) -> Result<String, Failure> {
        let id = ceremony::give(&mut self.log_in()?).map_err(Failure::unavailable)?;
        // The officers are logged out by now: a token has one of them or a user.
        let carried = ceremony::carry(&mut self.users()?, id).map_err(Failure::unavailable)?;
        ceremony::keep_only(&mut self.log_in()?, id).map_err(Failure::unavailable)?;
        accept_tokens(&Config::load(&self.config)?)?;
        let ceremony::Carried { mirrored, staying, .. } = carried;
        let rest = if staying == 0 {
            String::new()
        } else {
            format!("; {staying} were made to stay on one token, so rotate twice")
        };
        Ok(format!("the tokens are paired by the wrap key {id}; {mirrored} keys are on both and sign{rest}"))
    }

    fn users(&self) -> Result<[Box<dyn Backend>; 2], Failure> {
        let config = Config::load(&self.config)?;
        let (first, Some(second)) = config.tokens() else {
            return Err(Failure::config("hsmd.toml has no `[second_hsm]` to carry keys to"));
        };
        let open =
            |settings| backend::open(settings).map_err(|fault| Failure::unavailable(fault.with_causes()));
        Ok([open(first()?)?, open(second()?)?])
    }
}

impl Device {
    fn open(&self) -> Result<Client, Failure> {
        let serial = self.serial.as_deref().map(str::parse::<SerialNumber>).transpose();
        let serial = serial.map_err(|_| Failure::config("`--serial` is not of ten digits"))?;
        let path = fs::canonicalize(&self.password_file).map_err(Failure::io)?;
        let path =
            path.to_str().ok_or_else(|| Failure::config("`--password-file` is not a path in UTF-8"))?;
        let password = credential::read(path, PASSWORD_MAX)?;
        let credentials = Credentials::from_password(self.auth_key, &password);
        Client::open(self.connector.connector(serial), credentials, true).map_err(Failure::unavailable)
    }
}

/// Has hsmd note anew which token is in each slot.
fn accept_tokens(config: &Config) -> Result<(), Failure> {
    config.known_tokens().iter().try_for_each(|known| {
        let path = known.file().path();
        known.forget().map_err(|error| Failure::io(format!("cannot remove `{}`: {error}", path.display())))
    })
}

fn read_backup(path: &Path) -> Result<Backup, Failure> {
    let mut text = Vec::new();
    let file = fs::File::open(path)
        .map_err(|error| Failure::io(format!("cannot read `{}`: {error}", path.display())))?;
    file.take(backup::LENGTH_MAX as u64).read_to_end(&mut text).map_err(Failure::io)?;
    Backup::parse(&text).map_err(Failure::config)
}

fn read_chain(path: &Path) -> Result<Vec<SignedEvent>, Failure> {
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::io(format!("cannot read `{}`: {error}", path.display())))?;
    let bad = |because: String| Failure::config(format!("`{}` holds no chain: {because}", path.display()));
    let texts: Vec<&RawValue> = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
    let events: Vec<_> = texts
        .into_iter()
        .map(|event| SignedEvent::parse(event.get()))
        .collect::<Result<_, _>>()
        .map_err(|refusal| bad(refusal.because().to_owned()))?;
    let first = events.first().ok_or_else(|| bad("it is empty".to_owned()))?;
    verify_whole(&events, &first.event().prefix, SystemTime::now().into(), Duration::ZERO)
        .map_err(|refusal| bad(refusal.because().to_owned()))?;
    Ok(events)
}

/// Makes a file for its owner alone, and returns once it is on disk.
fn write_new(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

#[expect(clippy::print_stdout, reason = "the answer of a command")]
fn say(shown: &str) -> ExitCode {
    println!("{shown}");
    ExitCode::SUCCESS
}

#[expect(clippy::print_stderr, reason = "the answer of a command")]
fn fail(failure: &Failure) -> ExitCode {
    eprintln!("hsm-backup: {failure}");
    ExitCode::from(failure.code())
}
