//! Which authd writes the denial feed, and where the feed stands (`PROTOCOL.md#feed-writing`).
//!
//! One row has the newest position and the lease. Whoever takes the lease raises the fencing number; whoever writes
//! the row names it, so that a former holder that wakes up gives no position. A position is given in the transaction
//! that marks the rows that its batch tells.

use std::collections::BTreeMap;
use std::time::Duration;

use keychain::feed::{Cause, Entry, Place, Position, Standing};
use keychain::{Timestamp, limits};
use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::{Expr, ExprTrait, OnConflict};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DatabaseTransaction, EntityTrait, PaginatorTrait, QueryFilter,
    QueryOrder, QuerySelect,
};

use super::tables::{feed, outbox};
use super::{Fault, Store, rows};

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

/// What `fed_at` says of a row that cannot be read: it was passed over, and is counted.
const UNREADABLE: i64 = 0;

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
        let first = feed::ActiveModel {
            name: Set(NAME.to_owned()),
            epoch: Set(UNOPENED),
            position: Set(0),
            fence: Set(0),
            holder: Set(String::new()),
            held_until: Set(0),
        };
        let nothing = OnConflict::column(feed::Column::Name).do_nothing().to_owned();
        feed::Entity::insert(first).on_conflict(nothing).exec_without_returning(&transaction).await?;
        let row = row(&transaction).await?;
        let is_mine = row.holder == holder;
        if !is_mine && row.held_until > now.unix_millis() {
            transaction.rollback().await?;
            return Ok(None);
        }
        let fence = if is_mine { row.fence } else { row.fence.saturating_add(1) };
        feed::Entity::update_many()
            .col_expr(feed::Column::Fence, Expr::value(fence))
            .col_expr(feed::Column::Holder, Expr::value(holder))
            .col_expr(feed::Column::HeldUntil, Expr::value(now.plus(LEASE).unix_millis()))
            .filter(feed::Column::Name.eq(NAME))
            .exec(&transaction)
            .await?;
        transaction.commit().await?;
        Ok(Some(Lease { fence }))
    }

    /// Gives the lease back, if it is held.
    pub async fn give_lease_back(&self, lease: Lease) -> Result<(), Fault> {
        feed::Entity::update_many()
            .col_expr(feed::Column::HeldUntil, Expr::value(0))
            .col_expr(feed::Column::Holder, Expr::value(""))
            .filter(feed::Column::Name.eq(NAME))
            .filter(feed::Column::Fence.eq(lease.fence))
            .exec(&self.writer)
            .await?;
        Ok(())
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
        let moved = feed::Entity::update_many()
            .col_expr(feed::Column::Position, Expr::col(feed::Column::Position).add(1))
            .filter(feed::Column::Name.eq(NAME))
            .filter(feed::Column::Fence.eq(lease.fence))
            .exec(&transaction)
            .await?;
        if moved.rows_affected != 1 {
            transaction.rollback().await?;
            return Ok(Err(Lost));
        }
        let rows = unfed(now).limit(most).all(&transaction).await?;
        if rows.is_empty() && !even_if_empty {
            transaction.rollback().await?;
            return Ok(Ok(None));
        }
        let (places, unreadable) = places_of(&rows);
        let entries = standings(&transaction, &places, now).await?;
        let told = rows.iter().map(|row| row.id).filter(|id| !unreadable.contains(id)).collect();
        mark(&transaction, told, now.unix_millis()).await?;
        mark(&transaction, unreadable.clone(), UNREADABLE).await?;
        let position = position(&row(&transaction).await?)?;
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
        let held = Condition::all().add(feed::Column::Fence.eq(lease.fence));
        let opened = begin_epoch(&transaction, after, held, now).await?;
        transaction.commit().await?;
        Ok(opened)
    }

    /// Takes over denials that were published and that no row says: this store was restored from before they were
    /// decided, or reset. They are held until an operator lifts them.
    pub async fn adopt(&self, published: &[Entry], now: Timestamp) -> Result<usize, Fault> {
        let transaction = self.begin_locked(&[FEED_LOCK]).await?;
        let mut adopted = 0;
        for page in published.chunks(limits::FEED_ENTRIES_MAX) {
            let places: Vec<Place> = page.iter().map(|entry| entry.place).collect();
            let known = standings(&transaction, &places, now).await?;
            for (entry, known) in page.iter().zip(known) {
                let Standing::Denied(until) = entry.standing else { continue };
                let is_said = match known.standing {
                    Standing::Denied(None) => true,
                    Standing::Denied(Some(known)) => until.is_some_and(|until| until <= known),
                    Standing::Lifted => until.is_some_and(|until| until <= now),
                };
                if !is_said {
                    let held = super::outbox::held(entry.place, until, now);
                    outbox::Entity::insert(held).exec_without_returning(&transaction).await?;
                    adopted += 1;
                }
            }
        }
        transaction.commit().await?;
        Ok(adopted)
    }

    /// Where the feed stands.
    pub async fn feed_position(&self) -> Result<Position, Fault> {
        position(&row(&self.reader).await?)
    }

    /// All that the feed has told up to its newest position, and what still holds of it: a snapshot. One moment's
    /// commits, so that the two belong together.
    pub async fn feed_state(&self, now: Timestamp) -> Result<(Position, Vec<Entry>), Fault> {
        let snapshot = self.begin_read().await?;
        let position = position(&row(&snapshot).await?)?;
        let mut longest = BTreeMap::new();
        let mut after = 0;
        loop {
            let rows = outbox::Entity::find()
                .filter(outbox::Column::Id.gt(after))
                .filter(outbox::Column::FedAt.gt(UNREADABLE))
                .filter(denies(now))
                .order_by_asc(outbox::Column::Id)
                .limit(PAGE)
                .all(&snapshot)
                .await?;
            let Some(last) = rows.last() else { break };
            after = last.id;
            join(&mut longest, &rows);
        }
        snapshot.rollback().await?;
        let entry = |(place, until)| Entry { place, standing: Standing::Denied(until) };
        Ok((position, longest.into_iter().map(entry).collect()))
    }

    /// How many rows the feed passed over because they cannot be read.
    pub async fn count_unreadable(&self) -> Result<u64, Fault> {
        let unreadable = outbox::Entity::find().filter(outbox::Column::FedAt.eq(UNREADABLE));
        Ok(unreadable.count(&self.reader).await?)
    }
}

