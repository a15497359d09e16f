//! Denials on their way to the edges, and what takes them back.
//!
//! What revokes a device writes so here, in the same transaction: a kill between the commit and the write
//! to the directory loses nothing. An entry stays until it has no effect any more, so that a directory that
//! lost its memory is told again.
//!
//! The MAC of a row covers also to whom it was told: whoever could say that a denial was told could hide it. So
//! each note of that is a reading and a writing under one lock.

use std::collections::BTreeSet;

use keychain::feed::{Cause, Place};
use keychain::{Digest, Timestamp};
use sea_orm::sea_query::{CaseStatement, Expr, SimpleExpr};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DbBackend, EntityTrait, IntoActiveModel, PaginatorTrait,
    QueryFilter, QueryOrder, QuerySelect, Statement,
};

use super::append::append;
use super::feed::FEED_LOCK;
use super::mac::{Flaw, MacKeys, PASSED_OVER};
use super::tables::outbox;
use super::{Fault, Store};
use crate::record::BanEnd;

/// Most entries read in one go; there may be as many more as follow.
const PAGE: u64 = 256;

/// How long a lift is repeated to a directory that comes back with the memory of what was lifted.
pub(super) const LIFT_REMEMBERED: std::time::Duration = std::time::Duration::from_hours(24);

/// An entry that the directory is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Its place in the order in which entries were decided.
    pub id: i64,
    /// The device or identity.
    pub subject: Digest,
    /// Whether a denial is taken back.
    pub lifted: bool,
    /// Until when it has effect; a ban may have no end.
    pub expires_at: Option<Timestamp>,
}

/// Entries in the order in which they were decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Those that can be read.
    pub entries: Vec<Pending>,
    /// The places of all, also of those that cannot be read: the denial feed counts these and says which.
    pub ids: Vec<i64>,
}

/// Which entries to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backlog {
    /// Those that the directory was never told.
    Unsent,
    /// All that have effect: the directory may have forgotten.
    All,
}

/// A row that is to be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewRow {
    place: Place,
    lifted: bool,
    end: Option<Timestamp>,
    issued_up_to: Option<Timestamp>,
    held_since: Option<Timestamp>,
}

/// What `sent_at` says of a row that database 3 is not told: there, a denial is of all of a device's tokens.
const FOR_THE_FEED_ALONE: i64 = 1;

impl NewRow {
    /// Denies until `end`, or until it is lifted.
    pub(super) const fn denial(place: Place, end: Option<Timestamp>) -> Self {
        Self { place, lifted: false, end, issued_up_to: None, held_since: None }
    }

    /// Denies the tokens of a device that were issued by then.
    pub(super) const fn ended(place: Place, issued_up_to: Timestamp, end: Timestamp) -> Self {
        Self { issued_up_to: Some(issued_up_to), ..Self::denial(place, Some(end)) }
    }

    /// The same as one that the feed is known to have told, and that is held until an operator lifts it.
    pub(super) const fn held(self, now: Timestamp) -> Self {
        Self { held_since: Some(now), ..self }
    }

    /// Tells that what a place had denied is taken back.
    pub(super) fn lift(place: Place, now: Timestamp) -> Self {
        Self { lifted: true, ..Self::denial(place, Some(now.plus(LIFT_REMEMBERED))) }
    }

    /// With its place in the order of rows.
    fn with_id(self, id: i64) -> outbox::Model {
        let Place { subject, account, cause } = self.place;
        let since = self.held_since.map(Timestamp::unix_millis);
        outbox::Model {
            id,
            subject: subject.to_string(),
            account: account.to_string(),
            cause: cause.as_str().to_owned(),
            lifted: self.lifted,
            expires_at: self.end.map(Timestamp::unix_millis),
            sent_at: (cause == Cause::Sessions).then_some(FOR_THE_FEED_ALONE),
            fed_at: since,
            held_at: since,
            issued_up_to: self.issued_up_to.map(Timestamp::unix_millis),
            mac: None,
        }
    }
}

/// Writes rows, in this order. Each has its number before it has its MAC, which covers it.
pub(super) async fn put(db: &impl ConnectionTrait, macs: &MacKeys, new: Vec<NewRow>) -> Result<(), Fault> {
    append(db, &rows(db, macs, new).await?, &mut None).await?;
    Ok(())
}

