//! The tables. A migration that has been released is never changed: add another.

use sea_orm::{ConnectionTrait as _, DatabaseConnection, DbBackend, DbErr};
use sea_orm_migration::prelude::*;

/// Brings the tables up to date.
pub(super) async fn run(database: &DatabaseConnection) -> Result<(), DbErr> {
    Migrator::up(database, None).await
}

const TABLES: &str = "
CREATE TABLE events (
    sequence_number BIGINT PRIMARY KEY, id TEXT NOT NULL UNIQUE, prefix TEXT NOT NULL, published TEXT NOT NULL
);
CREATE TABLE lease (
    id BIGINT PRIMARY KEY, holder TEXT NOT NULL, fence BIGINT NOT NULL, beat BIGINT NOT NULL, locked BIGINT NOT NULL
);
INSERT INTO lease (id, holder, fence, beat, locked) VALUES (1, '', 0, 0, 1);
CREATE TABLE state (
    id BIGINT PRIMARY KEY, key_intent BIGINT NOT NULL, endorsement_mark BIGINT NOT NULL, head_event TEXT NOT NULL,
    head_number BIGINT NOT NULL, trusted_time BIGINT, cut_number BIGINT, cut_digest TEXT
);
INSERT INTO state (id, key_intent, endorsement_mark, head_event, head_number) VALUES (1, -1, 0, '', 0);
CREATE TABLE condemned (key_digest TEXT PRIMARY KEY);
CREATE TABLE attestations (public_key TEXT PRIMARY KEY, certificate BYTES NOT NULL);
CREATE TABLE denials (generation_id TEXT PRIMARY KEY, since BIGINT NOT NULL, ends_at BIGINT NOT NULL);
CREATE TABLE revoked_keys (public_key TEXT PRIMARY KEY, since BIGINT NOT NULL, ends_at BIGINT NOT NULL);
CREATE TABLE revoked_services (
    service TEXT PRIMARY KEY, endorsed_up_to BIGINT NOT NULL, since BIGINT NOT NULL, ends_at BIGINT NOT NULL,
    closed BIGINT NOT NULL
);
CREATE TABLE notes (name TEXT PRIMARY KEY, content TEXT NOT NULL);
CREATE TABLE audit_lines (number BIGINT PRIMARY KEY, digest TEXT NOT NULL, line TEXT NOT NULL);
CREATE TABLE ballast (id BIGINT PRIMARY KEY, filler BYTES NOT NULL);
";

/// What services were ordered to replace.
const ROLLS: &str = "
CREATE TABLE rolled_services (
    service TEXT PRIMARY KEY, endorsed_up_to BIGINT NOT NULL, since BIGINT NOT NULL, ends_at BIGINT NOT NULL
);
";

struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(First), Box::new(Rolls)]
    }
}

struct First;

impl MigrationName for First {
    fn name(&self) -> &'static str {
        "m1_ledger"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for First {
    async fn up(&self, schema: &SchemaManager) -> Result<(), DbErr> {
        create(schema, TABLES).await
    }

    /// All of it or nothing, on SQLite too: hsmd may be killed in its first start.
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}

struct Rolls;

impl MigrationName for Rolls {
    fn name(&self) -> &'static str {
        "m2_rolls"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Rolls {
    async fn up(&self, schema: &SchemaManager) -> Result<(), DbErr> {
        create(schema, ROLLS).await
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}

async fn create(schema: &SchemaManager<'_>, tables: &str) -> Result<(), DbErr> {
    let database = schema.get_connection();
    let (bytes, number) = match database.get_database_backend() {
        DbBackend::Postgres => ("BYTEA", "BIGINT"),
        // A key of this type is the row's own id.
        _ => ("BLOB", "INTEGER"),
    };
    let tables = tables.replace("BYTES", bytes).replace("BIGINT", number);
    for statement in tables.split(';').map(str::trim).filter(|statement| !statement.is_empty()) {
        database.execute_unprepared(statement).await?;
    }
    Ok(())
}
