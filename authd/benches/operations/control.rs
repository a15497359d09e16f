//! The control: a server that has its database do what authd has its database do, and proves, parses and signs nothing.
//!
//! It stands on tables that an authd has made. Its rows have the form of authd's and mean nothing, and do not
//! depend on the rows that it read.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use actix_web::web::{self, Data};
use actix_web::{App, HttpResponse, HttpServer};
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DatabaseTransaction, DbBackend,
    SqliteTransactionMode, Statement, TransactionOptions, TransactionTrait, Value,
};
use tests::craft::random;

/// Accounts that it reads.
const ACCOUNTS: usize = 64;
/// As long as a digest, a key and a signature are.
const TEXT: usize = 44;
/// As long as the request that a record keeps.
const PAYLOAD: usize = 420;
/// As long as a token.
const TOKEN: usize = 700;
/// As many as authd has.
const SQLITE_READERS: u32 = 4;
const POSTGRES_CONNECTIONS: u32 = 16;

/// Serves on `address` from `database`, for ever.
pub(crate) fn serve(address: &str, database: &str) {
    actix_web::rt::System::new().block_on(async {
        let control = Data::from(Arc::new(Control::open(database).await));
        let app = move || {
            App::new()
                .app_data(Data::clone(&control))
                .route("/account/create", web::post().to(create))
                .route("/session/request", web::post().to(challenge))
                .route("/session/create", web::post().to(session))
                .route("/session/refresh", web::post().to(refresh))
                .route("/device/rotate", web::post().to(rotate))
                .route("/device/link", web::post().to(link))
                .route("/account/recover", web::post().to(recover))
        };
        HttpServer::new(app).keep_alive(Duration::from_mins(1)).bind(address).unwrap().run().await.unwrap();
    });
}

struct Control {
    reader: DatabaseConnection,
    writer: DatabaseConnection,
    accounts: Vec<String>,
    tables: Tables,
}

/// How a row of each table is appended.
struct Tables {
    account: Table,
    device: Table,
    refresh: Table,
    challenge: Table,
    outbox: Table,
}

struct Table {
    name: &'static str,
    columns: Vec<(String, Kind)>,
}

#[derive(Clone, Copy)]
enum Kind {
    Text,
    Payload,
    Number,
    Truth,
}

impl Control {
    async fn open(database: &str) -> Self {
        let connect = async |most| {
            let mut options = ConnectOptions::new(database);
            options.max_connections(most).sqlx_logging(false);
            Database::connect(options).await.unwrap()
        };
        let (reader, writer) = if database.starts_with("sqlite") {
            let (reader, writer) = (connect(SQLITE_READERS).await, connect(1).await);
            writer.execute_unprepared("PRAGMA synchronous = FULL").await.unwrap();
            (reader, writer)
        } else {
            let both = connect(POSTGRES_CONNECTIONS).await;
            (both.clone(), both)
        };
        let tables = Tables {
            account: Table::read(&reader, "account_records").await,
            device: Table::read(&reader, "device_records").await,
            refresh: Table::read(&reader, "refreshes").await,
            challenge: Table::read(&reader, "spent_challenges").await,
            outbox: Table::read(&reader, "outbox").await,
        };
        let accounts: Vec<String> = (0..ACCOUNTS).map(|_| text(TEXT)).collect();
        for account in &accounts {
            for table in [&tables.account, &tables.device] {
                writer.execute_raw(table.insert(writer.get_database_backend(), account)).await.unwrap();
            }
        }
        Self { reader, writer, accounts, tables }
    }

    fn account(&self) -> &str {
        let [at] = random::<1>();
        self.accounts.iter().cycle().nth(usize::from(at)).unwrap()
    }

    /// The newest rows of an account, in one statement.
    async fn heads(&self, refreshed: bool) {
        let newest = |alias: &str, table: &str| {
            format!(
                " LEFT JOIN {table} AS {alias} ON {alias}.identity = $1 AND {alias}.sequence_number = \
                 (SELECT max(sequence_number) FROM {table} WHERE identity = $1)"
            )
        };
        let mut sql = "SELECT a.*, b.*, d.*, r.* FROM (SELECT 1) AS one".to_owned();
        for (alias, table) in [("a", "account_records"), ("b", "ban_records"), ("r", "role_records")] {
            sql += &newest(alias, table);
        }
        sql += " LEFT JOIN device_records AS d ON d.identity = $1 AND d.device = $2 AND d.sequence_number = \
                (SELECT max(sequence_number) FROM device_records WHERE identity = $1 AND device = $2)";
        if refreshed {
            sql += " LEFT JOIN refreshes AS s ON s.digest = $2";
        }
        let account = self.account().to_owned();
        self.ask(&sql, vec![account.clone().into(), account.into()]).await;
    }

    async fn devices(&self) {
        let account = self.account().to_owned();
        self.ask("SELECT * FROM device_records WHERE identity = $1", vec![account.into()]).await;
    }

    async fn ask(&self, sql: &str, values: Vec<Value>) {
        let statement = Statement::from_sql_and_values(self.reader.get_database_backend(), sql, values);
        self.reader.query_all_raw(statement).await.unwrap();
    }

    /// Appends rows in a transaction that alone writes about one account.
    async fn append(&self, tables: &[&Table]) {
        let backend = self.writer.get_database_backend();
        let transaction = self.begin().await;
        let account = text(TEXT);
        for table in tables {
            transaction.execute_raw(table.insert(backend, &account)).await.unwrap();
        }
        transaction.commit().await.unwrap();
    }

