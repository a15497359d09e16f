//! Bans, as operators order them.

use keychain::endorsement::Endorsement;
use keychain::{Digest, Timestamp};
use sea_orm::{DatabaseTransaction, EntityTrait};

use super::outbox::{self, Place};
use super::tables::ban;
use super::{Failure, Fault, Store, rows, signers, view};
use crate::operation::DenialCause;
use crate::record::{BanEnd, BanRecord, DeviceState, Mandate};

impl Store {
    /// Bans `identity` until an end, or lifts its ban, and tells the edges of it and of each of its active
    /// devices. A lift leaves denied what is denied for other causes or by other accounts. `endorsement` is of the
    /// mandate's key. Says whether anything changed.
    pub async fn set_ban(
        &self,
        identity: &Digest,
        ban: Option<BanEnd>,
        mandate: &Mandate<'_>,
        endorsement: &Endorsement,
        now: Timestamp,
    ) -> Result<bool, Failure> {
        let transaction = self.begin_write(identity).await?;
        let before = view::newest_ban(&transaction, identity).await?;
        let banned = before.as_ref().filter(|record| record.is_in_force(now)).map(BanRecord::end);
        if banned == ban {
            transaction.rollback().await?;
            return Ok(false);
        }
        let record = BanRecord::new(before.as_ref(), *identity, ban, mandate, now)?;
        signers::keep(&transaction, endorsement).await?;
        ban::Entity::insert(rows::ban_row(&record)).exec_without_returning(&transaction).await?;
        for subject in subjects(&transaction, identity).await? {
            let place = Place { subject, account: *identity, cause: DenialCause::Ban };
            // A ban that follows another takes its place, and may end before it.
            if before.is_some() {
                outbox::lift(&transaction, place, now).await?;
            }
            if let Some(end) = ban {
                outbox::deny(&transaction, place, end.time()).await?;
            }
        }
        transaction.commit().await?;
        Ok(true)
    }
}

/// Whom a ban denies. Revoked devices have denials of their own, which last as long as their tokens.
async fn subjects(transaction: &DatabaseTransaction, identity: &Digest) -> Result<Vec<Digest>, Fault> {
    let devices = view::devices(transaction, identity).await?;
    let active = devices.iter().filter(|device| device.state == DeviceState::Active);
    Ok(std::iter::once(*identity).chain(active.map(|device| device.device)).collect())
}
