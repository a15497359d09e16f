//! `opsctl audit verify`.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use keychain::audit::{Checkpoint, Entry, Head, Kind};
use keychain::chain::SignedEvent;
use keychain::{Code, Digest, Timestamp, limits};
use serde::Serialize;

use super::Place;
use super::walk::{Walked, walk};
use crate::chain::{self, Proved};
use crate::deployment::Deployment;
use crate::failure::{Exit, Failure, OrFail};

/// The version of what `--json` prints.
const JSON_VERSION: u32 = 1;

/// Options of `opsctl audit verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    place: Place,
    /// A file with the chain whose generations vouch for the trail, as `opsctl chain show --json` prints it
    /// [default: hsmd is asked]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["endpoints", "admin"])]
    chain: Option<PathBuf>,
    /// The identity that the chain must have [default: that of its own first event]
    #[arg(long, value_name = "E…")]
    identity: Option<Digest>,
    /// A checkpoint that was kept elsewhere: the trail must hold the line that it vouches for
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    deployment: Deployment,
}

/// `opsctl audit verify`: whether every line is chained to the one before, and up to which line the HSM vouches
/// for that.
pub(crate) async fn verify(options: &Verify) -> Result<(), Failure> {
    let mut found = attempt(options).await;
    if found.as_ref().is_err_and(|failure| failure.exit() == Exit::No) {
        // hsmd may have begun another file, or generation, between the reading of two.
        found = attempt(options).await;
    }
    match found {
        Ok(found) if options.json => chain::print_json(&found),
        Ok(found) => {
            found.print();
            Ok(())
        }
        Err(failure) if options.json && failure.exit() == Exit::No => {
            chain::print_json(&Verdict {
                version: JSON_VERSION,
                reason: Some(failure.to_string()),
                ..Verdict::default()
            })?;
            Err(failure)
        }
        Err(failure) => Err(failure),
    }
}

async fn attempt(options: &Verify) -> Result<Verdict, Failure> {
    let text = if let Some(file) = &options.chain {
        chain::read(file)?
    } else {
        let hsmd = options.deployment.admin()?;
        hsmd.get("/chain").await?.ok(&hsmd)?
    };
    let chain = Proved::parse(&text, options.identity)?;
    look(&options.place, options.checkpoint.as_deref(), &chain)
}

/// What becomes of a trail under the eyes of a chain.
pub(super) fn look(place: &Place, checkpoint: Option<&Path>, chain: &Proved) -> Result<Verdict, Failure> {
    let mut auditor = Auditor::new(chain.events());
    auditor.kept = checkpoint.map(|file| kept(file, chain)).transpose()?;
    let walked = walk(place, |entry| auditor.visit(entry))?;
    auditor.finish(walked)
}

/// Reads a checkpoint: the statement itself, or a line of a trail with one.
fn kept(file: &Path, chain: &Proved) -> Result<Checkpoint, Failure> {
    let text = std::fs::read_to_string(file)
        .or_fail(Exit::Io, || format!("cannot read the checkpoint `{}`", file.display()))?;
    let text = text.trim();
    let statement = match Entry::parse(text) {
        Ok(line) => line.raw("statement").unwrap_or_default().to_owned(),
        Err(_) => text.to_owned(),
    };
    let bad = || format!("`{}` is no checkpoint of this chain", file.display());
    let checkpoint = Checkpoint::parse(&statement).or_fail(Exit::Data, bad)?;
    checkpoint.verify(chain.events()).or_fail(Exit::No, bad)?;
    Ok(checkpoint)
}

/// What is remembered on the way through a trail.
struct Auditor<'a> {
    chain: &'a [SignedEvent],
    /// The newest lines: a checkpoint vouches for one of them.
    recent: VecDeque<Head>,
    first: Option<(u64, Timestamp)>,
    last: Option<Timestamp>,
    checkpoints: usize,
    /// Checkpoints by generations that were tainted since, whose key somebody else has, or that this chain does not
    /// have: one whose event was lost with its ledger.
    worthless: usize,
    covered: Option<Checkpoint>,
    kept: Option<Checkpoint>,
    kept_holds: bool,
    wrong: Option<String>,
}

impl<'a> Auditor<'a> {
    fn new(chain: &'a [SignedEvent]) -> Self {
        Self {
            chain,
            recent: VecDeque::new(),
            first: None,
            last: None,
            checkpoints: 0,
            worthless: 0,
            covered: None,
            kept: None,
            kept_holds: false,
            wrong: None,
        }
    }

