//! Which authd writes the denial feed, and where the feed stands (`PROTOCOL.md#feed-writing`).
//!
//! One row has the newest position and the lease. Whoever takes the lease raises the fencing number; whoever writes
//! the row names it, so that a former holder that wakes up gives no position. A position is given in the transaction
//! that marks the rows that its batch tells.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use keychain::feed::{Entry, Place, Position, Standing};
use keychain::{Timestamp, limits};
use sea_orm::sea_query::{Expr, OnConflict};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, ConnectionTrait, DatabaseTransaction, EntityTrait,
    IntoActiveModel, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect,
};

use super::mac::{MacKeys, PASSED_OVER};
use super::outbox::{NewRow, pass_over, put, readable, rewrite};
use super::tables::{feed, outbox};
use super::{Fault, Store};

/// The name of the one row.
const NAME: &str = "denials";

/// The advisory lock of those who change the row.
pub(super) const FEED_LOCK: i64 = 0x6b65_656c_736f_6e02;

/// How long a lease lasts that is not renewed. Correctness hangs on the fencing number; this only says how long the
/// feed rests after a crash.
pub const LEASE: Duration = Duration::from_secs(5);

/// Rows read at once for a snapshot.
const PAGE: u64 = 10_000;

/// The epoch of a store that has written no feed: earlier than all that somebody published.
const UNOPENED: i64 = 0;

/// Rows of which one statement notes that they are passed over.
const PASSED_OVER_AT_ONCE: usize = 1_000;

/// The right to write the feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    fence: i64,
}

/// The next batch of the feed, marked as told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Its place.
    pub position: Position,
    /// What it says; nothing in one that only shows that the feed goes on.
    pub entries: Vec<Entry>,
    /// Rows that cannot be read. They are not told, and do not hold up the others.
    pub unreadable: Vec<i64>,
}

/// The lease is another authd's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost;

impl Store {
    /// Takes the lease, or renews it; nothing if another authd holds it.
    pub async fn take_lease(&self, holder: &str, now: Timestamp) -> Result<Option<Lease>, Fault> {
        let transaction = self.begin_locked(&[FEED_LOCK]).await?;
        let first = self.macs.with_mac(feed::Model {
            name: NAME.to_owned(),
            epoch: UNOPENED,
            position: 0,
            fence: 0,
            holder: String::new(),
            held_until: 0,
            mac: None,
        });
        let nothing = OnConflict::column(feed::Column::Name).do_nothing().to_owned();
        let first = feed::Entity::insert(first.into_active_model()).on_conflict(nothing);
        first.exec_without_returning(&transaction).await?;
        let row = row(&transaction, &self.macs).await?;
        let is_mine = row.holder == holder;
        if !is_mine && row.held_until > now.unix_millis() {
            transaction.rollback().await?;
            return Ok(None);
        }
        let fence = if is_mine { row.fence } else { row.fence.saturating_add(1) };
        let held_until = now.plus(LEASE).unix_millis();
        let row = feed::Model { fence, holder: holder.to_owned(), held_until, ..row };
        update(&transaction, &self.macs, row).await?;
        if !is_mine {
            try_again(&transaction).await?;
        }
        transaction.commit().await?;
        Ok(Some(Lease { fence }))
    }

