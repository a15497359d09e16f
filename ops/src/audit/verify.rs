//! `opsctl audit verify`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use keychain::audit::{Entry, Head, Kind};
use keychain::chain::SignedEvent;
use keychain::statement;
use keychain::{Digest, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Source;
use super::read::Walked;
use crate::chain::{self, Proved};
use crate::deployment::Deployment;
use crate::failure::{Exit, Failure, OrFail};
use crate::out;

/// The version of what `--json` prints.
const JSON_VERSION: u32 = 2;

/// Options of `opsctl audit verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    source: Source,
    /// A file with the chain whose events must have their lines, as `opsctl chain show --json` prints it
    /// [default: hsmd is asked]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["endpoints", "admin"], requires = "file")]
    chain: Option<PathBuf>,
    /// The identity that the chain must have [default: that of its own first event]
    #[arg(long, value_name = "E…")]
    identity: Option<Digest>,
    /// A head that was kept elsewhere: the trail must hold the line that it states [default: hsmd is asked, or none
    /// with --chain]
    #[arg(long, value_name = "FILE")]
    head: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    deployment: Deployment,
}

/// `opsctl audit verify`: whether every line is chained to the one before, every event of the chain has its line, and
/// up to which line a head covers the trail.
pub(crate) async fn verify(options: &Verify) -> Result<(), Failure> {
    match attempt(options).await {
        Ok(found) if options.json => chain::print_json(&found),
        Ok(found) => {
            found.print();
            Ok(())
        }
        Err(failure) if options.json && failure.exit() == Exit::No => {
            let reason = Some(failure.to_string());
            chain::print_json(&Verdict { version: JSON_VERSION, reason, ..Verdict::default() })?;
            Err(failure)
        }
        Err(failure) => Err(failure),
    }
}

async fn attempt(options: &Verify) -> Result<Verdict, Failure> {
    // The chain and the head are read first: a trail that is read later has their lines.
    let (text, head) = if let Some(file) = &options.chain {
        (chain::read(file)?, None)
    } else {
        let hsmd = options.deployment.admin()?;
        let head = hsmd.get("/statements").await?.ok(&hsmd)?;
        (hsmd.get("/chain").await?.ok(&hsmd)?, Some(head))
    };
    let chain = Proved::parse(&text, options.identity)?;
    let head = match &options.head {
        Some(file) => Some(kept(file)?),
        None => head.as_deref().map(newest).transpose()?.flatten(),
    };
    let mut auditor = Auditor::new(chain.events(), head.as_ref())?;
    let visit = |entry: &Entry<'_>| {
        auditor.visit(entry);
        Ok(())
    };
    let walked = options.source.walk(&options.deployment, visit).await?;
    auditor.finish(walked, options.source.partial)
}

/// Reads a head that was kept.
fn kept(file: &Path) -> Result<statement::Head, Failure> {
    let text = std::fs::read_to_string(file)
        .or_fail(Exit::Io, || format!("cannot read the head `{}`", file.display()))?;
    statement::Head::parse(text.trim()).or_fail(Exit::Data, || format!("`{}` is no head", file.display()))
}

/// The newest head in hsmd's answer, if it has made one.
fn newest(answer: &str) -> Result<Option<statement::Head>, Failure> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        head: Option<&'a RawValue>,
    }
    let bad = || "hsmd's answer has no head";
    let answer: Answer<'_> = serde_json::from_str(answer).or_fail(Exit::Data, bad)?;
    answer.head.map(|head| statement::Head::parse(head.get())).transpose().or_fail(Exit::Data, bad)
}

/// What is remembered on the way through a trail.
pub(super) struct Auditor<'a> {
    chain: &'a [SignedEvent],
    /// The line that a head states, which a generation signed that was not tainted.
    stated: Option<Head>,
    covered: bool,
    first: Option<(u64, Timestamp)>,
    last: Option<Timestamp>,
    /// Events that a line names.
    named: BTreeSet<Digest>,
    /// The highest sequence number that was imported or found at a start.
    known_up_to: Option<u64>,
}

impl<'a> Auditor<'a> {
    pub(super) fn new(chain: &'a [SignedEvent], head: Option<&statement::Head>) -> Result<Self, Failure> {
        let stated = head.map(|head| stated(chain, head)).transpose()?.flatten();
        let named = BTreeSet::new();
        Ok(Self { chain, stated, covered: false, first: None, last: None, named, known_up_to: None })
    }

