//! `opsctl tls issue`: a certificate for hsmd, or for a service of another host.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use keychain::Timestamp;
use rcgen::KeyPair;

use super::authority::{Authority, Signed};
use super::certificate::Certificate;
use super::files::{self, Readers};
use super::name::{Kind, Name, names_for};
use super::report::Report;
use super::row::row;
use super::{days, key};
use crate::failure::{Exit, Failure};
use crate::out;
use crate::talk::Talk;

/// Options of `opsctl tls issue`.
#[derive(Debug, clap::Args)]
pub(crate) struct Issue {
    /// What the certificate is for
    #[arg(value_name = "server|client", value_enum)]
    kind: Kind,
    /// The authority's folder, which `opsctl tls init` made
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// A name, as often as there are names: DNS:… or IP:… as clients connect to a server; URI:… or DNS:… as the
    /// row of hsmd's policy has a client
    #[arg(long, value_name = "NAME", required = true)]
    san: Vec<Name>,
    /// Where to: PREFIX.crt and PREFIX.key
    #[arg(long, value_name = "PREFIX")]
    out: PathBuf,
    // Nobody else learns of a stolen key, for there is no list of what was revoked: its certificate should end
    // soon. And somebody has to renew it: four times a year can be asked of a person, and of a timer any time.
    /// How long it lasts
    #[arg(long, value_name = "N", default_value = "90", value_parser = |text: &str| days(text, 1..=825))]
    days: Duration,
    /// Renew: a new certificate for the key in FILE, in the place of PREFIX.crt
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Say what would be issued, and issue nothing
    #[arg(long)]
    dry_run: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Where a certificate and its key go.
struct Out {
    certificate: PathBuf,
    key: PathBuf,
}

/// `opsctl tls issue`: the key first, if it is new, so that its certificate can be asked for again.
pub(crate) fn issue(options: &Issue, now: Timestamp, talk: Talk) -> Result<(), Failure> {
    let names = names_for(options.kind, &options.san)?;
    let mut out = Out::new(&options.out)?;
    let authority = Authority::open(&options.dir, now)?;
    let validity = authority.validity(now, options.days)?;
    let key = if let Some(file) = &options.key {
        let key = key::read(file)?;
        out.must_take(&key, file)?;
        out.key.clone_from(file);
        key
    } else {
        out.must_be_free()?;
        key::make()?
    };
    let Signed { pem, certificate } = authority.issue(options.kind, &names, validity, &key)?;
    if options.dry_run {
        let shown = out.certificate.display();
        talk.say(format!("would issue `{shown}` for {}, until {}", list(&names), certificate.ends));
        return Ok(());
    }
    if options.key.is_some() {
        files::replace(&out.certificate, pem.as_bytes(), Readers::World)?;
    } else {
        key::write(&out.key, &key)?;
        files::write_new(&out.certificate, pem.as_bytes(), Readers::World)?;
    }
    report(options, &out, &names, &certificate, talk)?;
    talk.say(format!("the authority itself ends at {}", authority.ends()));
    Ok(())
}

fn report(
    options: &Issue,
    out: &Out,
    names: &[Name],
    certificate: &Certificate,
    talk: Talk,
) -> Result<(), Failure> {
    let row = match (options.kind, names.first()) {
        (Kind::Client, Some(first)) => Some(row(first)?),
        _ => None,
    };
    let shown = out.certificate.display();
    if options.json {
        let policy = row.as_ref().map(|(text, _)| text.clone());
        let report = Report::new(&out.certificate, &out.key, certificate).names(names).policy(policy);
        out::line(report.json()?);
    } else if let Some((text, _)) = &row {
        out::line(text.trim_end());
    } else {
        out::line(&shown);
    }
    talk.say(format!("issued `{shown}` for {}, until {}", list(names), certificate.ends));
    match row {
        None => talk.say("hsmd reads a renewed certificate at systemctl reload hsmd"),
        Some((_, true)) => talk.say("the row is for hsmd's policy.toml, if it is not there yet"),
        Some((_, false)) => talk.say("the row is for hsmd's policy.toml: write which service it is for"),
    }
    Ok(())
}

fn list(names: &[Name]) -> String {
    names.iter().map(Name::to_string).collect::<Vec<_>>().join(", ")
}

impl Out {
    fn new(prefix: &Path) -> Result<Self, Failure> {
        // `..` and a slash at the end name folders, which can be no part of a file's name.
        let text = prefix.as_os_str();
        if prefix.file_name().is_none() || text.as_encoded_bytes().ends_with(b"/") {
            let what = format!("--out {} is a folder: give the start of a file's name", prefix.display());
            return Err(Failure::new(Exit::Usage, what));
        }
        let with = |ending: &str| {
            let mut name = OsString::from(text);
            name.push(ending);
            PathBuf::from(name)
        };
        Ok(Self { certificate: with(".crt"), key: with(".key") })
    }

    /// For a new key: nothing may be there.
    fn must_be_free(&self) -> Result<(), Failure> {
        let (key, certificate) = (self.key.display(), self.certificate.display());
        let what = if files::exists(&self.key)? {
            format!("`{key}` is there already, and stays: renew with --key {key}, or give another --out")
        } else if files::exists(&self.certificate)? {
            format!(
                "`{certificate}` is there already: renew with the --key that is its, or give another --out"
            )
        } else {
            return Ok(());
        };
        Err(Failure::new(Exit::Data, what))
    }

    /// For a renewal: a certificate of another key is not replaced, nor put beside another key.
    fn must_take(&self, key: &KeyPair, file: &Path) -> Result<(), Failure> {
        let beside = if files::exists(&self.certificate)? {
            Certificate::read(&self.certificate)?.is_of(key)
        } else {
            !files::exists(&self.key)? || key::read(&self.key)?.serialized_der() == key.serialized_der()
        };
        if beside {
            return Ok(());
        }
        let (out, file) = (self.certificate.display(), file.display());
        let what = format!("`{out}` goes with another key than `{file}`: give that one, or another --out");
        Err(Failure::new(Exit::Data, what))
    }
}
