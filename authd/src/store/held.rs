//! Denials that are in force and that no record of this store says: it was restored or reset since they were declared.
//! They are held until an operator says that they may go (`PROTOCOL.md#feed-writing`).

use keychain::feed::{Place, Position};
use keychain::{Digest, Timestamp};
use sea_orm::{ColumnTrait, Condition, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect};

use super::audit::{self, Lines};
use super::feed::{FEED_LOCK, begin_epoch, is_readable};
use super::outbox::{NewRow, put, readable};
use super::tables::outbox;
use super::{Fault, Store};

/// Rows read at once.
const PAGE: u64 = 500;

/// A denial that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its row, which orders them.
    pub id: i64,
    /// Whom it denies, for whom, and why.
    pub place: Place,
    /// When it ends by itself.
    pub until: Option<Timestamp>,
    /// Since when it is held.
    pub since: Timestamp,
}

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Which {
    /// Those of this account; of all, if none is named.
    pub account: Option<Digest>,
    /// Those whose row is not later than this one: the ones that somebody has seen.
    pub up_to: i64,
}

impl Store {
    /// The held denials after the row `after`, in order, and how many there are in all; at most 500.
    pub async fn held(
        &self,
        account: Option<Digest>,
        after: i64,
        now: Timestamp,
    ) -> Result<(Vec<Held>, u64), Fault> {
        let all = outbox::Entity::find().filter(is_held(Which { account, up_to: i64::MAX }, now));
        let count = all.clone().count(&self.reader).await?;
        let page = all
            .filter(outbox::Column::Id.gt(after))
            .order_by_asc(outbox::Column::Id)
            .limit(PAGE)
            .all(&self.reader)
            .await?;
        let (page, _) = readable(&self.macs, page)?;
        let held = |(row, place): &(outbox::Model, Place)| Held {
            id: row.id,
            place: *place,
            until: row.expires_at.map(Timestamp::from_unix_millis),
            since: Timestamp::from_unix_millis(row.held_at.unwrap_or_default()),
        };
        Ok((page.iter().map(held).collect(), count))
    }

    /// How many denials are held.
    pub async fn count_held(&self, now: Timestamp) -> Result<u64, Fault> {
        let all = outbox::Entity::find().filter(is_held(Which { account: None, up_to: i64::MAX }, now));
        Ok(all.count(&self.reader).await?)
    }

    /// Lifts held denials, in one transaction with the lines that `lines` makes of their number. What a record says
    /// besides goes on denying.
    pub async fn lift_held(
        &self,
        which: Which,
        lines: impl Fn(usize) -> Lines,
        now: Timestamp,
    ) -> Result<usize, Fault> {
        let transaction = self.begin_locked(&[FEED_LOCK]).await?;
        let (mut lifted, mut after) = (0, 0);
        loop {
            let rows = outbox::Entity::find()
                .filter(is_held(which, now))
                .filter(outbox::Column::Id.gt(after))
                .order_by_asc(outbox::Column::Id)
                .limit(PAGE)
                .all(&transaction)
                .await?;
            let Some(last) = rows.last() else { break };
            after = last.id;
            let (rows, _) = readable(&self.macs, rows)?;
            let ids = rows.iter().map(|(row, _)| row.id);
            outbox::Entity::delete_many().filter(outbox::Column::Id.is_in(ids)).exec(&transaction).await?;
            let lifts = rows.iter().map(|(_, place)| NewRow::lift(*place, now)).collect();
            put(&transaction, &self.macs, lifts).await?;
            lifted += rows.len();
        }
        audit::append(&transaction, &self.macs, &lines(lifted), now).await?;
        transaction.commit().await?;
        Ok(lifted)
    }

    /// Opens an epoch later than every known one and than `after`, by an operator's word, and answers where the feed
    /// stands. Whoever has the lease begins it with a snapshot of this store.
    pub async fn reopen(
        &self,
        after: Option<Position>,
        lines: &Lines,
        now: Timestamp,
    ) -> Result<Position, Fault> {
        let transaction = self.begin_locked(&[FEED_LOCK]).await?;
        begin_epoch(&transaction, &self.macs, after, now).await?;
        audit::append(&transaction, &self.macs, lines, now).await?;
        transaction.commit().await?;
        self.feed_position().await
    }

    /// The newest row of all that is to be told.
    pub async fn newest_row(&self) -> Result<i64, Fault> {
        let newest = outbox::Entity::find().order_by_desc(outbox::Column::Id).one(&self.reader).await?;
        Ok(newest.map_or(0, |row| row.id))
    }

    /// How far the feed goes that has told every row up to `row`; nothing while one of them waits.
    pub async fn fed_through(&self, row: i64, now: Timestamp) -> Result<Option<Position>, Fault> {
        let waiting = outbox::Entity::find()
            .filter(outbox::Column::FedAt.is_null())
            .filter(outbox::Column::Id.lte(row))
            .filter(super::outbox::effective(now));
        if waiting.count(&self.reader).await? > 0 {
            return Ok(None);
        }
        self.feed_position().await.map(Some)
    }
}

/// Denials that are held and have not ended.
fn is_held(Which { account, up_to }: Which, now: Timestamp) -> Condition {
    let held = Condition::all()
        .add(outbox::Column::HeldAt.is_not_null())
        .add(outbox::Column::Lifted.eq(false))
        .add(outbox::Column::Id.lte(up_to))
        .add(is_readable())
        .add(super::outbox::effective(now));
    match account {
        Some(account) => held.add(outbox::Column::Account.eq(account.to_string())),
        None => held,
    }
}
