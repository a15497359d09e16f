//! Whether a record follows from the one before it, and from its cause: the walk of `authd check`, as decisions.
//!
//! What made a record is kept with it: the payload that a device signed, or an operator's order. Here each record is
//! judged by it as the operations would have judged it: the key that a device revealed is the one that its
//! record before committed to, and nothing is in the record that its cause did not ask for. So whoever writes
//! records to the store has to sign them with keys of devices, of recoveries or of authd.

use keychain::message::{self, Authentication, Request};
use keychain::{Digest, PublicKey};

use super::{
    AccountRecord, AccountState, Action, BanRecord, Cause, DeviceRecord, DeviceState, Order, RoleRecord,
    SignedRequest, Version,
};

/// Why a record does not follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken(pub &'static str);

/// Whose record, in another chain, the same request must have made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Witness {
    /// A record of the account itself.
    Account,
    /// A record of this device of the account.
    Device(Digest),
}

/// What else has to be looked up for a record that follows from the one before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Open<'a> {
    /// A record that the same request made.
    Made(Witness, Digest),
    /// The HSM's word for the key that signed an operator's order.
    Endorsed(&'a Order),
    /// Nothing.
    Nothing,
}

const NOT_ASKED: Broken = Broken("it is not what its request asked for");
const NOT_ORDERED: Broken = Broken("it is not what its order asked for");

/// Judges the next version of an account.
pub fn account<'a>(before: Option<&AccountRecord>, record: &'a AccountRecord) -> Result<Open<'a>, Broken> {
    follows(before.map(|before| &before.version), &record.version)?;
    if before.is_some_and(|before| before.identity != record.identity) {
        return Err(Broken("it is of another account than the one before"));
    }
    match &record.cause {
        Cause::Device(signed) => account_by_device(before, record, signed),
        Cause::Operator(order) => {
            record.verify_order().map_err(|_| Broken("the signature of its order does not hold"))?;
            let before = before.ok_or(Broken("no operator creates an account"))?;
            let state = match order.action {
                Action::AccountDelete => AccountState::Deleted,
                Action::AccountRestore => AccountState::Active,
                _ => return Err(NOT_ORDERED),
            };
            let is_ordered = record.state == state
                && before.state != state
                && record.recovery_hash == before.recovery_hash
                && record.revealed.is_none();
            if is_ordered { Ok(Open::Endorsed(order)) } else { Err(NOT_ORDERED) }
        }
    }
}

/// Judges the next version of a device.
pub fn device<'a>(before: Option<&DeviceRecord>, record: &'a DeviceRecord) -> Result<Open<'a>, Broken> {
    follows(before.map(|before| &before.version), &record.version)?;
    let owner = |record: &DeviceRecord| (record.identity, record.device);
    if before.is_some_and(|before| owner(before) != owner(record)) {
        return Err(Broken("it is of another device than the one before"));
    }
    if before.is_some_and(|before| before.state == DeviceState::Revoked) {
        return Err(Broken("the device was revoked, for good"));
    }
    match &record.cause {
        Cause::Device(signed) => device_by_device(before, record, signed),
        Cause::Operator(order) => {
            record.verify_order().map_err(|_| Broken("the signature of its order does not hold"))?;
            let before = before.ok_or(Broken("no operator registers a device"))?;
            let is_ordered = order.action == Action::DeviceRevoke && is_revoked_from(before, record);
            if is_ordered { Ok(Open::Endorsed(order)) } else { Err(NOT_ORDERED) }
        }
    }
}

/// Judges the next version of a ban.
pub fn ban<'a>(before: Option<&BanRecord>, record: &'a BanRecord) -> Result<Open<'a>, Broken> {
    follows(before.map(|before| &before.version), &record.version)?;
    if before.is_some_and(|before| before.identity != record.identity) {
        return Err(Broken("it is of another identity than the one before"));
    }
    record.verify_order().map_err(|_| Broken("the signature of its order does not hold"))?;
    let is_ordered = match record.order.action {
        Action::Ban => record.banned,
        Action::Unban => !record.banned && record.until.is_none(),
        _ => false,
    };
    if is_ordered { Ok(Open::Endorsed(&record.order)) } else { Err(NOT_ORDERED) }
}

