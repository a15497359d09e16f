//! The walk over the whole store: every MAC, every chain from its first record on, and what tables say of one another
//! (`STORE.md`).
//!
//! It reads page by page beside an authd that serves, and holds one page at a time. What is committed meanwhile
//! is found whole or not at all: each chain is read in its order, and what one request made was committed at
//! once.

mod against;
mod chains;
mod stands;
mod sweep;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use keychain::Timestamp;
use keychain::chain::Chain;

use super::{Fault, Store};
pub use against::Since;
pub use stands::{Line, Stands};

/// Rows read at once.
const PAGE: u64 = 500;

/// What rows are judged by.
#[derive(Clone, Copy, Debug)]
pub struct Judge<'a> {
    /// The HSM's chain, by which signers of orders were endorsed.
    pub chain: &'a Chain,
    /// How long the tokens of a revoked device are denied.
    pub denial: Duration,
    /// The time.
    pub now: Timestamp,
}

/// A row that is not as authd left it, or one that is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The table.
    pub table: &'static str,
    /// The row's key, or that of the chain.
    pub id: String,
    /// What is wrong.
    pub because: String,
}

/// Who hears of what a walk comes upon.
pub trait Visitor {
    /// Something is wrong. Of each chain the first bad row is told.
    fn found(&mut self, finding: Finding);

    /// Something stands, by which a later walk can tell whether it still does.
    fn stands(&mut self, stands: Stands);
}

/// How many rows each table has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(pub BTreeMap<&'static str, u64>);

impl Store {
    /// Walks the whole store.
    pub async fn walk(&self, judge: Judge<'_>, visitor: &mut impl Visitor) -> Result<Counts, Fault> {
        let mut walk = Walk { store: self, judge, visitor, counts: Counts::default() };
        walk.chains().await?;
        walk.tables().await?;
        Ok(walk.counts)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, id, because } = self;
        write!(f, "`{id}` of `{table}`: {because}")
    }
}

struct Walk<'a, V> {
    store: &'a Store,
    judge: Judge<'a>,
    visitor: &'a mut V,
    counts: Counts,
}

impl<V: Visitor> Walk<'_, V> {
    fn found(&mut self, table: &'static str, id: impl Into<String>, because: impl Into<String>) {
        self.visitor.found(Finding { table, id: id.into(), because: because.into() });
    }

    /// Tells of a row that is not intact; any other fault of the store ends the walk.
    fn note<T>(&mut self, read: Result<T, Fault>) -> Result<Option<T>, Fault> {
        match read {
            Ok(value) => Ok(Some(value)),
            Err(Fault::Corrupt { table, id, because }) => {
                self.found(table, id, because);
                Ok(None)
            }
            Err(fault) => Err(fault),
        }
    }

    fn count(&mut self, table: &'static str) {
        let count = self.counts.0.entry(table).or_default();
        *count = count.saturating_add(1);
    }
}