/// Rows that are to be appended, with their numbers and MACs.
pub(super) async fn rows(
    db: &impl ConnectionTrait,
    macs: &MacKeys,
    new: Vec<NewRow>,
) -> Result<Vec<outbox::ActiveModel>, Fault> {
    if new.is_empty() {
        return Ok(Vec::new());
    }
    let ids = take_ids(db, new.len()).await?;
    let with_mac = |(row, id): (NewRow, i64)| macs.with_mac(row.with_id(id)).into_active_model();
    Ok(new.into_iter().zip(ids).map(with_mac).collect())
}

/// Takes back what an account has denied for a cause. Denials of the same subject by other accounts, or for other
/// causes, stay: what the directory is told then is what is left.
pub(super) async fn lift(
    db: &impl ConnectionTrait,
    macs: &MacKeys,
    places: &[Place],
    now: Timestamp,
) -> Result<(), Fault> {
    for Place { subject, account, cause } in places {
        outbox::Entity::delete_many()
            .filter(outbox::Column::Subject.eq(subject.to_string()))
            .filter(outbox::Column::Account.eq(account.to_string()))
            .filter(outbox::Column::Cause.eq(cause.as_str()))
            .exec(db)
            .await?;
    }
    put(db, macs, places.iter().map(|place| NewRow::lift(*place, now)).collect()).await
}

/// Writes `value` into a column of rows whose MAC holds, and their new MACs. The caller has held [`FEED_LOCK`]
/// since before it read them.
pub(super) async fn rewrite(
    db: &impl ConnectionTrait,
    macs: &MacKeys,
    rows: Vec<outbox::Model>,
    column: outbox::Column,
    value: i64,
) -> Result<(), Fault> {
    if rows.is_empty() {
        return Ok(());
    }
    let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
    let mut mac = CaseStatement::new();
    for mut row in rows {
        match column {
            outbox::Column::SentAt => row.sent_at = Some(value),
            outbox::Column::FedAt => row.fed_at = Some(value),
            _ => row.held_at = Some(value),
        }
        let row = macs.with_mac(row);
        mac = mac.case(outbox::Column::Id.eq(row.id), row.mac);
    }
    outbox::Entity::update_many()
        .col_expr(column, Expr::value(value))
        .col_expr(outbox::Column::Mac, mac.into())
        .filter(outbox::Column::Id.is_in(ids))
        .exec(db)
        .await?;
    Ok(())
}

/// Notes of rows that they cannot be read, and are passed over. Their MACs stay as they are.
pub(super) async fn pass_over(
    db: &impl ConnectionTrait,
    ids: &[i64],
    column: outbox::Column,
) -> Result<(), Fault> {
    if ids.is_empty() {
        return Ok(());
    }
    outbox::Entity::update_many()
        .col_expr(column, Expr::value(PASSED_OVER))
        .filter(outbox::Column::Id.is_in(ids.iter().copied()))
        .exec(db)
        .await?;
    Ok(())
}

/// Rows with their places, and the numbers of rows that cannot be read.
pub(super) type Readable = (Vec<(outbox::Model, Place)>, Vec<i64>);

/// The rows that can be read, each with its place, and the numbers of the others. It fails for a row whose MAC
/// key is not known here: such a row may be good, and must not be passed over.
pub(super) fn readable(macs: &MacKeys, rows: Vec<outbox::Model>) -> Result<Readable, Fault> {
    let (mut good, mut bad) = (Vec::with_capacity(rows.len()), Vec::new());
    for row in rows {
        match (macs.judge(&row), place_of(&row)) {
            (Ok(()), Some(place)) => good.push((row, place)),
            (Err(Flaw::UnknownKey), _) => macs.verify(&row)?,
            _ => bad.push(row.id),
        }
    }
    Ok((good, bad))
}

fn place_of(row: &outbox::Model) -> Option<Place> {
    Some(Place {
        subject: Digest::parse(&row.subject).ok()?,
        account: Digest::parse(&row.account).ok()?,
        cause: Cause::parse(&row.cause).ok()?,
    })
}

