//! `opsctl reset`: what a deployment keeps, emptied. Each says first what it costs.

use keychain::directory::Directory;

use crate::deployment::Deployment;
use crate::failure::{Exit, Failure, OrFail};
use crate::generation::{chain, confirm};
use crate::out;
use crate::talk::Talk;
use crate::verifiers::Wait;

/// Options of `opsctl reset redis`.
#[derive(Debug, clap::Args)]
pub(crate) struct Redis {
    #[command(flatten)]
    deployment: Deployment,
    #[command(flatten)]
    wait: Wait,
    /// Do not ask for confirmation (needed without a terminal)
    #[arg(long)]
    yes: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// `opsctl reset redis`: every database of the key directory.
pub(crate) async fn redis(options: &Redis, talk: Talk) -> Result<(), Failure> {
    let hsmd = options.deployment.admin()?;
    let chain = chain(&hsmd).await?;
    talk.say("the key directory is to be emptied, every database of it. This costs:");
    talk.say("- denials that somebody wrote there by hand, or a public auth server did: they end");
    talk.say("- keys of public services, until those publish them again: their answers and tokens are refused meanwhile");
    talk.say("- what public auth servers know of refresh keys that were used: a captured refresh could be sent there again");
    talk.say("the chain, heads, keys and denials of Keelson's own come back by themselves within seconds");
    if options.dry_run {
        talk.say("dry run: nothing was done");
        return Ok(());
    }
    if !options.yes {
        confirm(&chain, "a reset")?;
    }
    let context = || "cannot empty the key directory";
    let directory = Directory::connect(&options.deployment.directory()?).or_fail(Exit::Usage, context)?;
    directory.empty().await.or_fail(Exit::Unavailable, context)?;
    out::line("redis");
    options.wait.acknowledged(&options.deployment, &hsmd, Vec::new(), talk).await
}
