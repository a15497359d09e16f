//! Denials on their way to the edges, and what takes them back.
//!
//! What revokes a device writes so here, in the same transaction: a kill between the commit and the write
//! to the directory loses nothing. An entry stays until it has no effect any more, so that a directory that
//! lost its memory is told again.

use std::collections::BTreeSet;

use keychain::feed::Place;
use keychain::{Digest, Timestamp};
use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::Expr;
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder,
    QuerySelect,
};

use super::tables::outbox;
use super::{Fault, Store, rows};
use crate::record::BanEnd;

/// Most entries read in one go; there may be as many more as follow.
const PAGE: u64 = 256;

/// How long a lift is repeated to a directory that comes back with the memory of what was lifted.
const LIFT_REMEMBERED: std::time::Duration = std::time::Duration::from_hours(24);

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

/// A denial until `end`, or until it is lifted.
pub(super) fn denial(place: Place, end: Option<Timestamp>) -> outbox::ActiveModel {
    row(place, false, end)
}

/// Takes back what an account has denied for a cause. Denials of the same subject by other accounts, or for other
/// causes, stay: what the directory is told then is what is left.
pub(super) async fn lift(db: &impl ConnectionTrait, place: Place, now: Timestamp) -> Result<(), Fault> {
    let Place { subject, account, cause } = place;
    outbox::Entity::delete_many()
        .filter(outbox::Column::Subject.eq(subject.to_string()))
        .filter(outbox::Column::Account.eq(account.to_string()))
        .filter(outbox::Column::Cause.eq(cause.as_str()))
        .exec(db)
        .await?;
    let lifted = row(place, true, Some(now.plus(LIFT_REMEMBERED)));
    outbox::Entity::insert(lifted).exec_without_returning(db).await?;
    Ok(())
}

/// A denial that the feed is known to have told, and that is held until an operator lifts it.
pub(super) fn held(place: Place, end: Option<Timestamp>, now: Timestamp) -> outbox::ActiveModel {
    let at = Set(Some(now.unix_millis()));
    outbox::ActiveModel { fed_at: at.clone(), held_at: at, ..row(place, false, end) }
}

/// What tells that a denial is taken back which was kept as `row`.
pub(super) fn lifting(row: &outbox::Model, now: Timestamp) -> outbox::ActiveModel {
    outbox::ActiveModel {
        subject: Set(row.subject.clone()),
        account: Set(row.account.clone()),
        cause: Set(row.cause.clone()),
        lifted: Set(true),
        expires_at: Set(Some(now.plus(LIFT_REMEMBERED).unix_millis())),
        sent_at: Set(None),
        fed_at: Set(None),
        held_at: Set(None),
        ..Default::default()
    }
}

fn row(place: Place, lifted: bool, expires_at: Option<Timestamp>) -> outbox::ActiveModel {
    outbox::ActiveModel {
        subject: Set(place.subject.to_string()),
        account: Set(place.account.to_string()),
        cause: Set(place.cause.as_str().to_owned()),
        lifted: Set(lifted),
        expires_at: Set(expires_at.map(Timestamp::unix_millis)),
        sent_at: Set(None),
        fed_at: Set(None),
        held_at: Set(None),
        ..Default::default()
    }
}

impl Store {
    /// The next entries after the place `after`, in order. One that cannot be read hides no other.
    pub async fn pending(&self, backlog: Backlog, after: i64, now: Timestamp) -> Result<Page, Fault> {
        let mut query = outbox::Entity::find().filter(outbox::Column::Id.gt(after)).filter(effective(now));
        if backlog == Backlog::Unsent {
            query = query.filter(outbox::Column::SentAt.is_null());
        }
        let rows = query.order_by_asc(outbox::Column::Id).limit(PAGE).all(&self.reader).await?;
        let entry = |row: &outbox::Model| {
            Some(Pending {
                id: row.id,
                subject: rows::digest("outbox", &row.subject).ok()?,
                lifted: row.lifted,
                expires_at: row.expires_at.map(Timestamp::from_unix_millis),
            })
        };
        Ok(Page {
            entries: rows.iter().filter_map(entry).collect(),
            ids: rows.iter().map(|row| row.id).collect(),
        })
    }

    /// Notes that the directory was told these entries. Answers those that are still there.
    pub async fn mark_sent(&self, ids: &[i64], now: Timestamp) -> Result<BTreeSet<i64>, Fault> {
        let these = outbox::Column::Id.is_in(ids.iter().copied());
        outbox::Entity::update_many()
            .col_expr(outbox::Column::SentAt, Expr::value(now.unix_millis()))
            .filter(these.clone())
            .exec(&self.writer)
            .await?;
        let kept: Vec<i64> = outbox::Entity::find()
            .select_only()
            .column(outbox::Column::Id)
            .filter(these)
            .into_tuple()
            .all(&self.writer)
            .await?;
        Ok(kept.into_iter().collect())
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
            .filter(effective(now))
            .all(&self.reader)
            .await?;
        if denials.iter().any(|denial| denial.expires_at.is_none()) {
            return Ok(Some(BanEnd::Never));
        }
        let latest = denials.iter().filter_map(|denial| denial.expires_at).max();
        Ok(latest.map(|end| BanEnd::At(Timestamp::from_unix_millis(end))))
    }
}

/// Entries that still have effect.
pub(super) fn effective(now: Timestamp) -> Condition {
    let ends = outbox::Column::ExpiresAt;
    Condition::any().add(ends.is_null()).add(ends.gt(now.unix_millis()))
}
