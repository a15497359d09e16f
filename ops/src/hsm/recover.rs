//! `opsctl hsm recover`: a ledger that is behind its token.

use keychain::Digest;
use keychain::chain::SignedEvent;
use serde::Deserialize;

use super::restored::{self, Decision, Take};
use crate::chain::{Origin, Proved};
use crate::deployment::Deployment;
use crate::failure::{Exit, Failure, OrFail};
use crate::out;
use crate::talk::Talk;

/// Options of `opsctl hsm recover`.
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
#[derive(Debug, clap::Args)]
pub(crate) struct Recover {
    #[command(flatten)]
    deployment: Deployment,
    /// A copy of the chain: a file (`chain.jsonl`, or what `opsctl chain show --json` printed; `-` is standard input),
    /// a keysd (`https://…`), a socket of hsmd (`unix:/…`), or a key directory (`redis://…`; `directory` is the one that this
    /// command is told of). Without it: show what a restored ledger lacks of its own newest head, and take it over
    #[arg(long, value_name = "WHERE")]
    chain: Option<Origin>,
    /// What to take over of that
    #[arg(long, value_enum, default_value_t, conflicts_with = "chain")]
    take: Take,
    /// A copy of this host or token, which hsmd names as a rival, is stopped for good
    #[arg(long, conflicts_with_all = ["chain", "take"])]
    copy_stopped: bool,
    /// Do not ask for confirmation where there is one (needed without a terminal)
    #[arg(long)]
    yes: bool,
    /// The identity whose chain is meant, if it holds several [default: that of its only one]
    #[arg(long, value_name = "E…")]
    identity: Option<Digest>,
    /// Destroy a key that was made for an event which is not in the chain: only if no verifier has seen such
    /// an event, or the chain is forked for good
    #[arg(long)]
    discard_unfinished: bool,
    /// The chain is the newest that anybody has, and the signing key is lost for good: the next key goes on from it
    #[arg(long, requires = "chain", conflicts_with = "discard_unfinished")]
    live_key_lost: bool,
    /// Say what would be brought, and bring nothing
    #[arg(long)]
    dry_run: bool,
    /// As JSON: hsmd's answer, verbatim
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Recovered {
    generation_id: String,
    sequence_number: u64,
    imported: usize,
    state: String,
}

/// `opsctl hsm recover`: brings the published chain to a ledger that is behind its token, or takes over what a
/// restored ledger lacks.
pub(crate) async fn recover(options: &Recover, talk: Talk) -> Result<(), Failure> {
    let Recover { take, yes, dry_run, json, .. } = *options;
    let decision = Decision { take, yes, dry_run, json };
    match &options.chain {
        Some(chain) => bring(options, chain, talk).await,
        None if options.copy_stopped => restored::copy_stopped(&options.deployment, decision, talk).await,
        None => restored::take_over(&options.deployment, decision, talk).await,
    }
}

async fn bring(options: &Recover, chain: &Origin, talk: Talk) -> Result<(), Failure> {
    let text = chain.read(&options.deployment).await?;
    let proved = Proved::parse(&text, options.identity)?;
    let head = proved.head()?.event();
    let events = proved.events().len();
    talk.say(format!("the chain of {} verifies: {events} events, the newest {}", proved.identity(), head.id));
    if options.dry_run {
        talk.say("dry run: nothing was brought");
        return Ok(());
    }
    let texts: Vec<_> = proved.events().iter().map(SignedEvent::text).collect();
    let unfinished = match (options.discard_unfinished, options.live_key_lost) {
        (true, _) => "discard",
        (_, true) => "live-key-lost",
        _ => "refuse",
    };
    let hsmd = options.deployment.admin()?;
    let path = format!("/recover?unfinished={unfinished}");
    let answer = hsmd.post(&path, format!("[{}]", texts.join(","))).await?.ok(&hsmd)?;
    let Recovered { generation_id, sequence_number, imported, state } =
        serde_json::from_str(&answer).or_fail(Exit::Data, || "hsmd's answer is not that of a recovery")?;
    if options.json {
        out::line(answer.trim_end());
    } else {
        out::line(&generation_id);
    }
    talk.say(format!(
        "{imported} events imported; generation {generation_id} (number {sequence_number}) is the newest, the chain {state}"
    ));
    Ok(())
}
