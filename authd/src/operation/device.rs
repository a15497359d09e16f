//! Rotation, linking and unlinking of devices, and the change of the recovery key: all that a device does
//! behind the rotation step (`PROTOCOL.md#operations`).

use keychain::message::{Authentication, Verified};
use keychain::{Code, Digest, Refusal, Timestamp};

use super::gate::{self, Gate};
use super::{DEVICES_MAX, Decision, View, cause, check_committed, check_recovered, unknown_device};
use crate::record::{AccountRecord, DeviceRecord, DeviceState};

/// `/device/rotate`: the rotation step alone.
pub(super) fn rotate(
    request: &Verified,
    authentication: &Authentication,
    view: &View,
    now: Timestamp,
) -> Result<Decision, Refusal> {
    let Gate::Open { device, .. } = gate::pass(request, authentication, view, now)? else {
        return Ok(Decision::Repeat);
    };
    let device = gate::rotated(request, authentication, device, DeviceState::Active, now)?;
    Ok(Decision::apply(None, vec![device], Vec::new()))
}

/// `/device/link`: registers the device whose signed container the request carries. Containers carry no
/// nonce, so a device that the account has ever had is never linked again.
pub(super) fn link(
    request: &Verified,
    authentication: &Authentication,
    link: &Authentication,
    view: &View,
    now: Timestamp,
) -> Result<Decision, Refusal> {
    let Gate::Open { device, .. } = gate::pass(request, authentication, view, now)? else {
        return Ok(Decision::Repeat);
    };
    if view.other.is_some() || link.device == authentication.device {
        return Err(Refusal::new(Code::Conflict, "the account has had the device to be linked"));
    }
    check_recovered(view)?;
    let Some(count) = view.device_count else { return Ok(Decision::Incomplete) };
    if count >= DEVICES_MAX {
        let because = "too many devices were linked since the account was created or recovered";
        return Err(Refusal::new(Code::TooMany, because));
    }
    let rotated = gate::rotated(request, authentication, device, DeviceState::Active, now)?;
    let owner = (authentication.identity, link.device);
    let keys = (link.public_key, link.rotation_hash);
    let linked = DeviceRecord::new(None, owner, keys, DeviceState::Active, cause(request)?, now);
    Ok(Decision::apply(None, vec![rotated, linked], Vec::new()))
}

/// `/device/unlink`: revokes an active device of this account, which may be the acting one.
pub(super) fn unlink(
    request: &Verified,
    authentication: &Authentication,
    target: Digest,
    view: &View,
    now: Timestamp,
) -> Result<Decision, Refusal> {
    let Gate::Open { device, .. } = gate::pass(request, authentication, view, now)? else {
        return Ok(Decision::Repeat);
    };
    let devices = if target == authentication.device {
        vec![gate::rotated(request, authentication, device, DeviceState::Revoked, now)?]
    } else {
        let other = view.other.as_ref().filter(|other| other.state == DeviceState::Active);
        let other = other.ok_or_else(unknown_device)?;
        let rotated = gate::rotated(request, authentication, device, DeviceState::Active, now)?;
        vec![rotated, other.revoked(cause(request)?, now)]
    };
    Ok(Decision::apply(None, devices, vec![target]))
}

/// `/recovery/change`: commits the account to another recovery key.
pub(super) fn change_recovery(
    request: &Verified,
    authentication: &Authentication,
    recovery_hash: Digest,
    view: &View,
    now: Timestamp,
) -> Result<Decision, Refusal> {
    let Gate::Open { account, device } = gate::pass(request, authentication, view, now)? else {
        return Ok(Decision::Repeat);
    };
    check_committed(view)?;
    let device = gate::rotated(request, authentication, device, DeviceState::Active, now)?;
    let (identity, state) = (account.identity, account.state);
    let account = AccountRecord::new(Some(account), identity, recovery_hash, state, cause(request)?, now);
    Ok(Decision::apply(Some(account), vec![device], Vec::new()))
}