/// Opens an epoch later than every known one and than `after`, if the row is as `if_` says.
pub(super) async fn begin_epoch(
    on: &DatabaseTransaction,
    after: Option<Position>,
    if_: Condition,
    now: Timestamp,
) -> Result<bool, Fault> {
    let known = row(on).await?.epoch;
    let shown = after.map_or(0, |after| i64::try_from(after.epoch).unwrap_or(i64::MAX));
    let after = Ord::max(known, shown).saturating_add(1);
    let opened = feed::Entity::update_many()
        .col_expr(feed::Column::Epoch, Expr::value(Ord::max(after, now.unix_millis())))
        .col_expr(feed::Column::Position, Expr::value(0))
        .filter(feed::Column::Name.eq(NAME))
        .filter(if_)
        .exec(on)
        .await?;
    Ok(opened.rows_affected == 1)
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
    Condition::any().add(outbox::Column::FedAt.is_null()).add(outbox::Column::FedAt.eq(UNREADABLE))
}

/// Rows that can be read, as far as it was tried.
pub(super) fn is_readable() -> Condition {
    Condition::any().add(outbox::Column::FedAt.is_null()).add(outbox::Column::FedAt.gt(UNREADABLE))
}

/// What holds now for each place: the longest of its denials, or that there is none.
async fn standings(on: &DatabaseTransaction, places: &[Place], now: Timestamp) -> Result<Vec<Entry>, Fault> {
    let subjects = places.iter().map(|place| place.subject.to_string());
    let rows = outbox::Entity::find()
        .filter(outbox::Column::Subject.is_in(subjects))
        .filter(denies(now))
        .all(on)
        .await?;
    let mut longest = BTreeMap::new();
    join(&mut longest, &rows);
    let standing = |place| longest.get(place).map_or(Standing::Lifted, |until| Standing::Denied(*until));
    Ok(places.iter().map(|place| Entry { place: *place, standing: standing(place) }).collect())
}

/// Adds denials to the longest ones known of their places.
fn join(longest: &mut BTreeMap<Place, Option<Timestamp>>, rows: &[outbox::Model]) {
    for row in rows {
        // One that cannot be read was counted when it was to be told.
        let Ok(place) = place_of(row) else { continue };
        let until = row.expires_at.map(Timestamp::from_unix_millis);
        longest
            .entry(place)
            .and_modify(|known| *known = known.zip(until).map(|(known, until)| known.max(until)))
            .or_insert(until);
    }
}

/// The places of rows, each once, and the rows that cannot be read.
fn places_of(rows: &[outbox::Model]) -> (Vec<Place>, Vec<i64>) {
    let mut places = std::collections::BTreeSet::new();
    let mut unreadable = Vec::new();
    for row in rows {
        match place_of(row) {
            Ok(place) => drop(places.insert(place)),
            Err(_) => unreadable.push(row.id),
        }
    }
    (places.into_iter().collect(), unreadable)
}

pub(super) fn place_of(row: &outbox::Model) -> Result<Place, Fault> {
    let cause = Cause::parse(&row.cause).map_err(|_| Fault::Corrupt {
        table: "outbox",
        id: row.id.to_string(),
        because: "unknown cause",
    })?;
    let digest = |text: &str| rows::digest("outbox", text);
    Ok(Place { subject: digest(&row.subject)?, account: digest(&row.account)?, cause })
}

async fn mark(on: &DatabaseTransaction, ids: Vec<i64>, as_of: i64) -> Result<(), Fault> {
    if ids.is_empty() {
        return Ok(());
    }
    outbox::Entity::update_many()
        .col_expr(outbox::Column::FedAt, Expr::value(as_of))
        .filter(outbox::Column::Id.is_in(ids))
        .exec(on)
        .await?;
    Ok(())
}

/// Denials that hold.
fn denies(now: Timestamp) -> Condition {
    Condition::all().add(outbox::Column::Lifted.eq(false)).add(super::outbox::effective(now))
}

async fn row(on: &impl ConnectionTrait) -> Result<feed::Model, Fault> {
    let row = feed::Entity::find_by_id(NAME).one(on).await?;
    row.ok_or(Fault::Corrupt { table: "feeds", id: NAME.to_owned(), because: "it is missing" })
}

fn position(row: &feed::Model) -> Result<Position, Fault> {
    let number = |number: i64| u64::try_from(number).ok();
    let position = number(row.epoch).zip(number(row.position));
    let position = position.map(|(epoch, number)| Position { epoch, number });
    position.ok_or(Fault::Corrupt { table: "feeds", id: NAME.to_owned(), because: "negative position" })
}