    /// Gives the lease back, if it is held.
    pub async fn give_lease_back(&self, lease: Lease) -> Result<(), Fault> {
        let transaction = self.begin_locked(&[FEED_LOCK]).await?;
        let row = row(&transaction, &self.macs).await?;
        if row.fence == lease.fence {
            let row = feed::Model { held_until: 0, holder: String::new(), ..row };
            update(&transaction, &self.macs, row).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// Gives the next position to at most `most` entries that the feed has not told, the newest first: what is
    /// declared now does not wait for a backlog. Nothing if there are none, unless `even_if_empty`.
    pub async fn next_batch(
        &self,
        lease: Lease,
        most: u64,
        even_if_empty: bool,
        now: Timestamp,
    ) -> Result<Result<Option<Batch>, Lost>, Fault> {
        if !even_if_empty && unfed(now).limit(1).one(&self.reader).await?.is_none() {
            return Ok(Ok(None));
        }
        let transaction = self.begin_locked(&[FEED_LOCK]).await?;
        let feed = row(&transaction, &self.macs).await?;
        if feed.fence != lease.fence {
            transaction.rollback().await?;
            return Ok(Err(Lost));
        }
        let rows = unfed(now).limit(most).lock_exclusive().all(&transaction).await?;
        if rows.is_empty() && !even_if_empty {
            transaction.rollback().await?;
            return Ok(Ok(None));
        }
        let (rows, unreadable) = readable(&self.macs, rows)?;
        let places: BTreeSet<Place> = rows.iter().map(|(_, place)| *place).collect();
        let entries = standings(&transaction, &self.macs, &Vec::from_iter(places), now).await?;
        let told = rows.into_iter().map(|(row, _)| row).collect();
        rewrite(&transaction, &self.macs, told, outbox::Column::FedAt, now.unix_millis()).await?;
        pass_over(&transaction, &unreadable, outbox::Column::FedAt).await?;
        let feed = feed::Model { position: feed.position.saturating_add(1), ..feed };
        let position = position(&feed)?;
        update(&transaction, &self.macs, feed).await?;
        transaction.commit().await?;
        Ok(Ok(Some(Batch { position, entries, unreadable })))
    }

    /// Opens an epoch later than every known one and than `after`; false if the lease is lost.
    pub async fn open_epoch(
        &self,
        lease: Lease,
        after: Option<Position>,
        now: Timestamp,
    ) -> Result<bool, Fault> {
        let transaction = self.begin_locked(&[FEED_LOCK]).await?;
        let row = row(&transaction, &self.macs).await?;
        let is_held = row.fence == lease.fence;
        if is_held {
            update(&transaction, &self.macs, in_new_epoch(row, after, now)).await?;
        }
        transaction.commit().await?;
        Ok(is_held)
    }

    /// Takes over denials that were published and that no row says: this store was restored from before they were
    /// decided, or reset. They are held until an operator lifts them.
    pub async fn adopt(&self, published: &[Entry], now: Timestamp) -> Result<usize, Fault> {
        let transaction = self.begin_locked(&[FEED_LOCK]).await?;
        let mut adopted = 0;
        for page in published.chunks(limits::FEED_ENTRIES_MAX) {
            let places: Vec<Place> = page.iter().map(|entry| entry.place).collect();
            let known = standings(&transaction, &self.macs, &places, now).await?;
            let mut held = Vec::new();
            for (entry, known) in page.iter().zip(known) {
                let new = match entry.standing {
                    Standing::Denied(until) => NewRow::denial(entry.place, until),
                    Standing::Ended { issued_up_to, until } => {
                        NewRow::ended(entry.place, issued_up_to, until)
                    }
                    Standing::Lifted => continue,
                };
                if !is_said(entry.standing, known.standing, now) {
                    held.push(new.held(now));
                }
            }
            adopted += held.len();
            put(&transaction, &self.macs, held).await?;
        }
        transaction.commit().await?;
        Ok(adopted)
    }

    /// Where the feed stands.
    pub async fn feed_position(&self) -> Result<Position, Fault> {
        position(&row(&self.reader, &self.macs).await?)
    }

    /// All that the feed has told up to its newest position, and what still holds of it: a snapshot. One moment's
    /// commits, so that the two belong together. Rows that cannot be read are passed over, and counted from then on.
    pub async fn feed_state(&self, now: Timestamp) -> Result<(Position, Vec<Entry>), Fault> {
        let snapshot = self.begin_read().await?;
        let position = position(&row(&snapshot, &self.macs).await?)?;
        let (mut longest, mut unreadable) = (BTreeMap::new(), Vec::new());
        let mut after = 0;
        loop {
            let rows = outbox::Entity::find()
                .filter(outbox::Column::Id.gt(after))
                .filter(outbox::Column::FedAt.gt(PASSED_OVER))
                .filter(denies(now))
                .order_by_asc(outbox::Column::Id)
                .limit(PAGE)
                .all(&snapshot)
                .await?;
            let Some(last) = rows.last() else { break };
            after = last.id;
            let (rows, bad) = readable(&self.macs, rows)?;
            join(&mut longest, &rows);
            unreadable.extend(bad);
        }
        snapshot.rollback().await?;
        for ids in unreadable.chunks(PASSED_OVER_AT_ONCE) {
            pass_over(&self.writer, ids, outbox::Column::FedAt).await?;
        }
        let entry = |(place, standing)| Entry { place, standing };
        Ok((position, longest.into_iter().map(entry).collect()))
    }

    /// How many rows the feed passed over because they cannot be read.
    pub async fn count_unreadable(&self) -> Result<u64, Fault> {
        let unreadable = outbox::Entity::find().filter(outbox::Column::FedAt.eq(PASSED_OVER));
        Ok(unreadable.count(&self.reader).await?)
    }
}

/// Opens an epoch later than every known one and than `after`.
pub(super) async fn begin_epoch(
    on: &DatabaseTransaction,
    macs: &MacKeys,
    after: Option<Position>,
    now: Timestamp,
) -> Result<(), Fault> {
    let row = row(on, macs).await?;
    update(on, macs, in_new_epoch(row, after, now)).await
}

fn in_new_epoch(row: feed::Model, after: Option<Position>, now: Timestamp) -> feed::Model {
    let shown = after.map_or(0, |after| i64::try_from(after.epoch).unwrap_or(i64::MAX));
    let after = Ord::max(row.epoch, shown).saturating_add(1);
    feed::Model { epoch: Ord::max(after, now.unix_millis()), position: 0, ..row }
}

/// Rows that the feed has not told, the newest first.
fn unfed(now: Timestamp) -> sea_orm::Select<outbox::Entity> {
    outbox::Entity::find()
        .filter(outbox::Column::FedAt.is_null())
        .filter(super::outbox::effective(now))
        .order_by_desc(outbox::Column::Id)
}

/// Rows that the feed has not told, those included that it passed over because they cannot be read.
pub(super) fn not_fed() -> Condition {
    Condition::any().add(outbox::Column::FedAt.is_null()).add(outbox::Column::FedAt.eq(PASSED_OVER))
}

/// Rows that can be read, as far as it was tried.
pub(super) fn is_readable() -> Condition {
    Condition::any().add(outbox::Column::FedAt.is_null()).add(outbox::Column::FedAt.gt(PASSED_OVER))
}

/// What holds now for each place: the longest of its denials, or that there is none.
async fn standings(
    on: &DatabaseTransaction,
    macs: &MacKeys,
    places: &[Place],
    now: Timestamp,
) -> Result<Vec<Entry>, Fault> {
    let subjects = places.iter().map(|place| place.subject.to_string());
    let rows = outbox::Entity::find()
        .filter(outbox::Column::Subject.is_in(subjects))
        .filter(denies(now))
        .all(on)
        .await?;
    // One that cannot be read is counted when it is to be told.
    let (rows, _) = readable(macs, rows)?;
    let mut longest = BTreeMap::new();
    join(&mut longest, &rows);
    let standing = |place| longest.get(place).copied().unwrap_or(Standing::Lifted);
    Ok(places.iter().map(|place| Entry { place: *place, standing: standing(place) }).collect())
}

/// Adds denials to the longest ones known of their places.
fn join(longest: &mut BTreeMap<Place, Standing>, rows: &[(outbox::Model, Place)]) {
    for (row, place) in rows {
        let time = |column: Option<i64>| column.map(Timestamp::from_unix_millis);
        let until = time(row.expires_at);
        let new = match time(row.issued_up_to).zip(until) {
            Some((issued_up_to, until)) => Standing::Ended { issued_up_to, until },
            None => Standing::Denied(until),
        };
        longest.entry(*place).and_modify(|known| *known = longer(*known, new)).or_insert(new);
    }
}

/// What two denials of one place come to.
fn longer(one: Standing, other: Standing) -> Standing {
    match (one, other) {
        (Standing::Denied(one), Standing::Denied(other)) => {
            Standing::Denied(one.zip(other).map(|(one, other)| one.max(other)))
        }
        (
            Standing::Ended { issued_up_to, until },
            Standing::Ended { issued_up_to: other_issue, until: other },
        ) => Standing::Ended { issued_up_to: issued_up_to.max(other_issue), until: until.max(other) },
        // All tokens are more than some.
        (Standing::Denied(until), _) | (_, Standing::Denied(until)) => Standing::Denied(until),
        (Standing::Lifted, standing) | (standing, Standing::Lifted) => standing,
    }
}

/// Whether what was published is nothing more than what rows say.
fn is_said(published: Standing, known: Standing, now: Timestamp) -> bool {
    let end = match published {
        Standing::Denied(until) => until,
        Standing::Ended { until, .. } => Some(until),
        Standing::Lifted => return true,
    };
    end.is_some_and(|end| end <= now) || longer(known, published) == known
}

/// Has rows looked at again that were passed over: they may have been put back meanwhile, or their MAC key may
/// be known now.
async fn try_again(on: &DatabaseTransaction) -> Result<(), Fault> {
    outbox::Entity::update_many()
        .col_expr(outbox::Column::FedAt, Expr::value(Option::<i64>::None))
        .filter(outbox::Column::FedAt.eq(PASSED_OVER))
        .exec(on)
        .await?;
    Ok(())
}

/// Denials that hold.
fn denies(now: Timestamp) -> Condition {
    Condition::all().add(outbox::Column::Lifted.eq(false)).add(super::outbox::effective(now))
}

async fn row(on: &impl ConnectionTrait, macs: &MacKeys) -> Result<feed::Model, Fault> {
    let row = feed::Entity::find_by_id(NAME).one(on).await?;
    let row = row.ok_or(Fault::Corrupt { table: "feeds", id: NAME.to_owned(), because: "it is missing" })?;
    macs.verify(&row)?;
    Ok(row)
}

/// Writes the row. The caller has held [`FEED_LOCK`] since before it read it.
async fn update(on: &DatabaseTransaction, macs: &MacKeys, row: feed::Model) -> Result<(), Fault> {
    let row = macs.with_mac(row).into_active_model().reset_all();
    feed::Entity::update(row).exec_without_returning(on).await?;
    Ok(())
}

fn position(row: &feed::Model) -> Result<Position, Fault> {
    let number = |number: i64| u64::try_from(number).ok();
    let position = number(row.epoch).zip(number(row.position));
    let position = position.map(|(epoch, number)| Position { epoch, number });
    position.ok_or(Fault::Corrupt { table: "feeds", id: NAME.to_owned(), because: "negative position" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_millis(seconds * 1_000)
    }

    fn denied(until: i64) -> Standing {
        Standing::Denied(Some(at(until)))
    }

    fn ended(issued_up_to: i64, until: i64) -> Standing {
        Standing::Ended { issued_up_to: at(issued_up_to), until: at(until) }
    }

    #[test]
    fn of_two_denials_of_a_place_the_longer_counts_and_the_later_end_of_sessions() {
        let forever = Standing::Denied(None);
        for (one, other, expected) in [
            (denied(10), denied(20), denied(20)),
            (denied(10), forever, forever),
            (ended(1, 20), ended(2, 10), ended(2, 20)),
            (ended(1, 10), ended(1, 10), ended(1, 10)),
            (ended(1, 20), denied(10), denied(10)),
            (Standing::Lifted, ended(1, 10), ended(1, 10)),
            (Standing::Lifted, Standing::Lifted, Standing::Lifted),
        ] {
            assert_eq!((longer(one, other), longer(other, one)), (expected, expected), "{one:?} {other:?}");
        }
    }

    /// What a restored store is to take over at second 5.
    #[test]
    fn what_was_published_is_held_unless_the_store_says_as_much_or_it_is_over() {
        let forever = Standing::Denied(None);
        for (published, known, expected) in [
            (denied(10), Standing::Lifted, false),
            (denied(5), Standing::Lifted, true),
            (denied(10), denied(10), true),
            (denied(11), denied(10), false),
            (forever, denied(10), false),
            (denied(10), forever, true),
            (ended(1, 10), Standing::Lifted, false),
            (ended(1, 5), Standing::Lifted, true),
            (ended(1, 10), ended(1, 10), true),
            (ended(1, 10), ended(2, 11), true),
            (ended(2, 10), ended(1, 10), false),
            (ended(2, 10), ended(3, 9), false),
            (Standing::Lifted, Standing::Lifted, true),
        ] {
            assert_eq!(is_said(published, known, at(5)), expected, "{published:?} {known:?}");
        }
    }
}
