//! What commands that change something have in common: a reason, a person's word, and the wait for the verifiers.

use std::io::{BufRead, IsTerminal};
use std::time::Duration;

use keychain::Digest;

use crate::deployment::Deployment;
use crate::door::Door;
use crate::failure::{Exit, Failure, OrFail};
use crate::talk::Talk;
use crate::verifiers::{Goal, Wait};

/// How many of the identity's last characters confirm a command.
const TAIL: usize = 6;

/// The longest reason that is kept.
const REASON_MAX: usize = 500;

/// Options of what the verifiers are to acknowledge.
#[derive(Debug, clap::Args)]
pub(crate) struct Declaration {
    #[command(flatten)]
    pub(crate) deployment: Deployment,
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    pub(crate) consent: Consent,
}

/// Whether a command may do what it is about to do.
#[derive(Debug, clap::Args)]
pub(crate) struct Consent {
    /// Do not ask for confirmation (needed without a terminal)
    #[arg(long)]
    yes: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Options of an operator's word to hsmd.
#[derive(Debug, clap::Args)]
pub(crate) struct Spoken {
    #[command(flatten)]
    pub(crate) deployment: Deployment,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub(crate) reason: String,
    #[command(flatten)]
    pub(crate) consent: Consent,
}

impl Declaration {
    /// How long is waited at most; nothing if not at all.
    pub(crate) fn limit(&self) -> Option<Duration> {
        self.wait.limit()
    }

    /// Waits until every verifier has acknowledged a head that hsmd made after it answered to the declaration.
    pub(crate) async fn acknowledged(&self, hsmd: &Door, talk: Talk) -> Result<(), Failure> {
        self.acknowledged_as(hsmd, Goal::next_head(), talk).await
    }

    /// The same for what is demanded beyond that.
    pub(crate) async fn acknowledged_as(&self, hsmd: &Door, goal: Goal, talk: Talk) -> Result<(), Failure> {
        self.wait.until(&self.deployment, (hsmd, None), goal, talk).await
    }
}

impl Consent {
    /// Whether to go on: not in a dry run, and only with a person's word, which is typed unless it was given ahead.
    pub(crate) fn is_given(&self, identity: &Digest, what: &str, talk: Talk) -> Result<bool, Failure> {
        if self.is_dry_run(talk) {
            return Ok(false);
        }
        if !self.yes {
            confirm(identity, what)?;
        }
        Ok(true)
    }

    /// Whether nothing is to be done; it is said.
    pub(crate) fn is_dry_run(&self, talk: Talk) -> bool {
        if self.dry_run {
            talk.say("dry run: nothing was done");
        }
        self.dry_run
    }
}

/// The last characters of an identity, typed by a person.
pub(crate) fn confirm(identity: &Digest, what: &str) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(Exit::Usage, format!("{what} without a terminal needs --yes")));
    }
    let identity = identity.to_string();
    let tail = identity.get(identity.len().saturating_sub(TAIL)..).unwrap_or(&identity);
    Talk::ask(format!("type the last {TAIL} characters of the identity {identity} to go on: "));
    let mut typed = String::new();
    std::io::stdin().lock().read_line(&mut typed).or_fail(Exit::Io, || "cannot read the confirmation")?;
    if typed.trim() == tail {
        return Ok(());
    }
    Err(Failure::new(Exit::No, "not confirmed: nothing was done"))
}

/// Reads a reason.
pub(crate) fn reason(text: &str) -> Result<String, String> {
    if text.trim().is_empty() || text.len() > REASON_MAX || text.chars().any(char::is_control) {
        return Err(format!("a reason is 1 to {REASON_MAX} bytes of text"));
    }
    Ok(text.to_owned())
}
