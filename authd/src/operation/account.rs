//! Creation, recovery and deletion of an account (`PROTOCOL.md#operations`).

use keychain::message::{Authentication, Verified};
use keychain::{Code, Digest, Refusal, Timestamp};

use super::gate::{self, Gate};
use super::{Decision, Listed, View, cause, check_ban, check_committed, check_recovered, unknown_device};
use crate::record::{AccountRecord, AccountState, DeviceRecord, DeviceState};

/// `/account/create`: the identity's first record and its first device's.
pub(super) fn create(
    request: &Verified,
    authentication: &Authentication,
    recovery_hash: Digest,
    view: &View,
    now: Timestamp,
) -> Result<Decision, Refusal> {
    check_ban(view.ban.as_ref(), now)?;
    if is_repeat(request, view) {
        return Ok(Decision::Repeat);
    }
    if view.account.is_some() {
        return Err(Refusal::new(Code::Conflict, "the identity exists"));
    }
    check_recovered(view)?;
    let identity = authentication.identity;
    let state = AccountState::Active;
    let account = AccountRecord::new(None, identity, recovery_hash, state, cause(request)?, now);
    let device = first_device(request, authentication, now)?;
    Ok(Decision::apply(Some(account), vec![device], Vec::new()))
}

/// `/account/recover`: the committed recovery key replaces itself, cuts off every device of the account
/// and registers a new one. `recovery` is the digest of the revealed key and the next recovery hash.
///
/// A device whose newest record is damaged is cut off like the others: the record that revokes it is appended to what
/// is left. So it stays cut off when the damaged record is put right.
pub(super) fn recover(
    request: &Verified,
    authentication: &Authentication,
    recovery: (Digest, Digest),
    view: &View,
    now: Timestamp,
) -> Result<Decision, Refusal> {
    let (revealed, next) = recovery;
    if is_repeat(request, view) {
        check_ban(view.ban.as_ref(), now)?;
        return Ok(Decision::Repeat);
    }
    let account = view.account.as_ref().filter(|account| account.state == AccountState::Active);
    let account = account.ok_or_else(unknown_device)?;
    if view.recovery_spent {
        return Err(Refusal::new(Code::Replay, "the account revealed this recovery key before"));
    }
    if revealed != account.recovery_hash {
        let because = "the recovery key does not digest to the account's recovery hash";
        return Err(Refusal::new(Code::RotationMismatch, because));
    }
    check_ban(view.ban.as_ref(), now)?;
    check_committed(view)?;
    // A device's first keys are used once, or a captured container could bring them back.
    if view.device.is_some() {
        return Err(Refusal::new(Code::Conflict, "the account has had this device"));
    }
    // Nor are they another account's: the device's own key signs nothing here, so whoever knows the public
    // half of a stranger's could register it, recover once more and have it denied at every app.
    if view.held_elsewhere {
        return Err(Refusal::new(Code::Conflict, "another account has had this device"));
    }
    let Some(listed) = &view.devices else { return Ok(Decision::Incomplete) };
    let revoked = denied(listed);
    let mut devices = Vec::with_capacity(revoked.len().saturating_add(1));
    for device in listed.intact.iter().filter(|device| device.state == DeviceState::Active) {
        devices.push(device.revoked(cause(request)?, now));
    }
    for device in &listed.damaged {
        devices.push(device.revoked(authentication.public_key, cause(request)?, now));
    }
    devices.push(first_device(request, authentication, now)?);
    let (identity, state) = (account.identity, AccountState::Active);
    let account = AccountRecord::new(Some(account), identity, next, state, cause(request)?, now);
    Ok(Decision::apply(Some(account.revealing(revealed)), devices, revoked))
}

/// `/account/delete`: a tombstone. The acting device is rotated but stays active in its own chain, and so
/// do the others: while the account is deleted none may act, and an operator who lifts the tombstone
/// (because the same signed bytes were meant as a rotation) finds each as its owner holds it.
pub(super) fn delete(
    request: &Verified,
    authentication: &Authentication,
    view: &View,
    now: Timestamp,
) -> Result<Decision, Refusal> {
    let Gate::Open { account, device } = gate::pass(request, authentication, view, now)? else {
        return Ok(Decision::Repeat);
    };
    let Some(listed) = &view.devices else { return Ok(Decision::Incomplete) };
    let device = gate::rotated(request, authentication, device, DeviceState::Active, now)?;
    let (identity, recovery_hash) = (account.identity, account.recovery_hash);
    let state = AccountState::Deleted;
    let account = AccountRecord::new(Some(account), identity, recovery_hash, state, cause(request)?, now);
    let revoked = denied(listed);
    Ok(Decision::apply(Some(account), vec![device], revoked))
}

/// Whether the device that a creation or recovery registers was registered by this very request.
fn is_repeat(request: &Verified, view: &View) -> bool {
    view.device.as_ref().is_some_and(|device| device.cause.is_request(&request.cause()))
}

/// The devices that may have a token: those that are active, and those of which it is not known.
fn denied(listed: &Listed) -> Vec<Digest> {
    let active = listed.intact.iter().filter(|device| device.state == DeviceState::Active);
    let damaged = listed.damaged.iter().map(|device| device.device);
    active.map(|device| device.device).chain(damaged).collect()
}

fn first_device(
    request: &Verified,
    authentication: &Authentication,
    now: Timestamp,
) -> Result<DeviceRecord, Refusal> {
    let owner = (authentication.identity, authentication.device);
    let keys = (authentication.public_key, authentication.rotation_hash);
    Ok(DeviceRecord::new(None, owner, keys, DeviceState::Active, cause(request)?, now))
}
