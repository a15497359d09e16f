//! What each operation decides, as pure functions: a verified request, the rows that it concerns and the
//! time go in; what to append, or that nothing is to be appended, or a refusal comes out.
//!
//! Nothing here reads a clock, a store or a socket. The store asks first on the newest rows alone, whose number does
//! not grow: what does not prove its key is refused there. Only then lists of the account's devices are read, for
//! what needs them ([`Decision::Incomplete`]).
//!
//! | file | operations | `keychain/PROTOCOL.md` |
//! |---|---|---|
//! | `account` | `/account/create`, `/account/recover`, `/account/delete` | `#operations`, `#exact-repeats` |
//! | `device` | `/device/rotate`, `/device/link`, `/device/unlink`, `/recovery/change` | the same |
//! | `gate` | the rotation step that guards all that act for a device | `#rotation`, `#repeat-gated` |
//! | `order` | what operators ask for through the admin socket | `#revocation` |
//! | `owner` | what the account's owner asks by access requests | `#owner` |
//! | `session` | `/session/request`, `/session/create`, `/session/refresh` | `#session-request` and following |

mod account;
mod device;
mod gate;
pub mod order;
pub mod owner;
pub mod session;
#[cfg(test)]
mod tests;

use keychain::feed::Cause;
use keychain::message::{Authentication, Request, Verified};
use keychain::{Code, Digest, PublicKey, Refusal, Timestamp};

use crate::record::{AccountRecord, AccountState, BanRecord, DeviceRecord, Remains, SignedRequest};

/// Most devices that may be registered for an account after it was created or recovered. One device a week for nineteen
/// years; it bounds how many are active, which a recovery or deletion writes about in its one transaction. A recovery
/// begins the count anew, and has no such limit itself: a thief who links devices uses up neither for good.
pub const DEVICES_MAX: usize = 1000;

/// Which rows a request needs to be judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// The account.
    pub identity: Digest,
    /// The device that acts, or that a creation or recovery registers.
    pub device: Digest,
    /// The key that the request reveals for it.
    pub public_key: PublicKey,
    /// Digest of the key that the request commits it to.
    pub next: Digest,
    /// The device to be linked or unlinked.
    pub other: Option<Digest>,
    /// The device that a creation, a recovery or a link registers.
    pub newcomer: Option<Digest>,
    /// Digest of the recovery key that the request reveals.
    pub recovery: Option<Digest>,
    /// Digest of the recovery key that the request commits to.
    pub committed: Option<Digest>,
    /// What is needed of the account's devices, once the request's proof holds.
    pub devices: Devices,
}

/// How much must be known of the account's devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Devices {
    /// Nothing.
    Unneeded,
    /// How many were registered since the account was created or last recovered.
    Counted,
    /// The newest record of each that it ever had.
    Listed,
}

/// Every device that an account ever had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// The newest record of each.
    pub intact: Vec<DeviceRecord>,
    /// Those whose newest record is not intact.
    pub damaged: Vec<Remains>,
}

/// The rows that a request concerns, as they are at one moment.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each answers a question of its own about the rows")]
pub struct View {
    /// The account's newest record.
    pub account: Option<AccountRecord>,
    /// The identity's newest ban record.
    pub ban: Option<BanRecord>,
    /// The acting device's newest record in this account.
    pub device: Option<DeviceRecord>,
    /// Whether that device has ever revealed the key that the request reveals.
    pub key_spent: bool,
    /// Whether it has ever revealed the key that the request commits it to.
    pub next_spent: bool,
    /// The newest record in this account of the device to be linked or unlinked.
    pub other: Option<DeviceRecord>,
    /// Whether another account has ever had the device that the request registers.
    pub held_elsewhere: bool,
    /// Whether another account has registered that device by a recovery.
    pub recovered_elsewhere: bool,
    /// Whether the account has ever revealed the recovery key that the request reveals.
    pub recovery_spent: bool,
    /// Whether it has ever revealed the recovery key that the request commits to.
    pub committed_spent: bool,
    /// How many devices were registered for this account since it was created or last recovered, once counted.
    pub device_count: Option<usize>,
    /// Its devices, once listed.
    pub devices: Option<Listed>,
}

/// What is to be done about an acceptable request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Append these records and answer.
    Apply(Box<Change>),
    /// The proof holds; decide again when [`Needs::devices`] is read.
    Incomplete,
    /// An exact repeat: answer, and change nothing.
    Repeat,
}

/// Everything that one operation changes, to be written in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The account's next record, if it changes.
    pub account: Option<AccountRecord>,
    /// The next record of each device that changes.
    pub devices: Vec<DeviceRecord>,
    /// Devices whose access tokens are to be denied from now on.
    pub revoked: Vec<Digest>,
}

impl Change {
    /// Why the devices are denied.
    pub fn denial_cause(&self) -> Cause {
        let deleted = self.account.as_ref().is_some_and(|account| account.state == AccountState::Deleted);
        if deleted { Cause::Deletion } else { Cause::Revocation }
    }
}