    /// Appends one row, which is a transaction of its own.
    async fn append_one(&self, table: &Table) {
        let row = table.insert(self.writer.get_database_backend(), &text(TEXT));
        self.writer.execute_raw(row).await.unwrap();
    }

    async fn begin(&self) -> DatabaseTransaction {
        if self.writer.get_database_backend() == DbBackend::Sqlite {
            let immediate = TransactionOptions {
                sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
                ..TransactionOptions::default()
            };
            return self.writer.begin_with_options(immediate).await.unwrap();
        }
        let transaction = self.writer.begin().await.unwrap();
        let lock = i64::from_be_bytes(random());
        let lock = Statement::from_sql_and_values(
            DbBackend::Postgres,
            "SELECT pg_advisory_xact_lock($1)",
            [lock.into()],
        );
        transaction.execute_raw(lock).await.unwrap();
        transaction
    }
}

impl Table {
    /// Learns its columns; one that the database numbers by itself is left out.
    async fn read(on: &DatabaseConnection, name: &'static str) -> Self {
        let sql = match on.get_database_backend() {
            DbBackend::Sqlite => format!("SELECT name, type FROM pragma_table_info('{name}')"),
            _ => format!(
                "SELECT column_name::text AS name, data_type::text AS type FROM information_schema.columns \
                 WHERE table_name = '{name}' ORDER BY ordinal_position"
            ),
        };
        let rows = on.query_all_raw(Statement::from_string(on.get_database_backend(), sql)).await.unwrap();
        let columns = rows.iter().map(|row| {
            let column: String = row.try_get("", "name").unwrap();
            let kind: String = row.try_get("", "type").unwrap();
            let kind = match (column.as_str(), kind.to_lowercase()) {
                ("payload", _) => Kind::Payload,
                (_, kind) if kind.contains("bool") => Kind::Truth,
                (_, kind) if kind.contains("int") => Kind::Number,
                _ => Kind::Text,
            };
            (column, kind)
        });
        let columns = columns.filter(|(column, _)| !(name == "outbox" && column == "id")).collect();
        Self { name, columns }
    }

    /// A row that means nothing, of the account `identity`.
    fn insert(&self, backend: DbBackend, identity: &str) -> Statement {
        let names: Vec<_> = self.columns.iter().map(|(name, _)| name.as_str()).collect();
        let places: Vec<_> = (1..=names.len()).map(|place| format!("${place}")).collect();
        let sql = format!("INSERT INTO {} ({}) VALUES ({})", self.name, names.join(", "), places.join(", "));
        let values = self.columns.iter().map(|(name, kind)| match (name.as_str(), kind) {
            ("identity", _) => identity.to_owned().into(),
            ("sequence_number", _) => 0_i64.into(),
            ("format", _) => 1_i32.into(),
            (_, Kind::Text) => text(TEXT).into(),
            (_, Kind::Payload) => text(PAYLOAD).into(),
            (_, Kind::Number) => i64::MAX.into(),
            (_, Kind::Truth) => false.into(),
        });
        let values: Vec<Value> = values.collect();
        Statement::from_sql_and_values(backend, sql, values)
    }
}

/// Random hexadecimal digits.
fn text(length: usize) -> String {
    let mut text = String::with_capacity(length + 32);
    while text.len() < length {
        write!(text, "{:032x}", u128::from_be_bytes(random())).unwrap();
    }
    text.truncate(length);
    text
}

fn answer(response: &str) -> HttpResponse {
    let nonce = text(24);
    let signature = text(88);
    HttpResponse::Ok().content_type("application/json").body(format!(
        r#"{{"payload":{{"access":{{"nonce":"{nonce}","serverIdentity":"{nonce}"}},"response":{response}}},"signature":"{signature}"}}"#
    ))
}

fn token() -> HttpResponse {
    answer(&format!(r#"{{"access":{{"token":"{}"}}}}"#, text(TOKEN)))
}

async fn create(control: Data<Control>) -> HttpResponse {
    control.heads(false).await;
    control.append(&[&control.tables.account, &control.tables.device]).await;
    answer("{}")
}

async fn challenge() -> HttpResponse {
    answer(&format!(r#"{{"authentication":{{"nonce":"{}"}}}}"#, text(24)))
}

async fn session(control: Data<Control>) -> HttpResponse {
    control.heads(false).await;
    control.append_one(&control.tables.challenge).await;
    token()
}

async fn refresh(control: Data<Control>) -> HttpResponse {
    control.heads(true).await;
    control.append_one(&control.tables.refresh).await;
    token()
}

async fn rotate(control: Data<Control>) -> HttpResponse {
    control.heads(false).await;
    control.append(&[&control.tables.device]).await;
    answer("{}")
}

async fn link(control: Data<Control>) -> HttpResponse {
    control.heads(false).await;
    control.devices().await;
    control.append(&[&control.tables.device, &control.tables.device]).await;
    answer("{}")
}

async fn recover(control: Data<Control>) -> HttpResponse {
    control.heads(false).await;
    control.devices().await;
    let Tables { account, device, outbox, .. } = &control.tables;
    control.append(&[account, device, device, outbox]).await;
    answer("{}")
}
