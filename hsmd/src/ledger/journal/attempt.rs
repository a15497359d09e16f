//! One write: a transaction, and what is learnt when its outcome is not known.

use keychain::{
    Timestamp,
    audit::{Head, Kind, Record},
};
use sea_orm::{
    DatabaseConnection, DatabaseTransaction, SqliteTransactionMode, TransactionOptions, TransactionTrait as _,
};

use super::{ATTEMPTS, Journal};
use crate::{
    failure_point::{self, Step},
    ledger::{
        CALL_MAX, Condition, Error,
        change::{Change, Effect, Lines},
        cluster, events, lease,
        lines::{self, Line},
        room,
        state::{self, Held},
    },
};

/// A write that was tried, as far as it came.
struct Written {
    effect: Effect,
    held: Held,
    /// Where its lines are, and of which kinds they are.
    heads: Vec<Head>,
    kinds: Vec<Kind>,
}

/// Why a write was not done, or may not have been.
enum Failed {
    /// It was not, and the database works.
    Refused(Error),
    /// Another has the lease.
    Fenced,
    /// The files are not those that are open.
    Exchanged(String),
    /// It may have been.
    Unknown(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        match error {
            Error::Database(_) | Error::Unreadable { .. } | Error::Unwritten(_) => Self::Unknown(error),
            refused => Self::Refused(refused),
        }
    }
}

impl From<sea_orm::DbErr> for Failed {
    fn from(error: sea_orm::DbErr) -> Self {
        Self::Unknown(error.into())
    }
}

impl From<failure_point::Failed> for Failed {
    fn from(failed: failure_point::Failed) -> Self {
        Self::Unknown(failed.into())
    }
}

impl Journal {
    /// Writes a change and its lines; answers its effect and where the lines are. Once it errs with anything but
    /// [`Error::Unknown`] it is certain that nothing was written.
    pub(super) async fn carry_out(
        &mut self,
        change: &Change,
        lines: &Lines,
    ) -> Result<(Effect, Vec<Head>), Error> {
        let mut failure = Error::Closed;
        for _ in 0..ATTEMPTS {
            let Some(held) = self.held.clone().filter(|_| self.lease.fence().is_some()) else {
                return Err(self.unwritten());
            };
            let at = self.settings.clock.now();
            if matches!(change, Change::Reserve) {
                self.keep_next_mark(&held).await;
            }
            let mut written = None;
            match self.attempt(change, (lines, at), &held, &mut written).await {
                Ok(()) => {}
                Err(Failed::Refused(error)) => return Err(error),
                Err(Failed::Fenced) => {
                    self.lose_lease();
                    return Err(self.unwritten());
                }
                Err(Failed::Exchanged(path)) => {
                    self.stop_writing(Condition::Exchanged { path });
                    // What was committed into a file that is gone may come back with it.
                    return Err(if written.is_some() { Error::Unknown } else { self.unwritten() });
                }
                Err(Failed::Unknown(error)) => {
                    self.note_failure(&error);
                    // What did not come to its commit was not written, whatever its lines are.
                    let last = written.as_ref().and_then(|written| written.heads.last().copied());
                    match self.learn(change, last).await {
                        Ok(true) => {}
                        Ok(false) => {
                            failure = error;
                            continue;
                        }
                        Err(_) => return Err(Error::Unknown),
                    }
                }
            }
            // An effect that was lost with its answer is that of the same change done again.
            let Some(written) = written else { continue };
            let Written { effect, held, heads, kinds } = written;
            self.note_written(change, &kinds, held).await;
            return Ok((effect, heads));
        }
        Err(failure)
    }

    async fn attempt(
        &self,
        change: &Change,
        dated: (&Lines, Timestamp),
        held: &Held,
        written: &mut Option<Written>,
    ) -> Result<(), Failed> {
        let (Some(database), Some(fence)) = (&self.database, self.lease.fence()) else {
            return Err(Failed::Fenced);
        };
        self.demand_own_files()?;
        let transaction = self.transact((database, fence), change, dated, held, written);
        match tokio::time::timeout(CALL_MAX, transaction).await {
            Ok(done) => done?,
            Err(_) => return Err(Failed::Unknown(Error::Unwritten(Condition::Frozen))),
        }
        // What was committed into a file that is gone is not in the ledger.
        self.demand_own_files()
    }

