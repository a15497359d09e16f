//! The audit trail of orders: lines that each name the digest of the one before (`PROTOCOL.md#audit-chain`).

use keychain::audit::{Entry, Head, Kind, Record};
use keychain::{Nonce, Timestamp};
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, IntoActiveModel, QueryFilter,
    QueryOrder, QuerySelect,
};

use super::mac::MacKeys;
use super::tables::audit::{Column, Entity, Model};
use super::{Fault, Store, take_locks};

/// The advisory lock of those who append lines.
const TRAIL_LOCK: i64 = 0x6b65_656c_736f_6e01;

/// Lines of one page, each shorter than 8 KiB.
const PAGE: u64 = 500;

/// What an order is to leave in the trail: an intent and, naming its number, an outcome.
#[derive(Clone, Debug)]
pub struct Lines {
    /// What was asked for, by whom and why.
    pub intent: Record,
    /// What came of it. It gets the number of the intent as its last member.
    pub outcome: Record,
}

/// Lines of the trail, one after the other.
#[derive(Clone, Debug)]
pub struct Page {
    /// The lines, each without the line feed that ends it.
    pub lines: Vec<String>,
    /// The number of the line after these; nothing if they are the newest.
    pub next: Option<u64>,
}

/// Appends lines, in the transaction of what they are about.
pub(super) async fn append(
    transaction: &DatabaseTransaction,
    macs: &MacKeys,
    lines: &Lines,
    now: Timestamp,
) -> Result<(), Fault> {
    take_locks(transaction, &[TRAIL_LOCK]).await?;
    let mut head = newest(transaction, macs).await?;
    if head.is_none() {
        head = Some(put(transaction, macs, &beginning()?, None, now).await?);
    }
    let intent = put(transaction, macs, &lines.intent, head.as_ref(), now).await?;
    let outcome = lines.outcome.clone().number("intent", intent.number);
    put(transaction, macs, &outcome, Some(&intent), now).await?;
    Ok(())
}

impl Store {
    /// Appends lines about an order that changed nothing.
    pub async fn note(&self, lines: &Lines, now: Timestamp) -> Result<(), Fault> {
        let transaction = self.begin_locked(&[TRAIL_LOCK]).await?;
        append(&transaction, &self.macs, lines, now).await?;
        Ok(transaction.commit().await?)
    }

    /// The lines of the trail from number `from` on.
    pub async fn lines(&self, from: u64) -> Result<Page, Fault> {
        let rows = Entity::find()
            .filter(Column::Number.gte(i64::try_from(from).unwrap_or(i64::MAX)))
            .order_by_asc(Column::Number)
            .limit(PAGE)
            .all(&self.reader)
            .await?;
        rows.iter().try_for_each(|row| self.macs.verify(row))?;
        let full = u64::try_from(rows.len()).is_ok_and(|count| count == PAGE);
        let last = rows.last().and_then(|row| u64::try_from(row.number).ok());
        let next = last.filter(|_| full).map(|last| last.saturating_add(1));
        Ok(Page { lines: rows.into_iter().map(|row| row.line).collect(), next })
    }
}

async fn newest(on: &impl ConnectionTrait, macs: &MacKeys) -> Result<Option<Head>, Fault> {
    let Some(row) = Entity::find().order_by_desc(Column::Number).one(on).await? else { return Ok(None) };
    macs.verify(&row)?;
    let entry = Entry::parse(&row.line).map_err(|_| Fault::Corrupt {
        table: "audit_lines",
        id: row.number.to_string(),
        because: "it is no line of an audit trail",
    })?;
    Ok(Some(entry.head))
}

async fn put(
    on: &impl ConnectionTrait,
    macs: &MacKeys,
    record: &Record,
    head: Option<&Head>,
    now: Timestamp,
) -> Result<Head, Fault> {
    let (line, head) = record.line(head, now);
    let number = i64::try_from(head.number).unwrap_or(i64::MAX);
    let row = macs.with_mac(Model { number, digest: head.digest.to_string(), line, mac: None });
    Entity::insert(row.into_active_model()).exec_without_returning(on).await?;
    Ok(head)
}

/// The nonce tells one trail from another.
fn beginning() -> Result<Record, Fault> {
    let mut nonce = [0; 16];
    aws_lc_rs::rand::fill(&mut nonce)
        .map_err(|_| Fault::Unavailable(DbErr::Custom("no randomness".to_owned())))?;
    Ok(Record::new(Kind::Trail).plain("nonce", Nonce::from_bytes(nonce)))
}
