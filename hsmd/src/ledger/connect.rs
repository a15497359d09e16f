//! Opening the database so that what is committed is on disk.

use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
    time::Duration,
};

use sea_orm::{
    ConnectOptions, Database, DatabaseConnection,
    sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous},
};

use super::Error;

/// How long a statement waits for another process's turn. A turn spans making a key, which takes a
/// YubiHSM a second.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// How long PostgreSQL keeps the lock of a client that has gone silent in its turn.
const SILENT_TURN: Duration = Duration::from_mins(1);

pub(super) async fn connect(url: &str) -> Result<DatabaseConnection, Error> {
    let mut options = ConnectOptions::new(url);
    options.sqlx_logging(false).connect_timeout(LOCK_WAIT).acquire_timeout(LOCK_WAIT);
    if let Some(path) = url.strip_prefix("sqlite:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        make_private(Path::new(path))?;
        options.map_sqlx_sqlite_opts(|options| {
            options
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full)
                .busy_timeout(LOCK_WAIT)
        });
    } else {
        options.max_connections(2).map_sqlx_postgres_opts(|options| {
            options.options([
                ("synchronous_commit", "on".to_owned()),
                ("lock_timeout", format!("{}ms", LOCK_WAIT.as_millis())),
                ("idle_in_transaction_session_timeout", format!("{}ms", SILENT_TURN.as_millis())),
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
