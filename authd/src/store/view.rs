//! What is read of the store, for one account at a time.

use keychain::message::Operation;
use keychain::{Digest, PublicKey};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect,
};

use super::tables::{account, ban, challenge, device, refresh, role};
use super::{Fault, rows};
use crate::operation::order::Standing;
use crate::operation::session::{RefreshView, SessionView};
use crate::operation::{Devices, Needs, View};
use crate::record::{AccountRecord, BanRecord, DeviceRecord, RoleRecord};

/// Most accounts of one device that a sign-in is tried for. A device is registered by a signature of its own
/// first key, or by a recovery, and then no other account has it. So more than one is its owner's doing, and
/// more than these only the owner's loss.
pub(super) const OWNERS_MAX: u64 = 16;

/// The rows that an account operation is judged by.
pub(super) async fn load(db: &impl ConnectionTrait, needs: &Needs) -> Result<View, Fault> {
    let identity = &needs.identity;
    let other = match &needs.other {
        Some(other) => newest_device(db, identity, other).await?,
        None => None,
    };
    let (held_elsewhere, recovered_elsewhere) = match &needs.newcomer {
        Some(newcomer) => elsewhere(db, identity, newcomer).await?,
        None => (false, false),
    };
    let (device_count, devices) = match needs.devices {
        Devices::Unneeded => (0, Vec::new()),
        Devices::Counted => (device_count(db, identity).await?, Vec::new()),
        Devices::Listed => {
            let devices = devices(db, identity).await?;
            (devices.len(), devices)
        }
    };
    Ok(View {
        account: newest_account(db, identity).await?,
        ban: newest_ban(db, identity).await?,
        device: newest_device(db, identity, &needs.device).await?,
        key_spent: is_key_spent(db, identity, &needs.device, &needs.public_key).await?,
        other,
        held_elsewhere,
        recovered_elsewhere,
        recovery_spent: is_recovery_spent(db, identity, needs.recovery.as_ref()).await?,
        committed_spent: is_recovery_spent(db, identity, needs.committed.as_ref()).await?,
        device_count,
        devices,
    })
}

/// The rows that a sign-in is judged by.
pub(super) async fn session(
    db: &impl ConnectionTrait,
    identity: &Digest,
    device: &Digest,
) -> Result<SessionView, Fault> {
    Ok(SessionView {
        account: newest_account(db, identity).await?,
        ban: newest_ban(db, identity).await?,
        device: newest_device(db, identity, device).await?,
        roles: newest_roles(db, identity).await?,
    })
}

/// The rows that a refresh is judged by: `digest` is of the revealed key, `next` of the one after it.
pub(super) async fn refresh(
    db: &impl ConnectionTrait,
    owner: (&Digest, &Digest),
    digest: &Digest,
    next: &Digest,
) -> Result<RefreshView, Fault> {
    let spent = refresh::Entity::find_by_id(digest.to_string()).one(db).await?;
    let spent = spent.as_ref().map(rows::refresh).transpose()?;
    let superseded = refresh::Entity::find_by_id(next.to_string()).count(db).await? > 0;
    Ok(RefreshView { session: session(db, owner.0, owner.1).await?, spent, superseded })
}

/// Whether a challenge was answered before.
pub(super) async fn is_spent(db: &impl ConnectionTrait, nonce: &keychain::Nonce) -> Result<bool, Fault> {
    Ok(challenge::Entity::find_by_id(nonce.to_string()).count(db).await? > 0)
}

/// All that an order is judged by.
pub(super) async fn standing(db: &impl ConnectionTrait, identity: &Digest) -> Result<Standing, Fault> {
    Ok(Standing {
        account: newest_account(db, identity).await?,
        ban: newest_ban(db, identity).await?,
        devices: devices(db, identity).await?,
        roles: newest_roles(db, identity).await?,
    })
}

/// The newest record of the roles that an identity was granted.
pub(super) async fn newest_roles(
    db: &impl ConnectionTrait,
    identity: &Digest,
) -> Result<Option<RoleRecord>, Fault> {
    let row = role::Entity::find()
        .filter(role::Column::Identity.eq(identity.to_string()))
        .order_by_desc(role::Column::SequenceNumber)
        .one(db)
        .await?;
    row.as_ref().map(rows::role_record).transpose()
}

