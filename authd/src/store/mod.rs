//! The records on disk: SQLite or PostgreSQL, by one code and one suite of tests.
//!
//! An operation is one transaction, which holds the account's place from its first read to its commit:
//! SQLite has one writer (`BEGIN IMMEDIATE`), PostgreSQL takes an advisory lock on the identity, whether
//! or not it has rows yet. So two requests for one account are decided one after the other, each on what
//! the other wrote, and revocation and refresh are never decided side by side. What registers a device
//! takes a second lock, on the device: whether another account has it is decided by one at a time. Unique
//! indexes stand behind the account's lock: a race that got past it loses there, and is decided again on
//! what won.
//!
//! A request is first judged on a snapshot, without the writer's place: what is refused there, or needs
//! nothing written, is done. Junk costs a read and never queues before honest writes.
//!
//! Records are only ever inserted, and deleted by a reset alone. Three tables hold rows that end by themselves: spent
//! challenges (two minutes), refreshes (with their session) and endorsements (with their key); [`Store::prune`] removes
//! them.

mod audit;
mod case;
mod connect;
mod endorsements;
mod fault;
mod feed;
mod held;
mod migration;
mod order;
mod outbox;
mod prune;
mod reset;
mod rows;
mod signers;
mod tables;
mod view;

use keychain::{Digest, Timestamp};
use sea_orm::sea_query::OnConflict;
use sea_orm::{
    AccessMode, ActiveValue::Set, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend,
    EntityTrait, IsolationLevel, SqliteTransactionMode, Statement, TransactionOptions, TransactionTrait,
};
use sea_orm_migration::MigratorTrait;
use zeroize::Zeroizing;

pub use audit::{Lines, Page};
pub use case::{Account, Case, Refreshing, SessionOpening, Verdict};
pub use fault::{Failure, Fault};
pub use feed::{Batch, LEASE, Lease, Lost};
pub use held::{Held, Which as WhichHeld};
pub use order::{Ordered, Ordering};
pub use outbox::{Backlog, Page as PendingPage, Pending};

/// How often a transaction that lost a race is decided again. Each loss means that another one won, and
/// the second decision already finds the winner's rows under the lock.
const ATTEMPTS_MAX: usize = 5;

/// The advisory lock that instances take while they bring the schema up to date.
const SCHEMA_LOCK: i64 = 0x6b65_656c_736f_6e00;

/// The account store.
#[derive(Clone, Debug)]
pub struct Store {
    reader: DatabaseConnection,
    writer: DatabaseConnection,
}

impl Store {
    /// Opens the database at `url` and brings its schema up to date.
    pub async fn open(url: &str) -> Result<Self, Fault> {
        let (reader, writer) = connect::Location::parse(url)?.connect().await?;
        let store = Self { reader, writer };
        store.migrate().await?;
        Ok(store)
    }

    /// Whether `url` could be opened, without opening it.
    pub fn check_url(url: &str) -> Result<(), Fault> {
        connect::Location::parse(url).map(drop)
    }

    /// Judges a request on a snapshot, and again under the account's lock if something is to be written.
    /// Everything that `judge` wants written is written, or nothing.
    pub async fn decide<C: Case, A>(
        &self,
        case: &C,
        now: Timestamp,
        judge: impl Fn(&C::View) -> Result<Verdict<C::Write, A>, keychain::Refusal>,
    ) -> Result<A, Failure> {
        let snapshot = self.begin_read().await?;
        let view = case.load(&snapshot).await?;
        snapshot.rollback().await?;
        if let Verdict::Answer(answer) = judge(&view)? {
            return Ok(answer);
        }
        let mut last = None;
        for _ in 0..ATTEMPTS_MAX {
            match self.decide_locked(case, now, &judge).await {
                Err(Failure::Store(Fault::Lost(error))) => last = Some(error),
                done => return done,
            }
        }
        let last = last.unwrap_or_else(|| sea_orm::DbErr::Custom("no attempt was made".to_owned()));
        Err(Fault::Lost(last).into())
    }

    /// The accounts that ever had `device`: normally one, and at most sixteen are looked at.
    pub async fn owners(&self, device: &Digest) -> Result<Vec<Digest>, Fault> {
        view::owners(&self.reader, device).await
    }

