//! `opsctl identity export`, `opsctl chain show`, `opsctl chain verify`: the chain, proved here.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use keychain::chain::{SignedEvent, verify_whole};
use keychain::directory::Directory;
use keychain::{Digest, Timestamp};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::clock;
use crate::deployment::{Deployment, directory_url};
use crate::door::Address;
use crate::failure::{Exit, Failure, OrFail};
use crate::out;

/// The longest chain file that is read, in bytes: as much as hsmd takes in a recovery.
const LONGEST_FILE: u64 = 64 << 20;
/// The version of what `--json` prints.
const JSON_VERSION: u32 = 1;

/// Where a chain is read from: hsmd unless told otherwise.
#[derive(Debug, clap::Args)]
pub(crate) struct Source {
    /// A file with the published events as a JSON array or one a line; `-` is standard input
    #[arg(value_name = "FILE", conflicts_with_all = ["from", "endpoints", "admin"])]
    file: Option<PathBuf>,
    /// A keysd (`http://…`) or a socket of hsmd, instead of hsmd's admin socket
    #[arg(long, value_name = "ADDRESS", conflicts_with = "admin")]
    from: Option<Address>,
    /// The identity that the chain must have [default: that of its own first event]
    #[arg(long, value_name = "E…")]
    identity: Option<Digest>,
    #[command(flatten)]
    deployment: Deployment,
}

/// Where a copy of the chain is, by its address.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    /// The key directory at an address, or that of the deployment.
    Directory(Option<String>),
    Door(Address),
    File(PathBuf),
}

/// A chain from one source: proved as a whole, in order.
#[derive(Debug)]
pub(crate) struct Proved {
    identity: Digest,
    events: Vec<SignedEvent>,
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if ["redis://", "rediss://"].iter().any(|scheme| text.starts_with(scheme)) {
            return directory_url(text).map(Some).map(Self::Directory);
        }
        if text == "directory" {
            return Ok(Self::Directory(None));
        }
        if ["http://", "https://", "unix:"].iter().any(|scheme| text.starts_with(scheme)) {
            return text.parse().map(Self::Door);
        }
        Ok(Self::File(text.into()))
    }
}

impl Origin {
    /// The published events there, as a JSON array or one a line.
    pub(crate) async fn read(&self, deployment: &Deployment) -> Result<String, Failure> {
        match self {
            Self::Directory(url) => {
                let context = || "cannot read the chain from the key directory";
                let directory = match url {
                    Some(url) => Directory::connect(url).or_fail(Exit::Usage, context)?,
                    None => deployment.directory()?,
                };
                Ok(directory.events().await.or_fail(Exit::Unavailable, context)?.join("\n"))
            }
            Self::Door(address) => read_from(address, deployment).await,
            Self::File(file) => read(file),
        }
    }
}

/// The chain as a keysd or an hsmd tells it.
async fn read_from(address: &Address, deployment: &Deployment) -> Result<String, Failure> {
    let path = if matches!(address, Address::Url(_)) { "/hsm/keys" } else { "/chain" };
    let door = deployment.open(address)?;
    door.get(path).await?.ok(&door)
}

impl Source {
    /// Reads the chain and proves it.
    async fn prove(&self) -> Result<Proved, Failure> {
        let text = match (&self.file, &self.from) {
            (Some(file), _) => read(file)?,
            (None, Some(address)) => read_from(address, &self.deployment).await?,
            (None, None) => {
                let door = self.deployment.admin()?;
                door.get("/chain").await?.ok(&door)?
            }
        };
        Proved::parse(&text, self.identity)
    }
}

impl Proved {
    /// Proves the events in `text`. Those of another chain than `identity` names are none of ours.
    pub(crate) fn parse(text: &str, identity: Option<Digest>) -> Result<Self, Failure> {
        Self::parse_at(text, identity, |_| clock::now())
    }

    /// The same, but a newest event that is ahead of this machine's clock is no objection: one of the clocks is wrong,
    /// and which one is not for a taint to find out.
    pub(crate) fn parse_ahead(text: &str) -> Result<Self, Failure> {
        Self::parse_at(text, None, |newest| clock::now().max(newest))
    }

    /// Proves the events at the moment that `now` makes of the newest one's date.
    fn parse_at(
        text: &str,
        identity: Option<Digest>,
        now: impl Fn(Timestamp) -> Timestamp,
    ) -> Result<Self, Failure> {
        let mut events = Vec::new();
        for published in split(text)? {
            let event = SignedEvent::parse(published)
                .or_fail(Exit::No, || format!("event {} of the chain does not verify", events.len()))?;
            if identity.is_none_or(|identity| event.event().prefix == identity) {
                events.push(event);
            }
        }
        events.sort_by_key(|event| event.event().sequence_number);
        let first = events.first().or_fail(Exit::No, || "the chain has no event")?;
        let identity = identity.unwrap_or(first.event().prefix);
        let newest = events.last().map_or(first.event().created_at, |newest| newest.event().created_at);
        verify_whole(&events, &identity, now(newest), clock::SKEW)
            .or_fail(Exit::No, || format!("the chain of {identity} does not verify"))?;
        Ok(Self { identity, events })
    }