    fn visit(&mut self, entry: &Entry<'_>) {
        self.first.get_or_insert((entry.head.number, entry.at));
        self.last = Some(entry.at);
        if self.kept.as_ref().is_some_and(|kept| kept.covers == entry.head) {
            self.kept_holds = true;
        }
        if entry.kind == Kind::Checkpoint
            && let Err(because) = self.check(entry)
        {
            let number = entry.head.number;
            self.wrong.get_or_insert(format!("the checkpoint in line {number} is not right: {because}"));
        }
        self.recent.push_back(entry.head);
        if self.recent.len() > limits::AUDIT_REPEATED_MAX {
            self.recent.pop_front();
        }
    }

    fn check(&mut self, entry: &Entry<'_>) -> Result<(), String> {
        self.checkpoints += 1;
        let checkpoint = Checkpoint::parse(entry.raw("statement").unwrap_or_default())
            .map_err(|refusal| refusal.to_string())?;
        let known = self.recent.iter().rev().find(|head| head.number == checkpoint.covers.number);
        match known {
            Some(head) if *head != checkpoint.covers => {
                return Err(format!("it vouches for another line {}", head.number));
            }
            Some(_) => {}
            // A partial trail may begin between the two.
            None if self.first.is_some_and(|(first, _)| checkpoint.covers.number < first) => return Ok(()),
            None => return Err("it vouches for a line that does not stand shortly before it".to_owned()),
        }
        match checkpoint.verify(self.chain) {
            Ok(()) => self.covered = Some(checkpoint),
            Err(refusal) if refusal.code() == Code::DeadKey => self.worthless += 1,
            Err(refusal) => return Err(refusal.to_string()),
        }
        Ok(())
    }

    fn finish(self, walked: Walked) -> Result<Verdict, Failure> {
        if let Some(wrong) = self.wrong {
            return Err(Failure::new(Exit::No, wrong));
        }
        if let Some(kept) = self.kept.filter(|_| !self.kept_holds) {
            let what = format!(
                "the trail does not hold line {} as the checkpoint that was kept vouches for it: it was cut off, or \
                 it is another trail",
                kept.covers.number
            );
            return Err(Failure::new(Exit::No, what));
        }
        let (first, since) = self.first.or_fail(Exit::No, || "the trail has no line")?;
        let last = walked.head.number;
        let covered = self.covered.as_ref().map(|checkpoint| checkpoint.covers.number);
        Ok(Verdict {
            version: JSON_VERSION,
            valid: true,
            reason: None,
            files: walked.files,
            first,
            since: Some(since.to_string()),
            last,
            until: self.last.map(|at| at.to_string()),
            head: Some(walked.head.digest.to_string()),
            covered,
            covered_by: self.covered.map(|checkpoint| checkpoint.generation_id.to_string()),
            checkpoints: self.checkpoints,
            checkpoints_worthless: self.worthless,
            torn: walked.torn.into_iter().map(|rest| Torn { file: rest.file, bytes: rest.bytes }).collect(),
        })
    }
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Verdict {
    version: u32,
    valid: bool,
    reason: Option<String>,
    files: usize,
    first: u64,
    since: Option<String>,
    last: u64,
    until: Option<String>,
    head: Option<String>,
    /// Up to which line a generation that was never tainted vouches for the trail.
    covered: Option<u64>,
    covered_by: Option<String>,
    checkpoints: usize,
    checkpoints_worthless: usize,
    torn: Vec<Torn>,
}

#[derive(Serialize)]
struct Torn {
    file: String,
    bytes: usize,
}

impl Verdict {
    fn print(&self) {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        println!("valid: lines {} to {} in {} files", self.first, self.last, self.files);
        println!("from      {} to {}", text(&self.since), text(&self.until));
        println!("head      {}", text(&self.head));
        match self.covered {
            Some(covered) => {
                println!("covered   up to line {covered}, by generation {}", text(&self.covered_by));
            }
            None => println!("covered   nothing: no checkpoint by a generation that was never tainted"),
        }
        let bound = self.last.saturating_sub(self.covered.unwrap_or(0));
        println!("beyond    {bound} lines, bound to those before, that could be cut off unseen");
        if self.checkpoints_worthless > 0 {
            println!(
                "worthless {} checkpoints, by generations tainted since or not of this chain",
                self.checkpoints_worthless
            );
        }
        for Torn { file, bytes } in &self.torn {
            println!("torn      {bytes} bytes at the end of {file} count for nothing");
        }
    }
}
