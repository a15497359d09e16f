//! MACs for rows that have none yet, or one by a key that is to go: table by table, a page in a transaction.
//!
//! Both can be killed and begun again: a row that has what it is to have is passed over. A row whose MAC does not hold
//! gets none; it is told and stays as it is.

use std::collections::BTreeMap;

use sea_orm::sea_query::{CaseStatement, Value};
use sea_orm::{
    ColumnTrait, DatabaseTransaction, EntityTrait, Iterable, ModelTrait, PrimaryKeyToColumn, QueryFilter,
    QueryOrder, QuerySelect,
};

use super::check::Finding;
use super::feed::FEED_LOCK;
use super::mac::{Flaw, MacKeys, Row, name_of, table_of};
use super::mark::{self, Taken};
use super::tables::{
    account, audit, ban, challenge, device, endorsement, feed, name, outbox, refresh, role, secret,
    session_end, signer,
};
use super::{Fault, Store};

/// Rows that get MACs in one transaction.
const PAGE: u64 = 500;

/// Which rows get a MAC by the current key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanting {
    /// Those that have none; after the key was lost, those also whose MAC nobody can judge.
    Mac { key_was_lost: bool },
    /// Those whose MAC is by the other key.
    CurrentKey,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// How many rows of each table have got a MAC.
    pub rows: BTreeMap<&'static str, u64>,
    /// Rows whose MAC does not hold.
    pub findings: Vec<Finding>,
}

impl Store {
    /// Opens a database whose rows are to be taken in: those of before rows had MACs, or of which the key was lost.
    pub async fn open_to_take_in(url: &str, macs: MacKeys, key_was_lost: bool) -> Result<Self, Fault> {
        let store = Self::open_unmarked(Self::existing(url)?, macs).await?;
        let taken = match mark::read(&store.reader, &store.macs).await {
            Err(Fault::Location(_)) if key_was_lost => None,
            taken => taken?,
        };
        match taken {
            Some(Taken::Begun) => return Ok(store),
            Some(Taken::Whole) => {
                let because = "its rows are taken in: nothing is to be done; a row without a MAC is one that no authd \
                               wrote, and `authd check` names it";
                return Err(Fault::Location(because.to_owned()));
            }
            None if !key_was_lost && store.has_macs().await? => {
                let because = "some of its rows have MACs, so it was taken in before, and the mark that says so was \
                               removed: restore a backup";
                return Err(Fault::Location(because.to_owned()));
            }
            None => mark::write(&store.writer, &store.macs, Taken::Begun).await?,
        }
        Ok(store)
    }

    /// Gives every row a MAC that has none. Nothing is believed by it before [`Self::end_taking_in`].
    pub async fn take_in(&self, key_was_lost: bool) -> Result<Given, Fault> {
        self.give_all(Wanting::Mac { key_was_lost }).await
    }

    /// Notes that every row has a MAC, and is as it should be.
    pub async fn end_taking_in(&self) -> Result<(), Fault> {
        mark::write(&self.writer, &self.macs, Taken::Whole).await
    }

    /// Gives every row a MAC by the current key in place of one by the other. Authd may serve meanwhile.
    pub async fn renew_macs(&self) -> Result<Given, Fault> {
        let mut all = Given::default();
        loop {
            let given = self.give_all(Wanting::CurrentKey).await?;
            let is_done = given.rows.values().all(|count| *count == 0) || !given.findings.is_empty();
            for (table, count) in given.rows {
                *all.rows.entry(table).or_default() += count;
            }
            all.findings = given.findings;
            if is_done {
                break;
            }
        }
        if all.findings.is_empty() {
            // The last: while it is by the other key, that key cannot be left out of the credential.
            mark::write(&self.writer, &self.macs, Taken::Whole).await?;
        }
        Ok(all)
    }

