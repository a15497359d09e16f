//! The MACs of the store's rows, as `authd/STORE.md` says that they are made: an implementation of its own, for
//! rows that a test writes in authd's place.

use keychain::Digest;
use sea_orm::{ConnectionTrait, QueryResult, Statement};

use crate::stage::Stage;

/// What a stage's MAC key is made of.
pub(crate) const ENTROPY: [u8; 32] = [7; 32];

/// What a column holds.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Bool,
    Int,
    Long,
    Text,
}

use Kind::{Bool, Int, Long, Text};

/// A table: its name and its columns in their order, the first of which is its key.
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) columns: &'static [(&'static str, Kind)],
}

/// A value as the encoding has it; nothing stands for NULL.
#[derive(Clone, PartialEq)]
pub(crate) enum Value {
    Flag(bool),
    Number(i64),
    Word(String),
}

/// Every table.
pub(crate) const TABLES: [Table; 15] = [
    Table {
        name: "account_records",
        columns: &[
            ("id", Text),
            ("prefix", Text),
            ("previous", Text),
            ("sequence_number", Long),
            ("created_at", Long),
            ("identity", Text),
            ("recovery_hash", Text),
            ("revealed", Text),
            ("state", Text),
            ("format", Int),
            ("path", Text),
            ("cause", Text),
            ("payload", Text),
            ("action", Text),
            ("operator", Text),
            ("reason", Text),
            ("signer", Text),
            ("signature", Text),
        ],
    },
    Table {
        name: "device_records",
        columns: &[
            ("id", Text),
            ("prefix", Text),
            ("previous", Text),
            ("sequence_number", Long),
            ("created_at", Long),
            ("identity", Text),
            ("device", Text),
            ("public_key", Text),
            ("rotation_hash", Text),
            ("state", Text),
            ("format", Int),
            ("path", Text),
            ("cause", Text),
            ("payload", Text),
            ("action", Text),
            ("operator", Text),
            ("reason", Text),
            ("signer", Text),
            ("signature", Text),
        ],
    },
    Table {
        name: "ban_records",
        columns: &[
            ("id", Text),
            ("prefix", Text),
            ("previous", Text),
            ("sequence_number", Long),
            ("created_at", Long),
            ("identity", Text),
            ("banned", Bool),
            ("until", Long),
            ("format", Int),
            ("action", Text),
            ("operator", Text),
            ("reason", Text),
            ("signer", Text),
            ("signature", Text),
        ],
    },
    Table {
        name: "role_records",
        columns: &[
            ("id", Text),
            ("prefix", Text),
            ("previous", Text),
            ("sequence_number", Long),
            ("created_at", Long),
            ("identity", Text),
            ("roles", Text),
            ("format", Int),
            ("action", Text),
            ("operator", Text),
            ("reason", Text),
            ("signer", Text),
            ("signature", Text),
        ],
    },
    Table { name: "audit_lines", columns: &[("number", Long), ("digest", Text), ("line", Text)] },
    Table { name: "signers", columns: &[("public_key", Text), ("endorsement", Text)] },
    Table {
        name: "endorsements",
        columns: &[("public_key", Text), ("endorsement", Text), ("ends_at", Long)],
    },
    Table {
        name: "refreshes",
        columns: &[
            ("digest", Text),
            ("cause", Text),
            ("identity", Text),
            ("device", Text),
            ("public_key", Text),
            ("rotation_hash", Text),
            ("issued_at", Long),
            ("expiry", Long),
            ("refresh_expiry", Long),
        ],
    },
    Table { name: "spent_challenges", columns: &[("nonce", Text), ("forgotten_at", Long)] },
    Table { name: "secrets", columns: &[("name", Text), ("value", Text)] },
    Table {
        name: "outbox",
        columns: &[
            ("id", Long),
            ("subject", Text),
            ("account", Text),
            ("cause", Text),
            ("lifted", Bool),
            ("expires_at", Long),
            ("sent_at", Long),
            ("fed_at", Long),
            ("held_at", Long),
            ("issued_up_to", Long),
        ],
    },
    Table {
        name: "device_names",
        columns: &[
            ("id", Text),
            ("identity", Text),
            ("device", Text),
            ("name", Text),
            ("named_at", Long),
            ("named_by", Text),
        ],
    },
    Table {
        name: "session_ends",
        columns: &[
            ("id", Text),
            ("identity", Text),
            ("device", Text),
            ("issued_up_to", Long),
            ("ended_at", Long),
            ("ended_by", Text),
            ("forgotten_at", Long),
        ],
    },
    Table {
        name: "feeds",
        columns: &[
            ("name", Text),
            ("epoch", Long),
            ("position", Long),
            ("fence", Long),
            ("holder", Text),
            ("held_until", Long),
        ],
    },
    Table { name: "marks", columns: &[("name", Text), ("value", Text)] },
];

/// The line of the credential that has the key made of `entropy`.
pub(crate) fn line(entropy: [u8; 32]) -> String {
    authd::store::MacKeys::line(&entropy).to_string()
}

/// What a stage's authd has its MACs by.
pub(crate) fn keys() -> authd::store::MacKeys {
    authd::store::MacKeys::parse(line(ENTROPY).as_bytes()).unwrap()
}

/// The table of that name.
pub(crate) fn table(name: &str) -> &'static Table {
    TABLES.iter().find(|table| table.name == name).unwrap()
}

