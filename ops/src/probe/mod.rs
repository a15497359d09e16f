//! `opsctl probe`: a synthetic device that walks every operation against a deployment.
//!
//! It is a client like any other: it knows the protocol, the addresses and the identity to pin, and
//! believes nothing that does not verify. It makes an account of its own and deletes it again, also
//! when a step fails. With `--with-admin` it also rotates and taints the HSM's key in between, which
//! is for deployments that are there to be tried.

mod admin;
mod report;
mod site;
mod visitor;
mod walk;

use keychain::Digest;

use crate::deployment::Deployment;
use crate::door::{Address, Door};
use crate::failure::{Exit, Failure, OrFail};
use report::Report;
use site::Site;
use walk::Walk;

/// Options of `opsctl probe`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    deployment: Deployment,
    /// authd [default: as in the endpoints file]
    #[arg(long, value_name = "URL", required_unless_present = "endpoints")]
    auth: Option<Address>,
    /// keysd [default: as in the endpoints file]
    #[arg(long, value_name = "URL", required_unless_present = "endpoints")]
    keys: Option<Address>,
    /// The HSM identity to pin [default: as in the endpoints file]
    #[arg(long, value_name = "E…", required_unless_present = "endpoints")]
    identity: Option<Digest>,
    /// An edge and its name, `edge:` left out; may be repeated [default: those in the endpoints file]
    #[arg(long = "app", value_name = "NAME=URL", value_parser = named_address)]
    apps: Vec<(String, Address)>,
    /// The path to ask the apps for; it must answer as the sample apps do
    #[arg(long, default_value = "/foo/bar", value_parser = path)]
    path: String,
    /// Also rotate and taint the HSM's key
    #[arg(long)]
    with_admin: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// `opsctl probe`.
pub(crate) async fn probe(options: &Options) -> Result<(), Failure> {
    let mut report = Report::new(options.json);
    let mut walk = Walk::new(options.site()?)?;
    let walked = walk.everything(&mut report).await;
    let cleaned = if walked.is_err() { walk.clean_up(&mut report).await } else { Ok(()) };
    report.finish(walked.is_ok())?;
    walked.and(cleaned)
}

impl Options {
    fn site(&self) -> Result<Site, Failure> {
        let endpoints = self.deployment.endpoints()?;
        let known = endpoints.as_ref();
        let missing = |what: &str| format!("{what} is not known: name it, or an endpoints file");
        let identity = match (self.identity, known) {
            (Some(identity), _) => identity,
            (None, Some(known)) => Digest::parse(&known.identity)
                .or_fail(Exit::Data, || "the endpoints file's identity is none")?,
            (None, None) => return Err(Failure::new(Exit::Usage, missing("the identity"))),
        };
        let door = |named: &Option<Address>, known: Option<&String>, what: &str| match (named, known) {
            (Some(address), _) => self.deployment.open(address),
            (None, Some(url)) => self.open(url),
            (None, None) => Err(Failure::new(Exit::Usage, missing(what))),
        };
        let auth = door(&self.auth, known.map(|known| &known.auth), "authd")?;
        let keys = door(&self.keys, known.map(|known| &known.keys), "keysd")?;
        let mut site = Site::new(identity, auth, keys, self.path.clone());
        for (name, address) in &self.apps {
            site.apps.push((name.clone(), self.deployment.open(address)?));
        }
        if let (true, Some(known)) = (site.apps.is_empty(), known) {
            for (name, url) in &known.apps {
                site.apps.push((name.clone(), self.open(url)?));
            }
        }
        if self.with_admin {
            site.admin = Some(self.deployment.admin()?);
            let endorse = known.map(|known| Address::Socket(known.endorse.clone()));
            site.endorse = endorse.map(|address| self.deployment.open(&address)).transpose()?;
        }
        Ok(site)
    }

    fn open(&self, url: &str) -> Result<Door, Failure> {
        let address = url.parse().map_err(|error: String| Failure::new(Exit::Data, error))?;
        self.deployment.open(&address)
    }
}

fn named_address(text: &str) -> Result<(String, Address), String> {
    match text.split_once('=') {
        Some((name, address)) if !name.is_empty() => Ok((name.to_owned(), address.parse()?)),
        _ => Err("want NAME=URL".to_owned()),
    }
}

fn path(text: &str) -> Result<String, String> {
    if text.starts_with('/') { Ok(text.to_owned()) } else { Err("a path begins with `/`".to_owned()) }
}
