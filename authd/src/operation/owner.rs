//! What the owner of an account asks of it by an access request, with a token of one of its devices
//! (`PROTOCOL.md#owner`).
//!
//! Token, issuer, signature and place of the request were judged by the edge's library ([`crate::owner`]). Here stands
//! what a request may say, and what is decided on the rows.

use std::time::Duration;

use keychain::json::Object;
use keychain::token::Claims;
use keychain::{Code, Digest, Refusal, Timestamp, json, limits};

use super::session::{self, SessionView};
use super::{Listed, check_ban, unknown_device};
use crate::record::{DeviceRecord, DeviceState};

/// Longest name of a device.
const NAME_MAX: usize = 64;

/// How much longer than the ended sessions it is kept that they were ended: authd's clocks may differ.
const FORGOTTEN_AFTER: Duration = Duration::from_hours(1);

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// The account's devices.
    DevicesList,
    /// A name for one of them, or none.
    DevicesName,
    /// An end to the sessions of one of them.
    SessionsEnd,
    /// An end to the sessions of all but the one that asks.
    SessionsEndOthers,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// The account's devices.
    List,
    /// A name for a device; without one, it has none any more.
    Name(Digest, Option<String>),
    /// An end to the sessions of a device.
    End(Digest),
    /// An end to the sessions of all devices but the one that asks.
    EndOthers,
}

/// What the rows say of the device that asks, and of the one that it asks about.
#[derive(Clone, Debug, Default)]
pub struct OwnerView {
    /// Account, ban and newest record of the device that asks, and which of its sessions were ended.
    pub session: SessionView,
    /// Whether it or its identity is denied, for whatever cause.
    pub is_denied: bool,
    /// Whether the request's nonce was spent before, at any authd.
    pub is_spent: bool,
    /// The newest record in this account of the device that the request is about.
    pub other: Option<DeviceRecord>,
    /// The account's devices, once listed.
    pub devices: Option<Listed>,
}

/// How long ends of sessions hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Margins {
    /// How long after it was asked for a token may still be given that does not know of the end.
    pub late: Duration,
    /// How long edges are to deny the tokens.
    pub denial: Duration,
}

/// What is decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Spend the nonce, write this, and answer.
    Write(Write),
    /// The proof holds; decide again when the account's devices are listed.
    Incomplete,
}

/// What is written beside the nonce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Nothing.
    Nothing,
    /// A name in the place of the last one; or none.
    Name(Digest, Option<Named>),
    /// An end to the sessions of these devices.
    End(Vec<Digest>, Ending),
}

/// A name, and who gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The name.
    pub name: String,
    /// The device that gave it.
    pub by: Digest,
    /// When.
    pub at: Timestamp,
}

/// An end of sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Ended are sessions whose token was issued by then.
    pub issued_up_to: Timestamp,
    /// The device that ended them.
    pub by: Digest,
    /// When.
    pub at: Timestamp,
    /// When the last of their tokens has ended.
    pub until: Timestamp,
    /// When none of them could be refreshed any more.
    pub forgotten_at: Timestamp,
}

/// A device, when it was seen, and how it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Its newest record.
    pub newest: DeviceRecord,
    /// When it was registered.
    pub first: Timestamp,
    /// When it last refreshed a session, of those refreshes that are kept.
    pub refreshed: Option<Timestamp>,
    /// What its owner calls it.
    pub name: Option<String>,
}

/// An account's devices.
#[derive(Clone, Debug, Default)]
pub struct Sightings {
    /// Those that can be read.
    pub devices: Vec<Sighting>,
    /// How many cannot.
    pub unreadable: usize,
}

impl Operation {
    /// Every operation.
    pub const ALL: [Self; 4] =
        [Self::DevicesList, Self::DevicesName, Self::SessionsEnd, Self::SessionsEndOthers];

    /// Where it is asked, and what the signed request says that it is.
    pub const fn path(self) -> &'static str {
        match self {
            Self::DevicesList => "/owner/devices/list",
            Self::DevicesName => "/owner/devices/name",
            Self::SessionsEnd => "/owner/sessions/end",
            Self::SessionsEndOthers => "/owner/sessions/end-others",
        }
    }
}

impl Request {
    /// Reads the `request` of an access request. It names the operation that it is for: what was signed for an app, or for
    /// another operation, is refused.
    pub fn parse(operation: Operation, raw: &str) -> Result<Self, Refusal> {
        let mut object = Object::parse(raw)?;
        if object.string("operation")? != operation.path() {
            let because = "`operation` is not the path at which the request came in";
            return Err(Refusal::new(Code::InvalidMessage, because).with("member", "operation"));
        }
        let mut device = || object.parsed("device", Digest::parse);
        let request = match operation {
            Operation::DevicesList => Self::List,
            Operation::DevicesName => {
                let device = device()?;
                Self::Name(device, object.take("name").map(name).transpose()?)
            }
            Operation::SessionsEnd => Self::End(device()?),
            Operation::SessionsEndOthers => Self::EndOthers,
        };
        object.finish()?;
        Ok(request)
    }

