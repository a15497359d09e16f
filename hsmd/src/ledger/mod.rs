//! The ledger: every event of the chain, verbatim, in SQLite or PostgreSQL.
//!
//! The ledger is the truth about the chain; all other copies are made from it. It is append-only: no
//! statement here changes or deletes an event. Whoever makes an event holds the [`Turn`] from before the
//! key is made until the event is committed, so that of any number of hsmd on one ledger and one token
//! none ever sweeps away a key that another is about to commit to.

mod attestations;
mod connect;
mod entity;
mod migration;
mod statement;
mod trusted_time;

use std::sync::{Arc, Mutex};

use keychain::chain::SignedEvent;
use keychain::{Digest, Timestamp};
use sea_orm::{
    ActiveValue::Set, ColumnTrait as _, DatabaseConnection, DatabaseTransaction, DbErr, EntityTrait as _,
    QueryFilter as _, QueryOrder as _, SqlErr, SqliteTransactionMode, TransactionOptions,
    TransactionTrait as _, sea_query::Expr,
};

use entity::{event, keeper};

use crate::failure_point::{self, Step};

pub use statement::{Entry, REVOKED_KEYS_MAX, Stated};

/// Why the ledger did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database failed or cannot be reached.
    #[error("the ledger failed")]
    Database(#[from] DbErr),
    /// The file of the ledger is open to others, or cannot be made.
    #[error("cannot use `{path}` as ledger: {because}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it and what to do.
        because: String,
    },
    /// A list that is bounded has no room.
    #[error("no room for more than {most} {what} at a time")]
    Full {
        /// What it is a list of.
        what: &'static str,
        /// How many have room.
        most: usize,
    },
    /// A row of a table cannot be read.
    #[error("a row of the ledger's table `{table}` cannot be read: bring back the newest ledger")]
    Unreadable {
        /// The table.
        table: &'static str,
    },
    /// Another event has this sequence number already.
    #[error("sequence number {0} is taken: another hsmd advanced the chain first")]
    Taken(u64),
    /// A row does not hold what its columns say.
    #[error("the ledger contradicts itself at sequence number {sequence_number}: {because}")]
    Contradiction {
        /// The row.
        sequence_number: i64,
        /// What does not hold.
        because: String,
    },
    /// A number beyond what the database stores.
    #[error("a sequence number beyond 2^63")]
    Overflow,
}

impl From<failure_point::Failed> for Error {
    fn from(failed: failure_point::Failed) -> Self {
        Self::Database(DbErr::Custom(failed.to_string()))
    }
}

/// The ledger. Cloning shares its connections.
#[derive(Clone, Debug)]
pub struct Ledger {
    database: DatabaseConnection,
    trusted_time: Arc<Mutex<Option<Timestamp>>>,
}

/// Events in one statement of an import: four values each, below the 32,766 that SQLite takes.
const IMPORTED_AT_ONCE: usize = 1000;

/// All that the ledger holds.
#[derive(Debug)]
pub struct Contents {
    /// Every event, in order of sequence number; each verified on its own, the chain not yet.
    pub events: Vec<SignedEvent>,
    /// The highest sequence number that a key may have been made for; nothing before the first start.
    ///
    /// A key on the token beyond it is not this ledger's: the ledger is older than its token.
    pub key_intent: Option<u64>,
}

impl Ledger {
    /// Opens the ledger at `url` (`sqlite:///…` or `postgres://…`) and brings its tables up to date.
    pub async fn open(url: &str) -> Result<Self, Error> {
        let database = connect::connect(url).await?;
        failure_point::write(Step::First, "before-migrate")?;
        migration::run(&database).await?;
        failure_point::write(Step::First, "after-migrate")?;
        let ledger = Self { database, trusted_time: Arc::default() };
        ledger.read_trusted_time().await?;
        Ok(ledger)
    }

    /// Reads everything.
    pub async fn read(&self) -> Result<Contents, Error> {
        read(&self.database, &[]).await
    }

    /// Notes, durably, that the key of generation `sequence_number` is about to be made. Must be called
    /// before it is.
    pub async fn intend(&self, sequence_number: u64) -> Result<(), Error> {
        intend(&self.database, sequence_number).await
    }

    /// Waits for this ledger's one turn to make an event, and takes it.
    pub async fn turn(&self) -> Result<Turn, Error> {
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        let transaction = self.database.begin_with_options(options).await?;
        // On PostgreSQL this locks the one row until the transaction ends; SQLite has locked the file.
        keeper::Entity::update_many()
            .col_expr(keeper::Column::KeyIntent, Expr::col(keeper::Column::KeyIntent))
            .exec(&transaction)
            .await?;
        Ok(Turn { transaction })
    }

    /// Closes the connections; SQLite then stands in its one file.
    pub async fn close(&self) -> Result<(), Error> {
        Ok(self.database.clone().close().await?)
    }

