//! `opsctl hsm clock`: what hsmd's clock is held against, and an operator's word that it is right.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Subcommand;
use keychain::Timestamp;
use serde::{Deserialize, Serialize};
use systemd::config::Span;

use crate::clock;
use crate::declaration::Spoken;
use crate::deployment::Deployment;
use crate::door::Door;
use crate::failure::{Exit, Failure, OrFail};
use crate::generation;
use crate::out;
use crate::talk::Talk;

/// Options of `opsctl hsm clock`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Clock {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    show: Show,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Trust hsmd's clock as it stands, because it is right
    Accept(Accept),
}

#[derive(Debug, clap::Args)]
struct Show {
    #[command(flatten)]
    deployment: Deployment,
    /// As JSON: hsmd's answer, verbatim
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Accept {
    #[command(flatten)]
    spoken: Spoken,
}

/// hsmd's answer to `GET /clock`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    trusted: bool,
    time: Timestamp,
    last_trusted: Timestamp,
    sources: BTreeMap<String, Timestamp>,
    synchronized_at: Option<Timestamp>,
    doubt: Option<Doubt>,
}

#[derive(Debug, Deserialize)]
struct Doubt {
    because: String,
    since: Timestamp,
    cure: String,
}

#[derive(Serialize)]
struct Word<'a> {
    time: String,
    reason: &'a str,
}

/// `opsctl hsm clock` and `opsctl hsm clock accept`.
pub(crate) async fn clock(options: &Clock, talk: Talk) -> Result<(), Failure> {
    match &options.verb {
        None => show(&options.show).await,
        Some(Verb::Accept(options)) => accept(options, talk).await,
    }
}

/// Exit code 1 if the clock is not trusted.
async fn show(options: &Show) -> Result<(), Failure> {
    let hsmd = options.deployment.admin()?;
    let answer = hsmd.get("/clock").await?.ok(&hsmd)?;
    let report = parse(&answer)?;
    if options.json {
        out::line(answer.trim_end());
    } else {
        out::text(describe(&report, clock::now()));
    }
    match report.doubt {
        Some(_) => Err(Failure::new(Exit::No, "hsmd does not trust its clock")),
        None => Ok(()),
    }
}

async fn accept(options: &Accept, talk: Talk) -> Result<(), Failure> {
    let Spoken { deployment, reason, consent } = &options.spoken;
    let hsmd = deployment.admin()?;
    let report = read(&hsmd).await?;
    talk.say(describe(&report, clock::now()).trim_end());
    if report.trusted {
        talk.say("hsmd trusts its clock already: nothing was done");
        return Ok(());
    }
    talk.say("from now on everything is dated by hsmd's clock: see that another clock shows the same");
    // Proving the chain would judge it by this machine's clock, which is often hsmd's.
    let chain = generation::chain_in_any_case(&hsmd, talk).await?;
    if !consent.is_given(&chain.identity(), "a word for the clock", talk)? {
        return Ok(());
    }
    let word = Word { time: report.time.to_string(), reason };
    hsmd.post("/clock", generation::to_json(&word)?).await?.ok(&hsmd)?;
    let after = read(&hsmd).await?;
    if !after.trusted {
        return Err(Failure::new(
            Exit::No,
            "hsmd took the word, and its clock is in doubt again: look again",
        ));
    }
    talk.say(format!("trusted: hsmd's clock shows {}", after.time));
    Ok(())
}

async fn read(hsmd: &Door) -> Result<Report, Failure> {
    parse(&hsmd.get("/clock").await?.ok(hsmd)?)
}

fn parse(answer: &str) -> Result<Report, Failure> {
    serde_json::from_str(answer).or_fail(Exit::Data, || "hsmd's answer is not that of a clock")
}

/// One line for each clock and each date, with its distance from hsmd's clock.
fn describe(report: &Report, here: Timestamp) -> String {
    let mut lines = Vec::new();
    let mut line = |name: &str, at: Timestamp| {
        let (later, earlier) = (at.since(report.time), report.time.since(at));
        let distance = if later.is_zero() {
            format!("{} before it", whole(earlier))
        } else {
            format!("{} after it", whole(later))
        };
        lines.push(format!("{name:22}{at}  {distance}\n"));
    };
    line("this machine's clock", here);
    line("last trusted time", report.last_trusted);
    for (source, name) in [
        ("event", "newest event"),
        ("head", "newest head"),
        ("ledger", "kept in the ledger"),
        ("published", "published"),
    ] {
        if let Some(at) = report.sources.get(source) {
            line(name, *at);
        }
    }
    if let Some(at) = report.synchronized_at {
        line("time service set it", at);
    }
    let verdict = match &report.doubt {
        None => "trusted\n".to_owned(),
        Some(doubt) => format!("not trusted since {}: {}\n{}\n", doubt.since, doubt.because, doubt.cure),
    };
    format!("{:22}{}\n{}{verdict}", "hsmd's clock", report.time, lines.concat())
}

fn whole(span: Duration) -> Span {
    Duration::from_secs(span.as_secs()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_has_its_line() {
        let answer = r#"{"trusted":false,"time":"2027-03-01T00:00:00.000Z","lastTrusted":"2026-01-01T00:00:00.000Z",
            "sources":{"event":"2025-12-31T00:00:00.000Z","ledger":"2026-01-01T00:00:00.000Z"},
            "doubt":{"cause":"ahead","because":"it is far ahead","since":"2026-01-01T00:00:00.000Z","cure":"accept it"}}"#;
        let text = describe(&parse(answer).unwrap(), Timestamp::parse("2027-03-01T00:00:02.000Z").unwrap());
        for part in [
            "hsmd's clock          2027-03-01T00:00:00.000Z\n",
            "this machine's clock  2027-03-01T00:00:02.000Z  2s after it\n",
            "kept in the ledger    2026-01-01T00:00:00.000Z  1year 1month",
            "not trusted since 2026-01-01T00:00:00.000Z: it is far ahead\naccept it\n",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(!text.contains("newest head"), "{text}");
    }
}
