//! What the device certified about keys, by public key: kept beside the events, because a key that has been
//! left is destroyed and cannot be attested any more.

use std::collections::BTreeMap;

use keychain::PublicKey;
use sea_orm::{ActiveValue::Set, EntityTrait as _, sea_query::OnConflict};
use sea_orm_migration::{prelude::*, schema};

use super::{Error, Ledger, entity::attestation};

impl Ledger {
    /// Keeps the certificate (DER) about a key; the first one that is kept stays.
    pub async fn keep_attestation(&self, key: &PublicKey, certificate: &[u8]) -> Result<(), Error> {
        let row = attestation::ActiveModel {
            public_key: Set(key.to_string()),
            certificate: Set(certificate.to_vec()),
        };
        let once = OnConflict::column(attestation::Column::PublicKey).do_nothing().to_owned();
        attestation::Entity::insert(row).on_conflict(once).exec_without_returning(&self.database).await?;
        Ok(())
    }

    /// The certificate (DER) about a key, if one is kept.
    pub async fn attestation(&self, key: &PublicKey) -> Result<Option<Vec<u8>>, Error> {
        let row = attestation::Entity::find_by_id(key.to_string()).one(&self.database).await?;
        Ok(row.map(|row| row.certificate))
    }

    /// All that are kept, by public key as text.
    pub async fn attestations(&self) -> Result<BTreeMap<String, Vec<u8>>, Error> {
        let rows = attestation::Entity::find().all(&self.database).await?;
        Ok(rows.into_iter().map(|row| (row.public_key, row.certificate)).collect())
    }
}

/// The table.
pub(super) struct Attestations;

impl MigrationName for Attestations {
    fn name(&self) -> &'static str {
        "m_attestations"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Attestations {
    async fn up(&self, schema: &SchemaManager) -> Result<(), DbErr> {
        let attestations = Table::create()
            .table("attestations")
            .col(schema::string("public_key").primary_key())
            .col(schema::binary("certificate"))
            .to_owned();
        schema.create_table(attestations).await
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}
