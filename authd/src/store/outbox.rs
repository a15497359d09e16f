//! Revocations on their way to the edges, and bans.
//!
//! What revokes a device writes so here, in the same transaction: a kill between the commit and the write
//! to the directory loses nothing. An entry stays until it has no effect any more, so that a directory that
//! lost its memory is told again.

use keychain::{Digest, Timestamp};
use sea_orm::ActiveValue::Set;
use sea_orm::sea_query::Expr;
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder,
    QuerySelect,
};

use super::tables::{ban, outbox};
use super::{Failure, Fault, Store, rows, view};
use crate::record::{BanRecord, DeviceState};

/// Most entries read in one go; there may be as many more as follow.
const PAGE: u64 = 256;

/// How long a lifted ban is repeated to a directory that comes back with the memory of it.
const LIFT_REMEMBERED: std::time::Duration = std::time::Duration::from_hours(24);

/// One thing for the edges to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) subject: Digest,
    pub(super) lifted: bool,
    pub(super) expires_at: Option<Timestamp>,
}

/// An entry that the directory is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Its place in the order in which entries were decided.
    pub id: i64,
    /// The device or identity.
    pub subject: Digest,
    /// Whether a denial is taken back.
    pub lifted: bool,
    /// Until when it has effect; a ban has none.
    pub expires_at: Option<Timestamp>,
}

/// Which entries to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backlog {
    /// Those that the directory was never told.
    Unsent,
    /// All that have effect: the directory may have forgotten.
    All,
}

pub(super) async fn put(db: &impl ConnectionTrait, entry: Entry) -> Result<(), Fault> {
    let row = outbox::ActiveModel {
        subject: Set(entry.subject.to_string()),
        lifted: Set(entry.lifted),
        expires_at: Set(entry.expires_at.map(Timestamp::unix_millis)),
        sent_at: Set(None),
        ..Default::default()
    };
    outbox::Entity::insert(row).exec_without_returning(db).await?;
    Ok(())
}

impl Store {
    /// The next entries after the place `after`, in order.
    pub async fn pending(&self, backlog: Backlog, after: i64, now: Timestamp) -> Result<Vec<Pending>, Fault> {
        let mut query = outbox::Entity::find().filter(outbox::Column::Id.gt(after)).filter(effective(now));
        if backlog == Backlog::Unsent {
            query = query.filter(outbox::Column::SentAt.is_null());
        }
        let rows = query.order_by_asc(outbox::Column::Id).limit(PAGE).all(&self.reader).await?;
        rows.iter()
            .map(|row| {
                Ok(Pending {
                    id: row.id,
                    subject: rows::digest("outbox", &row.subject)?,
                    lifted: row.lifted,
                    expires_at: row.expires_at.map(Timestamp::from_unix_millis),
                })
            })
            .collect()
    }

    /// Notes that the directory was told these entries.
    pub async fn mark_sent(&self, ids: &[i64], now: Timestamp) -> Result<(), Fault> {
        outbox::Entity::update_many()
            .col_expr(outbox::Column::SentAt, Expr::value(now.unix_millis()))
            .filter(outbox::Column::Id.is_in(ids.iter().copied()))
            .exec(&self.writer)
            .await?;
        Ok(())
    }

    /// How many entries the directory has not been told.
    pub async fn count_unsent(&self, now: Timestamp) -> Result<u64, Fault> {
        let unsent = outbox::Entity::find().filter(outbox::Column::SentAt.is_null());
        Ok(unsent.filter(effective(now)).count(&self.reader).await?)
    }

    /// Bans `identity` from all ten operations, or lifts its ban, and tells the edges of it and of each of
    /// its active devices. A lift leaves denied, until it ends, what a revocation or deletion denies besides.
    /// Says whether anything changed.
    pub async fn set_banned(&self, identity: &Digest, banned: bool, now: Timestamp) -> Result<bool, Failure> {
        let transaction = self.begin_write(identity).await?;
        let before = view::newest_ban(&transaction, identity).await?;
        if before.as_ref().is_some_and(|record| record.banned) == banned {
            transaction.rollback().await?;
            return Ok(false);
        }
        let record = BanRecord::new(before.as_ref(), *identity, banned, now);
        ban::Entity::insert(rows::ban_row(&record)).exec_without_returning(&transaction).await?;
        let mut subjects = vec![*identity];
        for device in view::devices(&transaction, identity).await? {
            // A lift leaves revoked devices denied: their own entries end by themselves.
            if device.state == DeviceState::Active {
                subjects.push(device.device);
            }
        }
        for subject in subjects {
            if banned {
                put(&transaction, Entry { subject, lifted: false, expires_at: None }).await?;
            } else {
                lift(&transaction, subject, now).await?;
            }
        }
        transaction.commit().await?;
        Ok(true)
    }
}

/// Puts a lift in place of the entries of `subject`, and after it the denial among them that has an end of its
/// own: a device of a deleted account is active in its own chain, and its tokens may outlive the ban. The lift
/// has to come first, because the directory never shortens a denial.
async fn lift(db: &impl ConnectionTrait, subject: Digest, now: Timestamp) -> Result<(), Fault> {
    let of_subject = outbox::Column::Subject.eq(subject.to_string());
    let denial = outbox::Entity::find()
        .filter(of_subject.clone())
        .filter(outbox::Column::Lifted.eq(false))
        .filter(outbox::Column::ExpiresAt.gt(now.unix_millis()))
        .order_by_desc(outbox::Column::ExpiresAt)
        .one(db)
        .await?;
    outbox::Entity::delete_many().filter(of_subject).exec(db).await?;
    put(db, Entry { subject, lifted: true, expires_at: Some(now.plus(LIFT_REMEMBERED)) }).await?;
    if let Some(end) = denial.and_then(|denial| denial.expires_at).map(Timestamp::from_unix_millis) {
        put(db, Entry { subject, lifted: false, expires_at: Some(end) }).await?;
    }
    Ok(())
}

/// Entries that still have effect.
fn effective(now: Timestamp) -> Condition {
    let ends = outbox::Column::ExpiresAt;
    Condition::any().add(ends.is_null()).add(ends.gt(now.unix_millis()))
}
