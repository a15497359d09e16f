//! The rotation step: whoever acts for a device reveals the key it committed to, and commits to the next
//! (`PROTOCOL.md#rotation`, `PROTOCOL.md#repeat-gated`).

use keychain::message::{Authentication, Request, Verified};
use keychain::{Code, Refusal, Timestamp};

use super::{View, cause, check_ban, check_next, unknown_device};
use crate::record::{AccountRecord, AccountState, DeviceRecord, DeviceState};

/// What the rotation step found.
pub(super) enum Gate<'a> {
    /// The revealed key is the one committed to: the account as it stands, and the device as it was.
    Open { account: &'a AccountRecord, device: &'a DeviceRecord },
    /// The request was applied before, and is answered again.
    Repeat,
}

/// Judges the rotation step of a gated request.
pub(super) fn pass<'a>(
    request: &Verified,
    authentication: &Authentication,
    view: &'a View,
    now: Timestamp,
) -> Result<Gate<'a>, Refusal> {
    let (Some(account), Some(device)) = (&view.account, &view.device) else {
        return Err(unknown_device());
    };
    // Also when the newest record revokes the device or the account is gone: its reply may be what was lost.
    if device.cause.is_request(&request.cause()) {
        check_ban(view.ban.as_ref(), now)?;
        return Ok(Gate::Repeat);
    }
    if account.state != AccountState::Active || device.state != DeviceState::Active {
        return Err(unknown_device());
    }
    // A device that lost the reply of any request can find out where it stands by rotating to that place.
    let names_head = device.public_key == authentication.public_key
        && device.rotation_hash == authentication.rotation_hash;
    if names_head && matches!(request.request(), Request::DeviceRotate { .. }) {
        check_ban(view.ban.as_ref(), now)?;
        return Ok(Gate::Repeat);
    }
    if view.key_spent {
        return Err(Refusal::new(Code::Replay, "the device revealed this key before, by another request"));
    }
    if authentication.public_key.digest() != device.rotation_hash {
        return Err(Refusal::new(
            Code::RotationMismatch,
            "the revealed key does not digest to the device's rotation hash",
        ));
    }
    check_ban(view.ban.as_ref(), now)?;
    check_next(view)?;
    Ok(Gate::Open { account, device })
}

/// The device's record after the rotation step, in `state`.
pub(super) fn rotated(
    request: &Verified,
    authentication: &Authentication,
    device: &DeviceRecord,
    state: DeviceState,
    now: Timestamp,
) -> Result<DeviceRecord, Refusal> {
    let owner = (device.identity, device.device);
    let keys = (authentication.public_key, authentication.rotation_hash);
    Ok(DeviceRecord::new(Some(device), owner, keys, state, cause(request)?, now))
}
