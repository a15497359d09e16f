//! `opsctl roll`: new keys for services, without a restart; with `--revoke` the old ones are refused.

use keychain::endorsement::Purpose;
use serde::{Deserialize, Serialize};

use crate::declaration::{Declaration, reason};
use crate::door::{Address, Door};
use crate::failure::{Exit, Failure, OrFail};
use crate::generation::{chain, to_json};
use crate::out;
use crate::talk::Talk;
use crate::verifiers::{self, Goal};

/// Options of `opsctl roll`.
#[derive(Debug, clap::Args)]
pub(crate) struct Roll {
    #[command(flatten)]
    declaration: Declaration,
    /// The services, as their endorsements name them [default: all that hsmd's policy names]
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
    /// Have the old keys refused everywhere: whoever is signed in refreshes or signs in again. Reaches other hosts too
    #[arg(long, requires = "reason")]
    revoke: bool,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: Option<String>,
    /// Where a service of this host takes orders, as SERVICE=SOCKET [default: authd=/run/authd/admin.sock, or as in the
    /// endpoints file]; others are reached by hsmd's head
    #[arg(long, value_name = "SERVICE=SOCKET", value_parser = socket)]
    socket: Vec<(String, Address)>,
}

#[derive(Serialize)]
struct Request<'a> {
    service: &'a str,
    reason: &'a str,
}

/// hsmd's answer to a revocation, or to an order.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marked {
    endorsed_up_to: u64,
}

/// A service's answer to an order.
#[derive(Deserialize)]
struct Rolled {
    endorsements: Vec<u64>,
}

/// `opsctl roll`.
pub(crate) async fn roll(options: &Roll, talk: Talk) -> Result<(), Failure> {
    let hsmd = options.declaration.deployment.admin()?;
    let services = options.services(&hsmd).await?;
    let list = services.join(", ");
    talk.say(format!("new keys for {list}"));
    if options.revoke {
        talk.say("their keys of before are to be refused everywhere; sessions go on once devices have signed in again");
    }
    let consent = &options.declaration.consent;
    let (above, unreached) = match (&options.reason, options.revoke) {
        (Some(reason), true) => {
            if !consent.is_given(&chain(&hsmd).await?.identity(), "a revocation", talk)? {
                return Ok(());
            }
            (revoke(&hsmd, &services, reason).await?, Vec::new())
        }
        _ if consent.is_dry_run(talk) => return Ok(()),
        _ => options.order(&hsmd, &services, talk).await?,
    };
    for (service, _) in &above {
        out::line(service);
    }
    let waited = options.declaration.acknowledged_as(&hsmd, Goal::above(above), talk).await;
    if unreached.is_empty() {
        return waited;
    }
    let what = format!(
        "no order reached {}: `systemctl reload` on its host rolls it, or `opsctl roll --revoke` from here",
        unreached.join(", ")
    );
    Err(match waited {
        Ok(()) => Failure::new(Exit::Partial, what),
        Err(failure) => Failure::new(Exit::Partial, what).because(failure.to_string()),
    })
}

/// The services that issue tokens.
pub(crate) async fn issuers(hsmd: &Door) -> Result<Vec<String>, Failure> {
    let expected = verifiers::expected(hsmd).await?;
    let mut issuers: Vec<_> = expected
        .into_iter()
        .filter(|one| one.purposes.contains(&Purpose::Access) && !one.closed)
        .map(|one| one.service)
        .collect();
    issuers.dedup();
    Ok(issuers)
}