/// The MAC of a row with these values, by the key made of `entropy`.
pub(crate) fn mac(table: &Table, values: &[Option<Value>], entropy: [u8; 32]) -> String {
    let mut text = Vec::new();
    put(&mut text, b"keelson store row MAC 1");
    put(&mut text, table.name.as_bytes());
    for ((column, _), value) in table.columns.iter().zip(values) {
        let (kind, bytes) = match value {
            None => continue,
            // What was passed over was not told.
            Some(Value::Number(0)) if matches!(*column, "sent_at" | "fed_at") => continue,
            Some(Value::Flag(flag)) => (b'b', vec![u8::from(*flag)]),
            Some(Value::Number(number)) => (b'i', number.to_be_bytes().to_vec()),
            Some(Value::Word(word)) => (b't', word.clone().into_bytes()),
        };
        put(&mut text, column.as_bytes());
        text.push(kind);
        put(&mut text, &bytes);
    }
    let line = line(entropy);
    format!("{}.{}", line.split(' ').nth(1).unwrap(), blake3::keyed_hash(&entropy, &text).to_hex())
}

/// The MAC of a denial for ever.
pub(crate) fn of_ban(id: i64, subject: &Digest, account: &Digest) -> String {
    let word = |word: String| Some(Value::Word(word));
    let values = [
        Some(Value::Number(id)),
        word(subject.to_string()),
        word(account.to_string()),
        word("ban".to_owned()),
        Some(Value::Flag(false)),
    ];
    mac(table("outbox"), &values, ENTROPY)
}

fn put(text: &mut Vec<u8>, bytes: &[u8]) {
    text.extend(u64::try_from(bytes.len()).unwrap().to_be_bytes());
    text.extend(bytes);
}

/// A row as it stands in its table.
#[derive(Clone)]
pub(crate) struct Row {
    pub(crate) table: &'static Table,
    pub(crate) values: Vec<Option<Value>>,
    pub(crate) mac: Option<String>,
}

impl Row {
    /// The place of a column among the values.
    pub(crate) fn place(&self, column: &str) -> Option<usize> {
        self.table.columns.iter().position(|(name, _)| *name == column)
    }

    /// The number that a column has.
    pub(crate) fn number(&self, column: &str) -> i64 {
        match self.values[self.place(column).unwrap()] {
            Some(Value::Number(number)) => number,
            _ => panic!("`{column}` has no number"),
        }
    }

    /// The text that a column has.
    pub(crate) fn word(&self, column: &str) -> &str {
        match &self.values[self.place(column).unwrap()] {
            Some(Value::Word(word)) => word,
            _ => panic!("`{column}` has no text"),
        }
    }

    /// The row's key, for SQL.
    fn key(&self) -> String {
        format!("\"{}\" = {}", self.table.columns[0].0, literal(self.values[0].as_ref()))
    }
}

fn literal(value: Option<&Value>) -> String {
    match value {
        None => "NULL".to_owned(),
        Some(Value::Flag(flag)) => flag.to_string(),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::Word(word)) => format!("'{}'", word.replace('\'', "''")),
    }
}

/// The values of one row that was read whole.
fn values(table: &Table, row: &QueryResult) -> Vec<Option<Value>> {
    let value = |(column, kind): &(&str, Kind)| match kind {
        Bool => row.try_get::<Option<bool>>("", column).unwrap().map(Value::Flag),
        Int => row.try_get::<Option<i32>>("", column).unwrap().map(|number| Value::Number(number.into())),
        Long => row.try_get::<Option<i64>>("", column).unwrap().map(Value::Number),
        Text => row.try_get::<Option<String>>("", column).unwrap().map(Value::Word),
    };
    table.columns.iter().map(value).collect()
}

impl Stage {
    /// Carries out a statement on the store's database.
    pub(crate) async fn execute(&self, sql: &str) {
        let statement = Statement::from_string(self.sql.get_database_backend(), sql.to_owned());
        self.sql.execute_raw(statement).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// The rows of a table, in the order of its keys.
    pub(crate) async fn rows(&self, name: &str) -> Vec<Row> {
        let table = table(name);
        let select = format!("SELECT * FROM {name} ORDER BY \"{}\"", table.columns[0].0);
        let query = Statement::from_string(self.sql.get_database_backend(), select);
        let rows = self.sql.query_all_raw(query).await.unwrap();
        let row = |row: QueryResult| {
            let mac = row.try_get("", "mac").unwrap();
            Row { table, values: values(table, &row), mac }
        };
        rows.into_iter().map(row).collect()
    }

    /// Removes a row.
    pub(crate) async fn remove(&self, row: &Row) {
        self.execute(&format!("DELETE FROM {} WHERE {}", row.table.name, row.key())).await;
    }

    /// Writes a row.
    pub(crate) async fn insert(&self, row: &Row) {
        let columns: Vec<String> = row.table.columns.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        let values: Vec<String> = row.values.iter().map(|value| literal(value.as_ref())).collect();
        let mac = row.mac.as_ref().map_or_else(|| "NULL".to_owned(), |mac| format!("'{mac}'"));
        let (name, columns, values) = (row.table.name, columns.join(","), values.join(","));
        self.execute(&format!("INSERT INTO {name} ({columns},mac) VALUES ({values},{mac})")).await;
    }

    /// Puts a table back to these rows.
    pub(crate) async fn put_back(&self, name: &str, rows: &[Row]) {
        self.execute(&format!("DELETE FROM {name}")).await;
        for row in rows {
            self.insert(row).await;
        }
    }

    /// Gives rows that a test changed the MACs that authd would give them.
    pub(crate) async fn give_macs(&self, name: &str) {
        for row in self.rows(name).await {
            let mac = mac(row.table, &row.values, ENTROPY);
            self.execute(&format!("UPDATE {name} SET mac = '{mac}' WHERE {}", row.key())).await;
        }
    }
}