impl Decision {
    fn apply(account: Option<AccountRecord>, devices: Vec<DeviceRecord>, revoked: Vec<Digest>) -> Self {
        Self::Apply(Box::new(Change { account, devices, revoked }))
    }
}

/// Which rows `request` is judged by; none for the session calls, which [`session`] decides.
pub fn needs(request: &Request) -> Option<Needs> {
    let (authentication, other, recovery, devices) = match request {
        Request::AccountCreate { authentication, .. }
        | Request::DeviceRotate { authentication }
        | Request::RecoveryChange { authentication, .. } => (authentication, None, None, Devices::Unneeded),
        Request::AccountRecover { authentication, recovery_key, .. } => {
            (authentication, None, Some(recovery_key.digest()), Devices::Listed)
        }
        Request::AccountDelete { authentication } => (authentication, None, None, Devices::Listed),
        Request::DeviceLink { authentication, link } => {
            (authentication, Some(link.authentication.device), None, Devices::Counted)
        }
        Request::DeviceUnlink { authentication, device } => {
            (authentication, Some(*device), None, Devices::Unneeded)
        }
        Request::SessionRequest { .. } | Request::SessionCreate { .. } | Request::SessionRefresh { .. } => {
            return None;
        }
    };
    let Authentication { device, identity, public_key, rotation_hash: next } = *authentication;
    let newcomer = match request {
        Request::AccountCreate { .. } | Request::AccountRecover { .. } => Some(device),
        Request::DeviceLink { .. } => other,
        _ => None,
    };
    let committed = match request {
        Request::AccountRecover { recovery_hash, .. } | Request::RecoveryChange { recovery_hash, .. } => {
            Some(*recovery_hash)
        }
        _ => None,
    };
    Some(Needs { identity, device, public_key, next, other, newcomer, recovery, committed, devices })
}

/// Decides a request that changes an account or a device.
pub fn decide(request: &Verified, view: &View, now: Timestamp) -> Result<Decision, Refusal> {
    match request.request() {
        Request::AccountCreate { authentication, recovery_hash } => {
            account::create(request, authentication, *recovery_hash, view, now)
        }
        Request::AccountRecover { authentication, recovery_hash, recovery_key } => {
            account::recover(request, authentication, (recovery_key.digest(), *recovery_hash), view, now)
        }
        Request::AccountDelete { authentication } => account::delete(request, authentication, view, now),
        Request::DeviceRotate { authentication } => device::rotate(request, authentication, view, now),
        Request::DeviceLink { authentication, link } => {
            device::link(request, authentication, &link.authentication, view, now)
        }
        Request::DeviceUnlink { authentication, device } => {
            device::unlink(request, authentication, *device, view, now)
        }
        Request::RecoveryChange { authentication, recovery_hash } => {
            device::change_recovery(request, authentication, *recovery_hash, view, now)
        }
        Request::SessionRequest { .. } | Request::SessionCreate { .. } | Request::SessionRefresh { .. } => {
            Err(Refusal::new(Code::Internal, "a session call was given to the account operations"))
        }
    }
}

/// A banned identity is refused whatever it asks, once it is proved that its owner asks: nobody else is told.
fn check_ban(ban: Option<&BanRecord>, now: Timestamp) -> Result<(), Refusal> {
    if ban.is_some_and(|ban| ban.is_in_force(now)) {
        return Err(Refusal::new(Code::Revoked, "the identity is banned"));
    }
    Ok(())
}

/// A recovery key is good once, so an account that committed to a spent one could never be recovered
/// (`PROTOCOL.md#refuse-spent-recovery`).
fn check_committed(view: &View) -> Result<(), Refusal> {
    if view.committed_spent {
        return Err(Refusal::new(Code::InvalidHash, "the account revealed the next recovery key before"));
    }
    Ok(())
}

/// A key is revealed once, so a device that committed to a revealed one could never act again
/// (`PROTOCOL.md#refuse-spent-key`).
fn check_next(view: &View) -> Result<(), Refusal> {
    if view.next_spent {
        return Err(Refusal::new(Code::InvalidHash, "the device revealed the next key before"));
    }
    Ok(())
}

/// A device that an account registered by a recovery is that account's alone: it may never have held its own
/// keys, and the recovery after that one has it denied (`PROTOCOL.md#refuse-recovered-device`).
fn check_recovered(view: &View) -> Result<(), Refusal> {
    if view.recovered_elsewhere {
        return Err(Refusal::new(Code::Conflict, "another account registered the device by a recovery"));
    }
    Ok(())
}

/// The one refusal for a device that is unknown, revoked, or of a deleted account. Its reason, too, is the
/// same: logs of it say nothing that the answer does not.
pub(crate) fn unknown_device() -> Refusal {
    Refusal::new(Code::UnknownDevice, "no active device of an active account has this name")
}

/// What caused the records that `request` leads to.
fn cause(request: &Verified) -> Result<SignedRequest, Refusal> {
    let Some(signature) = request.signature() else {
        return Err(Refusal::new(Code::Internal, "an unsigned request reached a record"));
    };
    Ok(SignedRequest {
        operation: request.operation(),
        digest: request.cause(),
        payload: request.payload().to_owned(),
        signature,
    })
}
