//! The records on disk: SQLite or PostgreSQL, by one code and one suite of tests.
//!
//! A request is first judged on what one statement reads (`view`), without a transaction and without the writer's
//! place: what is refused there, or needs nothing written, is done. Junk costs one read of few rows and never queues
//! before honest writes. What is decided to be written is written only if the rows that were read still are the newest
//! ones (`append`).
//!
//! What appends one row does so by one statement (`case` says why that is enough). An account operation is one
//! transaction, which holds the account's place until it is committed: SQLite has one writer (`BEGIN IMMEDIATE`),
//! PostgreSQL takes an advisory lock on the identity, whether or not it has rows yet. What registers a device takes a
//! second lock, on the device: whether another account has it is decided by one at a time. If the rows that were read
//! are not the newest ones when the lock is held, they are read again under it, and decide. So revocation and refresh,
//! and any two requests for one account, are decided one after the other, each on what the other wrote. Unique indexes
//! stand behind the locks: a race that got past them loses there, and is decided again on what won.
//!
//! On PostgreSQL each statement of a transaction has to see what was committed before it began: *read committed*, which
//! is looked at with each lock.
//!
//! What the database says is not believed: each row carries a MAC by a key outside of it, verified on each reading
//! (`mac`). A row whose MAC does not hold is an error, never an input.
//!
//! Records are only ever inserted, and deleted by a reset alone. What ends by itself ([`Store::prune`] lists it) is removed
//! in batches.

mod append;
mod audit;
mod case;
mod check;
mod connect;
mod elsewhere;
mod endorsements;
mod export;
mod fault;
mod feed;
mod giving;
mod held;
mod mac;
mod mark;
mod migration;
mod order;
mod outbox;
mod owned;
mod owner;
mod probe;
mod prune;
mod reset;
mod rows;
mod signers;
mod tables;
mod view;

use std::sync::Arc;

use keychain::{Digest, Refusal, Timestamp};
use sea_orm::sea_query::OnConflict;
use sea_orm::{
    AccessMode, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, EntityTrait,
    IntoActiveModel, IsolationLevel, SqliteTransactionMode, TransactionOptions, TransactionTrait,
};
use sea_orm_migration::MigratorTrait;
use zeroize::Zeroizing;

use append::Text;

pub use audit::{Lines, Page};
pub use case::{Account, Case, Locks, Refreshing, SessionOpening, Verdict};
pub use check::{Counts, Finding, Judge, Line, Since, Stands, Visitor};
pub use export::{Page as ExportPage, Place as ExportPlace};
pub use fault::{Failure, Fault};
pub use feed::{Batch, LEASE, Lease, Lost};
pub use giving::Given;
pub use held::{Held, Which as WhichHeld};
pub use mac::{KEYS_LENGTH_MAX, MacKeys, Unusable as UnusableKeys};
pub use order::{Ordered, Ordering};
pub use outbox::{Backlog, Page as PendingPage, Pending};
pub use owner::Owning;
pub use probe::Durability;

/// How often a request that lost a race is decided again. Each loss means that another one won, and the next decision
/// already finds the winner's rows.
const ATTEMPTS_MAX: usize = 5;

/// The advisory lock that instances take while they bring the schema up to date.
const SCHEMA_LOCK: i64 = 0x6b65_656c_736f_6e00;

/// The account store.
#[derive(Clone, Debug)]
pub struct Store {
    reader: DatabaseConnection,
    writer: DatabaseConnection,
    macs: Arc<MacKeys>,
    doubt: connect::Doubt,
}

impl Store {
    /// Opens the database at `url` and brings its schema up to date. The rows are believed by their MACs.
    pub async fn open(url: &str, macs: MacKeys) -> Result<Self, Fault> {
        let store = Self::open_unmarked(url, macs).await?;
        mark::demand_whole(&store.reader, &store.macs).await?;
        Ok(store)
    }

    /// The same for a database that is to be there already.
    pub async fn open_existing(url: &str, macs: MacKeys) -> Result<Self, Fault> {
        Self::open(Self::existing(url)?, macs).await
    }

    /// The same for a database whose rows may have no MACs yet.
    async fn open_unmarked(url: &str, macs: MacKeys) -> Result<Self, Fault> {
        let doubt = connect::Doubt::default();
        let (reader, writer) = connect::Location::parse(url)?.connect(&doubt).await?;
        let store = Self { reader, writer, macs: Arc::new(macs), doubt };
        store.migrate().await?;
        Ok(store)
    }