/// An identity's newest ban record.
async fn newest_ban(db: &impl ConnectionTrait, identity: &Digest) -> Result<Option<BanRecord>, Fault> {
    let row = ban::Entity::find()
        .filter(ban::Column::Identity.eq(identity.to_string()))
        .order_by_desc(ban::Column::SequenceNumber)
        .one(db)
        .await?;
    row.as_ref().map(rows::ban_record).transpose()
}

/// The newest record of each device that an account ever had.
async fn devices(db: &impl ConnectionTrait, identity: &Digest) -> Result<Vec<DeviceRecord>, Fault> {
    let firsts: Vec<String> = device::Entity::find()
        .select_only()
        .column(device::Column::Device)
        .filter(device::Column::Identity.eq(identity.to_string()))
        .filter(device::Column::SequenceNumber.eq(0))
        .order_by_asc(device::Column::Device)
        .into_tuple()
        .all(db)
        .await?;
    let mut devices = Vec::with_capacity(firsts.len());
    for first in firsts {
        let name = rows::digest("device_records", &first)?;
        devices.extend(newest_device(db, identity, &name).await?);
    }
    Ok(devices)
}

/// The accounts that ever had a device.
pub(super) async fn owners(db: &impl ConnectionTrait, name: &Digest) -> Result<Vec<Digest>, Fault> {
    let owners: Vec<String> = device::Entity::find()
        .select_only()
        .column(device::Column::Identity)
        .filter(device::Column::Device.eq(name.to_string()))
        .filter(device::Column::SequenceNumber.eq(0))
        .order_by_asc(device::Column::CreatedAt)
        .limit(OWNERS_MAX)
        .into_tuple()
        .all(db)
        .await?;
    owners.iter().map(|owner| rows::digest("device_records", owner)).collect()
}

async fn device_count(db: &impl ConnectionTrait, identity: &Digest) -> Result<usize, Fault> {
    let firsts = device::Entity::find()
        .filter(device::Column::Identity.eq(identity.to_string()))
        .filter(device::Column::SequenceNumber.eq(0));
    Ok(usize::try_from(firsts.count(db).await?).unwrap_or(usize::MAX))
}

async fn newest_account(
    db: &impl ConnectionTrait,
    identity: &Digest,
) -> Result<Option<AccountRecord>, Fault> {
    let row = account::Entity::find()
        .filter(account::Column::Identity.eq(identity.to_string()))
        .order_by_desc(account::Column::SequenceNumber)
        .one(db)
        .await?;
    row.map(rows::account_record).transpose()
}

async fn newest_device(
    db: &impl ConnectionTrait,
    identity: &Digest,
    name: &Digest,
) -> Result<Option<DeviceRecord>, Fault> {
    let row = device::Entity::find()
        .filter(device::Column::Device.eq(name.to_string()))
        .filter(device::Column::Identity.eq(identity.to_string()))
        .order_by_desc(device::Column::SequenceNumber)
        .one(db)
        .await?;
    row.map(rows::device_record).transpose()
}

async fn is_key_spent(
    db: &impl ConnectionTrait,
    identity: &Digest,
    name: &Digest,
    key: &PublicKey,
) -> Result<bool, Fault> {
    let revealed = device::Entity::find()
        .filter(device::Column::Device.eq(name.to_string()))
        .filter(device::Column::PublicKey.eq(key.to_string()))
        .filter(device::Column::Identity.eq(identity.to_string()));
    Ok(revealed.count(db).await? > 0)
}

/// Whether another account has ever had a device, and whether one registered it by a recovery.
async fn elsewhere(
    db: &impl ConnectionTrait,
    identity: &Digest,
    name: &Digest,
) -> Result<(bool, bool), Fault> {
    let held = device::Entity::find()
        .filter(device::Column::Device.eq(name.to_string()))
        .filter(device::Column::SequenceNumber.eq(0))
        .filter(device::Column::Identity.ne(identity.to_string()));
    let recovered = held.clone().filter(device::Column::Path.eq(Operation::AccountRecover.path()));
    Ok((held.count(db).await? > 0, recovered.count(db).await? > 0))
}

async fn is_recovery_spent(
    db: &impl ConnectionTrait,
    identity: &Digest,
    recovery: Option<&Digest>,
) -> Result<bool, Fault> {
    let Some(recovery) = recovery else { return Ok(false) };
    let revealed = account::Entity::find()
        .filter(account::Column::Identity.eq(identity.to_string()))
        .filter(account::Column::Revealed.eq(recovery.to_string()));
    Ok(revealed.count(db).await? > 0)
}