    pub(super) fn visit(&mut self, entry: &Entry<'_>) {
        self.first.get_or_insert((entry.head.number, entry.at));
        self.last = Some(entry.at);
        self.covered |= self.stated == Some(entry.head);
        match entry.kind {
            Kind::Outcome if entry.raw("outcome") == Some("\"ok\"") => {
                let details: Details =
                    entry.raw("details").map(serde_json::from_str).and_then(Result::ok).unwrap_or_default();
                self.named.extend(details.generation.as_deref().map(Digest::parse).and_then(Result::ok));
                if entry.raw("operation") == Some("\"recover\"") {
                    let number = details.sequence_number.and_then(|number| number.parse().ok());
                    self.known_up_to = self.known_up_to.max(number);
                }
            }
            Kind::Chain | Kind::Start => {
                let generation = entry.raw("generation").map(|raw| raw.trim_matches('"'));
                self.named.extend(generation.map(Digest::parse).and_then(Result::ok));
            }
            _ => {}
        }
    }

    pub(super) fn finish(self, walked: Walked, partial: bool) -> Result<Verdict, Failure> {
        let (first, since) = self.first.or_fail(Exit::No, || "the trail has no line")?;
        if let Some(stated) = self.stated.filter(|_| !self.covered)
            && stated.number >= first
        {
            let what = format!(
                "the trail does not hold line {} as a head states it: it was cut off, or it is another trail",
                stated.number
            );
            return Err(Failure::new(Exit::No, what));
        }
        let whole = !partial && walked.cut.is_none();
        if whole && let Some(event) = self.unnamed() {
            let what = format!(
                "the chain has event {} ({}), about which the trail has no line",
                event.event().sequence_number,
                event.id()
            );
            return Err(Failure::new(Exit::No, what));
        }
        Ok(Verdict {
            version: JSON_VERSION,
            valid: true,
            reason: None,
            first,
            since: Some(since.to_string()),
            last: walked.head.number,
            until: self.last.map(|at| at.to_string()),
            digest: Some(walked.head.digest.to_string()),
            covered: self.stated.map(|stated| stated.number),
            cut: walked.cut.map(|cut| cut.number),
            events: whole.then_some(self.chain.len()),
        })
    }

    /// An event that no line names.
    fn unnamed(&self) -> Option<&SignedEvent> {
        self.chain.iter().find(|event| {
            let imported = self.known_up_to.is_some_and(|number| event.event().sequence_number <= number);
            !imported && !self.named.contains(&event.id())
        })
    }
}

/// What outcomes say about events.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Details {
    generation: Option<String>,
    sequence_number: Option<String>,
}

/// The line that a head states. One by a generation that was tainted states nothing, because whoever stole its key
/// could have signed it.
fn stated(chain: &[SignedEvent], head: &statement::Head) -> Result<Option<Head>, Failure> {
    let place = chain.iter().position(|event| event.id() == head.event_id());
    let place = place.or_fail(Exit::No, || "the head is by a generation that the chain does not have")?;
    let by = chain.get(place).or_fail(Exit::No, || "the head is by no generation")?;
    head.verify_signature(by).or_fail(Exit::No, || "the head does not verify")?;
    let next = chain.get(place.saturating_add(1));
    if next.is_some_and(|next| next.event().taint_previous) {
        return Ok(None);
    }
    Ok(head.audit().map(|line| Head { number: line.number, digest: line.digest }))
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Verdict {
    version: u32,
    valid: bool,
    reason: Option<String>,
    first: u64,
    since: Option<String>,
    last: u64,
    until: Option<String>,
    digest: Option<String>,
    /// Up to which line a head by a generation that was not tainted covers the trail.
    covered: Option<u64>,
    /// The last line that was archived.
    cut: Option<u64>,
    /// Events of the chain that all have their lines; none if the trail is not whole here.
    events: Option<usize>,
}

impl Verdict {
    fn print(&self) {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        out::line(format_args!("valid: lines {} to {}", self.first, self.last));
        out::line(format_args!("from      {} to {}", text(&self.since), text(&self.until)));
        out::line(format_args!("digest    {}", text(&self.digest)));
        match self.covered {
            Some(covered) => out::line(format_args!("covered   up to line {covered}, by a head")),
            None => {
                out::line("covered   nothing: no head by a generation that was not tainted states a line");
            }
        }
        if let Some(cut) = self.cut {
            out::line(format_args!("archived  up to line {cut}"));
        }
        match self.events {
            Some(events) => out::line(format_args!("events    {events}, each with its line")),
            None => out::line("events    not compared: the trail's beginning is elsewhere"),
        }
    }
}