    /// Refuses a file that does not exist: opening would make it.
    fn existing(url: &str) -> Result<&str, Fault> {
        match connect::Location::parse(url)? {
            connect::Location::Sqlite(path) if !path.exists() => {
                Err(Fault::Location(format!("`{}` does not exist", path.display())))
            }
            _ => Ok(url),
        }
    }

    /// Whether `url` could be opened, without opening it.
    pub fn check_url(url: &str) -> Result<(), Fault> {
        connect::Location::parse(url).map(drop)
    }

    /// Judges a request on what it names, and writes what `judge` wants written: all of it, or nothing.
    pub async fn decide<C: Case, A>(
        &self,
        case: &C,
        now: Timestamp,
        judge: impl Fn(&C::View) -> Result<Verdict<C::Write, A>, Refusal>,
    ) -> Result<A, Failure> {
        let mut lost = Fault::Lost(DbErr::Custom("what was read did not stand".to_owned()));
        // Only the rows say whether a write was carried out whose connection was cut.
        let mut unknown = None;
        for _ in 0..ATTEMPTS_MAX {
            match self.attempt(case, now, &judge, unknown.is_some()).await {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) => {}
                Err(Failure::Store(fault @ Fault::Lost(_))) => lost = fault,
                Err(Failure::Store(fault)) if fault.is_cut() && unknown.is_none() => {
                    self.doubt.raise();
                    unknown = Some(fault);
                }
                // It may be refused because of the rows that it has written itself.
                Err(Failure::Refused(refusal)) => {
                    return Err(unknown.map_or(Failure::Refused(refusal), Failure::Store));
                }
                Err(failure) => return Err(failure),
            }
        }
        Err(unknown.unwrap_or(lost).into())
    }

    /// Judges and writes once. `None` if the rows that were read did not stand.
    async fn attempt<C: Case, A>(
        &self,
        case: &C,
        now: Timestamp,
        judge: &impl Fn(&C::View) -> Result<Verdict<C::Write, A>, Refusal>,
        is_unknown: bool,
    ) -> Result<Option<A>, Failure> {
        let view = self.load(case).await?;
        let verdict = judge(&view)?;
        let done = match (verdict, case.locks()) {
            (Verdict::Answer(answer), _) => Some(answer),
            (verdict, Some(locks)) => self.write_locked(case, &locks, (view, verdict), now, judge).await?,
            (verdict, None) => self.write_alone(case, (view, verdict), now).await?,
        };
        // The rows of an earlier write are on disk once a later commit is.
        if is_unknown && done.is_some() {
            self.probe().await?;
        }
        Ok(done)
    }

    /// Reads what a request is judged by. A connection that the server has cut is seen only once it is used: then it is
    /// read by another one, made since.
    async fn load<C: Case>(&self, case: &C) -> Result<C::View, Fault> {
        match case.load(&self.reader, &self.macs).await {
            Err(fault) if fault.is_cut() => {
                self.doubt.raise();
                case.load(&self.reader, &self.macs).await
            }
            loaded => loaded,
        }
    }

    /// The key of the session challenges: `fresh` random bytes of whichever instance comes first.
    pub async fn challenge_key(&self, fresh: &[u8; 32]) -> Result<Zeroizing<[u8; 32]>, Fault> {
        use tables::secret::{Column, Entity, Model};
        const NAME: &str = "challenge";
        // A digest's text carries 32 bytes, which is all that is asked of it here.
        let text = Digest::of(fresh).to_string();
        let row = self.macs.with_mac(Model { name: NAME.to_owned(), value: text, mac: None });
        Entity::insert(row.into_active_model())
            .on_conflict(OnConflict::column(Column::Name).do_nothing().to_owned())
            .exec_without_returning(&self.writer)
            .await?;
        let row = Entity::find_by_id(NAME).one(&self.writer).await?;
        let row = row.ok_or_else(|| Fault::Corrupt {
            table: "secrets",
            id: NAME.to_owned(),
            because: "it is missing right after it was written",
        })?;
        self.macs.verify(&row)?;
        Ok(Zeroizing::new(*rows::digest("secrets", &row.value)?.bytes()))
    }

    /// Writes by one statement, which is a transaction of its own. `None` if what was read does not stand.
    async fn write_alone<C: Case, A>(
        &self,
        case: &C,
        (view, verdict): (C::View, Verdict<C::Write, A>),
        now: Timestamp,
    ) -> Result<Option<A>, Failure> {
        let Verdict::Write(write, answer) = verdict else { return Ok(None) };
        let is_written = case.write(&self.writer, &self.macs, &view, &write, now).await?;
        Ok(is_written.then_some(answer))
    }

    /// Writes under the locks, on what was read before they were taken, or else on what is read under them. `None` if
    /// neither stands.
    async fn write_locked<C: Case, A>(
        &self,
        case: &C,
        locks: &Locks,
        (mut view, mut verdict): (C::View, Verdict<C::Write, A>),
        now: Timestamp,
        judge: &impl Fn(&C::View) -> Result<Verdict<C::Write, A>, Refusal>,
    ) -> Result<Option<A>, Failure> {
        // The account's place first, always: so nobody waits for one who waits for him.
        let numbers: Vec<_> = std::iter::once(&locks.identity).chain(&locks.newcomer).map(lock_of).collect();
        let transaction = self.begin_locked(&numbers).await?;
        for is_last in [false, true] {
            if matches!(verdict, Verdict::Incomplete) {
                case.complete(&transaction, &self.macs, &mut view).await?;
                verdict = judge(&view)?;
            }
            match verdict {
                Verdict::Answer(answer) => {
                    transaction.rollback().await?;
                    return Ok(Some(answer));
                }
                Verdict::Write(write, answer) => {
                    if case.write(&transaction, &self.macs, &view, &write, now).await? {
                        transaction.commit().await?;
                        return Ok(Some(answer));
                    }
                }
                Verdict::Incomplete => break,
            }
            if is_last {
                break;
            }
            view = case.load(&transaction, &self.macs).await?;
            verdict = judge(&view)?;
        }
        transaction.rollback().await?;
        Ok(None)
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

    /// A transaction that alone has these locks until it ends; SQLite has one writer, and no need of any.
    async fn begin_locked(&self, locks: &[i64]) -> Result<DatabaseTransaction, Fault> {
        if self.writer.get_database_backend() == DbBackend::Sqlite {
            let immediate = TransactionOptions {
                sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
                ..TransactionOptions::default()
            };
            return Ok(self.writer.begin_with_options(immediate).await?);
        }
        let transaction = self.writer.begin().await?;
        take_locks(&transaction, locks).await?;
        Ok(transaction)
    }

    async fn migrate(&self) -> Result<(), Fault> {
        let transaction = self.begin_locked(&[SCHEMA_LOCK]).await?;
        if transaction.get_database_backend() == DbBackend::Postgres {
            // An index of a large table takes its time.
            transaction.execute_unprepared("SET LOCAL statement_timeout = 0").await?;
        }
        migration::Migrator::up(&transaction, None).await?;
        mark::mark_new(&transaction, &self.macs).await?;
        Ok(transaction.commit().await?)
    }
}

