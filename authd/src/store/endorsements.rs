//! The HSM's endorsements of the keys of every authd on this store, until they end.

use keychain::Timestamp;
use keychain::endorsement::Endorsement;
use sea_orm::sea_query::OnConflict;
use sea_orm::{ColumnTrait, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder, QuerySelect};

use super::tables::endorsement::{Column, Entity, Model};
use super::{Fault, Store};

/// Most endorsements read: each authd has some ten in a day, and one that makes new ones without an end pushes out those
/// that end first.
const READ_MAX: u64 = 1_000;

impl Store {
    /// Keeps the endorsement of a key; of the same key endorsed again, the newest.
    pub async fn keep_endorsement(&self, endorsement: &Endorsement) -> Result<(), Fault> {
        let row = self.macs.with_mac(Model {
            public_key: endorsement.subject.public_key.to_string(),
            endorsement: endorsement.text().to_owned(),
            ends_at: endorsement.subject.expiration.unix_millis(),
            mac: None,
        });
        let mut newest = OnConflict::column(Column::PublicKey);
        newest.update_columns([Column::Endorsement, Column::EndsAt, Column::Mac]);
        Entity::insert(row.into_active_model())
            .on_conflict(newest)
            .exec_without_returning(&self.writer)
            .await?;
        Ok(())
    }

    /// The texts of those that have not ended at `now`, the last to end first. The HSM's word in them is not
    /// verified here. A row whose MAC does not hold hides no other.
    pub async fn endorsements(&self, now: Timestamp) -> Result<Vec<String>, Fault> {
        let rows = Entity::find()
            .filter(Column::EndsAt.gt(now.unix_millis()))
            .order_by_desc(Column::EndsAt)
            .limit(READ_MAX)
            .all(&self.reader)
            .await?;
        let is_good = |row: &Model| match self.macs.verify(row) {
            Ok(()) => true,
            Err(fault) => {
                tracing::error!(error = &fault as &dyn std::error::Error, "an endorsement is passed over");
                false
            }
        };
        Ok(rows.into_iter().filter(is_good).map(|row| row.endorsement).collect())
    }
}
