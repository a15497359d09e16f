//! A whole authd in this process, with everything around it real but the HSM.

use std::fmt::Write as _;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use authd::admin::policy::Operation;
use authd::config::Config;
use authd::daemon::Daemon;
use authd::service::Service;
use authd::store::Store;
use edge::clock::{Clock, Hand};
use keychain::directory::Directory;
use keychain::{Code, Digest, PublicKey};
use sea_orm::{ConnectionTrait, Database, DatabaseConnection, Statement};
use systemd::config::Span;
use tempfile::TempDir;
use tests::craft::{Device, Keys, message, now};
use tests::cutting_proxy::CuttingProxy;
use tests::http::{Answer, Http};
use tests::postgres::PostgreSql;
use tests::redis_server::RedisServer;
use tests::until;

use crate::hsm::Hsm;
use crate::macs;

/// The tables of authd that requests change, and their columns; but for when something was sent, which is no decision.
/// The endorsements of its keys are kept by a task, at its own pace.
const TABLES: [(&str, &str); 11] = [
    (
        "account_records",
        "id,prefix,previous,sequence_number,created_at,identity,recovery_hash,revealed,state,format,path,cause,payload,action,operator,reason,signer,signature",
    ),
    (
        "device_records",
        "id,prefix,previous,sequence_number,created_at,identity,device,public_key,rotation_hash,state,format,path,cause,payload,action,operator,reason,signer,signature",
    ),
    (
        "ban_records",
        "id,prefix,previous,sequence_number,created_at,identity,banned,until,format,action,operator,reason,signer,signature",
    ),
    (
        "role_records",
        "id,prefix,previous,sequence_number,created_at,identity,roles,format,action,operator,reason,signer,signature",
    ),
    ("audit_lines", "number,digest,line"),
    ("signers", "public_key,endorsement"),
    ("refreshes", "digest,cause,identity,device,public_key,rotation_hash,issued_at,expiry,refresh_expiry"),
    ("spent_challenges", "nonce,forgotten_at"),
    ("outbox", "id,subject,account,cause,lifted,expires_at,issued_up_to"),
    ("device_names", "id,identity,device,name,named_at,named_by"),
    ("session_ends", "id,identity,device,issued_up_to,ended_at,ended_by,forgotten_at"),
];

/// Limits that no test reaches.
const UNLIMITED: &str = "[limits]\naddress = \"1000000/s\"\ndevice = \"1000000/s\"\nidentity = \"1000000/s\"";

/// The stage of one test.
pub(crate) struct Stage {
    pub(crate) auth: Http,
    daemon: Option<Daemon>,
    pub(crate) hsm: Hsm,
    pub(crate) directory: Directory,
    pub(crate) redis: RedisServer,
    pub(crate) database: String,
    pub(crate) sql: DatabaseConnection,
    pub(crate) folder: TempDir,
    postgres: Option<PostgreSql>,
    /// More lines of the configuration.
    lines: String,
    clock: Clock,
    /// Moves the clock of the daemons here.
    pub(crate) hand: Hand,
}

