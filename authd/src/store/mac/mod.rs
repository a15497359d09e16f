//! The MAC of a row: that an authd wrote it, in this table, as it stands.
//!
//! Whoever can write to the database can compute every digest in it. So each row carries a MAC by a key that is not in
//! the database ([`MacKeys`]), and each reading of a row verifies it ([`super::rows`]): a row of another table, of
//! another account, of another place in its chain, with one column changed or without a MAC is a fault of the store.
//! `STORE.md` says what a MAC cannot show, and how that is found.
//!
//! The MAC is keyed BLAKE3 over the domain, the name of the table and each column that is not NULL, in the order of
//! [`super::tables`]: its name, its kind and its value. Each text has its length before it, so that no two rows are
//! encoded alike. A column that is NULL is left out: a later schema may add columns, and the MACs of earlier rows hold.

mod keys;

use sea_orm::sea_query::Value;
use sea_orm::{EntityName, EntityTrait, IdenStatic, Iterable, ModelTrait, PrimaryKeyToColumn};

use super::Fault;
use super::tables::{
    account, audit, ban, challenge, device, endorsement, feed, mark, name, outbox, refresh, role, secret,
    session_end, signer,
};
use keys::MacKey;
pub use keys::{KEYS_LENGTH_MAX, MacKeys, Unusable};

/// Separates these MACs from any other use of BLAKE3 with a key; the number is that of the encoding.
const DOMAIN: &str = "keelson store row MAC 1";

/// The column that has the MAC: the id of the key and the MAC in hexadecimal, with a full stop between them.
const COLUMN: &str = "mac";

/// What `sent_at` and `fed_at` of the outbox say of a row that cannot be read, and was passed over. For the MAC
/// it is as if they said nothing: who passes over a row cannot make a MAC for it, and the row must not be
/// damaged by it.
pub(super) const PASSED_OVER: i64 = 0;

/// A row of one of the tables.
pub(super) trait Row: ModelTrait {
    /// Its MAC, if it has one.
    fn mac(&self) -> Option<&str>;

    /// Gives it a MAC.
    fn set_mac(&mut self, mac: String);

    /// The value that the MAC covers in place of a column's.
    fn covered(_column: &'static str, value: Value) -> Value {
        value
    }
}

/// What is wrong with a row's MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// There is none.
    Absent,
    /// It is of something else.
    Wrong,
    /// It is by a key that is not known here: the row may be good.
    UnknownKey,
}

impl MacKeys {
    /// The row with its MAC, by the current key.
    pub(super) fn with_mac<R: Row>(&self, mut row: R) -> R {
        let mac = self.current().text_of(&row);
        row.set_mac(mac);
        row
    }

    /// Verifies that an authd wrote this row into its table.
    pub(super) fn verify<R: Row>(&self, row: &R) -> Result<(), Fault> {
        self.judge(row).map_err(|flaw| flaw.of(row))
    }

    /// The same, for whoever goes on without the row.
    pub(super) fn judge<R: Row>(&self, row: &R) -> Result<(), Flaw> {
        let text = row.mac().ok_or(Flaw::Absent)?;
        let (id, mac) = text.split_once('.').ok_or(Flaw::Wrong)?;
        let key = self.by_id(id).ok_or(Flaw::UnknownKey)?;
        let expected = key.mac_of(row).to_hex();
        aws_lc_rs::constant_time::verify_slices_are_equal(expected.as_bytes(), mac.as_bytes())
            .map_err(|_| Flaw::Wrong)
    }

    /// Whether the row's MAC is by the current key.
    pub(super) fn is_current<R: Row>(&self, row: &R) -> bool {
        row.mac().and_then(|text| text.split_once('.')).is_some_and(|(id, _)| id == self.current().id())
    }
}

impl MacKey {
    fn text_of<R: Row>(&self, row: &R) -> String {
        format!("{}.{}", self.id(), self.mac_of(row).to_hex())
    }

    fn mac_of<R: Row>(&self, row: &R) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(self.bytes());
        put(&mut hasher, DOMAIN);
        put(&mut hasher, table_of::<R>());
        for column in <R::Entity as EntityTrait>::Column::iter() {
            let name = column.as_str();
            if name != COLUMN {
                put_column(&mut hasher, name, &R::covered(name, row.get(column)));
            }
        }
        hasher.finalize()
    }
}

impl Flaw {
    /// The cause, as a fault of the store names it.
    pub(super) const fn because(self) -> &'static str {
        match self {
            Self::Absent => "it has no MAC, so no authd wrote it",
            Self::Wrong => "its MAC is not of what it says",
            Self::UnknownKey => "its MAC is by a key that the credential of `store_mac_key` does not hold",
        }
    }

    fn of<R: Row>(self, row: &R) -> Fault {
        Fault::Corrupt { table: table_of::<R>(), id: name_of(row), because: self.because() }
    }
}

/// The table of a row.
pub(super) fn table_of<R: Row>() -> &'static str {
    <R::Entity as Default>::default().table_name()
}

/// The key of a row, for people.
pub(super) fn name_of<R: Row>(row: &R) -> String {
    let columns = <R::Entity as EntityTrait>::PrimaryKey::iter().map(PrimaryKeyToColumn::into_column);
    let names = columns.map(|column| match row.get(column) {
        Value::String(Some(text)) => text,
        Value::BigInt(Some(number)) => number.to_string(),
        other => format!("{other:?}"),
    });
    names.collect::<Vec<_>>().join(" ")
}

fn put_column(hasher: &mut blake3::Hasher, name: &str, value: &Value) {
    let (kind, bytes): (&[u8], &[u8]) = match value {
        Value::String(None) | Value::BigInt(None) | Value::Int(None) | Value::Bool(None) => return,
        Value::String(Some(text)) => (b"t", text.as_bytes()),
        Value::BigInt(Some(number)) => (b"i", &number.to_be_bytes()),
        Value::Int(Some(number)) => (b"i", &i64::from(*number).to_be_bytes()),
        Value::Bool(Some(is_true)) => (b"b", &[u8::from(*is_true)]),
        // No column is of another kind. What tells two values apart in print tells them apart here.
        other => (b"o", &format!("{other:?}").into_bytes()),
    };
    put(hasher, name);
    hasher.update(kind);
    put(hasher, bytes);
}

fn put(hasher: &mut blake3::Hasher, bytes: impl AsRef<[u8]>) {
    let bytes = bytes.as_ref();
    // No text is longer than 2^64 bytes.
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    hasher.update(&length.to_be_bytes()).update(bytes);
}

macro_rules! rows {
    ($($table:ident),* $(,)?) => {
        $(impl Row for $table::Model {
            fn mac(&self) -> Option<&str> {
                self.mac.as_deref()
            }

            fn set_mac(&mut self, mac: String) {
                self.mac = Some(mac);
            }
        })*
    };
}

rows!(
    account,
    audit,
    ban,
    challenge,
    device,
    endorsement,
    feed,
    mark,
    name,
    refresh,
    role,
    secret,
    session_end,
    signer,
);

impl Row for outbox::Model {
    fn mac(&self) -> Option<&str> {
        self.mac.as_deref()
    }

    fn set_mac(&mut self, mac: String) {
        self.mac = Some(mac);
    }

    fn covered(column: &'static str, value: Value) -> Value {
        match (column, value) {
            ("sent_at" | "fed_at", Value::BigInt(Some(PASSED_OVER))) => Value::BigInt(None),
            (_, value) => value,
        }
    }
}

#[cfg(test)]
mod tests;
