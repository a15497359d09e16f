//! What the owner of an account asks of it by an access request, with a token of one of its devices
//! (`PROTOCOL.md#owner`).
//!
//! Token, issuer, signature and place of the request were judged by the edge's library ([`crate::owner`]). Here stands
//! what a request may say, and what the rows say of it.

use keychain::json::Object;
use keychain::{Code, Digest, Refusal, Timestamp};

use super::{check_ban, session};
use crate::operation::session::SessionView;
use crate::record::{DeviceRecord, DeviceState};

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// The account's devices.
    DevicesList,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// The account's devices.
    List,
}

/// What the rows say of the device that asks.
#[derive(Clone, Debug, Default)]
pub struct OwnerView {
    /// Its account, ban and newest record; no roles.
    pub session: SessionView,
    /// Whether the device or its identity is denied, for whatever cause.
    pub is_denied: bool,
    /// Whether the request's nonce was spent before, at any authd.
    pub is_spent: bool,
}

/// A device, and when it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Its newest record.
    pub newest: DeviceRecord,
    /// When it was registered.
    pub first: Timestamp,
    /// When it last refreshed a session, of those refreshes that are kept.
    pub refreshed: Option<Timestamp>,
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
    pub const ALL: [Self; 1] = [Self::DevicesList];

    /// Where it is asked, and what the signed request says that it is.
    pub const fn path(self) -> &'static str {
        match self {
            Self::DevicesList => "/owner/devices/list",
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
        let request = match operation {
            Operation::DevicesList => Self::List,
        };
        object.finish()?;
        Ok(request)
    }
}

/// Refuses a device that may not ask. Who comes here has proved the key of a token that was issued to it, so he is told
/// what an edge would tell him.
pub fn admit(view: &OwnerView, now: Timestamp) -> Result<(), Refusal> {
    check_ban(view.session.ban.as_ref(), now)?;
    if session::device(&view.session).is_err() || view.is_denied {
        return Err(Refusal::new(Code::Revoked, "the device or its account is revoked, deleted or denied"));
    }
    // Last: a request that is refused spends nothing.
    if view.is_spent {
        return Err(Refusal::new(Code::Replay, "the request's nonce was used before"));
    }
    Ok(())
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
    let Sighting { newest, first, refreshed } = sighting;
    let is_current = newest.device == asking;
    let seen = [Some(newest.version.created_at), *refreshed, is_current.then_some(issued)];
    let last = seen.into_iter().flatten().fold(*first, Timestamp::max);
    format!(
        r#"{{"current":{is_current},"device":"{}","firstSeen":"{first}","lastSeen":"{last}"}}"#,
        newest.device
    )
}
