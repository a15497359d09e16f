//! Opening the database so that what is committed is on disk.

use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use sea_orm::{
    ConnectOptions, Database, DatabaseConnection,
    sqlx::sqlite::{SqliteAutoVacuum, SqliteJournalMode, SqliteSynchronous},
};

use super::Error;

/// How long a statement waits for another's lock: less than what a whole transaction may take.
const LOCK_WAIT: Duration = Duration::from_secs(4);

/// How long PostgreSQL keeps the lock of a client that has gone silent in its transaction.
const SILENT_MAX: Duration = Duration::from_secs(10);

/// Frames of the WAL after which its pages are copied into the database, so that it begins anew well before the end
/// that [`super::room`] gave it.
const CHECKPOINT_AFTER: &str = "200";

/// The file of an SQLite ledger.
pub(super) fn sqlite_path(url: &str) -> Option<PathBuf> {
    let path = url.strip_prefix("sqlite:")?;
    Some(PathBuf::from(path.strip_prefix("//").unwrap_or(path)))
}

/// A connection that nothing but this process's end, or dropping it, closes: SQLite deletes its WAL with the last.
pub(super) async fn connect(url: &str, connections: u32) -> Result<DatabaseConnection, Error> {
    let mut options = ConnectOptions::new(url);
    options
        .sqlx_logging(false)
        .record_stmt_in_spans(false)
        .max_connections(connections)
        .min_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .connect_timeout(LOCK_WAIT)
        .acquire_timeout(LOCK_WAIT);
    if let Some(path) = sqlite_path(url) {
        make_private(&path)?;
        options.map_sqlx_sqlite_opts(|options| {
            options
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full)
                .auto_vacuum(SqliteAutoVacuum::None)
                .busy_timeout(LOCK_WAIT)
                .pragma("wal_autocheckpoint", CHECKPOINT_AFTER)
                .pragma("journal_size_limit", "-1")
                .pragma("secure_delete", "OFF")
                .pragma("temp_store", "MEMORY")
        });
    } else {
        options.map_sqlx_postgres_opts(|options| {
            options.options([
                ("synchronous_commit", "on".to_owned()),
                ("lock_timeout", format!("{}ms", LOCK_WAIT.as_millis())),
                ("idle_in_transaction_session_timeout", format!("{}ms", SILENT_MAX.as_millis())),
            ])
        });
    }
    Ok(Database::connect(options).await?)
}

/// Makes the file for its owner alone if it is not there, and refuses one that others may write to.
fn make_private(path: &Path) -> Result<(), Error> {
    let unusable = |because: String| Error::File { path: path.display().to_string(), because };
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let mode = path.metadata().map_err(|error| unusable(error.to_string()))?.mode();
            if mode & 0o022 == 0 {
                return Ok(());
            }
            Err(unusable(format!("others may write to it (mode {:04o}); run `chmod 0600`", mode & 0o7777)))
        }
        Err(error) => Err(unusable(format!("{error}; check that its folder exists and is hsmd's"))),
    }
}
