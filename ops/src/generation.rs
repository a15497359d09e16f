//! `opsctl rotate` and `opsctl taint`: the next generation.

use std::time::Duration;

use keychain::Digest;
use serde::{Deserialize, Serialize};
use systemd::config::Span;

use crate::chain::Proved;
use crate::clock;
use crate::declaration::{Declaration, reason};
use crate::deployment::Deployment;
use crate::door::Door;
use crate::failure::{Exit, Failure, OrFail};
use crate::out;
use crate::statements::Stated;
use crate::talk::Talk;

/// Options of `opsctl rotate`.
#[derive(Debug, clap::Args)]
pub(crate) struct Rotate {
    #[command(flatten)]
    deployment: Deployment,
    /// Rotate only if this generation is the current one; naming it makes a repetition harmless
    /// [default: whichever is current when the command starts]
    #[arg(long, value_name = "E…")]
    from: Option<Digest>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// As JSON: hsmd's answer, verbatim
    #[arg(long)]
    json: bool,
}

/// Options of `opsctl taint`.
#[derive(Debug, clap::Args)]
pub(crate) struct Taint {
    #[command(flatten)]
    declaration: Declaration,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: String,
    /// The compromised generation; naming it makes a repetition harmless [default: the current one]
    #[arg(long, value_name = "E…")]
    generation: Option<Digest>,
    /// As JSON: hsmd's answer, verbatim
    #[arg(long)]
    json: bool,
}

/// hsmd's answer to a taint.
#[derive(Deserialize)]
struct Tainted {
    /// What was done; older hsmd only taint, and do not say.
    effect: Option<String>,
}

#[derive(Serialize)]
struct RotateRequest {
    from: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TaintRequest<'a> {
    generation_id: String,
    reason: &'a str,
}

/// `opsctl rotate`.
pub(crate) async fn rotate(options: &Rotate, talk: Talk) -> Result<(), Failure> {
    let hsmd = options.deployment.admin()?;
    let before = chain(&hsmd).await?;
    let from = options.from.unwrap_or(before.head()?.id());
    if options.dry_run {
        talk.say(format!("would rotate from generation {from}; it stays live for its window"));
        return Ok(());
    }
    let answer =
        hsmd.post("/rotate", to_json(&RotateRequest { from: from.to_string() })?).await?.ok(&hsmd)?;
    report(&before, &chain(&hsmd).await?, &answer, options.json, talk)
}

/// `opsctl taint`.
pub(crate) async fn taint(options: &Taint, talk: Talk) -> Result<(), Failure> {
    let hsmd = options.declaration.deployment.admin()?;
    let before = chain_in_any_case(&hsmd, talk).await?;
    let generation = options.generation.unwrap_or(before.head()?.id());
    explain(&before, &generation, talk)?;
    if !options.declaration.consent.is_given(&before.identity(), "a taint", talk)? {
        return Ok(());
    }
    let request = TaintRequest { generation_id: generation.to_string(), reason: &options.reason };
    let answer = hsmd.post("/taint", to_json(&request)?).await?.ok(&hsmd)?;
    let done: Tainted =
        serde_json::from_str(&answer).or_fail(Exit::Data, || "hsmd's answer is not that of a taint")?;
    match done.effect.as_deref() {
        Some("denied") => {
            // Believes the head, not the answer.
            let stated = Stated::read(&hsmd, &before).await?;
            if !stated.entries.denied.contains(&generation) {
                return Err(Failure::new(
                    Exit::No,
                    format!("the head does not deny {generation}: try again"),
                ));
            }
            talk.say(format!("stated: the head of {} denies generation {generation}", stated.issued_at));
        }
        Some("ended") => talk.say(format!(
            "generation {generation} is beyond the window of every verifier: nothing was left to deny"
        )),
        _ => {}
    }
    let after = chain_in_any_case(&hsmd, talk).await?;
    report(&before, &after, &answer, options.json, talk)?;
    if done.effect.as_deref() == Some("ended") {
        return Ok(());
    }
    options.declaration.acknowledged(&hsmd, talk).await
}

/// Says what a taint of this generation is going to do.
fn explain(chain: &Proved, generation: &Digest, talk: Talk) -> Result<(), Failure> {
    if chain.head()?.id() == *generation {
        talk.say(format!("every key that generation {generation} endorsed is to be refused, everywhere;"));
        talk.say("services make themselves new keys within seconds, and devices refresh");
    } else {
        talk.say(format!(
            "generation {generation} was left before; unless it was tainted then, heads deny it:"
        ));
        talk.say("verifiers that read heads are to refuse what it endorsed; public devices read none and");
        talk.say("trust its response keys until their window of 12 h 1 min has passed. Current keys stay");
    }
    Ok(())
}

/// hsmd's chain, proved.
pub(crate) async fn chain(hsmd: &Door) -> Result<Proved, Failure> {
    Proved::parse(&hsmd.get("/chain").await?.ok(hsmd)?, None)
}

/// The same whatever this machine's clock says: a taint is sent in any case.
pub(crate) async fn chain_in_any_case(hsmd: &Door, talk: Talk) -> Result<Proved, Failure> {
    let proved = Proved::parse_ahead(&hsmd.get("/chain").await?.ok(hsmd)?)?;
    let ahead = proved.head()?.event().created_at.since(clock::now());
    if ahead > clock::SKEW {
        talk.say(format!(
            "the newest event is {} ahead of this machine's clock: see `opsctl hsm clock`",
            Span::from(Duration::from_secs(ahead.as_secs()))
        ));
    }
    Ok(proved)
}

/// Believes the chain, not the answer: it must have grown from where it was.
fn report(before: &Proved, after: &Proved, answer: &str, json: bool, talk: Talk) -> Result<(), Failure> {
    let (old, new) = (before.head()?, after.head()?);
    if after.identity() != before.identity() || !after.events().iter().any(|event| event.id() == old.id()) {
        return Err(Failure::new(Exit::No, format!("the chain no longer holds generation {}", old.id())));
    }
    if json {
        out::line(answer.trim_end());
    } else {
        out::line(new.id());
    }
    if new.id() == old.id() {
        talk.say(format!("already done: generation {} is current", new.id()));
    } else {
        talk.say(format!("generation {} (number {}) is current", new.id(), new.event().sequence_number));
        talk.say(format!("verifiers use it from {} on, by their own clocks", new.event().created_at));
    }
    Ok(())
}

pub(crate) fn to_json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).or_fail(Exit::Software, || "cannot write JSON")
}
