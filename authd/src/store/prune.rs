//! Rows that have ended, and their removal in batches, between which other writers get their turn.

use std::time::Duration;

use keychain::Timestamp;
use sea_orm::{ConnectionTrait, DbBackend, Statement};

use super::append::Text;
use super::{Fault, Store};

/// Most rows that one statement removes. On SQLite it has the only writer's turn.
const BATCH_MAX: u64 = 500;

/// Pause after a batch that removed as many.
const PAUSE: Duration = Duration::from_millis(20);

/// A session's refreshes are kept an hour longer than it: instances' clocks may differ, and a repeat must find its row.
const REPEATED: Duration = Duration::from_hours(1);

/// Rows of one kind that end by themselves.
struct Ended {
    table: &'static str,
    key: &'static str,
    /// Has an index.
    end: &'static str,
    /// How long a row is kept beyond its end.
    kept: Duration,
}

/// Challenges, refreshes of ended sessions, denials of ended tokens, endorsements, ends of sessions that ended anyhow.
const ENDED: [Ended; 5] = [
    Ended { table: "spent_challenges", key: "nonce", end: "forgotten_at", kept: Duration::ZERO },
    Ended { table: "refreshes", key: "digest", end: "refresh_expiry", kept: REPEATED },
    Ended { table: "outbox", key: "id", end: "expires_at", kept: Duration::ZERO },
    Ended { table: "endorsements", key: "public_key", end: "ends_at", kept: Duration::ZERO },
    Ended { table: "session_ends", key: "id", end: "forgotten_at", kept: Duration::ZERO },
];

impl Store {
    /// Removes the rows that have ended before `now`, each batch for itself. What fails in one table keeps no other one
    /// full; the last failure is answered.
    pub async fn prune(&self, now: Timestamp) -> Result<(), Fault> {
        let mut outcome = Ok(());
        for ended in &ENDED {
            if let Err(fault) = self.prune_table(ended, now).await {
                outcome = Err(fault);
            }
        }
        outcome
    }

    async fn prune_table(&self, ended: &Ended, now: Timestamp) -> Result<(), Fault> {
        while self.prune_batch(ended, now).await? == BATCH_MAX {
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Removes one batch; how many rows it had.
    async fn prune_batch(&self, ended: &Ended, now: Timestamp) -> Result<u64, Fault> {
        let statement = ended.removal(now, self.writer.get_database_backend());
        let removed = self.writer.execute_raw(statement).await?.rows_affected();
        metrics::counter!("authd_pruned_rows_total", "table" => ended.table).increment(removed);
        Ok(removed)
    }
}

impl Ended {
    /// Removes a batch of those that ended first.
    fn removal(&self, now: Timestamp, backend: DbBackend) -> Statement {
        let Self { table, key, end, kept } = self;
        // Two that prune one database take different rows, and wait for nothing. PostgreSQL looks up each key of an array.
        let (opening, closing) = match backend {
            DbBackend::Postgres => ("= ANY (ARRAY(", " FOR UPDATE SKIP LOCKED))"),
            _ => ("IN (", ")"),
        };
        let mut text = Text::new();
        text.push(&format!(
            "DELETE FROM {table} WHERE {key} {opening}SELECT {key} FROM {table} WHERE {end} < "
        ));
        text.bind(now.minus(*kept).unix_millis());
        text.push(&format!(" ORDER BY {end} LIMIT {BATCH_MAX}{closing}"));
        text.statement(backend)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MacKeys;

    /// The first batch leaves the rest, the last one the rows that have not ended.
    #[tokio::test]
    async fn batches_are_bounded_and_leave_what_has_not_ended() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("accounts.db").display());
        let keys = MacKeys::parse(MacKeys::line(&[7; 32]).as_bytes()).unwrap();
        let store = Store::open(&url, keys).await.unwrap();
        let (now, hour) = (Timestamp::from_unix_millis(10_000_000), 3_600_000);
        for ended in &ENDED {
            let mut plan = ended.removal(now, DbBackend::Sqlite);
            plan.sql = format!("EXPLAIN QUERY PLAN {}", plan.sql);
            let plan = store.reader.query_all_raw(plan).await.unwrap();
            let plan: Vec<String> = plan.iter().map(|row| row.try_get("", "detail").unwrap()).collect();
            assert!(plan.iter().all(|line| !line.starts_with("SCAN")), "{plan:?}");
            let kept = i64::try_from(ended.kept.as_millis()).unwrap();
            assert!(kept == 0 || kept == hour);
            let last = now.unix_millis() - kept;
            for (count, end) in [(1_100, last - 1), (3, last), (2, last + 1)] {
                store.writer.execute_unprepared(&rows(ended.table, count, end)).await.unwrap();
            }
            let left = async || {
                let count = format!("SELECT COUNT(*) FROM {}", ended.table);
                let row = Statement::from_string(DbBackend::Sqlite, count);
                let row = store.reader.query_one_raw(row).await.unwrap().unwrap();
                row.try_get_by_index::<i64>(0).unwrap()
            };
            for (removed, expected) in [(500, 605), (500, 105), (100, 5), (0, 5)] {
                assert_eq!(store.prune_batch(ended, now).await.unwrap(), removed, "{}", ended.table);
                assert_eq!(left().await, expected, "{}", ended.table);
            }
        }
        store.prune(now.plus(Duration::from_hours(2))).await.unwrap();
    }

    /// So many rows that end then.
    fn rows(table: &str, count: u32, end: i64) -> String {
        let (columns, values) = match table {
            "spent_challenges" => ("nonce, forgotten_at", format!("hex(randomblob(16)), {end}")),
            "refreshes" => (
                "digest, cause, identity, device, public_key, rotation_hash, issued_at, expiry, refresh_expiry",
                format!("hex(randomblob(16)), '', '', '', '', '', 0, 0, {end}"),
            ),
            "session_ends" => (
                "id, identity, device, issued_up_to, ended_at, ended_by, forgotten_at",
                format!("hex(randomblob(16)), '', '', 0, 0, '', {end}"),
            ),
            "outbox" => ("subject, account, cause, lifted, expires_at", format!("'', '', '', 0, {end}")),
            _ => ("public_key, endorsement, ends_at", format!("hex(randomblob(16)), '', {end}")),
        };
        format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) \
             INSERT INTO {table} ({columns}) SELECT {values} FROM n"
        )
    }
}
