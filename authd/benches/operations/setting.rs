//! A whole system on one database, and the control beside it on a database of its own.

use std::net::SocketAddr;
use std::process::{Child, Command};
use std::time::Duration;

use tests::postgres::PostgreSql;
use tests::{World, until};
use tokio::net::TcpStream;

use crate::distance::Distance;

/// What serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// authd.
    Authd,
    /// The same statements, and no cryptography.
    Control,
}

/// Which database, how far away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Database {
    /// A file, `synchronous=FULL`.
    Sqlite,
    /// A server on this machine, `fsync=on`.
    Postgres,
    /// The same server, with 1 ms more on each round trip and 2 ms more on each flush.
    FarPostgres,
}

/// Both sides, running. Dropped, they stop.
pub(crate) struct Setting {
    authd: (String, u32),
    control: (String, u32),
    _control: OwnProcess,
    _world: World,
    _distances: Vec<Distance>,
    _servers: Vec<PostgreSql>,
    _folder: tempfile::TempDir,
}

impl Database {
    pub(crate) const ALL: [Self; 3] = [Self::Sqlite, Self::Postgres, Self::FarPostgres];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite, synchronous=FULL",
            Self::Postgres => "PostgreSQL, fsync=on",
            Self::FarPostgres => "PostgreSQL, fsync=on, 1 ms more each round trip, 2 ms more each flush",
        }
    }

    /// A server of its own, if it is one.
    async fn server(self) -> Option<PostgreSql> {
        match self {
            Self::Sqlite => None,
            Self::Postgres => Some(PostgreSql::start_with(&["fsync=on"]).await),
            // It waits so long before each flush, however few transactions are open besides.
            Self::FarPostgres => {
                Some(PostgreSql::start_with(&["fsync=on", "commit_delay=2000", "commit_siblings=0"]).await)
            }
        }
    }
}

impl Setting {
    pub(crate) async fn start(database: Database) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (mut servers, mut distances, mut urls) = (Vec::new(), Vec::new(), Vec::new());
        for side in ["authd", "control"] {
            let Some(server) = database.server().await else {
                urls.push(format!("sqlite://{}", folder.path().join(format!("{side}.db")).display()));
                continue;
            };
            if database == Database::FarPostgres {
                let url = server.url();
                let address = url.split(['@', '/']).nth(3).and_then(|address| address.parse().ok());
                let address: SocketAddr = address.unwrap_or_else(|| panic!("no address: {url}"));
                let distance = Distance::before(address, Duration::from_millis(1)).await;
                urls.push(url.replace(&address.to_string(), &distance.address().to_string()));
                distances.push(distance);
            } else {
                urls.push(server.url());
            }
            servers.push(server);
        }
        let [ours, controls] = urls.as_slice() else { panic!("two databases: {urls:?}") };
        // An authd makes the tables of both.
        drop(World::start_on(controls).await);
        let world = World::start_on(ours).await;
        let authd = world.children("authd");
        let [authd] = authd.as_slice() else { panic!("one authd: {authd:?}") };
        let address = free();
        let control = OwnProcess::start(&["control", &address.to_string(), controls], address).await;
        Self {
            authd: (world.endpoints().auth.clone(), *authd),
            control: (format!("http://{address}"), control.0.id()),
            _control: control,
            _world: world,
            _distances: distances,
            _servers: servers,
            _folder: folder,
        }
    }

    /// Where a side serves, and its process.
    pub(crate) fn server(&self, side: Side) -> (&str, u32) {
        let (address, process) = match side {
            Side::Authd => &self.authd,
            Side::Control => &self.control,
        };
        (address, *process)
    }
}

/// An address that was free a moment ago.
fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// This program once more, as the control; stopped when dropped.
struct OwnProcess(Child);

impl OwnProcess {
    async fn start(arguments: &[&str], address: SocketAddr) -> Self {
        let program = std::env::current_exe().unwrap();
        let process = Self(Command::new(program).args(arguments).spawn().unwrap());
        until("the control to listen", Duration::from_secs(20), || async {
            TcpStream::connect(address).await.ok()
        })
        .await;
        process
    }
}

impl Drop for OwnProcess {
    fn drop(&mut self) {
        let _already_dead = self.0.kill();
        let _already_reaped = self.0.wait();
    }
}
