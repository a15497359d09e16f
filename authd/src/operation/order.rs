//! What operators order, decided as the devices' operations are: the rows and the time go in; what to append, or
//! that nothing is to be appended, or a refusal comes out.

use std::collections::BTreeSet;
use std::time::Duration;

use keychain::{Code, Digest, Refusal, Timestamp};

use crate::record::{
    AccountRecord, AccountState, Action, BanEnd, BanRecord, DeviceRecord, DeviceState, Mandate, RoleRecord,
};
use keychain::feed::Cause;

/// Most roles that may be granted to one account: a token carries them all.
const GRANTED_MAX: usize = 16;

/// What an operator orders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// The account is deleted, as by one of its devices.
    AccountDelete,
    /// A deleted account stands again, each device as its owner holds it.
    AccountRestore,
    /// Everything is refused to the identity, which need not have an account.
    Ban(BanEnd),
    /// Devices are revoked, for good.
    DeviceRevoke(Which),
    /// A role is granted.
    RoleGrant(String),
    /// A granted role is withdrawn.
    RoleRevoke(String),
    /// A ban is lifted.
    Unban,
}

/// Which of an account's active devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// All of them.
    All,
    /// All but this one, which has to be an active one.
    AllBut(Digest),
    /// This one.
    One(Digest),
}

/// What the rows say of an identity.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// The account's newest record.
    pub account: Option<AccountRecord>,
    /// The newest ban record.
    pub ban: Option<BanRecord>,
    /// The newest record of each device that the account ever had.
    pub devices: Vec<DeviceRecord>,
    /// The newest record of granted roles.
    pub roles: Option<RoleRecord>,
}

/// What an order leads to, to be written in one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// The account's next record.
    pub account: Option<AccountRecord>,
    /// The next ban record.
    pub ban: Option<BanRecord>,
    /// The next record of each device that changes.
    pub devices: Vec<DeviceRecord>,
    /// The next record of granted roles.
    pub roles: Option<RoleRecord>,
    /// Denials taken back. They come before those that begin: a ban may follow another and end before it.
    pub lifted: Vec<(Digest, Cause)>,
    /// Denials that begin, each with its end.
    pub denied: Vec<(Digest, Cause, BanEnd)>,
}

impl Order {
    /// What is ordered.
    pub const fn action(&self) -> Action {
        match self {
            Self::AccountDelete => Action::AccountDelete,
            Self::AccountRestore => Action::AccountRestore,
            Self::Ban(_) => Action::Ban,
            Self::DeviceRevoke(_) => Action::DeviceRevoke,
            Self::RoleGrant(_) => Action::RoleGrant,
            Self::RoleRevoke(_) => Action::RoleRevoke,
            Self::Unban => Action::Unban,
        }
    }
}

/// Decides an order about `identity`. `denial` is how long tokens of a revoked device are denied. `None`: all is as
/// ordered already.
pub fn decide(
    identity: Digest,
    order: &Order,
    standing: &Standing,
    mandate: &Mandate<'_>,
    (denial, now): (Duration, Timestamp),
) -> Result<Option<Carried>, Refusal> {
    let end = BanEnd::At(now.plus(denial));
    match order {
        Order::Ban(end) => ban(identity, Some(*end), standing, mandate, now),
        Order::Unban => ban(identity, None, standing, mandate, now),
        Order::AccountDelete => delete(standing, mandate, end, now),
        Order::AccountRestore => restore(standing, mandate, now),
        Order::DeviceRevoke(which) => revoke(*which, standing, mandate, end, now),
        Order::RoleGrant(role) => roles(identity, (role, true), standing, mandate, now),
        Order::RoleRevoke(role) => roles(identity, (role, false), standing, mandate, now),
    }
}

fn ban(
    identity: Digest,
    ban: Option<BanEnd>,
    standing: &Standing,
    mandate: &Mandate<'_>,
    now: Timestamp,
) -> Result<Option<Carried>, Refusal> {
    let before = standing.ban.as_ref();
    let in_force = before.filter(|record| record.is_in_force(now)).map(BanRecord::end);
    if in_force == ban {
        return Ok(None);
    }
    // Revoked devices have denials of their own, which last as long as their tokens.
    let subjects: Vec<Digest> = std::iter::once(identity).chain(active(standing)).collect();
    let lifted = before.map_or_else(Vec::new, |_| with(&subjects, Cause::Ban));
    let begins = |end| with(&subjects, Cause::Ban).into_iter().map(move |(who, why)| (who, why, end));
    let denied = ban.map_or_else(Vec::new, |end| begins(end).collect());
    let record = BanRecord::new(before, identity, ban, mandate, now)?;
    Ok(Some(Carried { ban: Some(record), lifted, denied, ..Carried::default() }))
}