    /// The key of the session challenges: `fresh` random bytes of whichever instance comes first.
    pub async fn challenge_key(&self, fresh: &[u8; 32]) -> Result<Zeroizing<[u8; 32]>, Fault> {
        use tables::secret::{ActiveModel, Column, Entity};
        const NAME: &str = "challenge";
        // A digest's text carries 32 bytes, which is all that is asked of it here.
        let text = Digest::of(fresh).to_string();
        let row = ActiveModel { name: Set(NAME.to_owned()), value: Set(text) };
        Entity::insert(row)
            .on_conflict(OnConflict::column(Column::Name).do_nothing().to_owned())
            .exec_without_returning(&self.writer)
            .await?;
        let row = Entity::find_by_id(NAME).one(&self.writer).await?;
        let row = row.ok_or_else(|| Fault::Corrupt {
            table: "secrets",
            id: NAME.to_owned(),
            because: "it is missing right after it was written",
        })?;
        Ok(Zeroizing::new(*rows::digest("secrets", &row.value)?.bytes()))
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), Fault> {
        Ok(self.reader.ping().await?)
    }

    async fn decide_locked<C: Case, A>(
        &self,
        case: &C,
        now: Timestamp,
        judge: &impl Fn(&C::View) -> Result<Verdict<C::Write, A>, keychain::Refusal>,
    ) -> Result<A, Failure> {
        let transaction = self.begin_write(&case.identity()).await?;
        // After the account's place, always: so nobody waits for one who waits for him.
        if let Some(device) = case.newcomer() {
            take_lock(&transaction, lock_of(&device)).await?;
        }
        let view = case.load(&transaction).await?;
        match judge(&view)? {
            Verdict::Answer(answer) => {
                transaction.rollback().await?;
                Ok(answer)
            }
            Verdict::Write(write, answer) => {
                case.write(&transaction, &write, now).await?;
                transaction.commit().await?;
                Ok(answer)
            }
        }
    }

    /// A snapshot: what one moment's commits left, whatever is written meanwhile.
    async fn begin_read(&self) -> Result<DatabaseTransaction, Fault> {
        let options = match self.reader.get_database_backend() {
            DbBackend::Postgres => TransactionOptions {
                isolation_level: Some(IsolationLevel::RepeatableRead),
                access_mode: Some(AccessMode::ReadOnly),
                sqlite_transaction_mode: None,
            },
            _ => TransactionOptions::default(),
        };
        Ok(self.reader.begin_with_options(options).await?)
    }

    /// A transaction that alone decides about `identity` until it ends.
    async fn begin_write(&self, identity: &Digest) -> Result<DatabaseTransaction, Fault> {
        self.begin_locked(lock_of(identity)).await
    }

    async fn begin_locked(&self, lock: i64) -> Result<DatabaseTransaction, Fault> {
        let immediate = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        if self.writer.get_database_backend() == DbBackend::Sqlite {
            return Ok(self.writer.begin_with_options(immediate).await?);
        }
        // Read committed: each statement after the lock sees all that earlier holders committed.
        let committed = Some(IsolationLevel::ReadCommitted);
        let transaction = self.writer.begin_with_config(committed, Some(AccessMode::ReadWrite)).await?;
        take_lock(&transaction, lock).await?;
        Ok(transaction)
    }

    async fn migrate(&self) -> Result<(), Fault> {
        let transaction = self.begin_locked(SCHEMA_LOCK).await?;
        migration::Migrator::up(&transaction, None).await?;
        Ok(transaction.commit().await?)
    }
}

/// The advisory lock that stands for an account or a device. Two that share one wait for each other
/// without need, and nothing worse.
fn lock_of(name: &Digest) -> i64 {
    name.bytes().first_chunk().map_or(0, |chunk| i64::from_be_bytes(*chunk))
}

/// Takes an advisory lock until the transaction ends. SQLite has no need of any: its writer is alone.
async fn take_lock(transaction: &DatabaseTransaction, lock: i64) -> Result<(), Fault> {
    if transaction.get_database_backend() == DbBackend::Sqlite {
        return Ok(());
    }
    let take = Statement::from_sql_and_values(
        DbBackend::Postgres,
        "SELECT pg_advisory_xact_lock($1)",
        [lock.into()],
    );
    transaction.execute_raw(take).await?;
    Ok(())
}
