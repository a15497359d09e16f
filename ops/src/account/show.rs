//! `opsctl account show`, `device list` and `role list`.

use std::fmt;

use keychain::Digest;
use serde::Deserialize;

use super::ask::Site;
use crate::failure::{Exit, Failure, OrFail};
use crate::out;

/// Options of `opsctl account show`.
#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    #[command(flatten)]
    list: List,
}

/// Options of what only reads.
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// The identity
    #[arg(value_name = "E…")]
    identity: Digest,
    /// As JSON: authd's answer, verbatim
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    site: Site,
}

#[derive(Deserialize)]
struct Standing {
    account: Option<Condition>,
    ban: Option<Ban>,
    devices: Vec<Device>,
    roles: Vec<String>,
}

#[derive(Deserialize)]
struct Condition {
    state: String,
    since: String,
    #[serde(flatten)]
    by: By,
}

#[derive(Deserialize)]
struct Ban {
    until: Option<String>,
    since: String,
    #[serde(flatten)]
    by: By,
}

#[derive(Deserialize)]
struct Device {
    #[serde(rename = "device")]
    id: String,
    /// What its owner calls it.
    name: Option<String>,
    #[serde(flatten)]
    state: Condition,
}

/// Who caused a record.
#[derive(Deserialize)]
#[serde(tag = "by", rename_all = "lowercase")]
enum By {
    Device { path: String },
    Operator { action: String, operator: String, reason: String, signed: bool },
}

/// `opsctl account show`: exit code 1 if authd knows nothing of the identity.
pub(crate) async fn show(Show { list }: &Show) -> Result<(), Failure> {
    let Some(standing) = list.ask().await? else { return Ok(()) };
    match &standing.account {
        Some(account) => out::line(format_args!("account     {account}")),
        None => out::line("account     none"),
    }
    if let Some(Ban { until, since, by }) = &standing.ban {
        let until = until.as_deref().unwrap_or("an operator lifts it");
        out::line(format_args!("ban         since {since}, until {until}, {by}"));
    }
    for role in &standing.roles {
        out::line(format_args!("role        {role}"));
    }
    for device in &standing.devices {
        out::line(format_args!("device      {device}"));
    }
    if standing.account.is_none() && standing.ban.is_none() {
        return Err(Failure::new(Exit::No, "authd knows nothing of that identity"));
    }
    Ok(())
}

/// `opsctl device list`.
pub(crate) async fn devices(list: &List) -> Result<(), Failure> {
    let Some(standing) = list.ask().await? else { return Ok(()) };
    standing.demand_account()?;
    for device in &standing.devices {
        out::line(device);
    }
    Ok(())
}

/// `opsctl role list`: the roles that were granted, not those that every account has.
pub(crate) async fn roles(list: &List) -> Result<(), Failure> {
    let Some(standing) = list.ask().await? else { return Ok(()) };
    standing.demand_account()?;
    for role in &standing.roles {
        out::line(role);
    }
    Ok(())
}

impl List {
    /// What authd says of the identity; nothing if it was printed as JSON.
    async fn ask(&self) -> Result<Option<Standing>, Failure> {
        let authd = self.site.door()?;
        let answer = authd.get(&format!("/account?identity={}", self.identity)).await?.ok(&authd)?;
        if self.json {
            out::line(answer.trim_end());
            return Ok(None);
        }
        let standing =
            serde_json::from_str(&answer).or_fail(Exit::Data, || "authd's answer is of no account")?;
        Ok(Some(standing))
    }
}

impl Standing {
    fn demand_account(&self) -> Result<(), Failure> {
        let what = "the identity has no account";
        self.account.as_ref().map(|_| ()).ok_or_else(|| Failure::new(Exit::No, what))
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:8} since {}, {}", self.state, self.since, self.by)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  {}", self.id, self.state)?;
        self.name.as_ref().map_or(Ok(()), |name| write!(f, ", called {name:?}"))
    }
}

/// An operator's words come escaped, so that no text can pass for another line.
impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device { path } => write!(f, "by a device ({path})"),
            Self::Operator { action, operator, reason, signed } => {
                write!(f, "by {operator} ({action}: {reason:?})")?;
                if *signed { Ok(()) } else { f.write_str(", NOT AS IT WAS SIGNED") }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_shown_as_its_owner_calls_it() {
        let shown = |name: &str| {
            let text = format!(
                r#"{{"device":"E1",{name}"state":"active","since":"now","by":"device","path":"/device/link"}}"#
            );
            serde_json::from_str::<Device>(&text).unwrap().to_string()
        };
        let plain = shown("");
        assert_eq!(plain, "E1  active   since now, by a device (/device/link)");
        assert_eq!(shown(r#""name":"my phone","#), format!(r#"{plain}, called "my phone""#));
    }
}
