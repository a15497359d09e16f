//! The tables' history. A migration that has been released is never changed: add another.

use sea_orm::{DatabaseConnection, DbErr};
use sea_orm_migration::{prelude::*, schema};

use super::statement::DenialsAndRevokedKeys;

/// Brings the tables up to date.
pub(super) async fn run(database: &DatabaseConnection) -> Result<(), DbErr> {
    Migrator::up(database, None).await
}

struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(First), Box::new(super::attestations::Attestations), Box::new(DenialsAndRevokedKeys)]
    }
}

struct First;

impl MigrationName for First {
    fn name(&self) -> &'static str {
        "m1_events_and_keeper"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for First {
    async fn up(&self, schema: &SchemaManager) -> Result<(), DbErr> {
        let events = Table::create()
            .table("events")
            .col(schema::string("id").primary_key())
            .col(schema::string("prefix"))
            .col(schema::big_integer("sequence_number"))
            .col(schema::text("published"))
            .to_owned();
        schema.create_table(events).await?;
        let one_place_one_event = Index::create()
            .name("events_prefix_sequence_number")
            .table("events")
            .col("prefix")
            .col("sequence_number")
            .unique()
            .to_owned();
        schema.create_index(one_place_one_event).await?;
        let keeper = Table::create()
            .table("keeper")
            .col(schema::integer("id").primary_key())
            .col(schema::big_integer("key_intent"))
            .col(schema::big_integer_null("trusted_time"))
            .to_owned();
        schema.create_table(keeper).await?;
        let row = Query::insert()
            .into_table("keeper")
            .columns(["id", "key_intent"])
            .values_panic([1.into(), (-1).into()])
            .to_owned();
        schema.exec_stmt(row).await
    }

    /// All of it or nothing, on SQLite too: hsmd may be killed in its first start.
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}
