//! `opsctl hsm lease`: which hsmd writes a ledger that several share, and an operator's word that another one does.

use clap::Subcommand;
use serde::{Deserialize, Serialize};

use crate::declaration::Spoken;
use crate::deployment::Deployment;
use crate::door::Door;
use crate::failure::{Exit, Failure, OrFail};
use crate::generation;
use crate::out;
use crate::talk::Talk;

#[derive(Debug, Subcommand)]
pub(crate) enum LeaseVerb {
    /// Show who has the lease; exit code 1 if it is not the hsmd that is asked
    Show {
        #[command(flatten)]
        deployment: Deployment,
    },
    /// Have the hsmd that is asked, a standby, take the lease; the other one signs nothing from then on
    Take(Take),
}

/// Options of `opsctl hsm lease take`.
#[derive(Debug, clap::Args)]
pub(crate) struct Take {
    #[command(flatten)]
    spoken: Spoken,
}

/// hsmd's answer to `GET /lease`.
#[derive(Debug, Deserialize)]
struct Lease {
    holder: String,
    fence: u64,
    here: bool,
}

#[derive(Serialize)]
struct Word<'a> {
    fence: String,
    reason: &'a str,
}

/// `opsctl hsm lease show` and `opsctl hsm lease take`.
pub(crate) async fn lease(verb: &LeaseVerb, talk: Talk) -> Result<(), Failure> {
    match verb {
        LeaseVerb::Show { deployment } => show(deployment).await,
        LeaseVerb::Take(options) => take(options, talk).await,
    }
}

async fn show(deployment: &Deployment) -> Result<(), Failure> {
    let lease = read(&deployment.admin()?).await?;
    out::line(describe(&lease));
    if lease.here { Ok(()) } else { Err(Failure::new(Exit::No, "this hsmd is a standby")) }
}

async fn take(options: &Take, talk: Talk) -> Result<(), Failure> {
    let Spoken { deployment, reason, consent } = &options.spoken;
    let hsmd = deployment.admin()?;
    let lease = read(&hsmd).await?;
    talk.say(describe(&lease));
    if lease.here {
        talk.say("this hsmd has the lease already: nothing was done");
        return Ok(());
    }
    talk.say("from now on this hsmd signs, with its own tokens, and the other one signs nothing");
    let chain = generation::chain_in_any_case(&hsmd, talk).await?;
    if !consent.is_given(&chain.identity(), "taking the lease", talk)? {
        return Ok(());
    }
    let word = Word { fence: lease.fence.to_string(), reason };
    let answer = hsmd.post("/lease", generation::to_json(&word)?).await?.ok(&hsmd)?;
    talk.say(describe(&parse(&answer)?));
    Ok(())
}

async fn read(hsmd: &Door) -> Result<Lease, Failure> {
    parse(&hsmd.get("/lease").await?.ok(hsmd)?)
}

fn parse(answer: &str) -> Result<Lease, Failure> {
    serde_json::from_str(answer).or_fail(Exit::Data, || "hsmd's answer is not that of a lease")
}

fn describe(lease: &Lease) -> String {
    let Lease { holder, fence, here } = lease;
    match (here, holder.as_str()) {
        (true, holder) => format!("this hsmd has the lease, as {holder} (fence {fence})"),
        (false, "") => format!("nobody has the lease (fence {fence})"),
        (false, holder) => format!("hsmd of {holder} has the lease (fence {fence})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_described_by_its_holder() {
        for (answer, text) in [
            (
                r#"{"holder":"a (process 1)","fence":7,"here":true}"#,
                "this hsmd has the lease, as a (process 1) (fence 7)",
            ),
            (
                r#"{"holder":"a (process 1)","fence":7,"here":false}"#,
                "hsmd of a (process 1) has the lease (fence 7)",
            ),
            (r#"{"holder":"","fence":7,"here":false}"#, "nobody has the lease (fence 7)"),
        ] {
            assert_eq!(describe(&parse(answer).unwrap()), text);
        }
    }
}
