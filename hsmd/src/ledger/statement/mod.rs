//! What the ledger keeps for statements: denied generations and revoked keys of services
//! (`PROTOCOL.md#statements`). Append-only too, and what is said twice keeps its first times.

mod entity;
mod migration;

use keychain::{Digest, PublicKey, Timestamp};
use sea_orm::{
    ActiveValue::Set, ColumnTrait as _, EntityTrait as _, PaginatorTrait as _, QueryFilter as _,
    QueryOrder as _, sea_query::OnConflict,
};

use super::{Error, Ledger, Turn};
use entity::{denial, revoked_key};

pub(super) use migration::DenialsAndRevokedKeys;

/// Most revoked keys that have not ended: as many as a head lists.
pub const REVOKED_KEYS_MAX: usize = keychain::limits::REVOKED_KEYS_MAX;

/// What is stated beside the chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stated {
    /// Denied generations, in the order in which they were denied.
    pub denied: Vec<Entry<Digest>>,
    /// Revoked keys, in the order in which they were revoked.
    pub revoked: Vec<Entry<PublicKey>>,
}

/// A denial or a revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<T> {
    /// What is denied or revoked.
    pub subject: T,
    /// Since when.
    pub since: Timestamp,
    /// When it no longer matters.
    pub end: Timestamp,
}

impl Ledger {
    /// Reads what is stated.
    pub async fn stated(&self) -> Result<Stated, Error> {
        let denials = denial::Entity::find()
            .order_by_asc(denial::Column::DeniedAt)
            .order_by_asc(denial::Column::GenerationId)
            .all(&self.database)
            .await?;
        let keys = revoked_key::Entity::find()
            .order_by_asc(revoked_key::Column::RevokedAt)
            .order_by_asc(revoked_key::Column::PublicKey)
            .all(&self.database)
            .await?;
        let denied = denials
            .into_iter()
            .map(|row| {
                let subject = Digest::parse(&row.generation_id).map_err(|_| unreadable("denials"))?;
                Ok(Entry { subject, since: from_row(row.denied_at), end: from_row(row.ends_at) })
            })
            .collect::<Result<_, Error>>()?;
        let revoked = keys
            .into_iter()
            .map(|row| {
                let subject = PublicKey::parse(&row.public_key).map_err(|_| unreadable("revoked_keys"))?;
                Ok(Entry { subject, since: from_row(row.revoked_at), end: from_row(row.ends_at) })
            })
            .collect::<Result<_, Error>>()?;
        Ok(Stated { denied, revoked })
    }
}

impl Turn {
    /// Adds a denied generation, and is done. Nothing changes if it is denied already. On any error but
    /// [`Error::Full`] it may have been added or not, and doing it again tells.
    pub async fn deny(self, denial: Entry<Digest>) -> Result<(), Error> {
        let row = denial::ActiveModel {
            generation_id: Set(denial.subject.to_string()),
            denied_at: Set(denial.since.unix_millis()),
            ends_at: Set(denial.end.unix_millis()),
        };
        let first = OnConflict::column(denial::Column::GenerationId).do_nothing().to_owned();
        denial::Entity::insert(row).on_conflict(first).exec_without_returning(&self.transaction).await?;
        let most = keychain::limits::DENIED_MAX;
        let open = denial::Entity::find().filter(denial::Column::EndsAt.gt(denial.since.unix_millis()));
        if open.count(&self.transaction).await? > bound(most) {
            return Err(Error::Full { what: "denied generations", most });
        }
        Ok(self.transaction.commit().await?)
    }

    /// Adds revoked keys, all or none, and is done. Those that are revoked already keep their times. On any
    /// error but [`Error::Full`] they may have been added or not, and doing it again tells.
    pub async fn revoke_keys(
        self,
        keys: &[PublicKey],
        since: Timestamp,
        end: Timestamp,
    ) -> Result<(), Error> {
        let rows = keys.iter().map(|key| revoked_key::ActiveModel {
            public_key: Set(key.to_string()),
            revoked_at: Set(since.unix_millis()),
            ends_at: Set(end.unix_millis()),
        });
        let first = OnConflict::column(revoked_key::Column::PublicKey).do_nothing().to_owned();
        revoked_key::Entity::insert_many(rows)
            .on_conflict(first)
            .exec_without_returning(&self.transaction)
            .await?;
        let open = revoked_key::Entity::find().filter(revoked_key::Column::EndsAt.gt(since.unix_millis()));
        if open.count(&self.transaction).await? > bound(REVOKED_KEYS_MAX) {
            return Err(Error::Full { what: "revoked keys", most: REVOKED_KEYS_MAX });
        }
        Ok(self.transaction.commit().await?)
    }
}

fn bound(most: usize) -> u64 {
    u64::try_from(most).unwrap_or(u64::MAX)
}

fn from_row(millis: i64) -> Timestamp {
    Timestamp::from_unix_millis(millis)
}

fn unreadable(table: &'static str) -> Error {
    Error::Unreadable { table }
}