/// The advisory lock that stands for an account or a device. Two that share one wait for each other
/// without need, and nothing worse.
fn lock_of(name: &Digest) -> i64 {
    name.bytes().first_chunk().map_or(0, |chunk| i64::from_be_bytes(*chunk))
}

/// Takes advisory locks, in this order, until the transaction ends. SQLite has no need of any: its writer is alone.
///
/// Each later statement must see what earlier holders committed. At another level than *read committed* it would see
/// what there was before this one waited.
async fn take_locks(transaction: &DatabaseTransaction, locks: &[i64]) -> Result<(), Fault> {
    if transaction.get_database_backend() == DbBackend::Sqlite {
        return Ok(());
    }
    let mut text = Text::new();
    text.push("SELECT current_setting('transaction_isolation') AS level");
    for lock in locks {
        text.push(", pg_advisory_xact_lock(").bind(*lock).push(")");
    }
    let row = transaction.query_one_raw(text.statement(DbBackend::Postgres)).await?;
    let level: Option<String> = row.map(|row| row.try_get("", "level")).transpose()?;
    if level.as_deref() == Some("read committed") {
        return Ok(());
    }
    let because = "the server begins transactions at another level than authd decides at: set \
                   `default_transaction_isolation` to `read committed` for its role";
    Err(Fault::Location(because.to_owned()))
}
