//! What the journal shares with those who ask, and what it knows of the ledger while it has the lease.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
};

use keychain::{
    Digest,
    audit::{Entry, Head},
};
use sea_orm::{ConnectionTrait, DatabaseConnection, QueryResult};
use tokio::sync::watch;

use super::{
    CALL_MAX, Condition, Error, Kept, Stated,
    chain_copy::{ChainCopy, Copied},
    declaration,
    endorsements::{Numbers, Revocations},
    events,
    head_numbers::HeadNumbers,
    lines,
    sql::{self, number},
};

/// What the next head states, as it was in the transaction that gave it its number.
#[derive(Clone, Debug)]
pub struct HeadBasis {
    /// The head's number.
    pub number: u64,
    /// What is denied and revoked.
    pub stated: Stated,
    /// The newest line of the audit trail.
    pub audit: Option<Head>,
    /// The highest endorsement number that may have been given out.
    pub endorsement_mark: u64,
}

/// What the journal shares.
pub(super) struct Shared {
    pub(super) condition: watch::Sender<Condition>,
    /// Reads only. On SQLite it is besides the connection that keeps the WAL from being deleted.
    pub(super) reader: DatabaseConnection,
    pub(super) audit_head: Mutex<Option<Head>>,
    numbers: Mutex<Numbers>,
    /// Held while a block of endorsement numbers is reserved.
    pub(super) reserving: tokio::sync::Mutex<()>,
    pub(super) trusted_time: AtomicI64,
    copy: ChainCopy,
    /// What the chain copy had when it was first held against the ledger.
    copied: Mutex<Option<Copied>>,
    warnings: Mutex<BTreeMap<&'static str, String>>,
}

impl Shared {
    pub(super) fn new(reader: DatabaseConnection, copy: ChainCopy) -> Self {
        Self {
            condition: watch::Sender::new(Condition::Failing("it is not opened yet".to_owned())),
            reader,
            audit_head: Mutex::default(),
            numbers: Mutex::default(),
            reserving: tokio::sync::Mutex::default(),
            trusted_time: AtomicI64::new(i64::MIN),
            copy,
            copied: Mutex::default(),
            warnings: Mutex::default(),
        }
    }

    pub(super) fn demand_open(&self) -> Result<(), Error> {
        self.condition.borrow().demand_open()
    }

    pub(super) fn demand_room(&self) -> Result<(), Error> {
        self.condition.borrow().demand_room()
    }

    /// Reads within the bound.
    pub(super) async fn reading<T>(
        &self,
        reading: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        tokio::time::timeout(CALL_MAX, reading).await.unwrap_or(Err(Error::Unwritten(Condition::Frozen)))
    }

    pub(super) fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn warn(&self, part: &'static str, warning: Option<String>) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        match warning {
            Some(warning) => warnings.insert(part, warning),
            None => warnings.remove(part),
        };
    }

    pub(super) fn warnings(&self) -> Vec<(&'static str, String)> {
        let warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        warnings.iter().map(|(part, warning)| (*part, warning.clone())).collect()
    }

    pub(super) const fn copy(&self) -> &ChainCopy {
        &self.copy
    }

    pub(super) async fn keep(&self, kept: Kept) -> Result<(), Error> {
        let outcome = self.copy.keep(kept).await;
        let warning = outcome.as_ref().err().map(|error| {
            format!("a restored ledger would not be noticed: {error}; see that the disk works and has room")
        });
        self.warn("headCopy", warning);
        outcome
    }

    pub(super) async fn kept(&self) -> Option<Kept> {
        self.copy.kept().await
    }

    pub(super) fn note_copied(&self, copied: &Copied) {
        self.copied.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| copied.clone());
    }

    pub(super) fn copied(&self) -> Option<Copied> {
        self.copied.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn note_trusted(&self, millis: Option<i64>) {
        self.trusted_time.store(millis.unwrap_or(i64::MIN), Ordering::Relaxed);
    }
}

/// The ledger's contents, while no other process writes it.
#[derive(Clone, Debug)]
pub(super) struct Held {
    /// The newest line of the audit trail, or the newest that was cut.
    pub(super) audit_head: Option<Head>,
    pub(super) endorsement_mark: u64,
    pub(super) heads: HeadNumbers,
    pub(super) trusted_time: Option<i64>,
    pub(super) events: u64,
    pub(super) revocations: Revocations,
}

/// Reads it. The newest line is digested anew: its row must be what it says.
pub(super) async fn held(on: &impl ConnectionTrait) -> Result<Held, Error> {
    const STATE: &str = "SELECT endorsement_mark, head_event, head_number, trusted_time, cut_number, cut_digest \
                         FROM state WHERE id = 1";
    let state = sql::one(on, STATE, []).await?.ok_or(Error::Unreadable { table: "state" })?;
    let head_event: String = state.try_get("", "head_event")?;
    let head_number = number(state.try_get("", "head_number")?);
    let event = if head_event.is_empty() { None } else { Some(read_digest(&head_event)?) };
    let audit_head = match lines::newest(on).await? {
        Some(line) => Some(Entry::parse(&line).map_err(|_| Error::Unreadable { table: "audit_lines" })?.head),
        None => cut(&state)?,
    };
    Ok(Held {
        audit_head,
        endorsement_mark: number(state.try_get("", "endorsement_mark")?),
        heads: HeadNumbers { event, number: head_number },
        trusted_time: state.try_get("", "trusted_time")?,
        events: events::count(on).await?,
        revocations: Revocations::of(&declaration::stated(on).await?),
    })
}

/// The newest line that was cut, of a row of `state`.
pub(super) fn cut(state: &QueryResult) -> Result<Option<Head>, Error> {
    let cut: Option<i64> = state.try_get("", "cut_number")?;
    let digest: Option<String> = state.try_get("", "cut_digest")?;
    match (cut, digest) {
        (Some(cut), Some(digest)) => Ok(Some(Head { number: number(cut), digest: read_digest(&digest)? })),
        _ => Ok(None),
    }
}

fn read_digest(text: &str) -> Result<Digest, Error> {
    Digest::parse(text).map_err(|_| Error::Unreadable { table: "state" })
}

/// The text that is kept under a name.
pub(super) async fn note(on: &impl ConnectionTrait, name: &str) -> Result<Option<String>, Error> {
    let row = sql::one(on, "SELECT content FROM notes WHERE name = $1", [name.to_owned().into()]).await?;
    row.map(|row| Ok(row.try_get("", "content")?)).transpose()
}
