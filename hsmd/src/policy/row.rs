//! A row of `policy.toml` as written, and what requests are judged by made of it.

use std::{collections::BTreeSet, fmt, time::Duration};

use keychain::{acknowledgement::Instance, endorsement::Purpose};
use serde::Deserialize;
use systemd::{config::Span, listen::Address};

use super::{Allows, Operation, Rate, Role, Rule, San, Service, User, Who};

/// Most processes of one service that a row names.
const INSTANCES_MAX: usize = 256;

/// A caller, as the file names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// The holder of a client certificate with this name.
    San(San),
    /// Processes of this user.
    User(User),
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::San(san) => san.fmt(f),
            Self::User(user) => user.fmt(f),
        }
    }
}

/// `[[allow]]`: one caller, and what it may do, as an operator writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Written {
    user: Option<User>,
    san: Option<San>,
    socket: Option<Address>,
    operations: Vec<Operation>,
    service: Option<Service>,
    purposes: Option<Vec<PurposeName>>,
    longest_access: Option<Span>,
    longest_response: Option<Span>,
    instances: Option<Vec<Instance>>,
    rate: Option<Rate>,
    burst: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum PurposeName {
    Access,
    Response,
}

impl Rule<Named> {
    /// The rule with its caller looked up; `None` for a user that this host does not have.
    pub(super) fn find(self) -> std::io::Result<Option<Rule>> {
        let who = match self.who {
            Named::San(san) => Some(Who::Named(san)),
            Named::User(user) => user.number()?.map(Who::User),
        };
        let (socket, allows, rate) = (self.socket, self.allows, self.rate);
        Ok(who.map(|who| Rule { who, socket, allows, rate }))
    }
}

impl TryFrom<Written> for Rule<Named> {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let who = match (&written.user, &written.san) {
            (Some(user), None) => Named::User(user.clone()),
            (None, Some(san)) => Named::San(san.clone()),
            _ => return Err("a row names its caller once: give either `user` or `san`".to_owned()),
        };
        check_operations(&written.operations)?;
        let allows = if written.operations.contains(&Operation::Endorse) {
            let (service, purposes) = endorsements(&written)?;
            Allows::Endorsements { service, purposes, instances: instances(written.instances)? }
        } else {
            demand_no_endorsements(&written)?;
            Allows::Operations(written.operations)
        };
        let usual = usual_rate(allows.role());
        let rate = match (written.rate, written.burst) {
            (rate, None) => rate.unwrap_or(usual),
            (rate, Some(burst)) => rate.unwrap_or(usual).with_burst(burst)?,
        };
        Ok(Self { who, socket: written.socket, allows, rate })
    }
}

impl<'de> Deserialize<'de> for Rule<Named> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Written::deserialize(deserializer)?.try_into().map_err(serde::de::Error::custom)
    }
}

/// The rate of a row that gives none.
///
/// A service has one key or two endorsed at its start and again every few hours, and once more after a rotation or
/// a taint. An intruder on its host has no more than this, of which each key has to be revoked.
/// Operators are not kept from a taint by the operations before it.
pub(super) const fn usual_rate(role: Role) -> Rate {
    match role {
        Role::Admin => Rate::per_minute(600, 600),
        Role::Endorse => Rate::per_minute(5, 10),
        // A publisher reports once a minute, and at each start of its own.
        Role::Publish => Rate::per_minute(6, 6),
    }
}

fn check_operations(operations: &[Operation]) -> Result<(), String> {
    if operations.is_empty() {
        return Err("key `operations`: is empty; a row that allows nothing can go".to_owned());
    }
    for (index, operation) in operations.iter().enumerate() {
        if operations.iter().take(index).any(|earlier| earlier == operation) {
            return Err(format!("key `operations`: {} stands twice", operation.as_str()));
        }
    }
    let mut roles = operations.iter().map(|operation| operation.role());
    let first = roles.next();
    if roles.any(|role| Some(role) != first) {
        return Err(
            "key `operations`: endorse, and report, are asked for through other sockets than the rest; give \
                    each a row of its own"
                .to_owned(),
        );
    }
    Ok(())
}

fn endorsements(written: &Written) -> Result<(Service, Vec<(Purpose, Duration)>), String> {
    let Some(service) = &written.service else {
        return Err("key `service`: is missing; it is what endorsements name".to_owned());
    };
    let names = written.purposes.as_deref().unwrap_or_default();
    if names.is_empty() {
        return Err("key `purposes`: is missing; write [\"response\"], for authd [\"access\", \"response\"]"
            .to_owned());
    }
    if names.iter().enumerate().any(|(index, name)| names.iter().take(index).any(|earlier| earlier == name)) {
        return Err("key `purposes`: one stands twice".to_owned());
    }
    if names.contains(&PurposeName::Access) && !service.is_authd() {
        return Err("key `purposes`: access is for service authd alone".to_owned());
    }
    for (name, key, own) in [
        (PurposeName::Access, "longest_access", written.longest_access),
        (PurposeName::Response, "longest_response", written.longest_response),
    ] {
        if own.is_some() && !names.contains(&name) {
            return Err(format!("key `{key}`: its purpose is not among `purposes`"));
        }
    }
    let purposes = names.iter().map(|name| longest(*name, written)).collect::<Result<_, _>>()?;
    Ok((service.clone(), purposes))
}

/// The names of the processes; the only one has a name too.
fn instances(names: Option<Vec<Instance>>) -> Result<BTreeSet<Instance>, String> {
    let names = names.unwrap_or_else(|| vec![Instance::only()]);
    if names.len() > INSTANCES_MAX {
        return Err(format!("key `instances`: more than {INSTANCES_MAX}"));
    }
    let count = names.len();
    let instances: BTreeSet<Instance> = names.into_iter().collect();
    if instances.len() == count { Ok(instances) } else { Err("key `instances`: one stands twice".to_owned()) }
}

fn longest(name: PurposeName, written: &Written) -> Result<(Purpose, Duration), String> {
    let (purpose, key, own) = match name {
        PurposeName::Access => (Purpose::Access, "longest_access", written.longest_access),
        PurposeName::Response => (Purpose::Response, "longest_response", written.longest_response),
    };
    let most = purpose.longest_lifetime();
    let own = own.map_or(most, Span::duration);
    if own.is_zero() || own > most {
        return Err(format!(
            "key `{key}`: give more than zero and at most the protocol's {}",
            Span::from(most)
        ));
    }
    Ok((purpose, own))
}

fn demand_no_endorsements(written: &Written) -> Result<(), String> {
    for (key, given) in [
        ("service", written.service.is_some()),
        ("purposes", written.purposes.is_some()),
        ("longest_access", written.longest_access.is_some()),
        ("longest_response", written.longest_response.is_some()),
        ("instances", written.instances.is_some()),
    ] {
        if given {
            return Err(format!("key `{key}`: is for operation endorse; leave it out"));
        }
    }
    Ok(())
}
