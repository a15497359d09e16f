//! `opsctl hsm recover` without a chain: what a restored ledger lacks of its own newest head, and a copy of the host
//! that was stopped.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::declaration::confirm;
use crate::deployment::Deployment;
use crate::door::Door;
use crate::failure::{Exit, Failure, OrFail};
use crate::generation::chain_in_any_case;
use crate::out;
use crate::talk::Talk;

/// What is taken over of the difference.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
pub(crate) enum Take {
    /// All of it; the denials alone if the generation that listed it was tainted since
    #[default]
    Sound,
    /// All of it, whoever listed it
    All,
    /// Nothing
    Nothing,
}

impl Take {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Sound => "sound",
            Self::All => "all",
            Self::Nothing => "nothing",
        }
    }
}

/// How the difference is decided about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decision {
    pub(crate) take: Take,
    pub(crate) yes: bool,
    pub(crate) dry_run: bool,
    pub(crate) json: bool,
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    restored: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Restored {
    proof: String,
    event_id: String,
    number: u64,
    issued_at: String,
    lacking: Lacking,
}

#[derive(Deserialize)]
struct Lacking {
    denied: Vec<String>,
    revoked: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    #[serde(rename_all = "camelCase")]
    Key { public_key: String, until: String },
    #[serde(rename_all = "camelCase")]
    Service { service: String, endorsed_up_to: u64, until: String },
}

/// Shows what the ledger lacks, and has it taken over.
pub(crate) async fn take_over(
    deployment: &Deployment,
    decision: Decision,
    talk: Talk,
) -> Result<(), Failure> {
    let hsmd = deployment.admin()?;
    let body = hsmd.get("/restored").await?.ok(&hsmd)?;
    let wrong = || "hsmd's answer is not that of a restored ledger";
    let answer: Answer<'_> = serde_json::from_str(&body).or_fail(Exit::Data, wrong)?;
    let Some(shown) = answer.restored else {
        let because =
            "no head proves that the ledger lacks anything; to bring it events, name a chain with --chain";
        return Err(Failure::new(Exit::No, because));
    };
    let restored: Restored = serde_json::from_str(shown.get()).or_fail(Exit::Data, wrong)?;
    show(&restored, talk);
    if decision.dry_run {
        talk.say("dry run: nothing was taken over");
        return Ok(());
    }
    if !decision.yes {
        confirm(&chain_in_any_case(&hsmd, talk).await?.identity(), "a decision about the ledger")?;
    }
    let take = decision.take.as_str();
    let request = format!("{{\"proof\":\"{}\",\"take\":\"{take}\"}}", restored.proof);
    let answer = hsmd.post("/take-over", request).await?.ok(&hsmd)?;
    finish(&answer, decision.json, talk, "taken over; see `opsctl status`");
    Ok(())
}

/// Says that nobody else signs with the keys of the chain any more.
pub(crate) async fn copy_stopped(
    deployment: &Deployment,
    decision: Decision,
    talk: Talk,
) -> Result<(), Failure> {
    let hsmd: Door = deployment.admin()?;
    talk.say("the copy of this host or token is said to be stopped; then rotate twice, or taint and rotate");
    if decision.dry_run {
        talk.say("dry run: nothing was done");
        return Ok(());
    }
    if !decision.yes {
        confirm(&chain_in_any_case(&hsmd, talk).await?.identity(), "a word about the copy")?;
    }
    let answer = hsmd.post("/copy-stopped", "{}".to_owned()).await?.ok(&hsmd)?;
    finish(&answer, decision.json, talk, "rotations go on, until what is published shows the copy again");
    Ok(())
}

fn finish(answer: &str, json: bool, talk: Talk, done: &str) {
    if json {
        out::line(answer.trim_end());
    }
    talk.say(done);
}

fn show(restored: &Restored, talk: Talk) {
    let Restored { event_id, number, issued_at, lacking, .. } = restored;
    talk.say(format!("head {number} of event {event_id}, made {issued_at}, lists what the ledger lacks:"));
    for generation in &lacking.denied {
        talk.say(format!("denied      {generation}"));
    }
    for entry in &lacking.revoked {
        talk.say(match entry {
            Entry::Key { public_key, until } => format!("revoked     {public_key} until {until}"),
            Entry::Service { service, endorsed_up_to, until } => {
                format!("revoked     {service} up to endorsement {endorsed_up_to}, until {until}")
            }
        });
    }
    if lacking.denied.is_empty() && lacking.revoked.is_empty() {
        talk.say("nothing but its own number");
    }
}
