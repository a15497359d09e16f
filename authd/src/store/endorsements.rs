//! The HSM's endorsements of the keys of every authd on this store, until they end.

use keychain::Timestamp;
use keychain::endorsement::Endorsement;
use sea_orm::sea_query::OnConflict;
use sea_orm::{ActiveValue::Set, ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};

use super::tables::endorsement::{ActiveModel, Column, Entity};
use super::{Fault, Store};

/// Most endorsements read: each authd has some ten in a day, and one that makes new ones without an end pushes out those
/// that end first.
const READ_MAX: u64 = 1_000;

impl Store {
    /// Keeps the endorsement of a key; of the same key endorsed again, the newest.
    pub async fn keep_endorsement(&self, endorsement: &Endorsement) -> Result<(), Fault> {
        let row = ActiveModel {
            public_key: Set(endorsement.subject.public_key.to_string()),
            endorsement: Set(endorsement.text().to_owned()),
            ends_at: Set(endorsement.subject.expiration.unix_millis()),
        };
        let mut newest = OnConflict::column(Column::PublicKey);
        newest.update_columns([Column::Endorsement, Column::EndsAt]);
        Entity::insert(row).on_conflict(newest).exec_without_returning(&self.writer).await?;
        Ok(())
    }

    /// The texts of those that have not ended at `now`, unverified, the last to end first.
    pub async fn endorsements(&self, now: Timestamp) -> Result<Vec<String>, Fault> {
        let rows = Entity::find()
            .filter(Column::EndsAt.gt(now.unix_millis()))
            .order_by_desc(Column::EndsAt)
            .limit(READ_MAX)
            .all(&self.reader)
            .await?;
        Ok(rows.into_iter().map(|row| row.endorsement).collect())
    }
}
