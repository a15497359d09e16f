//! The second migration: what is stated beside the chain.

use sea_orm::DbErr;
use sea_orm_migration::{prelude::*, schema};

/// Makes the tables of denied generations and revoked keys.
pub(in crate::ledger) struct DenialsAndRevokedKeys;

impl MigrationName for DenialsAndRevokedKeys {
    fn name(&self) -> &'static str {
        "m2_denials_and_revoked_keys"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for DenialsAndRevokedKeys {
    async fn up(&self, schema: &SchemaManager) -> Result<(), DbErr> {
        let denials = Table::create()
            .table("denials")
            .col(schema::string("generation_id").primary_key())
            .col(schema::big_integer("denied_at"))
            .col(schema::big_integer("ends_at"))
            .to_owned();
        schema.create_table(denials).await?;
        let revoked_keys = Table::create()
            .table("revoked_keys")
            .col(schema::string("public_key").primary_key())
            .col(schema::big_integer("revoked_at"))
            .col(schema::big_integer("ends_at"))
            .to_owned();
        schema.create_table(revoked_keys).await
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}