    /// The device that it is about, if it is about one.
    pub const fn other(&self) -> Option<Digest> {
        match self {
            Self::List | Self::EndOthers => None,
            Self::Name(device, _) | Self::End(device) => Some(*device),
        }
    }
}

/// A name that every client signs and reads alike (`PROTOCOL.md#app-answers`): as those of roles are.
fn name(raw: &str) -> Result<String, Refusal> {
    let name = json::plain_string(raw)?;
    let is_plain = name.bytes().all(|byte| matches!(byte, b' '..=b'~') && !b"<>&\"\\".contains(&byte));
    if is_plain && (1..=NAME_MAX).contains(&name.len()) {
        return Ok(name.to_owned());
    }
    let because =
        "a device's name has 1 to 64 characters of printable ASCII, without `<`, `>`, `&`, `\"` and `\\`";
    Err(Refusal::new(Code::InvalidMessage, because).with("member", "name"))
}

/// Decides what a device asks whose token's claims are `claims`.
pub fn decide(
    request: &Request,
    claims: &Claims,
    view: &OwnerView,
    margins: &Margins,
    now: Timestamp,
) -> Result<Decision, Refusal> {
    admit(claims, view, now)?;
    let by = claims.device;
    Ok(Decision::Write(match request {
        Request::List => Write::Nothing,
        Request::Name(device, name) => {
            demand_own(view)?;
            Write::Name(*device, name.clone().map(|name| Named { name, by, at: now }))
        }
        Request::End(device) => {
            demand_own(view)?;
            Write::End(vec![*device], ending(by, margins, now))
        }
        Request::EndOthers => {
            let Some(devices) = &view.devices else { return Ok(Decision::Incomplete) };
            let active = devices.intact.iter().filter(|device| device.state == DeviceState::Active);
            // Of a damaged one it cannot be said that it has no session.
            let all = active.map(|device| device.device).chain(devices.damaged.iter().map(|it| it.device));
            Write::End(all.filter(|device| *device != by).collect(), ending(by, margins, now))
        }
    }))
}

/// Refuses a device that may not ask. Who comes here has proved the key of a token that was issued to it, so he is told
/// what an edge would tell him.
fn admit(claims: &Claims, view: &OwnerView, now: Timestamp) -> Result<(), Refusal> {
    check_ban(view.session.ban.as_ref(), now)?;
    if session::device(&view.session).is_err() || view.is_denied {
        return Err(Refusal::new(Code::Revoked, "the device or its account is revoked, deleted or denied"));
    }
    if view.session.ended.is_some_and(|ended| claims.issued_at <= ended) {
        return Err(Refusal::new(Code::ExpiredToken, "the token's session was ended by its owner"));
    }
    // Last: a request that is refused spends nothing.
    if view.is_spent {
        return Err(Refusal::new(Code::Replay, "the request's nonce was used before"));
    }
    Ok(())
}

/// Another account's device, one that was revoked, and one that never was are one and the same.
fn demand_own(view: &OwnerView) -> Result<(), Refusal> {
    let is_active = view.other.as_ref().is_some_and(|device| device.state == DeviceState::Active);
    if is_active { Ok(()) } else { Err(unknown_device()) }
}

fn ending(by: Digest, margins: &Margins, now: Timestamp) -> Ending {
    let issued_up_to = now.plus(margins.late).to_millis();
    Ending {
        issued_up_to,
        by,
        at: now,
        until: issued_up_to.plus(margins.denial),
        forgotten_at: issued_up_to.plus(limits::REFRESH_LIFETIME).plus(FORGOTTEN_AFTER),
    }
}

/// The answer about what was written; a list has its own.
pub fn answer(write: &Write) -> String {
    match write {
        Write::Nothing | Write::Name(..) => "{}".to_owned(),
        Write::End(devices, end) => {
            format!(r#"{{"devices":{},"signInFrom":"{}"}}"#, devices.len(), end.issued_up_to)
        }
    }
}

/// The answer that lists the active devices, the oldest first. `asking` is the device that asks, and when its token was
/// issued.
pub fn list(sightings: &Sightings, asking: (Digest, Timestamp)) -> String {
    let mut active: Vec<&Sighting> =
        sightings.devices.iter().filter(|it| it.newest.state == DeviceState::Active).collect();
    active.sort_by_key(|it| (it.first, it.newest.device));
    let devices: Vec<_> = active.into_iter().map(|it| spell(it, asking)).collect();
    let unreadable = match sightings.unreadable {
        0 => String::new(),
        count => format!(r#","unreadable":{count}"#),
    };
    format!(r#"{{"devices":[{}]{unreadable}}}"#, devices.join(","))
}

fn spell(sighting: &Sighting, (asking, issued): (Digest, Timestamp)) -> String {
    let Sighting { newest, first, refreshed, name } = sighting;
    let is_current = newest.device == asking;
    let seen = [Some(newest.version.created_at), *refreshed, is_current.then_some(issued)];
    let last = seen.into_iter().flatten().fold(*first, Timestamp::max);
    let name = name.as_ref().map_or_else(String::new, |name| format!(r#","name":{}"#, json::string(name)));
    format!(
        r#"{{"current":{is_current},"device":"{}","firstSeen":"{first}","lastSeen":"{last}"{name}}}"#,
        newest.device
    )
}
