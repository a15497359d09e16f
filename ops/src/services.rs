//! `opsctl revoke-service` and `opsctl open-service`: whole services that are compromised.

use serde::Serialize;

use crate::declaration::{Consent, Declaration, reason};
use crate::deployment::Deployment;
use crate::door::Door;
use crate::failure::{Exit, Failure};
use crate::generation::{chain, to_json};
use crate::out;
use crate::statements::Stated;
use crate::talk::Talk;

/// Options of `opsctl revoke-service`.
#[derive(Debug, clap::Args)]
pub(crate) struct RevokeService {
    #[command(flatten)]
    order: Order,
    #[command(flatten)]
    declaration: Declaration,
}

/// Options of `opsctl open-service`.
#[derive(Debug, clap::Args)]
pub(crate) struct OpenService {
    #[command(flatten)]
    order: Order,
    #[command(flatten)]
    deployment: Deployment,
    #[command(flatten)]
    consent: Consent,
}

#[derive(Debug, clap::Args)]
struct Order {
    /// The service, as its endorsements name it: `authd`, or `edge:` or `keysd:` and a name
    #[arg(value_name = "SERVICE")]
    service: String,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: String,
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
pub(crate) async fn revoke_service(options: &RevokeService, talk: Talk) -> Result<(), Failure> {
    let RevokeService { order, declaration } = options;
    talk.say(format!("every key of `{}` is to be refused, and none endorsed until", order.service));
    talk.say("`opsctl open-service`; its endorsements leave the directory");
    let hsmd = declaration.deployment.admin()?;
    if !order.carry_out(&hsmd, "/revoke-service", ("a revocation", &declaration.consent), talk).await? {
        return Ok(());
    }
    // Believes the head, not the answer.
    let stated = Stated::read(&hsmd, &chain(&hsmd).await?).await?;
    if !stated.entries.services.contains_key(&order.service) {
        let missing = format!("hsmd states no revocation of {}: see its log", order.service);
        return Err(Failure::new(Exit::No, missing));
    }
    talk.say(format!("stated: the head of {} revokes it", stated.issued_at));
    declaration.acknowledged(&hsmd, talk).await
}

/// `opsctl open-service`.
pub(crate) async fn open_service(options: &OpenService, talk: Talk) -> Result<(), Failure> {
    let OpenService { order, deployment, consent } = options;
    talk.say(format!("`{}` is to have keys endorsed again; those from before stay refused", order.service));
    let hsmd = deployment.admin()?;
    if order.carry_out(&hsmd, "/open-service", ("the service", consent), talk).await? {
        talk.say("opened");
    }
    Ok(())
}

impl Order {
    /// Has hsmd carry it out; false if nothing was to be done.
    async fn carry_out(
        &self,
        hsmd: &Door,
        path: &str,
        (what, consent): (&str, &Consent),
        talk: Talk,
    ) -> Result<bool, Failure> {
        if !consent.is_given(&chain(hsmd).await?.identity(), what, talk)? {
            return Ok(false);
        }
        let request = Request { service: &self.service, reason: &self.reason };
        let answer = hsmd.post(path, to_json(&request)?).await?.ok(hsmd)?;
        if self.json {
            out::line(answer.trim_end());
        } else {
            out::line(&self.service);
        }
        Ok(true)
    }
}