/// The next numbers of rows. Numbers that are taken and not used leave a hole.
async fn take_ids(db: &impl ConnectionTrait, count: usize) -> Result<Vec<i64>, Fault> {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    let backend = db.get_database_backend();
    let ids = match backend {
        DbBackend::Postgres => {
            "SELECT nextval(pg_get_serial_sequence('outbox', 'id')) AS id FROM generate_series(1, $1)"
        }
        // The writer is alone. A number is not given again, also after its row was removed.
        _ => {
            "WITH RECURSIVE taken(id, count) AS ( \
             SELECT max(coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'outbox'), 0), \
             coalesce((SELECT max(id) FROM outbox), 0)) + 1, 1 \
             UNION ALL SELECT id + 1, count + 1 FROM taken WHERE count < $1) SELECT id FROM taken"
        }
    };
    let rows = db.query_all_raw(Statement::from_sql_and_values(backend, ids, [count.into()])).await?;
    Ok(rows.iter().map(|row| row.try_get_by_index(0)).collect::<Result<_, _>>()?)
}

impl Store {
    /// The next entries after the place `after`, in order. One that cannot be read hides no other.
    pub async fn pending(&self, backlog: Backlog, after: i64, now: Timestamp) -> Result<Page, Fault> {
        let query = outbox::Entity::find().filter(outbox::Column::Id.gt(after));
        let mut query = query.filter(is_of_all_tokens()).filter(effective(now));
        if backlog == Backlog::Unsent {
            query = query.filter(outbox::Column::SentAt.is_null());
        }
        let rows = query.order_by_asc(outbox::Column::Id).limit(PAGE).all(&self.reader).await?;
        let ids = rows.iter().map(|row| row.id).collect();
        let (rows, _) = readable(&self.macs, rows)?;
        let entry = |(row, place): &(outbox::Model, Place)| Pending {
            id: row.id,
            subject: place.subject,
            lifted: row.lifted,
            expires_at: row.expires_at.map(Timestamp::from_unix_millis),
        };
        Ok(Page { entries: rows.iter().map(entry).collect(), ids })
    }

    /// Notes that the directory was told these entries, and of those that cannot be read that they are passed
    /// over. Answers those that are still there.
    pub async fn mark_sent(&self, ids: &[i64], now: Timestamp) -> Result<BTreeSet<i64>, Fault> {
        let transaction = self.begin_locked(&[FEED_LOCK]).await?;
        let these = outbox::Column::Id.is_in(ids.iter().copied());
        let rows = outbox::Entity::find().filter(these).lock_exclusive().all(&transaction).await?;
        let kept = rows.iter().map(|row| row.id).collect();
        let (rows, unreadable) = readable(&self.macs, rows)?;
        let rows = rows.into_iter().map(|(row, _)| row).collect();
        rewrite(&transaction, &self.macs, rows, outbox::Column::SentAt, now.unix_millis()).await?;
        pass_over(&transaction, &unreadable, outbox::Column::SentAt).await?;
        transaction.commit().await?;
        Ok(kept)
    }

    /// How many entries the directory has not been told.
    pub async fn count_unsent(&self, now: Timestamp) -> Result<u64, Fault> {
        let unsent = outbox::Entity::find().filter(outbox::Column::SentAt.is_null());
        Ok(unsent.filter(effective(now)).count(&self.reader).await?)
    }

    /// Until when a device or identity is denied, for whatever cause; nothing if it is not.
    pub async fn denial(&self, subject: &Digest, now: Timestamp) -> Result<Option<BanEnd>, Fault> {
        let denials = outbox::Entity::find()
            .filter(outbox::Column::Subject.eq(subject.to_string()))
            .filter(outbox::Column::Lifted.eq(false))
            .filter(is_of_all_tokens())
            .filter(effective(now))
            .all(&self.reader)
            .await?;
        let (denials, _) = readable(&self.macs, denials)?;
        if denials.iter().any(|(denial, _)| denial.expires_at.is_none()) {
            return Ok(Some(BanEnd::Never));
        }
        let latest = denials.iter().filter_map(|(denial, _)| denial.expires_at).max();
        Ok(latest.map(|end| BanEnd::At(Timestamp::from_unix_millis(end))))
    }
}

/// Entries of whole devices and identities: those that the directory is told.
fn is_of_all_tokens() -> SimpleExpr {
    outbox::Column::Cause.ne(Cause::Sessions.as_str())
}

/// Entries that still have effect.
pub(super) fn effective(now: Timestamp) -> Condition {
    let ends = outbox::Column::ExpiresAt;
    Condition::any().add(ends.is_null()).add(ends.gt(now.unix_millis()))
}
