//! Sessions: who may have a token, and what it says (`PROTOCOL.md#session-create`, `PROTOCOL.md#session-refresh`).
//!
//! A challenge itself is judged by [`crate::challenge`]; signatures of tokens and their issuers by
//! [`crate::issuer`]. Here stands what the rows say.

use std::time::Duration;

use keychain::message::AccessKeys;
use keychain::token::Claims;
use keychain::{Code, Digest, PublicKey, Refusal, Timestamp};

use super::{check_ban, unknown_device};
use crate::record::{AccountRecord, AccountState, BanRecord, DeviceRecord, DeviceState, RoleRecord};

/// How long tokens and sessions last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// Of an access token, from its issue.
    pub access: Duration,
    /// Of a session, from its first token.
    pub refresh: Duration,
    /// Clock difference that is tolerated in tokens of other instances.
    pub skew: Duration,
}

/// What the rows say of a device that wants a token.
#[derive(Clone, Debug, Default)]
pub struct SessionView {
    /// The account's newest record.
    pub account: Option<AccountRecord>,
    /// The identity's newest ban record.
    pub ban: Option<BanRecord>,
    /// The device's newest record in this account.
    pub device: Option<DeviceRecord>,
    /// The newest record of the roles that were granted.
    pub roles: Option<RoleRecord>,
    /// The sessions of the device are ended whose tokens were issued by then.
    pub ended: Option<Timestamp>,
}

/// What a token says, but for who signs it and what it permits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The account.
    pub identity: Digest,
    /// The device.
    pub device: Digest,
    /// The key that signs access requests.
    pub public_key: PublicKey,
    /// Digest of the key that may refresh the token.
    pub rotation_hash: Digest,
    /// When the token was issued.
    pub issued_at: Timestamp,
    /// Until when it gives access.
    pub expiry: Timestamp,
    /// Until when the session can be refreshed.
    pub refresh_expiry: Timestamp,
}

/// A refresh that was decided: the row that is unique on the digest of the revealed key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refresh {
    /// Digest of the access key that the refresh revealed.
    pub digest: Digest,
    /// Digest of the request, as for account records.
    pub cause: Digest,
    /// What was granted for it.
    pub grant: Grant,
}

/// What the rows say of a refresh.
#[derive(Clone, Debug, Default)]
pub struct RefreshView {
    /// The account and device that the token names.
    pub session: SessionView,
    /// The refresh that spent the revealed key, if one did.
    pub spent: Option<Refresh>,
    /// Whether the token that it led to has been refreshed in its turn.
    pub superseded: bool,
}

/// What is to be done about an acceptable refresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Write this row and issue its token.
    Apply(Refresh),
    /// An exact repeat: issue a token with the times of the first one.
    Repeat(Refresh),
}

/// `/session/create`, before its proof: the device whose key must have signed, or the one refusal for an
/// unknown, revoked or deleted one. A ban is told only to those who prove the device's key.
pub fn device(view: &SessionView) -> Result<&DeviceRecord, Refusal> {
    let account = view.account.as_ref().filter(|account| account.state == AccountState::Active);
    let device = view.device.as_ref().filter(|device| device.state == DeviceState::Active);
    account.and(device).ok_or_else(unknown_device)
}

/// `/session/create`, after its proof: a first token.
pub fn create(
    view: &SessionView,
    access: &AccessKeys,
    lifetimes: &Lifetimes,
    now: Timestamp,
) -> Result<Grant, Refusal> {
    let device = device(view)?;
    check_ban(view.ban.as_ref(), now)?;
    // A token of now would be one of the ended sessions, for as long as clocks may differ.
    if let Some(ended) = view.ended.filter(|ended| now <= *ended) {
        let seconds = ended.since(now).as_secs().saturating_add(1);
        return Err(Refusal::new(Code::TooMany, "the device's sessions were ended a moment ago")
            .with("limit", "sessions-ended")
            .with("retryAfter", seconds.to_string()));
    }
    Ok(grant((device.identity, device.device), access, now.plus(lifetimes.refresh), lifetimes, now))
}

/// What a refresh must hold whatever the rows say: the token commits to the revealed key, and its session
/// has not ended.
pub fn check_token(
    access: &AccessKeys,
    claims: &Claims,
    lifetimes: &Lifetimes,
    now: Timestamp,
) -> Result<(), Refusal> {
    if access.public_key.digest() != claims.rotation_hash {
        let because = "the revealed key does not digest to the token's rotation hash";
        return Err(Refusal::new(Code::RotationMismatch, because));
    }
    claims.check_refresh_times(now, lifetimes.skew)
}

/// `/session/refresh`, once its signatures, issuer and [`check_token`] hold.
pub fn refresh(
    cause: Digest,
    access: &AccessKeys,
    claims: &Claims,
    view: &RefreshView,
    lifetimes: &Lifetimes,
    now: Timestamp,
) -> Result<Decision, Refusal> {
    let device = device(&view.session)?;
    check_ban(view.session.ban.as_ref(), now)?;
    if view.session.ended.is_some_and(|ended| claims.issued_at <= ended) {
        return Err(Refusal::new(Code::RefreshExpired, "the session was ended by the account's owner"));
    }
    if let Some(spent) = &view.spent {
        let same = spent.cause == cause && spent.grant.device == device.device;
        return if same && !view.superseded {
            Ok(Decision::Repeat(spent.clone()))
        } else {
            Err(Refusal::new(Code::RefreshSpent, "the revealed key refreshed the session before"))
        };
    }
    let owner = (device.identity, device.device);
    let grant = grant(owner, access, claims.refresh_expiry, lifetimes, now);
    Ok(Decision::Apply(Refresh { digest: claims.rotation_hash, cause, grant }))
}

fn grant(
    owner: (Digest, Digest),
    access: &AccessKeys,
    refresh_expiry: Timestamp,
    lifetimes: &Lifetimes,
    now: Timestamp,
) -> Grant {
    let (now, refresh_expiry) = (now.to_millis(), refresh_expiry.to_millis());
    Grant {
        identity: owner.0,
        device: owner.1,
        public_key: access.public_key,
        rotation_hash: access.rotation_hash,
        issued_at: now,
        expiry: now.plus(lifetimes.access),
        refresh_expiry,
    }
}
