//! Opening the database: where it is, how durable, how long anything may take.

use std::fs::{OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use sea_orm::sqlx::sqlite::{SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sea_orm::{ConnectOptions, Database, DatabaseConnection};
use sqlx::{Connection, Executor};

use super::Fault;

/// Longest wait for a connection or for another writer: less than a device's own patience, so that the
/// answer is a 503 with a code and not a broken connection.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Longest single statement.
const STATEMENT_MAX: &str = "10s";

/// Connections that read snapshots from SQLite at once. It has one writer by nature.
const SQLITE_READERS: u32 = 4;

/// Connections to PostgreSQL of one authd. Its default allows a hundred in all.
const POSTGRES_CONNECTIONS: u32 = 16;

/// Longest that a connection to PostgreSQL is used: a server that took another's name is found by then.
const LIFE_MAX: Duration = Duration::from_mins(1);

/// A connection that was not used for as long is tried before it is used.
const TRIED_AFTER: Duration = Duration::from_secs(1);

/// Since when the server of the connections made until then is not believed to write.
#[derive(Clone, Debug, Default)]
pub(super) struct Doubt(Arc<Mutex<Option<Instant>>>);

impl Doubt {
    /// No connection made until now is used again.
    pub(super) fn raise(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether a connection that is so old was made since.
    fn spares(&self, age: Duration) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_none_or(|raised| age < raised.elapsed())
    }
}

/// Where the records are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Location {
    /// A SQLite file, this authd's own.
    Sqlite(PathBuf),
    /// A PostgreSQL server, which several authd may share.
    Postgres(String),
}

impl Location {
    /// Reads `sqlite:///path` or `postgres://…`. What it says of a wrong one holds no password.
    pub(super) fn parse(url: &str) -> Result<Self, Fault> {
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Ok(Self::Postgres(url.to_owned()));
        }
        let path = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:"));
        match path.map(Path::new) {
            Some(path) if path.is_absolute() && path.file_name().is_some() => {
                Ok(Self::Sqlite(path.to_owned()))
            }
            Some(_) => Err(location(
                "a SQLite store needs an absolute path, as in `sqlite:///var/lib/authd/accounts.db`",
            )),
            None => {
                Err(location("unknown kind of database: give `sqlite:///path` or `postgres://host/name`"))
            }
        }
    }

    /// Opens it: the connections that read, and those that write. PostgreSQL's are given up once `doubt` is raised.
    pub(super) async fn connect(
        &self,
        doubt: &Doubt,
    ) -> Result<(DatabaseConnection, DatabaseConnection), Fault> {
        match self {
            Self::Sqlite(path) => {
                own_file(path)?;
                let writer = Database::connect(sqlite(path, 1)).await?;
                Ok((Database::connect(sqlite(path, SQLITE_READERS)).await?, writer))
            }
            Self::Postgres(url) => {
                let both = Database::connect(postgres(url, doubt.clone())).await?;
                Ok((both.clone(), both))
            }
        }
    }
}

/// Durable before fast: a committed transaction survives the power cord.
fn sqlite(path: &Path, connections: u32) -> ConnectOptions {
    let mut options = ConnectOptions::new("sqlite:");
    let path = path.to_owned();
    options
        .max_connections(connections)
        .acquire_timeout(WAIT_MAX)
        .connect_timeout(WAIT_MAX)
        .sqlx_logging(false)
        .map_sqlx_sqlite_before_acquire(|connection, _| is_outside_transaction(connection).boxed())
        .map_sqlx_sqlite_opts(move |sqlite| {
            sqlite
                .filename(&path)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full)
                .busy_timeout(WAIT_MAX)
                .foreign_keys(true)
        });
    options
}

/// Whether a connection is proven to be outside a transaction; it is closed if not.
///
/// SQLite ends a transaction by itself after some errors (no room, a failing disk), and leaves it open after others:
/// the library's count of open transactions may be wrong then, in either direction. A transaction begun on such a
/// connection would be a savepoint of one that is never committed, though its own commit is answered.
async fn is_outside_transaction(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    const OUTSIDE: &str = "no transaction is active";
    if connection.is_in_transaction() {
        return Ok(false);
    }
    let rolled_back = connection.execute("ROLLBACK").await;
    Ok(rolled_back
        .is_err_and(|error| error.as_database_error().is_some_and(|error| error.message().contains(OUTSIDE))))
}

fn postgres(url: &str, doubt: Doubt) -> ConnectOptions {
    let mut options = ConnectOptions::new(url);
    options
        .max_connections(POSTGRES_CONNECTIONS)
        .max_lifetime(LIFE_MAX)
        .test_before_acquire_if_idle_for(TRIED_AFTER)
        .map_sqlx_postgres_before_acquire(move |_, connection| {
            let is_spared = doubt.spares(connection.age);
            async move { Ok(is_spared) }.boxed()
        })
        .acquire_timeout(WAIT_MAX)
        .connect_timeout(WAIT_MAX)
        .sqlx_logging(false)
        .map_sqlx_postgres_opts(|postgres| {
            postgres.application_name("authd").options([
                ("default_transaction_isolation", "read committed"),
                ("lock_timeout", "5s"),
                ("statement_timeout", STATEMENT_MAX),
                ("idle_in_transaction_session_timeout", "15s"),
                ("synchronous_commit", "on"),
            ])
        });
    options
}