/// Judges the next version of granted roles.
pub fn roles<'a>(before: Option<&RoleRecord>, record: &'a RoleRecord) -> Result<Open<'a>, Broken> {
    follows(before.map(|before| &before.version), &record.version)?;
    if before.is_some_and(|before| before.identity != record.identity) {
        return Err(Broken("it is of another account than the one before"));
    }
    record.verify_order().map_err(|_| Broken("the signature of its order does not hold"))?;
    let former = before.map(|before| before.roles.clone()).unwrap_or_default();
    let is_one_more = record.roles.len() == former.len() + 1 && record.roles.is_superset(&former);
    let is_one_less = record.roles.len() + 1 == former.len() && record.roles.is_subset(&former);
    let is_ordered = match record.order.action {
        Action::RoleGrant => is_one_more,
        Action::RoleRevoke => is_one_less,
        _ => false,
    };
    if is_ordered { Ok(Open::Endorsed(&record.order)) } else { Err(NOT_ORDERED) }
}

/// Whether a version has the next place after the one before.
fn follows(before: Option<&Version>, version: &Version) -> Result<(), Broken> {
    let Some(before) = before else {
        let is_first = version.sequence_number == 0 && version.previous.is_none();
        return if is_first { Ok(()) } else { Err(Broken("the rows before it are missing")) };
    };
    if version.prefix != before.prefix {
        return Err(Broken("it is of another chain than the row before"));
    }
    if version.sequence_number <= before.sequence_number {
        return Err(Broken("its place is taken by another row"));
    }
    if version.sequence_number != before.sequence_number.saturating_add(1) {
        return Err(Broken("rows before it are missing"));
    }
    if version.previous != Some(before.id) {
        return Err(Broken("it does not follow the row before"));
    }
    if version.created_at < before.created_at {
        return Err(Broken("it is older than the row before"));
    }
    Ok(())
}

/// The request that a device signed, with everything verified that needs no store.
fn read(signed: &SignedRequest) -> Result<Request, Broken> {
    let message = format!(r#"{{"payload":{},"signature":"{}"}}"#, signed.payload, signed.signature);
    let verified = message::parse(signed.operation, message.as_bytes()).and_then(message::Unverified::verify);
    let verified = verified.map_err(|_| Broken("the signature of its request does not hold"))?;
    if verified.cause() != signed.digest {
        return Err(Broken("its cause is not the digest of its request"));
    }
    Ok(verified.request().clone())
}

fn account_by_device<'a>(
    before: Option<&AccountRecord>,
    record: &'a AccountRecord,
    signed: &SignedRequest,
) -> Result<Open<'a>, Broken> {
    let request = read(signed)?;
    let is_so = |acting: &Authentication, (state, recovery_hash, revealed): (_, Digest, _)| {
        acting.identity == record.identity
            && record.state == state
            && record.recovery_hash == recovery_hash
            && record.revealed == revealed
    };
    let (acting, is_asked) = match (&request, before) {
        (Request::AccountCreate { authentication, recovery_hash }, None) => {
            (authentication, is_so(authentication, (AccountState::Active, *recovery_hash, None)))
        }
        (_, None) => return Err(Broken("its request creates no account")),
        (_, Some(before)) if before.state == AccountState::Deleted => {
            return Err(Broken("the account was deleted, and no operator restored it"));
        }
        (Request::AccountRecover { authentication, recovery_hash, recovery_key }, Some(before)) => {
            let revealed = recovery_key.digest();
            if revealed != before.recovery_hash {
                return Err(Broken("its recovery key is not the one committed to"));
            }
            (authentication, is_so(authentication, (AccountState::Active, *recovery_hash, Some(revealed))))
        }
        (Request::AccountDelete { authentication }, Some(before)) => {
            (authentication, is_so(authentication, (AccountState::Deleted, before.recovery_hash, None)))
        }
        (Request::RecoveryChange { authentication, recovery_hash }, Some(_)) => {
            (authentication, is_so(authentication, (AccountState::Active, *recovery_hash, None)))
        }
        _ => return Err(NOT_ASKED),
    };
    if is_asked { Ok(Open::Made(Witness::Device(acting.device), signed.digest)) } else { Err(NOT_ASKED) }
}

