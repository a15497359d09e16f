//! The endorsements of the keys that signed operators' records: the keys end in hours, the records stay.

use keychain::endorsement::Endorsement;
use sea_orm::sea_query::OnConflict;
use sea_orm::{ConnectionTrait, EntityTrait, IntoActiveModel};

use super::Fault;
use super::mac::MacKeys;
use super::tables::signer::{Column, Entity, Model};

/// Keeps the endorsement of a key, once.
pub(super) async fn keep(
    db: &impl ConnectionTrait,
    macs: &MacKeys,
    endorsement: &Endorsement,
) -> Result<(), Fault> {
    let row = macs.with_mac(Model {
        public_key: endorsement.subject.public_key.to_string(),
        endorsement: endorsement.text().to_owned(),
        mac: None,
    });
    Entity::insert(row.into_active_model())
        .on_conflict(OnConflict::column(Column::PublicKey).do_nothing().to_owned())
        .exec_without_returning(db)
        .await?;
    Ok(())
}
