//! Rows that are appended, the first of them only if what was read still stands.
//!
//! A decision is made on rows that were read before anything is locked. What it appends says so: the statement that
//! appends the first row names the heads that were read, and appends nothing if one of them is not the newest any more.

use keychain::{Digest, Timestamp};
use sea_orm::{
    ActiveModelTrait, ActiveValue, ConnectionTrait, DbBackend, EntityName, EntityTrait, IdenStatic, Iterable,
    Statement, Value,
};

use super::{Fault, elsewhere};
use crate::record::{AccountRecord, BanRecord, DeviceRecord, RoleRecord, Version};

/// Most rows of one statement. It bounds the values that are bound, and how many texts of statements there are.
const ROWS_MAX: usize = 100;

/// A statement while it is put together. Both databases know `$1`.
pub(super) struct Text {
    sql: String,
    values: Vec<Value>,
}

impl Text {
    pub(super) const fn new() -> Self {
        Self { sql: String::new(), values: Vec::new() }
    }

    pub(super) fn push(&mut self, sql: &str) -> &mut Self {
        self.sql.push_str(sql);
        self
    }

    pub(super) fn bind(&mut self, value: impl Into<Value>) -> &mut Self {
        let place = self.place_of(value);
        self.push(&place)
    }

    /// The place of a value, to be pushed once or more often.
    fn place_of(&mut self, value: impl Into<Value>) -> String {
        self.values.push(value.into());
        format!("${}", self.values.len())
    }

    pub(super) fn statement(self, backend: DbBackend) -> Statement {
        Statement::from_sql_and_values(backend, self.sql, self.values)
    }
}

/// What was read, and has to stand when what was decided on it is written.
#[derive(Clone, Debug, Default)]
pub(super) struct Guard {
    heads: Vec<Head>,
    elsewhere: Option<Elsewhere>,
    ended: Option<Ended>,
}

/// The newest row of a chain, or that there is none.
#[derive(Clone, Debug)]
struct Head {
    table: &'static str,
    place: Vec<(&'static str, Digest)>,
    id: Option<Digest>,
}

/// What other accounts have to do with a device that is registered.
#[derive(Clone, Copy, Debug)]
struct Elsewhere {
    device: Digest,
    identity: Digest,
    held: bool,
    recovered: bool,
}

/// Which sessions of a device were ended.
#[derive(Clone, Copy, Debug)]
struct Ended {
    device: Digest,
    identity: Digest,
    issued_up_to: Option<Timestamp>,
}

impl Guard {
    pub(super) fn account(self, identity: Digest, read: Option<&AccountRecord>) -> Self {
        self.head("account_records", vec![("identity", identity)], read.map(|read| &read.version))
    }

    pub(super) fn ban(self, identity: Digest, read: Option<&BanRecord>) -> Self {
        self.head("ban_records", vec![("identity", identity)], read.map(|read| &read.version))
    }

    pub(super) fn roles(self, identity: Digest, read: Option<&RoleRecord>) -> Self {
        self.head("role_records", vec![("identity", identity)], read.map(|read| &read.version))
    }

    pub(super) fn device(self, identity: Digest, device: Digest, read: Option<&DeviceRecord>) -> Self {
        let place = vec![("device", device), ("identity", identity)];
        self.head("device_records", place, read.map(|read| &read.version))
    }

    /// Whether another account has ever had `device`, and whether one registered it by a recovery.
    pub(super) fn elsewhere(self, identity: Digest, device: Digest, held: bool, recovered: bool) -> Self {
        Self { elsewhere: Some(Elsewhere { device, identity, held, recovered }), ..self }
    }

    /// Up to which issue of a token the sessions of `device` were ended.
    pub(super) fn ended(self, identity: Digest, device: Digest, issued_up_to: Option<Timestamp>) -> Self {
        Self { ended: Some(Ended { device, identity, issued_up_to }), ..self }
    }

