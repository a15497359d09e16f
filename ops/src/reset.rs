//! `opsctl reset`: what a deployment keeps, emptied. Each says first what it costs; each, run again after an
//! interruption, goes on.

use serde::{Deserialize, Serialize};

use crate::account::AuthdSocket;
use crate::declaration::{Declaration, reason};
use crate::door::Door;
use crate::failure::{Exit, Failure, OrFail};
use crate::generation::{chain, to_json};
use crate::out;
use crate::red_button::Button;
use crate::roll;
use crate::talk::Talk;
use crate::verifiers::Goal;

/// Options of `opsctl reset redis`.
#[derive(Debug, clap::Args)]
pub(crate) struct Redis {
    #[command(flatten)]
    declaration: Declaration,
}

/// Options of `opsctl reset database` and `opsctl reset everything`.
#[derive(Debug, clap::Args)]
pub(crate) struct Accounts {
    #[command(flatten)]
    declaration: Declaration,
    /// Why, for the audit logs
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: String,
    #[command(flatten)]
    socket: AuthdSocket,
}

#[derive(Serialize)]
struct Request<'a> {
    reason: &'a str,
}

/// authd's answer.
#[derive(Deserialize)]
struct Done {
    accounts: u64,
}

/// `opsctl reset redis`: every database of the key directory.
pub(crate) async fn redis(options: &Redis, talk: Talk) -> Result<(), Failure> {
    let Declaration { deployment, consent, .. } = &options.declaration;
    let hsmd = deployment.admin()?;
    let chain = chain(&hsmd).await?;
    explain_directory(talk);
    if !consent.is_given(&chain.identity(), "a reset", talk)? {
        return Ok(());
    }
    empty_directory(&options.declaration).await?;
    out::line("redis");
    options.declaration.acknowledged(&hsmd, talk).await
}

/// `opsctl reset database`: every account, and the tokens of all of them.
pub(crate) async fn database(options: &Accounts, talk: Talk) -> Result<(), Failure> {
    let Accounts { declaration, reason, socket } = options;
    let hsmd = declaration.deployment.admin()?;
    let identity = chain(&hsmd).await?.identity();
    let authd = socket.door(&declaration.deployment.reach)?;
    let issuers = roll::issuers(&hsmd).await?;
    explain_accounts(talk);
    talk.say(format!(
        "then the keys of {} are replaced and refused, and with them every token",
        issuers.join(", ")
    ));
    talk.say("stays: the HSM chain and hsmd's ledger, the keys of other services, the key directory");
    if !declaration.consent.is_given(&identity, "a reset", talk)? {
        return Ok(());
    }
    delete_accounts(&authd, reason, talk).await?;
    out::line("database");
    let good = "the accounts are deleted, but their tokens are good until they end, 15 minutes at most: the same command \
                again goes on";
    let above = roll::revoke(&hsmd, &issuers, reason).await;
    let above = above.map_err(|failure| Failure::new(Exit::Partial, good).because(failure.to_string()))?;
    declaration.acknowledged_as(&hsmd, Goal::above(above), talk).await
}

/// `opsctl reset everything`: every account, the key directory, and every key but the identity's chain itself.
pub(crate) async fn everything(options: &Accounts, talk: Talk) -> Result<(), Failure> {
    let Accounts { declaration, reason, socket } = options;
    let authd = socket.door(&declaration.deployment.reach)?;
    let button = Button::find(declaration, false, talk).await?;
    explain_accounts(talk);
    explain_directory(talk);
    button.explain(talk).await?;
    talk.say("stays: the identity and its chain, which every verifier and device pins, and hsmd's ledger and token; a new");
    talk.say("identity would have to be told to each of them: README.md says how one begins");
    if !declaration.consent.is_given(&button.chain().identity(), "a reset of everything", talk)? {
        return Ok(());
    }
    delete_accounts(&authd, reason, talk).await?;
    out::line("database");
    empty_directory(declaration).await?;
    out::line("redis");
    button.press(reason, talk).await
}

fn explain_accounts(talk: Talk) {
    talk.say(
        "every account is to be deleted, with its devices, recovery, sessions, roles and bans. This costs:",
    );
    talk.say("- every user registers anew, as somebody new to your apps; no backup, no account");
    talk.say("what is denied at edges stays denied and is held: `opsctl feed lift` ends it; authd's audit trail stays");
}

fn explain_directory(talk: Talk) {
    talk.say("the key directory is to be emptied, every database of it. This costs:");
    talk.say("- denials that somebody wrote there by hand, or a public auth server did: they end");
    talk.say("- keys of public services, until those publish them again: their answers and tokens are refused meanwhile");
    talk.say("- what public auth servers know of refresh keys that were used: a captured refresh could be sent there again");
    talk.say("the chain, heads, keys and denials of Keelson's own come back by themselves within seconds");
}

async fn delete_accounts(authd: &Door, reason: &str, talk: Talk) -> Result<(), Failure> {
    let answer = authd.post("/reset", to_json(&Request { reason })?).await?.ok(authd)?;
    let done: Done =
        serde_json::from_str(&answer).or_fail(Exit::Data, || "authd's answer says not what was done")?;
    talk.say(format!("{} accounts were deleted", done.accounts));
    Ok(())
}

async fn empty_directory(declaration: &Declaration) -> Result<(), Failure> {
    let emptied = declaration.deployment.directory()?.empty().await;
    emptied.or_fail(Exit::Unavailable, || "cannot empty the key directory")
}