fn device_by_device<'a>(
    before: Option<&DeviceRecord>,
    record: &'a DeviceRecord,
    signed: &SignedRequest,
) -> Result<Open<'a>, Broken> {
    let request = read(signed)?;
    let made = |witness| Open::Made(witness, signed.digest);
    let asked = |is_asked: bool, open| if is_asked { Ok(open) } else { Err(NOT_ASKED) };
    match (&request, before) {
        (
            Request::AccountCreate { authentication, .. } | Request::AccountRecover { authentication, .. },
            None,
        ) => asked(is_first(record, authentication), made(Witness::Account)),
        (Request::AccountRecover { authentication, .. }, Some(before)) => {
            let is_of_account = authentication.identity == record.identity;
            asked(is_of_account && is_revoked_from(before, record), made(Witness::Account))
        }
        (Request::DeviceLink { authentication, link }, None) => {
            let is_of_account = authentication.identity == record.identity;
            let acting = made(Witness::Device(authentication.device));
            asked(is_of_account && is_first(record, &link.authentication), acting)
        }
        (Request::DeviceUnlink { authentication, device }, Some(before))
            if authentication.device != record.device =>
        {
            let is_of_account = authentication.identity == record.identity;
            let is_target = *device == record.device && is_revoked_from(before, record);
            asked(is_of_account && is_target, made(Witness::Device(authentication.device)))
        }
        (_, None) => Err(Broken("its request registers no device")),
        (Request::DeviceUnlink { authentication, device }, Some(before)) => {
            let is_itself = *device == record.device;
            let state = if is_itself { DeviceState::Revoked } else { DeviceState::Active };
            rotated(before, record, authentication, state)
        }
        (
            Request::DeviceRotate { authentication }
            | Request::DeviceLink { authentication, .. }
            | Request::AccountDelete { authentication }
            | Request::RecoveryChange { authentication, .. },
            Some(before),
        ) => rotated(before, record, authentication, DeviceState::Active),
        _ => Err(NOT_ASKED),
    }
}

/// Whether a device began as its request says.
fn is_first(record: &DeviceRecord, asked: &Authentication) -> bool {
    record.state == DeviceState::Active && has_keys(record, asked)
}

fn has_keys(record: &DeviceRecord, asked: &Authentication) -> bool {
    (record.identity, record.device) == (asked.identity, asked.device)
        && (record.public_key, record.rotation_hash) == (asked.public_key, asked.rotation_hash)
}

/// Whether a device was revoked and nothing else.
fn is_revoked_from(before: &DeviceRecord, record: &DeviceRecord) -> bool {
    let keys = |record: &DeviceRecord| -> (PublicKey, Digest) { (record.public_key, record.rotation_hash) };
    record.state == DeviceState::Revoked && keys(before) == keys(record)
}

/// The rotation step.
fn rotated<'a>(
    before: &DeviceRecord,
    record: &DeviceRecord,
    asked: &Authentication,
    state: DeviceState,
) -> Result<Open<'a>, Broken> {
    if asked.public_key.digest() != before.rotation_hash {
        return Err(Broken("its key is not the one that the row before committed to"));
    }
    let is_asked = has_keys(record, asked) && record.state == state;
    if is_asked { Ok(Open::Nothing) } else { Err(NOT_ASKED) }
}

#[cfg(test)]
mod tests;
