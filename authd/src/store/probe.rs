//! Whether the database writes now, and keeps what it acknowledges.

use sea_orm::{ConnectionTrait, DbBackend, DbErr, QueryResult, Statement};

use super::{Fault, Store};

/// Writes a row as it is: a standby, a demoted primary and a full disk refuse it as they would refuse a request.
const WRITE: &str = "UPDATE marks SET value = value WHERE name = 'macs'";

/// What PostgreSQL says besides, for the connection that asks.
const SETTINGS: &str = " RETURNING current_setting('fsync') AS fsync, current_setting('full_page_writes') AS \
                        full_page_writes, current_setting('synchronous_commit') AS synchronous_commit, \
                        current_setting('synchronous_standby_names') AS synchronous_standby_names";

/// How a database keeps what it acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durability {
    /// What a power cut or a crash would lose, and the setting that it is due to. None if nothing.
    pub lossy: Option<String>,
    /// The same of the loss of the whole machine, for operators to know.
    pub failover: &'static str,
}

impl Durability {
    /// For `/readyz?verbose`.
    pub fn detail(&self) -> (String, String) {
        ("database_durability".to_owned(), self.lossy.clone().unwrap_or_else(|| self.failover.to_owned()))
    }
}

impl Store {
    /// Writes, and asks how what is written is kept. A database that does not write has its connections closed, so that
    /// its name is resolved anew, and is asked once more.
    pub async fn probe(&self) -> Result<Durability, Fault> {
        if let Ok(durability) = self.write_and_ask().await {
            return Ok(durability);
        }
        self.doubt.raise();
        let outcome = self.write_and_ask().await;
        if outcome.is_err() {
            self.doubt.raise();
        }
        outcome
    }

    async fn write_and_ask(&self) -> Result<Durability, Fault> {
        let text = |sql: String| Statement::from_string(self.writer.get_database_backend(), sql);
        let missing = || Fault::Corrupt {
            table: "marks",
            id: "macs".to_owned(),
            because: "it is missing, though this authd was started with it",
        };
        if self.writer.get_database_backend() == DbBackend::Postgres {
            let row = self.writer.query_one_raw(text(format!("{WRITE}{SETTINGS}"))).await?;
            return Ok(of_postgres(&row.ok_or_else(missing)?)?);
        }
        if self.writer.execute_raw(text(WRITE.to_owned())).await?.rows_affected() == 0 {
            return Err(missing());
        }
        let ask = async |name: &str| self.writer.query_one_raw(text(format!("PRAGMA {name}"))).await;
        let (synchronous, journal) = (ask("synchronous").await?, ask("journal_mode").await?);
        let synchronous: Option<i64> = synchronous.map(|row| row.try_get_by_index(0)).transpose()?;
        let journal: Option<String> = journal.map(|row| row.try_get_by_index(0)).transpose()?;
        Ok(of_sqlite(synchronous.unwrap_or_default(), &journal.unwrap_or_default()))
    }
}

fn of_postgres(row: &QueryResult) -> Result<Durability, DbErr> {
    let setting = |name: &str| row.try_get::<String>("", name);
    let (fsync, pages) = (setting("fsync")?, setting("full_page_writes")?);
    let (commit, standbys) = (setting("synchronous_commit")?, setting("synchronous_standby_names")?);
    Ok(judge_postgres(&fsync, &pages, &commit, &standbys))
}

fn judge_postgres(fsync: &str, pages: &str, commit: &str, standbys: &str) -> Durability {
    let settings = [
        ("fsync", fsync, &["off"][..]),
        ("full_page_writes", pages, &["off"]),
        ("synchronous_commit", commit, &["off"]),
    ];
    let lossy: Vec<String> = settings
        .iter()
        .filter(|(_, value, bad)| bad.contains(value))
        .map(|(name, value, _)| format!("`{name}` is `{value}`"))
        .collect();
    let lossy = (!lossy.is_empty()).then(|| {
        format!("PostgreSQL loses what it acknowledged in a crash: {}; set it to `on`", lossy.join(", "))
    });
    let is_sent = !standbys.is_empty() && !matches!(commit, "off" | "local");
    let failover = if is_sent {
        "a synchronous standby has what was acknowledged"
    } else {
        "no standby is synchronous: what it has not received yet is lost with this server"
    };
    Durability { lossy, failover }
}

/// `FULL` is 2, `EXTRA` 3.
fn of_sqlite(synchronous: i64, journal: &str) -> Durability {
    let is_kept = synchronous >= 2 && matches!(journal, "wal" | "delete" | "truncate" | "persist");
    let lossy = (!is_kept).then(|| {
        format!(
            "SQLite loses what it acknowledged in a crash: `synchronous` is {synchronous}, `journal_mode` is `{journal}`; \
             put the file on a file system of this host that supports both"
        )
    });
    Durability { lossy, failover: "one file: what was written since its last copy is lost with this host" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_lose_what_was_acknowledged_are_named() {
        for (fsync, pages, commit, standbys, named, has_standby) in [
            ("on", "on", "on", "", &[][..], false),
            ("on", "on", "on", "s1", &[], true),
            ("on", "on", "remote_apply", "s1", &[], true),
            ("on", "on", "local", "s1", &[], false),
            ("on", "on", "off", "s1", &["synchronous_commit"], false),
            ("off", "on", "on", "", &["fsync"], false),
            ("off", "off", "off", "", &["fsync", "full_page_writes", "synchronous_commit"], false),
        ] {
            let found = judge_postgres(fsync, pages, commit, standbys);
            let lossy = found.lossy.unwrap_or_default();
            for name in ["fsync", "full_page_writes", "synchronous_commit"] {
                assert_eq!(lossy.contains(&format!("`{name}`")), named.contains(&name), "{lossy}");
            }
            assert_eq!(found.failover.starts_with("a synchronous"), has_standby, "{commit} {standbys}");
        }
        for (synchronous, journal, is_lossy) in [
            (2, "wal", false),
            (3, "delete", false),
            (1, "wal", true),
            (2, "memory", true),
            (0, "off", true),
            (2, "", true),
        ] {
            assert_eq!(of_sqlite(synchronous, journal).lossy.is_some(), is_lossy, "{synchronous} {journal}");
        }
    }
}