fn delete(
    standing: &Standing,
    mandate: &Mandate<'_>,
    end: BanEnd,
    now: Timestamp,
) -> Result<Option<Carried>, Refusal> {
    let account = account(standing)?;
    if account.state == AccountState::Deleted {
        return Ok(None);
    }
    let record = account.ordered(AccountState::Deleted, mandate, now)?;
    let denied = active(standing).map(|device| (device, Cause::Deletion, end)).collect();
    Ok(Some(Carried { account: Some(record), denied, ..Carried::default() }))
}

fn restore(standing: &Standing, mandate: &Mandate<'_>, now: Timestamp) -> Result<Option<Carried>, Refusal> {
    let account = account(standing)?;
    if account.state == AccountState::Active {
        return Ok(None);
    }
    let record = account.ordered(AccountState::Active, mandate, now)?;
    let lifted = active(standing).map(|device| (device, Cause::Deletion)).collect();
    Ok(Some(Carried { account: Some(record), lifted, ..Carried::default() }))
}

fn revoke(
    which: Which,
    standing: &Standing,
    mandate: &Mandate<'_>,
    end: BanEnd,
    now: Timestamp,
) -> Result<Option<Carried>, Refusal> {
    account(standing)?;
    let known = |device: &Digest| standing.devices.iter().any(|record| record.device == *device);
    match which {
        Which::One(device) if !known(&device) => return Err(absent("the account never had that device")),
        // A slip of the pen here would revoke every device.
        Which::AllBut(device) if !active(standing).any(|active| active == device) => {
            return Err(absent("the device to be kept is no active device of the account"));
        }
        _ => {}
    }
    let is_meant = |device: &DeviceRecord| match which {
        Which::All => true,
        Which::AllBut(kept) => device.device != kept,
        Which::One(one) => device.device == one,
    };
    let mut carried = Carried::default();
    for device in &standing.devices {
        if device.state == DeviceState::Active && is_meant(device) {
            carried.devices.push(device.revoked_by_order(mandate, now)?);
            carried.denied.push((device.device, Cause::Revocation, end));
            // A lift of the ban asks for active devices: this one would stay denied under other accounts as well.
            if standing.ban.is_some() {
                carried.lifted.push((device.device, Cause::Ban));
            }
        }
    }
    Ok((!carried.devices.is_empty()).then_some(carried))
}

fn roles(
    identity: Digest,
    (role, granted): (&str, bool),
    standing: &Standing,
    mandate: &Mandate<'_>,
    now: Timestamp,
) -> Result<Option<Carried>, Refusal> {
    account(standing)?;
    let before = standing.roles.as_ref();
    let mut roles: BTreeSet<String> = before.map(|record| record.roles.clone()).unwrap_or_default();
    let changed = if granted { roles.insert(role.to_owned()) } else { roles.remove(role) };
    if !changed {
        return Ok(None);
    }
    if roles.len() > GRANTED_MAX {
        return Err(Refusal::new(Code::Conflict, "the account has as many roles as a token carries"));
    }
    let record = RoleRecord::new(before, identity, roles, mandate, now)?;
    Ok(Some(Carried { roles: Some(record), ..Carried::default() }))
}

fn account(standing: &Standing) -> Result<&AccountRecord, Refusal> {
    standing.account.as_ref().ok_or(absent("the identity has no account"))
}

/// What does not exist. Operators may be told so.
const fn absent(because: &'static str) -> Refusal {
    Refusal::new(Code::Conflict, because)
}

fn active(standing: &Standing) -> impl Iterator<Item = Digest> {
    let active = standing.devices.iter().filter(|device| device.state == DeviceState::Active);
    active.map(|device| device.device)
}

fn with(subjects: &[Digest], cause: Cause) -> Vec<(Digest, Cause)> {
    subjects.iter().map(|subject| (*subject, cause)).collect()
}