impl Stage {
    pub(crate) async fn on_sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = format!("sqlite://{}", folder.path().join("accounts.db").display());
        Self::start(folder, database, None, "", |_| {}).await
    }

    /// On SQLite, with more lines in the configuration, before an HSM that `prepare` has changed.
    pub(crate) async fn prepared(lines: &str, prepare: impl FnOnce(&Hsm)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = format!("sqlite://{}", folder.path().join("accounts.db").display());
        Self::start(folder, database, None, lines, prepare).await
    }

    pub(crate) async fn on_postgres() -> Self {
        let server = PostgreSql::start().await;
        Self::start(tempfile::tempdir().unwrap(), server.url(), Some(server), "", |_| {}).await
    }

    /// On a PostgreSQL with more settings.
    pub(crate) async fn on_postgres_with(settings: &[&str]) -> Self {
        let server = PostgreSql::start_with(settings).await;
        Self::start(tempfile::tempdir().unwrap(), server.url(), Some(server), "", |_| {}).await
    }

    /// On a PostgreSQL to which the road can be cut.
    pub(crate) async fn on_postgres_behind_a_road() -> (Self, CuttingProxy) {
        let server = PostgreSql::start().await;
        let url = server.url();
        let (user, rest) = url.split_once('@').unwrap();
        let (server_address, name) = rest.split_once('/').unwrap();
        let road = CuttingProxy::before(server_address.to_owned()).await;
        let database = format!("{user}@{}/{name}", road.address());
        (Self::start(tempfile::tempdir().unwrap(), database, Some(server), UNLIMITED, |_| {}).await, road)
    }

    /// The PostgreSQL under it.
    pub(crate) fn postgres(&self) -> &PostgreSql {
        self.postgres.as_ref().unwrap()
    }

    /// What PostgreSQL has logged.
    pub(crate) fn postgres_log(&self) -> String {
        self.postgres.as_ref().unwrap().log()
    }

    /// On SQLite, for more requests than anybody may send.
    pub(crate) async fn unlimited_on_sqlite() -> Self {
        Self::prepared(UNLIMITED, |_| {}).await
    }

    /// On PostgreSQL, for more requests than anybody may send.
    pub(crate) async fn unlimited_on_postgres() -> Self {
        let server = PostgreSql::start().await;
        Self::start(tempfile::tempdir().unwrap(), server.url(), Some(server), UNLIMITED, |_| {}).await
    }

    /// On SQLite, with the policy that lies in `folder`.
    pub(crate) async fn with_policy(folder: TempDir) -> Self {
        let database = format!("sqlite://{}", folder.path().join("accounts.db").display());
        Self::start(folder, database, None, "", |_| {}).await
    }

    async fn start(
        folder: TempDir,
        database: String,
        postgres: Option<PostgreSql>,
        lines: &str,
        prepare: impl FnOnce(&Hsm),
    ) -> Self {
        let redis = RedisServer::start().await;
        let directory = Directory::connect(&redis.url()).unwrap();
        let hsm = Hsm::start();
        prepare(&hsm);
        hsm.publish(&directory).await;
        // The testkit's PostgreSQL does not outlive its machine.
        let lossy = if postgres.is_some() { "insecure_lossy_database = true\n" } else { "" };
        let lines = format!("{lossy}{lines}");
        let path = configuration(&folder, "authd", &hsm, (&redis.url(), &database), &lines);
        let (clock, hand) = Clock::with_hand();
        let daemon = Daemon::start(&load(&path), clock.clone()).await.unwrap();
        let auth = http(&daemon);
        let sql = Database::connect(&database).await.unwrap();
        let daemon = Some(daemon);
        Self { auth, daemon, hsm, directory, redis, database, sql, folder, postgres, lines, clock, hand }
    }

    /// Where this stage's authd listens, as a base URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// What this stage's authd works with.
    pub(crate) fn service(&self) -> &Service {
        self.daemon.as_ref().unwrap().service()
    }

    /// Another connection to the store, as an authd has it.
    pub(crate) async fn open_store(&self) -> Store {
        Store::open(&self.database, macs::keys()).await.unwrap()
    }

    /// How this stage's authd says that it is.
    pub(crate) fn health(&self) -> serde_json::Value {
        let health = self.daemon.as_ref().unwrap().health()();
        serde_json::from_str(&health.verbose.unwrap()).unwrap()
    }

    /// Where this stage's authd listens.
    pub(crate) fn address(&self) -> std::net::SocketAddr {
        self.daemon.as_ref().unwrap().address().unwrap()
    }

    /// Has PostgreSQL carry out statements in one session, each for itself.
    pub(crate) async fn sql(&self, statements: &[&str]) {
        let mut one = sea_orm::ConnectOptions::new(&self.database);
        let session = Database::connect(one.max_connections(1).to_owned()).await.unwrap();
        for statement in statements {
            session.execute_unprepared(statement).await.unwrap();
        }
    }

    /// Ends PostgreSQL at once.
    pub(crate) async fn end_postgres(&mut self) {
        let process = self.postgres.as_mut().unwrap().process();
        process.signal(rustix::process::Signal::QUIT);
        until("PostgreSQL to end", Duration::from_secs(20), || {
            let ended = process.ended();
            async move { ended.map(drop) }
        })
        .await;
    }

    /// Ends this stage's own authd.
    pub(crate) async fn dismiss(&mut self) {
        self.daemon.take().unwrap().run_until(std::future::ready(())).await.unwrap();
    }

    /// Starts it again.
    pub(crate) async fn restart(&mut self) {
        let (daemon, auth) = self.another("authd").await;
        (self.daemon, self.auth) = (Some(daemon), auth);
    }

    /// Another authd on the same store and directory.
    pub(crate) async fn another(&self, name: &str) -> (Daemon, Http) {
        let daemon = Daemon::start(&load(&self.configuration(name)), self.clock.clone()).await.unwrap();
        let auth = http(&daemon);
        (daemon, auth)
    }

    /// Another authd, which knows of public auth servers on the directory.
    pub(crate) async fn another_beside_public_servers(&self) -> (Daemon, Http) {
        let mut config = load(&self.configuration("beside"));
        config.public_auth_servers = true;
        let daemon = Daemon::start(&config, self.clock.clone()).await.unwrap();
        let auth = http(&daemon);
        (daemon, auth)
    }

    /// Another authd, which demands a head of the last ten minutes.
    pub(crate) async fn another_with_recent_heads(&self, name: &str) -> (Daemon, Http) {
        let mut config = load(&self.configuration(name));
        config.head_max_age = Span::seconds(600);
        let daemon = Daemon::start(&config, self.clock.clone()).await.unwrap();
        let auth = http(&daemon);
        (daemon, auth)
    }

    /// A configuration file of another authd here.
    pub(crate) fn configuration(&self, name: &str) -> PathBuf {
        configuration(&self.folder, name, &self.hsm, (&self.redis.url(), &self.database), &self.lines)
    }

    /// All rows, and what the directory holds of spent keys and denials, once it was told of all.
    pub(crate) async fn dump(&self) -> String {
        until("an empty outbox", Duration::from_secs(20), || async {
            (self.service().store.count_unsent(now()).await.unwrap() == 0).then_some(())
        })
        .await;
        let mut dump = String::new();
        for (table, columns) in TABLES {
            let line = format!("SELECT concat_ws('|', {columns}) AS line FROM {table} ORDER BY 1");
            let query = Statement::from_string(self.sql.get_database_backend(), line);
            for row in self.sql.query_all_raw(query).await.unwrap() {
                writeln!(dump, "{table}: {}", row.try_get::<String>("", "line").unwrap()).unwrap();
            }
        }
        for database in [2, 3] {
            let mut names = self.names(database).await;
            names.sort();
            writeln!(dump, "DB {database}: {names:?}").unwrap();
        }
        dump
    }

    /// A connection that waits for a busy server: the library gives up after half a second otherwise.
    pub(crate) async fn connection(&self, database: u8) -> redis::aio::MultiplexedConnection {
        let patient = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(20)));
        let client = redis::Client::open(format!("{}/{database}", self.redis.url())).unwrap();
        client.get_multiplexed_async_connection_with_config(&patient).await.unwrap()
    }

    /// The names in a database of the directory.
    pub(crate) async fn names(&self, database: u8) -> Vec<String> {
        let mut connection = self.connection(database).await;
        redis::cmd("KEYS").arg("*").query_async(&mut connection).await.unwrap()
    }

    /// Asks the directory's server anything.
    pub(crate) async fn redis(&self, database: u8, words: &[&str]) -> redis::Value {
        let mut connection = self.connection(database).await;
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(word);
        }
        command.query_async(&mut connection).await.unwrap()
    }

    /// Posts what must be refused with this code, and changes nothing.
    #[track_caller]
    pub(crate) fn refuses<'a>(
        &'a self,
        path: &'a str,
        body: impl Into<Vec<u8>> + 'a,
        code: Code,
    ) -> impl Future<Output = Answer> + 'a {
        let place = std::panic::Location::caller();
        async move {
            let before = self.dump().await;
            let answer = self.auth.post(path, body).await;
            let told = answer.body.contains(code.as_str());
            assert!(told, "{place}: expected {code}, got {} {}", answer.status, answer.body);
            answer.refused(code);
            unchanged(&before, &self.dump().await, place);
            answer
        }
    }

    /// Posts an exact repeat, which must be answered like the first and change nothing.
    #[track_caller]
    pub(crate) fn repeats<'a>(&'a self, path: &'a str, body: String) -> impl Future<Output = ()> + 'a {
        let place = std::panic::Location::caller();
        async move {
            let before = self.dump().await;
            let answer = self.auth.post(path, body).await;
            assert_eq!(answer.status, 200, "{place}: {}", answer.body);
            unchanged(&before, &self.dump().await, place);
        }
    }

    /// Asks the admin socket, whose policy lets this user do anything.
    pub(crate) fn admin(&self) -> Http {
        Http::to_socket(&self.folder.path().join("authd.sock"))
    }

    /// Has an order carried out, and answers whether anything changed. The directory was told by then.
    pub(crate) async fn order(&self, path: &str, identity: &Digest, more: &str) -> bool {
        let body = format!(r#"{{"identity":"{identity}","reason":"a test"{more}}}"#);
        let answer = self.admin().post(path, body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        let answer: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(answer["told"], true, "{answer}");
        assert!(answer["feed"]["position"].is_u64(), "{answer}");
        answer["changed"].as_bool().unwrap()
    }

    /// Bans an identity for ever, or lifts its ban; says whether anything changed.
    pub(crate) async fn set_banned(&self, identity: &Digest, banned: bool) -> bool {
        self.order(if banned { "/ban" } else { "/unban" }, identity, "").await
    }

    /// The key that signs answers.
    pub(crate) fn response_key(&self) -> PublicKey {
        self.service().response.current().public_key()
    }

    /// An account with two devices.
    pub(crate) async fn couple(&self) -> (Device, Device) {
        let mut device = Device::create(&self.auth).await;
        let other = device.link(&self.auth).await;
        (device, other)
    }
}

/// Asserts that two dumps are the same, and shows what is not.
fn unchanged(before: &str, after: &str, place: &std::panic::Location<'_>) {
    let only = |one: &str, other: &str| -> Vec<String> {
        one.lines().filter(|line| !other.lines().any(|known| known == *line)).map(str::to_owned).collect()
    };
    let (gone, new) = (only(before, after), only(after, before));
    assert!(gone.is_empty() && new.is_empty(), "{place}: something changed: gone {gone:#?}, new {new:#?}");
}

/// A gated request with the keys one step ahead, and those keys.
pub(crate) fn gated(
    device: &Device,
    request: impl FnOnce(&Device, &Keys) -> String,
) -> (String, String, Keys) {
    let keys = device.keys.ahead();
    let request = request(device, &keys);
    (message(&request, &keys.current), request, keys)
}

/// Loads a configuration as the daemon does.
pub(crate) fn load(path: &Path) -> Config {
    systemd::config::load(path).unwrap()
}

fn http(daemon: &Daemon) -> Http {
    Http::to(&format!("http://{}", daemon.address().unwrap()))
}

fn configuration(
    folder: &TempDir,
    name: &str,
    hsm: &Hsm,
    (redis, database): (&str, &str),
    lines: &str,
) -> PathBuf {
    let state = folder.path().join(name);
    std::fs::create_dir_all(&state).unwrap();
    let text = format!(
        "identity = \"{}\"\nlisten = \"127.0.0.1:0\"\ndatabase = \"{database}\"\n\
         store_mac_key = \"{folder}/store-mac-key\"\nredis = \"{redis}\"\nendorse = \"{}\"\nmetrics = \"127.0.0.1:0\"\nstate = \"{}\"\n{lines}\n\
         [grantable_roles]\nmoderator = [\"hide\"]\n\
         [admin]\nlisten = \"unix:{folder}/{name}.sock\"\npolicy = \"{folder}/policy.toml\"\n",
        hsm.identity(),
        hsm.address(),
        state.display(),
        folder = folder.path().display(),
    );
    let policy = folder.path().join("policy.toml");
    if !policy.exists() {
        let user = rustix::process::getuid().as_raw();
        let words: Vec<_> = Operation::ALL.iter().map(|operation| operation.as_str()).collect();
        let row = format!("[[allow]]\nuser = {user}\noperations = {words:?}\nrate = \"60000/min\"\n");
        write_private(&policy, &row);
    }
    let keys = folder.path().join("store-mac-key");
    if !keys.exists() {
        write_private(&keys, &macs::line(macs::ENTROPY));
    }
    let path = folder.path().join(format!("{name}.toml"));
    std::fs::write(&path, text).unwrap();
    path
}

/// Writes a file that nobody else can read.
pub(crate) fn write_private(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}
