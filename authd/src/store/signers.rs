//! The endorsements of the keys that signed operators' records: the keys end in hours, the records stay.

use keychain::endorsement::Endorsement;
use sea_orm::sea_query::OnConflict;
use sea_orm::{ActiveValue::Set, ConnectionTrait, EntityTrait};

use super::Fault;
use super::tables::signer::{ActiveModel, Column, Entity};

/// Keeps the endorsement of a key, once.
pub(super) async fn keep(db: &impl ConnectionTrait, endorsement: &Endorsement) -> Result<(), Fault> {
    let row = ActiveModel {
        public_key: Set(endorsement.subject.public_key.to_string()),
        endorsement: Set(endorsement.text().to_owned()),
    };
    Entity::insert(row)
        .on_conflict(OnConflict::column(Column::PublicKey).do_nothing().to_owned())
        .exec_without_returning(db)
        .await?;
    Ok(())
}