    async fn transact(
        &self,
        (database, fence): (&DatabaseConnection, i64),
        change: &Change,
        (lines, at): (&Lines, Timestamp),
        held: &Held,
        written: &mut Option<Written>,
    ) -> Result<(), Failed> {
        failure_point::write(Step::Ledger, "before-begin")?;
        let transaction = begin(database).await?;
        failure_point::write(Step::Ledger, "after-begin")?;
        if !lease::is_held(&transaction, fence).await?
            || !cluster::is_same(&transaction, self.cluster.as_ref()).await?
        {
            return Err(Failed::Fenced);
        }
        if self.room.shortage().is_some() {
            room::free_ballast(&transaction).await?;
        }
        failure_point::write(Step::Ledger, "before-change")?;
        let effect = change.apply(&transaction, held).await?;
        failure_point::write(Step::Ledger, "after-change")?;
        let records = lines.of(&effect);
        let kinds = records.iter().map(Record::kind).collect();
        let (lines, last) = lines::chain(records, held.audit_head, at);
        let heads = lines.iter().map(Line::head).collect();
        lines::insert(&transaction, lines).await?;
        failure_point::write(Step::Ledger, "after-lines")?;
        // Only endorsements are so many that reading anew what they cannot have changed would cost too much.
        let held = match change {
            Change::Lines => Held { audit_head: last, ..held.clone() },
            _ => state::held(&transaction).await?,
        };
        *written = Some(Written { effect, held, heads, kinds });
        failure_point::write(Step::Ledger, "before-commit")?;
        transaction.commit().await?;
        failure_point::write(Step::Ledger, "after-commit")?;
        Ok(())
    }

    fn demand_own_files(&self) -> Result<(), Failed> {
        let exchanged = self.files.as_ref().and_then(super::OpenFiles::exchanged);
        exchanged.map_or(Ok(()), |path| Err(Failed::Exchanged(path)))
    }

    /// After a write of unknown outcome: drops the connection and asks the database, through another one and behind
    /// the lock of the first. True if it was written.
    async fn learn(&mut self, change: &Change, last: Option<Head>) -> Result<bool, Error> {
        self.database = None;
        let asked = tokio::time::timeout(CALL_MAX, self.ask_again(change, last)).await;
        let asked = asked.unwrap_or(Err(Error::Unwritten(Condition::Frozen)));
        if let Err(error) = &asked {
            self.database = None;
            self.stop_writing(condition_of(error));
        }
        asked
    }

    async fn ask_again(&mut self, change: &Change, last: Option<Head>) -> Result<bool, Error> {
        let database = self.connect().await?;
        let fence = self.lease.fence().ok_or_else(|| self.unwritten())?;
        let transaction = begin(&database).await?;
        if !lease::is_held(&transaction, fence).await?
            || !cluster::is_same(&transaction, self.cluster.as_ref()).await?
        {
            self.lose_lease();
            return Err(self.unwritten());
        }
        let written = match (change, last) {
            (_, Some(last)) => lines::has(&transaction, &last).await?,
            (Change::Event { .. } | Change::Import { .. }, None) => {
                let newest = change.events().last().map(|event| event.event().id);
                newest.is_some() && events::newest_id(&transaction).await? == newest
            }
            // Doing these again does no harm.
            (_, None) => false,
        };
        let held = state::held(&transaction).await?;
        transaction.rollback().await?;
        self.held = Some(held);
        self.database = Some(database);
        Ok(written)
    }
}

/// What an error says about the ledger.
pub(super) fn condition_of(error: &Error) -> Condition {
    match error {
        Error::Unwritten(condition) => condition.clone(),
        error => {
            let text = crate::ledger::error::with_causes(error);
            // SQLite's word for a lock that another connection does not give up, and the pool's for a server that
            // does not answer.
            let frozen = ["database is locked", "timed out"].iter().any(|word| text.contains(word));
            if frozen { Condition::Frozen } else { Condition::Failing(text) }
        }
    }
}

/// Begins a transaction that writes: on SQLite it takes the lock of the database at once.
pub(super) async fn begin(database: &DatabaseConnection) -> Result<DatabaseTransaction, Error> {
    let options = TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    };
    Ok(database.begin_with_options(options).await?)
}