    /// The id of the newest event.
    pub async fn head(&self) -> Result<Option<Digest>, Error> {
        head(&self.database).await
    }
}

/// The exclusive right to add one event: a transaction that holds the ledger's lock. Dropping it adds
/// nothing.
pub struct Turn {
    transaction: DatabaseTransaction,
}

impl Turn {
    /// Reads everything, as it stands while the turn is held. Rows that are byte for byte the `known` events,
    /// which were verified before, are not verified once more.
    pub async fn read(&self, known: &[&SignedEvent]) -> Result<Contents, Error> {
        read(&self.transaction, known).await
    }

    /// The id of the newest event.
    pub async fn head(&self) -> Result<Option<Digest>, Error> {
        head(&self.transaction).await
    }

    /// Gives the turn up without adding anything.
    pub async fn release(self) -> Result<(), Error> {
        Ok(self.transaction.rollback().await?)
    }

    /// Adds events that were brought from elsewhere and follow the newest one, notes that keys may have been
    /// made up to generation `key_intent`, and is done. All of it or nothing.
    pub async fn import(self, events: &[SignedEvent], key_intent: u64) -> Result<(), Error> {
        for some in events.chunks(IMPORTED_AT_ONCE) {
            let rows = some.iter().map(row).collect::<Result<Vec<_>, _>>()?;
            event::Entity::insert_many(rows).exec_without_returning(&self.transaction).await?;
        }
        intend(&self.transaction, key_intent).await?;
        Ok(self.transaction.commit().await?)
    }

    /// Adds `event` with its signature, and is done. On [`Error::Taken`] nothing was added; on any other
    /// error the event may have been added or not, and only reading the ledger again tells.
    pub async fn commit(self, event: &SignedEvent) -> Result<(), Error> {
        match event::Entity::insert(row(event)?).exec_without_returning(&self.transaction).await {
            Ok(_) => Ok(self.transaction.commit().await?),
            Err(error) if matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) => {
                Err(Error::Taken(event.event().sequence_number))
            }
            Err(error) => Err(error.into()),
        }
    }
}

async fn intend(database: &impl sea_orm::ConnectionTrait, sequence_number: u64) -> Result<(), Error> {
    let wanted = to_row(sequence_number)?;
    keeper::Entity::update_many()
        .col_expr(keeper::Column::KeyIntent, Expr::val(wanted))
        .filter(keeper::Column::KeyIntent.lt(wanted))
        .exec(database)
        .await?;
    Ok(())
}

async fn head(database: &impl sea_orm::ConnectionTrait) -> Result<Option<Digest>, Error> {
    let newest = event::Entity::find().order_by_desc(event::Column::SequenceNumber).one(database).await?;
    newest
        .map(|row| Digest::parse(&row.id).map_err(|refusal| contradiction(&row, refusal.because())))
        .transpose()
}

async fn read(database: &impl sea_orm::ConnectionTrait, known: &[&SignedEvent]) -> Result<Contents, Error> {
    let rows = event::Entity::find().order_by_asc(event::Column::SequenceNumber).all(database).await?;
    let mut events = Vec::with_capacity(rows.len());
    for (place, row) in rows.iter().enumerate() {
        let known = known.get(place).copied().filter(|known| known.text() == row.published);
        events.push(read_row(row, known)?);
    }
    let keeper = keeper::Entity::find().one(database).await?;
    let key_intent = keeper.and_then(|keeper| u64::try_from(keeper.key_intent).ok());
    Ok(Contents { events, key_intent })
}

fn row(event: &SignedEvent) -> Result<event::ActiveModel, Error> {
    let fields = event.event();
    Ok(event::ActiveModel {
        id: Set(fields.id.to_string()),
        prefix: Set(fields.prefix.to_string()),
        sequence_number: Set(to_row(fields.sequence_number)?),
        published: Set(event.text().to_owned()),
    })
}

fn read_row(row: &event::Model, known: Option<&SignedEvent>) -> Result<SignedEvent, Error> {
    let event = match known {
        Some(known) => known.clone(),
        None => {
            SignedEvent::parse(&row.published).map_err(|refusal| contradiction(row, refusal.because()))?
        }
    };
    let fields = event.event();
    let same = fields.id.to_string() == row.id
        && fields.prefix.to_string() == row.prefix
        && i64::try_from(fields.sequence_number) == Ok(row.sequence_number);
    if same { Ok(event) } else { Err(contradiction(row, "the columns are not those of the event")) }
}

fn contradiction(row: &event::Model, because: &str) -> Error {
    Error::Contradiction { sequence_number: row.sequence_number, because: because.to_owned() }
}

fn to_row(sequence_number: u64) -> Result<i64, Error> {
    i64::try_from(sequence_number).map_err(|_| Error::Overflow)
}