    pub(crate) fn identity(&self) -> Digest {
        self.identity
    }

    /// The current generation.
    pub(crate) fn head(&self) -> Result<&SignedEvent, Failure> {
        self.events.last().or_fail(Exit::Software, || "a proved chain without an event")
    }

    pub(crate) fn events(&self) -> &[SignedEvent] {
        &self.events
    }

    /// Whether the event after this one declares it compromised.
    fn is_tainted(&self, place: usize) -> bool {
        self.events.get(place + 1).is_some_and(|next| next.event().taint_previous)
    }
}

/// `opsctl identity export`.
pub(crate) async fn export(source: &Source) -> Result<(), Failure> {
    out::line(source.prove().await?.identity());
    Ok(())
}

/// `opsctl chain show`.
pub(crate) async fn show(source: &Source, json: bool) -> Result<(), Failure> {
    let chain = source.prove().await?;
    if json {
        let events: Vec<_> = chain.events.iter().map(SignedEvent::text).collect();
        out::line(format_args!("[{}]", events.join(",")));
        return Ok(());
    }
    out::line(format_args!("{:>4}  {:24}  {:44}  {:48}", "#", "since", "generation", "public key"));
    for (place, event) in chain.events.iter().map(SignedEvent::event).enumerate() {
        let tainted = if chain.is_tainted(place) { "  tainted" } else { "" };
        out::line(format_args!(
            "{:>4}  {:24}  {:44}  {:48}{tainted}",
            event.sequence_number,
            event.created_at.to_string(),
            event.id.to_string(),
            event.public_key.to_string(),
        ));
    }
    Ok(())
}

/// `opsctl chain verify`.
pub(crate) async fn verify(source: &Source, json: bool) -> Result<(), Failure> {
    match source.prove().await {
        Ok(chain) => {
            let head = chain.head()?.event();
            let tainted = (0..chain.events.len()).filter(|place| chain.is_tainted(*place)).count();
            if json {
                return print_json(&Verdict {
                    version: JSON_VERSION,
                    valid: true,
                    reason: None,
                    identity: Some(chain.identity.to_string()),
                    events: chain.events.len(),
                    tainted,
                    head: Some(head.id.to_string()),
                });
            }
            out::line(format_args!("valid: {} events, {tainted} tainted", chain.events.len()));
            out::line(format_args!("identity  {}", chain.identity));
            out::line(format_args!(
                "head      {} (number {}, since {})",
                head.id, head.sequence_number, head.created_at
            ));
            Ok(())
        }
        Err(failure) if json && failure.exit() == Exit::No => {
            print_json(&Verdict {
                version: JSON_VERSION,
                reason: Some(failure.to_string()),
                ..Verdict::default()
            })?;
            Err(failure)
        }
        Err(failure) => Err(failure),
    }
}

#[derive(Default, Serialize)]
struct Verdict {
    version: u32,
    valid: bool,
    reason: Option<String>,
    identity: Option<String>,
    events: usize,
    tainted: usize,
    head: Option<String>,
}

/// Prints one JSON value on one line.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    out::line(serde_json::to_string(value).or_fail(Exit::Software, || "cannot write JSON")?);
    Ok(())
}

/// The text of a chain file; `-` is standard input.
pub(crate) fn read(file: &Path) -> Result<String, Failure> {
    let context = || format!("cannot read the chain from `{}`", file.display());
    let mut text = String::new();
    let reader: Box<dyn Read> = if file == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(file).or_fail(Exit::Io, context)?)
    };
    let length = reader.take(LONGEST_FILE + 1).read_to_string(&mut text).or_fail(Exit::Io, context)?;
    if u64::try_from(length).is_ok_and(|length| length <= LONGEST_FILE) {
        return Ok(text);
    }
    Err(Failure::new(
        Exit::Data,
        format!("`{}` is longer than {LONGEST_FILE} bytes: no chain is", file.display()),
    ))
}

/// The published events in a JSON array, or one a line.
fn split(text: &str) -> Result<Vec<&str>, Failure> {
    if text.trim_start().starts_with('[') {
        let array: Vec<&RawValue> = serde_json::from_str(text)
            .or_fail(Exit::Data, || "the chain is neither a JSON array nor events one a line")?;
        return Ok(array.into_iter().map(RawValue::get).collect());
    }
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).collect())
}