/// Has each service revoked up to its newest endorsement, and opened again: its processes make new keys wherever they
/// run. The numbers are those that their new endorsements lie above.
pub(crate) async fn revoke(
    hsmd: &Door,
    services: &[String],
    reason: &str,
) -> Result<Vec<(String, u64)>, Failure> {
    let mut above = Vec::with_capacity(services.len());
    for service in services {
        let request = to_json(&Request { service, reason })?;
        let answer = hsmd.post("/revoke-service", request.clone()).await?.ok(hsmd)?;
        let revoked: Marked = serde_json::from_str(&answer)
            .or_fail(Exit::Data, || "hsmd's answer is not that of a revocation")?;
        // A service that stays closed has no keys: whoever is told so knows the cure.
        let closed = || format!("`{service}` is revoked and not open again: opsctl open-service {service}");
        let opened = hsmd.post("/open-service", request).await.and_then(|answer| answer.ok(hsmd));
        opened.map_err(|failure| Failure::new(failure.exit(), closed()).because(failure.to_string()))?;
        above.push((service.clone(), revoked.endorsed_up_to));
    }
    Ok(above)
}

impl Roll {
    /// The services that are meant, authd first: others wait for it.
    async fn services(&self, hsmd: &Door) -> Result<Vec<String>, Failure> {
        let mut known: Vec<String> = verifiers::expected(hsmd)
            .await?
            .into_iter()
            .filter(|one| !one.closed)
            .map(|one| one.service)
            .collect();
        known.dedup();
        if let Some(unknown) = self.services.iter().find(|service| !known.contains(service)) {
            let what =
                format!("hsmd's policy names no service `{unknown}` that is open: {}", known.join(", "));
            return Err(Failure::new(Exit::Usage, what));
        }
        let mut services = if self.services.is_empty() { known } else { self.services.clone() };
        services.sort_by_key(|service| (service != "authd", service.clone()));
        services.dedup();
        Ok(services)
    }

    /// Orders new keys, at the sockets of this host or by hsmd's signed word: the numbers that their endorsements lie
    /// above, and the services that no order reached.
    async fn order(
        &self,
        hsmd: &Door,
        services: &[String],
        talk: Talk,
    ) -> Result<(Vec<(String, u64)>, Vec<String>), Failure> {
        let (mut above, mut unreached) = (Vec::new(), Vec::new());
        for service in services {
            match self.order_one(hsmd, service).await {
                Ok(number) => above.push((service.clone(), number)),
                Err(failure) => {
                    talk.say(failure.to_string());
                    unreached.push(service.clone());
                }
            }
        }
        Ok((above, unreached))
    }

    async fn order_one(&self, hsmd: &Door, service: &str) -> Result<u64, Failure> {
        let Some(address) = self.address(service)? else {
            // On another host: the order stands in hsmd's head, which the service reads.
            let reason = self.reason.as_deref().unwrap_or("opsctl roll");
            let answer =
                hsmd.post("/roll-service", to_json(&Request { service, reason })?).await?.ok(hsmd)?;
            let ordered: Marked = serde_json::from_str(&answer)
                .or_fail(Exit::Data, || "hsmd's answer is not that of an order")?;
            return Ok(ordered.endorsed_up_to);
        };
        let door = self.declaration.deployment.open(&address)?;
        let answer = door.post("/roll", String::new()).await?.ok(&door)?;
        let rolled: Rolled = serde_json::from_str(&answer)
            .or_fail(Exit::Data, || format!("`{service}` does not say what it rolled"))?;
        let first = rolled.endorsements.into_iter().min();
        Ok(first.or_fail(Exit::Data, || format!("`{service}` rolled no key"))?.saturating_sub(1))
    }

    fn address(&self, service: &str) -> Result<Option<Address>, Failure> {
        if let Some((_, address)) = self.socket.iter().find(|(name, _)| name == service) {
            return Ok(Some(address.clone()));
        }
        Ok(match self.declaration.deployment.endpoints()? {
            Some(endpoints) => endpoints.rolls.get(service).cloned().map(Address::Socket),
            None => (service == "authd").then(|| Address::Socket(AUTHD.into())),
        })
    }
}

/// Where authd takes orders when its unit runs.
const AUTHD: &str = "/run/authd/admin.sock";

fn socket(text: &str) -> Result<(String, Address), String> {
    let (service, address) = text.split_once('=').ok_or("write SERVICE=SOCKET")?;
    Ok((service.to_owned(), address.parse()?))
}
