//! The schema, made and brought up to date at start.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{big_integer, big_integer_null, boolean, integer, text, text_null};

/// All migrations, oldest first. One that has been released is never edited.
pub(super) struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(Accounts),
            Box::new(Orders),
            Box::new(Feeds),
            Box::new(Endorsements),
            Box::new(HeldDenials),
            Box::new(Heads),
            Box::new(Macs),
            Box::new(Sightings),
            Box::new(Owners),
        ]
    }
}

/// Accounts, devices, bans, their signers, refreshes, challenges and the outbox.
struct Accounts;

impl MigrationName for Accounts {
    fn name(&self) -> &'static str {
        "m0001_records"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Accounts {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let tables =
            [accounts(), devices(), bans(), signers(), refreshes(), challenges(), secrets(), outbox()];
        for table in tables {
            manager.create_table(table).await?;
        }
        create_indexes(manager, &INDEXES).await
    }

    /// All of it or nothing, on SQLite too: authd may be killed in its first start.
    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}

/// Granted roles, and the audit trail of what operators ordered.
struct Orders;

impl MigrationName for Orders {
    fn name(&self) -> &'static str {
        "m0002_orders"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Orders {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.create_table(roles()).await?;
        manager.create_table(audit_lines()).await?;
        create_indexes(manager, &ORDER_INDEXES).await
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}

/// The denial feed: its position and lease, and which rows of the outbox it has told.
struct Feeds;

impl MigrationName for Feeds {
    fn name(&self) -> &'static str {
        "m0003_feed"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Feeds {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.create_table(feeds()).await?;
        let column = Table::alter().table("outbox").add_column(big_integer_null("fed_at")).to_owned();
        manager.alter_table(column).await?;
        create_indexes(manager, &[("outbox", &["fed_at", "id"], false)]).await
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}

/// The endorsements of authd's own keys.
struct Endorsements;

impl MigrationName for Endorsements {
    fn name(&self) -> &'static str {
        "m0004_endorsements"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Endorsements {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.create_table(endorsements()).await?;
        create_indexes(manager, &[("endorsements", &["ends_at"], false)]).await
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}

/// Which denials are held, because no record of the store says them.
struct HeldDenials;

impl MigrationName for HeldDenials {
    fn name(&self) -> &'static str {
        "m0005_held_denials"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for HeldDenials {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let column = Table::alter().table("outbox").add_column(big_integer_null("held_at")).to_owned();
        manager.alter_table(column).await?;
        create_indexes(manager, &[("outbox", &["held_at", "id"], false)]).await
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}

/// Indexes by which no statement reads more rows the older an account is.
struct Heads;

impl MigrationName for Heads {
    fn name(&self) -> &'static str {
        "m0006_heads"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Heads {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for statement in HEADS {
            manager.get_connection().execute_unprepared(statement).await?;
        }
        Ok(())
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}

/// The first rows of devices have indexes of their own, for every rotation adds a row that is none. A statement uses
/// one only if it spells the condition, and binds nothing in it.
const HEADS: [&str; 9] = [
    "CREATE INDEX device_records_owners ON device_records (device, created_at, identity) WHERE sequence_number = 0",
    "CREATE INDEX device_records_registered ON device_records (identity, created_at, device) \
     WHERE sequence_number = 0",
    "CREATE INDEX device_records_recovered ON device_records (device, identity) \
     WHERE sequence_number = 0 AND path = '/account/recover'",
    "CREATE INDEX device_records_commitments ON device_records (device, identity, rotation_hash)",
    "DROP INDEX device_records_identity_sequence_number",
    "DROP INDEX device_records_device_public_key",
    "CREATE INDEX account_records_recoveries ON account_records (identity, sequence_number) \
     WHERE revealed IS NOT NULL",
    "CREATE INDEX refreshes_refresh_expiry ON refreshes (refresh_expiry)",
    "CREATE INDEX spent_challenges_forgotten_at ON spent_challenges (forgotten_at)",
];

/// The MAC of each row. Rows that were there before have none, and are not believed until they are taken in.
struct Macs;

impl MigrationName for Macs {
    fn name(&self) -> &'static str {
        "m0007_macs"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Macs {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in WITHOUT_MAC {
            let column = Table::alter().table(table).add_column(text_null("mac")).to_owned();
            manager.alter_table(column).await?;
        }
        manager.create_table(marks()).await
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}

/// By which it is found when a device refreshed last.
struct Sightings;

impl MigrationName for Sightings {
    fn name(&self) -> &'static str {
        "m0008_sightings"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Sightings {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        create_indexes(manager, &[("refreshes", &["identity", "device", "issued_at"], false)]).await
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}

/// What owners call their devices, and which sessions they ended.
struct Owners;

impl MigrationName for Owners {
    fn name(&self) -> &'static str {
        "m0009_owners"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Owners {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.create_table(device_names()).await?;
        manager.create_table(session_ends()).await?;
        let column = Table::alter().table("outbox").add_column(big_integer_null("issued_up_to")).to_owned();
        manager.alter_table(column).await?;
        let indexes: [(&str, &[&str], bool); 3] = [
            ("device_names", &["identity", "device"], false),
            ("session_ends", &["identity", "device"], false),
            ("session_ends", &["forgotten_at"], false),
        ];
        create_indexes(manager, &indexes).await
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(true)
    }
}

async fn create_indexes(manager: &SchemaManager<'_>, indexes: &[(&str, &[&str], bool)]) -> Result<(), DbErr> {
    for (table, columns, unique) in indexes {
        let mut index = Index::create();
        index.name(format!("{table}_{}", columns.join("_"))).table((*table).to_owned());
        for column in *columns {
            index.col((*column).to_owned());
        }
        if *unique {
            index.unique();
        }
        manager.create_index(index).await?;
    }
    Ok(())
}

/// The same for what orders add.
const ORDER_INDEXES: [(&str, &[&str], bool); 3] = [
    ("role_records", &["prefix", "sequence_number"], true),
    ("role_records", &["identity", "sequence_number"], true),
    ("outbox", &["account"], false),
];

/// Table, columns, whether unique. The unique ones decide races that the locks should have decided
/// already: one record for each place of a chain, one chain for each account, device or ban.
const INDEXES: [(&str, &[&str], bool); 12] = [
    ("account_records", &["prefix", "sequence_number"], true),
    ("account_records", &["identity", "sequence_number"], true),
    ("account_records", &["identity", "revealed"], false),
    ("device_records", &["prefix", "sequence_number"], true),
    ("device_records", &["device", "identity", "sequence_number"], true),
    ("device_records", &["identity", "sequence_number"], false),
    ("device_records", &["device", "public_key"], false),
    ("ban_records", &["prefix", "sequence_number"], true),
    ("ban_records", &["identity", "sequence_number"], true),
    ("outbox", &["sent_at", "id"], false),
    ("outbox", &["expires_at"], false),
    ("outbox", &["subject"], false),
];

/// The tables that were made before rows had MACs.
const WITHOUT_MAC: [&str; 12] = [
    "account_records",
    "device_records",
    "ban_records",
    "role_records",
    "refreshes",
    "spent_challenges",
    "outbox",
    "endorsements",
    "signers",
    "audit_lines",
    "feeds",
    "secrets",
];

fn accounts() -> TableCreateStatement {
    record("account_records")
        .col(text("identity"))
        .col(text("recovery_hash"))
        .col(text_null("revealed"))
        .col(text("state"))
        .col(integer("format"))
        .col(text_null("path"))
        .col(text_null("cause"))
        .col(text_null("payload"))
        .col(text_null("action"))
        .col(text_null("operator"))
        .col(text_null("reason"))
        .col(text_null("signer"))
        .col(text("signature"))
        .to_owned()
}

fn devices() -> TableCreateStatement {
    record("device_records")
        .col(text("identity"))
        .col(text("device"))
        .col(text("public_key"))
        .col(text("rotation_hash"))
        .col(text("state"))
        .col(integer("format"))
        .col(text_null("path"))
        .col(text_null("cause"))
        .col(text_null("payload"))
        .col(text_null("action"))
        .col(text_null("operator"))
        .col(text_null("reason"))
        .col(text_null("signer"))
        .col(text("signature"))
        .to_owned()
}

fn bans() -> TableCreateStatement {
    record("ban_records")
        .col(text("identity"))
        .col(boolean("banned"))
        .col(big_integer_null("until"))
        .col(integer("format"))
        .col(text("action"))
        .col(text("operator"))
        .col(text("reason"))
        .col(text("signer"))
        .col(text("signature"))
        .to_owned()
}

fn roles() -> TableCreateStatement {
    record("role_records")
        .col(text("identity"))
        .col(text("roles"))
        .col(integer("format"))
        .col(text("action"))
        .col(text("operator"))
        .col(text("reason"))
        .col(text("signer"))
        .col(text("signature"))
        .to_owned()
}

fn audit_lines() -> TableCreateStatement {
    Table::create()
        .table("audit_lines")
        .col(big_integer("number").primary_key())
        .col(text("digest"))
        .col(text("line"))
        .to_owned()
}

fn signers() -> TableCreateStatement {
    Table::create().table("signers").col(text("public_key").primary_key()).col(text("endorsement")).to_owned()
}

fn endorsements() -> TableCreateStatement {
    Table::create()
        .table("endorsements")
        .col(text("public_key").primary_key())
        .col(text("endorsement"))
        .col(big_integer("ends_at"))
        .to_owned()
}

fn refreshes() -> TableCreateStatement {
    Table::create()
        .table("refreshes")
        .col(text("digest").primary_key())
        .col(text("cause"))
        .col(text("identity"))
        .col(text("device"))
        .col(text("public_key"))
        .col(text("rotation_hash"))
        .col(big_integer("issued_at"))
        .col(big_integer("expiry"))
        .col(big_integer("refresh_expiry"))
        .to_owned()
}

fn challenges() -> TableCreateStatement {
    Table::create()
        .table("spent_challenges")
        .col(text("nonce").primary_key())
        .col(big_integer("forgotten_at"))
        .to_owned()
}

fn secrets() -> TableCreateStatement {
    Table::create().table("secrets").col(text("name").primary_key()).col(text("value")).to_owned()
}

fn outbox() -> TableCreateStatement {
    Table::create()
        .table("outbox")
        .col(big_integer("id").primary_key().auto_increment())
        .col(text("subject"))
        .col(text("account"))
        .col(text("cause"))
        .col(boolean("lifted"))
        .col(big_integer_null("expires_at"))
        .col(big_integer_null("sent_at"))
        .to_owned()
}

fn feeds() -> TableCreateStatement {
    Table::create()
        .table("feeds")
        .col(text("name").primary_key())
        .col(big_integer("epoch"))
        .col(big_integer("position"))
        .col(big_integer("fence"))
        .col(text("holder"))
        .col(big_integer("held_until"))
        .to_owned()
}

fn marks() -> TableCreateStatement {
    Table::create()
        .table("marks")
        .col(text("name").primary_key())
        .col(text("value"))
        .col(text_null("mac"))
        .to_owned()
}

fn device_names() -> TableCreateStatement {
    Table::create()
        .table("device_names")
        .col(text("id").primary_key())
        .col(text("identity"))
        .col(text("device"))
        .col(text("name"))
        .col(big_integer("named_at"))
        .col(text("named_by"))
        .col(text_null("mac"))
        .to_owned()
}

fn session_ends() -> TableCreateStatement {
    Table::create()
        .table("session_ends")
        .col(text("id").primary_key())
        .col(text("identity"))
        .col(text("device"))
        .col(big_integer("issued_up_to"))
        .col(big_integer("ended_at"))
        .col(text("ended_by"))
        .col(big_integer("forgotten_at"))
        .col(text_null("mac"))
        .to_owned()
}

/// What every table of records begins with.
fn record(table: &'static str) -> TableCreateStatement {
    Table::create()
        .table(table)
        .col(text("id").primary_key())
        .col(text("prefix"))
        .col(text_null("previous"))
        .col(big_integer("sequence_number"))
        .col(big_integer("created_at"))
        .to_owned()
}