    fn head(
        mut self,
        table: &'static str,
        place: Vec<(&'static str, Digest)>,
        read: Option<&Version>,
    ) -> Self {
        self.heads.push(Head { table, place, id: read.map(|version| version.id) });
        self
    }

    fn write(&self, text: &mut Text) {
        for (number, head) in self.heads.iter().enumerate() {
            text.push(if number == 0 { " WHERE " } else { " AND " });
            head.write(text);
        }
        if let Some(elsewhere) = &self.elsewhere {
            elsewhere.write(text);
        }
        if let Some(ended) = &self.ended {
            ended.write(text);
        }
    }
}

impl Head {
    fn write(&self, text: &mut Text) {
        let (open, close) = match self.id {
            Some(_) => (r#"(SELECT "id" FROM "#, r#" ORDER BY "sequence_number" DESC LIMIT 1) = "#),
            None => ("NOT EXISTS (SELECT 1 FROM ", ")"),
        };
        text.push(open).push(self.table);
        for ((column, value), word) in self.place.iter().zip([" WHERE ", " AND "]) {
            text.push(word).push(column).push(" = ").bind(value.to_string());
        }
        text.push(close);
        if let Some(id) = self.id {
            text.bind(id.to_string());
        }
    }
}

impl Ended {
    fn write(&self, text: &mut Text) {
        text.push(" AND NOT EXISTS (SELECT 1 FROM session_ends WHERE device = ")
            .bind(self.device.to_string());
        text.push(" AND identity = ").bind(self.identity.to_string());
        let read = self.issued_up_to.map_or(i64::MIN, Timestamp::unix_millis);
        text.push(" AND issued_up_to > ").bind(read).push(")");
    }
}

impl Elsewhere {
    fn write(&self, text: &mut Text) {
        let (device, identity) =
            (text.place_of(self.device.to_string()), text.place_of(self.identity.to_string()));
        let held = elsewhere::held(&device, &identity);
        let recovered = elsewhere::recovered(&device, &identity);
        for (is_so, condition) in [(self.held, held), (self.recovered, recovered)] {
            text.push(if is_so { " AND " } else { " AND NOT " }).push(&condition);
        }
    }
}

/// Appends rows of one table. False if `guard` was still to be asked and did not hold: then nothing was appended.
pub(super) async fn append<A: ActiveModelTrait>(
    on: &impl ConnectionTrait,
    rows: &[A],
    guard: &mut Option<Guard>,
) -> Result<bool, Fault> {
    for rows in rows.chunks(ROWS_MAX) {
        let guard = guard.take();
        let mut text = insertion(rows);
        if let Some(guard) = &guard {
            guard.write(&mut text);
        }
        let done = on.execute_raw(text.statement(on.get_database_backend())).await?;
        if guard.is_some() && done.rows_affected() == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

fn insertion<A: ActiveModelTrait>(rows: &[A]) -> Text {
    // Which columns are set is the same for every row of a table.
    let is_set = |row: &A, column| !matches!(row.get(column), ActiveValue::NotSet);
    let columns: Vec<_> = <A::Entity as EntityTrait>::Column::iter()
        .filter(|column| rows.first().is_some_and(|row| is_set(row, *column)))
        .collect();
    let names: Vec<_> = columns.iter().map(|column| format!(r#""{}""#, column.as_str())).collect();
    let mut text = Text::new();
    text.push("INSERT INTO ").push(A::Entity::default().table_name());
    text.push(&format!(" ({}) SELECT * FROM (VALUES ", names.join(", ")));
    for (number, row) in rows.iter().enumerate() {
        text.push(if number == 0 { "(" } else { ", (" });
        for (number, column) in columns.iter().enumerate() {
            if number > 0 {
                text.push(", ");
            }
            if let Some(value) = row.get(*column).into_value() {
                text.bind(value);
            }
        }
        text.push(")");
    }
    text.push(") AS appended");
    text
}
