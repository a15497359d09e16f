//! `opsctl revoke-service` and `opsctl open-service`: whole services that are compromised.

use serde::Serialize;

use crate::deployment::Deployment;
use crate::failure::{Exit, Failure};
use crate::generation::{chain, confirm, reason, to_json};
use crate::out;
use crate::statements::Stated;
use crate::talk::Talk;
use crate::verifiers::Wait;

/// Options of `opsctl revoke-service`.
#[derive(Debug, clap::Args)]
pub(crate) struct RevokeService {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    wait: Wait,
}

/// Options of `opsctl open-service`.
#[derive(Debug, clap::Args)]
pub(crate) struct OpenService {
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, clap::Args)]
struct Options {
    #[command(flatten)]
    deployment: Deployment,
    /// The service, as its endorsements name it: `authd`, or `edge:` or `keysd:` and a name
    #[arg(value_name = "SERVICE")]
    service: String,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: String,
    /// Do not ask for confirmation (needed without a terminal)
    #[arg(long)]
    yes: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// As JSON: hsmd's answer, verbatim
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Request<'a> {
    service: &'a str,
    reason: &'a str,
}

/// `opsctl revoke-service`.
pub(crate) async fn revoke_service(
    RevokeService { options, wait }: &RevokeService,
    talk: Talk,
) -> Result<(), Failure> {
    talk.say(format!("every key of `{}` is to be refused, and none endorsed until", options.service));
    talk.say("`opsctl open-service`; its endorsements leave the directory");
    let Some(hsmd) = options.ask("/revoke-service", "a revocation", talk).await? else { return Ok(()) };
    // Believes the head, not the answer.
    let stated = Stated::read(&hsmd, &chain(&hsmd).await?).await?;
    if !stated.entries.services.contains_key(&options.service) {
        let missing = format!("hsmd states no revocation of {}: see its log", options.service);
        return Err(Failure::new(Exit::No, missing));
    }
    talk.say(format!("stated: the head of {} revokes it", stated.issued_at));
    wait.acknowledged(&options.deployment, &hsmd, Vec::new(), talk).await
}

/// `opsctl open-service`.
pub(crate) async fn open_service(OpenService { options }: &OpenService, talk: Talk) -> Result<(), Failure> {
    talk.say(format!("`{}` is to have keys endorsed again; those from before stay refused", options.service));
    if options.ask("/open-service", "the service", talk).await?.is_some() {
        talk.say("opened");
    }
    Ok(())
}

impl Options {
    /// Asks hsmd; `None` if nothing was to be done.
    async fn ask(&self, path: &str, what: &str, talk: Talk) -> Result<Option<crate::door::Door>, Failure> {
        let hsmd = self.deployment.admin()?;
        let before = chain(&hsmd).await?;
        if self.dry_run {
            talk.say("dry run: nothing was done");
            return Ok(None);
        }
        if !self.yes {
            confirm(&before, what)?;
        }
        let request = Request { service: &self.service, reason: &self.reason };
        let answer = hsmd.post(path, to_json(&request)?).await?.ok(&hsmd)?;
        if self.json {
            out::line(answer.trim_end());
        } else {
            out::line(&self.service);
        }
        Ok(Some(hsmd))
    }
}