    async fn give_all(&self, wanting: Wanting) -> Result<Given, Fault> {
        let mut given = Given::default();
        self.give::<account::Entity>(wanting, &mut given).await?;
        self.give::<device::Entity>(wanting, &mut given).await?;
        self.give::<ban::Entity>(wanting, &mut given).await?;
        self.give::<role::Entity>(wanting, &mut given).await?;
        self.give::<audit::Entity>(wanting, &mut given).await?;
        self.give::<signer::Entity>(wanting, &mut given).await?;
        self.give::<endorsement::Entity>(wanting, &mut given).await?;
        self.give::<refresh::Entity>(wanting, &mut given).await?;
        self.give::<challenge::Entity>(wanting, &mut given).await?;
        self.give::<secret::Entity>(wanting, &mut given).await?;
        self.give::<outbox::Entity>(wanting, &mut given).await?;
        self.give::<feed::Entity>(wanting, &mut given).await?;
        self.give::<name::Entity>(wanting, &mut given).await?;
        self.give::<session_end::Entity>(wanting, &mut given).await?;
        Ok(given)
    }

    async fn give<E>(&self, wanting: Wanting, given: &mut Given) -> Result<(), Fault>
    where
        E: EntityTrait,
        E::Model: Row,
    {
        let Some(key) = E::PrimaryKey::iter().map(PrimaryKeyToColumn::into_column).next() else {
            return Ok(());
        };
        let table = table_of::<E::Model>();
        let mut after: Option<Value> = None;
        loop {
            // The lock of the rows that are changed in their place.
            let transaction = self.begin_locked(&[FEED_LOCK]).await?;
            let mut rows = E::find();
            if let Some(after) = after {
                rows = rows.filter(key.gt(after));
            }
            let rows = rows.order_by_asc(key).limit(PAGE).lock_exclusive().all(&transaction).await?;
            let Some(last) = rows.last() else { return Ok(transaction.rollback().await?) };
            after = Some(last.get(key));
            let mut wanted = Vec::new();
            for row in rows {
                match self.is_wanting(&row, wanting) {
                    Ok(true) => wanted.push(row),
                    Ok(false) => {}
                    Err(flaw) => {
                        let because = flaw.because().to_owned();
                        given.findings.push(Finding { table, id: name_of(&row), because });
                    }
                }
            }
            *given.rows.entry(table).or_default() += u64::try_from(wanted.len()).unwrap_or_default();
            self.write_macs::<E>(&transaction, key, wanted).await?;
            transaction.commit().await?;
        }
    }

    fn is_wanting<R: Row>(&self, row: &R, wanting: Wanting) -> Result<bool, Flaw> {
        match (self.macs.judge(row), wanting) {
            (Ok(()), Wanting::CurrentKey) => Ok(!self.macs.is_current(row)),
            (Ok(()), Wanting::Mac { .. }) => Ok(false),
            (Err(Flaw::Absent), Wanting::Mac { .. })
            | (Err(Flaw::UnknownKey), Wanting::Mac { key_was_lost: true }) => Ok(true),
            (Err(flaw), _) => Err(flaw),
        }
    }

    async fn write_macs<E>(
        &self,
        on: &DatabaseTransaction,
        key: E::Column,
        rows: Vec<E::Model>,
    ) -> Result<(), Fault>
    where
        E: EntityTrait,
        E::Model: Row,
    {
        let Some(column) = E::Column::iter().find(|column| sea_orm::IdenStatic::as_str(column) == "mac")
        else {
            return Ok(());
        };
        if rows.is_empty() {
            return Ok(());
        }
        let (mut macs, mut keys) = (CaseStatement::new(), Vec::with_capacity(rows.len()));
        for row in rows {
            let row = self.macs.with_mac(row);
            let name: Value = row.get(key);
            macs = macs.case(key.eq(name.clone()), row.mac().map(str::to_owned));
            keys.push(name);
        }
        E::update_many().col_expr(column, macs.into()).filter(key.is_in(keys)).exec(on).await?;
        Ok(())
    }

    /// Whether any record or line of the trail has a MAC.
    async fn has_macs(&self) -> Result<bool, Fault> {
        macro_rules! any {
            ($($table:ident),*) => {
                $($table::Entity::find().filter($table::Column::Mac.is_not_null()).one(&self.reader).await?.is_some())||*
            };
        }
        Ok(any!(account, device, ban, role, audit, signer, refresh, secret, outbox, feed))
    }
}
