//! A row of `policy.toml`, as it stands there.

use std::time::Duration;

use keychain::endorsement::Purpose;
use serde::Deserialize;
use systemd::{config::Span, listen::Address};

use super::{Operation, Rate, Role, Rule, San, Service, User, Who};

/// `[[allow]]`: one caller, and what it may do.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub(super) struct Row {
    pub(super) who: Named,
    socket: Option<Address>,
    operations: Vec<Operation>,
    service: Option<Service>,
    purposes: Vec<(Purpose, Duration)>,
    rate: Rate,
}

/// A caller, as the file names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Named {
    San(San),
    User(User),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    user: Option<User>,
    san: Option<San>,
    socket: Option<Address>,
    operations: Vec<Operation>,
    service: Option<Service>,
    purposes: Option<Vec<PurposeName>>,
    longest_access: Option<Span>,
    longest_response: Option<Span>,
    rate: Option<Rate>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum PurposeName {
    Access,
    Response,
}

impl Row {
    /// The rule, or nothing for a user that this host does not have.
    pub(super) fn rule(&self) -> std::io::Result<Option<Rule>> {
        let who = match &self.who {
            Named::San(san) => Some(Who::Named(san.clone())),
            Named::User(user) => user.number()?.map(Who::User),
        };
        Ok(who.map(|who| Rule {
            who,
            socket: self.socket.clone(),
            operations: self.operations.clone(),
            service: self.service.clone(),
            purposes: self.purposes.clone(),
            rate: self.rate,
        }))
    }
}

impl TryFrom<Written> for Row {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let who = match (&written.user, &written.san) {
            (Some(user), None) => Named::User(user.clone()),
            (None, Some(san)) => Named::San(san.clone()),
            _ => return Err("a row names its caller once: give either `user` or `san`".to_owned()),
        };
        check_operations(&written.operations)?;
        let endorses = written.operations.contains(&Operation::Endorse);
        let purposes = if endorses { purposes(&written)? } else { no_purposes(&written)? };
        Ok(Self {
            who,
            socket: written.socket,
            operations: written.operations,
            service: written.service,
            purposes,
            rate: written.rate.unwrap_or_default(),
        })
    }
}

fn check_operations(operations: &[Operation]) -> Result<(), String> {
    if operations.is_empty() {
        return Err("key `operations`: is empty; a row that allows nothing can go".to_owned());
    }
    for (place, operation) in operations.iter().enumerate() {
        if operations.iter().take(place).any(|earlier| earlier == operation) {
            return Err(format!("key `operations`: {} stands twice", operation.as_str()));
        }
    }
    let mixed = operations.iter().any(|operation| operation.role() == Role::Admin)
        && operations.contains(&Operation::Endorse);
    if mixed {
        return Err(
            "key `operations`: endorse is asked for through other sockets than the rest; give it a row \
                    of its own"
                .to_owned(),
        );
    }
    Ok(())
}

fn purposes(written: &Written) -> Result<Vec<(Purpose, Duration)>, String> {
    let Some(service) = &written.service else {
        return Err("key `service`: is missing; it is what endorsements name".to_owned());
    };
    let names = written.purposes.as_deref().unwrap_or_default();
    if names.is_empty() {
        return Err("key `purposes`: is missing; write [\"response\"], for authd [\"access\", \"response\"]"
            .to_owned());
    }
    if names.iter().enumerate().any(|(place, name)| names.iter().take(place).any(|earlier| earlier == name)) {
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
    names.iter().map(|name| longest(*name, written)).collect()
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

fn no_purposes(written: &Written) -> Result<Vec<(Purpose, Duration)>, String> {
    for (key, given) in [
        ("service", written.service.is_some()),
        ("purposes", written.purposes.is_some()),
        ("longest_access", written.longest_access.is_some()),
        ("longest_response", written.longest_response.is_some()),
    ] {
        if given {
            return Err(format!("key `{key}`: is for operation endorse; leave it out"));
        }
    }
    Ok(Vec::new())
}