/// Makes the file for this user alone, or refuses one that others can read.
fn own_file(path: &Path) -> Result<(), Fault> {
    let shown = path.display();
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match made {
        Ok(file) => file
            .set_permissions(Permissions::from_mode(0o600))
            .map_err(|error| location(format!("the permissions of `{shown}` cannot be set: {error}"))),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let metadata = path.metadata().map_err(|error| location(format!("`{shown}`: {error}")))?;
            let others = metadata.permissions().mode() & 0o077;
            if others == 0 {
                Ok(())
            } else {
                Err(location(format!("others can read `{shown}`: run `chmod 600 {shown}`")))
            }
        }
        Err(error) => Err(location(format!(
            "`{shown}` cannot be made ({error}): make its folder, owned by the user of authd"
        ))),
    }
}

fn location(what: impl Into<String>) -> Fault {
    Fault::Location(what.into())
}

#[cfg(test)]
mod tests {
    use sea_orm::{ConnectionTrait, DbBackend, Statement, TransactionTrait};

    use super::*;

    #[test]
    fn locations_are_absolute_files_or_postgres() {
        let file = |path: &str| Some(Location::Sqlite(PathBuf::from(path)));
        let table = [
            ("sqlite:///var/lib/authd/a.db", file("/var/lib/authd/a.db")),
            ("sqlite:/a.db", file("/a.db")),
            ("postgres://h/n", Some(Location::Postgres("postgres://h/n".to_owned()))),
            ("postgresql://u:secret@h/n", Some(Location::Postgres("postgresql://u:secret@h/n".to_owned()))),
            ("sqlite::memory:", None),
            ("sqlite://a.db", None),
            ("sqlite:///", None),
            ("mysql://u:secret@h/n", None),
            ("", None),
        ];
        for (url, expected) in table {
            match (Location::parse(url), expected) {
                (Ok(found), Some(expected)) => assert_eq!(found, expected, "{url}"),
                (Err(fault), None) => assert!(!fault.to_string().contains("secret"), "{url}"),
                (found, _) => panic!("`{url}` was read as {found:?}"),
            }
        }
    }

    #[test]
    fn a_doubt_spares_the_connections_made_since() {
        let (doubt, hour) = (Doubt::default(), Duration::from_hours(1));
        assert!(doubt.spares(hour));
        doubt.raise();
        assert!(!doubt.spares(hour));
        std::thread::yield_now();
        assert!(doubt.spares(Duration::ZERO));
    }

    #[test]
    fn a_file_is_ours_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("accounts.db");
        own_file(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        own_file(&path).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert!(own_file(&path).unwrap_err().to_string().contains("chmod 600"));
        assert!(own_file(&folder.path().join("no/where.db")).is_err());
    }

    /// How a transaction fails: SQLite ends it by itself, finds no room, or leaves it open although its commit failed, as
    /// on a full disk.
    const FAILURES: [(&str, &str); 4] = [
        ("ended by SQLite", "INSERT OR ROLLBACK INTO t VALUES (1, zeroblob(10), NULL)"),
        ("no room", "INSERT INTO t VALUES (2, zeroblob(1000000), NULL)"),
        ("ended behind the library's back", "ROLLBACK"),
        ("a commit that fails", "INSERT INTO t VALUES (2, 'orphan', 99)"),
    ];

    #[tokio::test]
    async fn what_is_committed_after_a_failed_transaction_is_kept() {
        for (name, failure) in FAILURES {
            let folder = tempfile::tempdir().unwrap();
            let location = Location::Sqlite(folder.path().join("accounts.db"));
            let (_, writer) = location.connect(&Doubt::default()).await.unwrap();
            for statement in [
                "CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB, parent INTEGER REFERENCES t DEFERRABLE INITIALLY \
                 DEFERRED)",
                "INSERT INTO t VALUES (1, 'first', NULL)",
                "PRAGMA max_page_count = 20",
            ] {
                writer.execute_unprepared(statement).await.unwrap();
            }
            let transaction = writer.begin().await.unwrap();
            transaction.execute_unprepared("INSERT INTO t VALUES (3, 'lost', NULL)").await.unwrap();
            if transaction.execute_unprepared(failure).await.is_ok() {
                transaction.commit().await.unwrap_err();
            } else {
                drop(transaction);
            }
            // A request that writes nothing in the end: rolled back to a savepoint, it would leave a transaction open.
            let transaction = writer.begin().await.unwrap();
            transaction.execute_unprepared("INSERT INTO t VALUES (4, 'lost', NULL)").await.unwrap();
            transaction.rollback().await.unwrap();
            for id in 10..13 {
                let transaction = writer.begin().await.unwrap();
                let insert = format!("INSERT INTO t VALUES ({id}, 'kept', NULL)");
                transaction.execute_unprepared(&insert).await.unwrap();
                transaction.commit().await.unwrap();
            }
            let (reader, _) = location.connect(&Doubt::default()).await.unwrap();
            let ids = Statement::from_string(DbBackend::Sqlite, "SELECT id FROM t ORDER BY id");
            let rows = reader.query_all_raw(ids).await.unwrap();
            let ids: Vec<i64> = rows.iter().map(|row| row.try_get_by_index(0).unwrap()).collect();
            assert_eq!(ids, [1, 10, 11, 12], "{name}");
        }
    }
}
