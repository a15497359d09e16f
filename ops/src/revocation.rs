//! `opsctl revoke-key`: compromised keys of services.

use keychain::{PublicKey, limits};
use serde::Serialize;

use crate::declaration::{Declaration, reason};
use crate::failure::{Exit, Failure};
use crate::generation::{chain, to_json};
use crate::out;
use crate::statements::Stated;
use crate::talk::Talk;

/// Options of `opsctl revoke-key`.
#[derive(Debug, clap::Args)]
pub(crate) struct RevokeKey {
    #[command(flatten)]
    declaration: Declaration,
    /// The compromised keys, as they stand in the directory
    #[arg(value_name = "KEY", required = true, num_args = 1..=limits::REVOKED_KEYS_MAX)]
    keys: Vec<PublicKey>,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: String,
    /// As JSON: hsmd's answer, verbatim
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    public_keys: &'a [PublicKey],
    reason: &'a str,
}

/// `opsctl revoke-key`.
pub(crate) async fn revoke_key(options: &RevokeKey, talk: Talk) -> Result<(), Failure> {
    let hsmd = options.declaration.deployment.admin()?;
    let before = chain(&hsmd).await?;
    let mut keys = options.keys.clone();
    keys.sort_unstable();
    keys.dedup();
    talk.say(format!(
        "{} key(s) of services are to be refused, whatever endorses them, and never",
        keys.len()
    ));
    talk.say("endorsed again; their endorsements leave the directory");
    if !options.declaration.consent.is_given(&before.identity(), "a revocation", talk)? {
        return Ok(());
    }
    let request = Request { public_keys: &keys, reason: &options.reason };
    let answer = hsmd.post("/revoke-keys", to_json(&request)?).await?.ok(&hsmd)?;
    // Believes the statement, not the answer.
    let stated = Stated::read(&hsmd, &chain(&hsmd).await?).await?;
    if let Some(missing) = keys.iter().find(|key| !stated.entries.keys.contains_key(&key.name())) {
        return Err(Failure::new(Exit::No, format!("hsmd states no revocation of {missing}: see its log")));
    }
    if options.json {
        out::line(answer.trim_end());
    } else {
        for key in &keys {
            out::line(key);
        }
    }
    talk.say(format!("stated: the head of {} revokes them", stated.issued_at));
    options.declaration.acknowledged(&hsmd, talk).await
}
