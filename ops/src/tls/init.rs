//! `opsctl tls init`: makes an authority.

use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use keychain::Timestamp;

use super::authority::{Place, Validity, certify};
use super::certificate::Certificate;
use super::files::{self, Readers};
use super::report::Report;
use super::{days, key};
use crate::failure::{Exit, Failure, OrFail};
use crate::out;
use crate::talk::Talk;

/// Longest name: X.509 allows a common name no more.
const NAME_MAX: usize = 64;

/// Options of `opsctl tls init`.
#[derive(Debug, clap::Args)]
pub(crate) struct Init {
    /// The authority's folder: made, or there and empty. Who can read it can be anybody to hsmd
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// What its certificate calls it
    #[arg(long, value_name = "TEXT", default_value = "Keelson authority", value_parser = name)]
    name: String,
    /// How long it lasts: its end is the end of everything that it issued
    #[arg(long, value_name = "N", default_value = "3650", value_parser = |text: &str| days(text, 1..=7300))]
    days: Duration,
    /// Say what would be made, and make nothing
    #[arg(long)]
    dry_run: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// What is there of an authority that is not whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Nothing,
    Key,
}

/// `opsctl tls init`: the key first, then the certificate, so that what was interrupted can be finished.
pub(crate) fn init(options: &Init, now: Timestamp, talk: Talk) -> Result<(), Failure> {
    let (dir, place) = (&options.dir, Place::of(&options.dir));
    let validity = Validity::from(now, options.days);
    if options.dry_run {
        left(dir, &place)?;
        talk.say(format!("would make an authority in `{}`, until {}", dir.display(), validity.ends));
        return Ok(());
    }
    make_directory(dir)?;
    let _lock = lock(dir)?;
    let key = match left(dir, &place)? {
        Left::Nothing => {
            files::sweep(&place.key)?;
            let key = key::make()?;
            key::write(&place.key, &key)?;
            key
        }
        Left::Key => {
            talk.say(format!("`{}` was left by an interrupted start: going on", place.key.display()));
            key::read(&place.key)?
        }
    };
    files::sweep(&place.certificate)?;
    let signed = certify(&key, &options.name, validity)?;
    files::write_new(&place.certificate, signed.pem.as_bytes(), Readers::World)?;
    report(options, &place, &signed.certificate, talk)
}

fn report(options: &Init, place: &Place, certificate: &Certificate, talk: Talk) -> Result<(), Failure> {
    let report = Report::new(&place.certificate, &place.key, certificate);
    if options.json {
        out::line(report.json()?);
    } else {
        out::line(place.certificate.display());
    }
    talk.say(format!("an authority until {}, SHA-256 {}", certificate.ends, certificate.sha256()));
    talk.say(format!(
        "copy `{}` to where it is trusted; keep `{}` here, and a copy of it offline: who has it can be anybody to \
         hsmd",
        place.certificate.display(),
        place.key.display()
    ));
    Ok(())
}

fn left(dir: &Path, place: &Place) -> Result<Left, Failure> {
    let (dir, shown) = (dir.display(), place.key.display());
    let refused = |because: String| Err(Failure::new(Exit::Data, because));
    match (files::exists(&place.certificate)?, files::exists(&place.key)?) {
        (false, false) => Ok(Left::Nothing),
        (false, true) => Ok(Left::Key),
        (true, true) => refused(format!(
            "`{dir}` has an authority already, which stays: issue from it, or give another --dir"
        )),
        (true, false) => refused(format!(
            "`{dir}` has the certificate of an authority, but `{shown}` is gone: put it back from its copy, or give \
             another --dir"
        )),
    }
}

/// Makes the folder, or sees that nobody else can come into the one that is there.
fn make_directory(dir: &Path) -> Result<(), Failure> {
    let what = || format!("cannot make the folder `{}`", dir.display());
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => return files::sync_folder(dir).or_fail(Exit::Io, what),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(Failure::new(Exit::Io, what()).because(error)),
    }
    let found = dir.metadata().or_fail(Exit::Io, what)?;
    let ours = found.uid() == rustix::process::geteuid().as_raw();
    let others = found.mode() & 0o077;
    if found.is_dir() && ours && others == 0 {
        return Ok(());
    }
    let what =
        format!("`{}` is not a folder of yours alone: chmod 0700, or give another --dir", dir.display());
    Err(Failure::new(Exit::Data, what))
}

/// Two at once would each make a key.
fn lock(dir: &Path) -> Result<File, Failure> {
    let what = || format!("cannot lock the folder `{}`", dir.display());
    let lock = File::open(dir).or_fail(Exit::Io, what)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(Failure::new(
            Exit::Temporary,
            format!("another opsctl makes an authority in `{}`: wait for it", dir.display()),
        )),
        Err(TryLockError::Error(error)) => Err(Failure::new(Exit::Io, what()).because(error)),
    }
}

fn name(text: &str) -> Result<String, String> {
    if text.trim().is_empty() || text.len() > NAME_MAX || text.chars().any(char::is_control) {
        return Err(format!("a name is 1 to {NAME_MAX} bytes of text"));
    }
    Ok(text.to_owned())
}
