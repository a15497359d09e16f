//! Everything that is kept of one identity, as an operator shows it to its owner.

use keychain::{Digest, json};
use sea_orm::sea_query::{Expr, ExprTrait as _, Order};
use sea_orm::{
    EntityTrait, IdenStatic as _, Iterable as _, ModelTrait, QueryFilter, QueryOrder, QuerySelect, Value,
};

use super::mac::Row;
use super::tables::{account, ban, device, name, outbox, refresh, role, session_end};
use super::{Fault, Store};

/// Rows of a table in one page. A row with a signed request in it has some 2 KiB.
const PAGE: u64 = 100;

/// Tables whose rows name an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Table {
    Accounts,
    Devices,
    Bans,
    Roles,
    Refreshes,
    Outbox,
    Names,
    SessionEnds,
}

/// Where a page ends: the table, and the key of its last row that was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    table: Table,
    after: String,
}

/// Some rows, each as a JSON object with the name of its `table`.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The rows.
    pub rows: Vec<String>,
    /// Where the next page begins; nothing if there is none.
    pub next: Option<Place>,
}

impl Table {
    const ALL: [Self; 8] = [
        Self::Accounts,
        Self::Devices,
        Self::Bans,
        Self::Roles,
        Self::Refreshes,
        Self::Outbox,
        Self::Names,
        Self::SessionEnds,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Accounts => "accounts",
            Self::Devices => "devices",
            Self::Bans => "bans",
            Self::Roles => "roles",
            Self::Refreshes => "refreshes",
            Self::Outbox => "outbox",
            Self::Names => "names",
            Self::SessionEnds => "session-ends",
        }
    }

    fn next(self) -> Option<Self> {
        Self::ALL.into_iter().skip_while(|table| *table != self).nth(1)
    }
}

impl Place {
    /// Before the first row.
    pub const FIRST: Self = Self { table: Table::Accounts, after: String::new() };

    /// Reads what [`std::fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        let (table, after) = text.split_once('.')?;
        let table = Table::ALL.into_iter().find(|known| known.as_str() == table)?;
        Some(Self { table, after: after.to_owned() })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}.{}", self.table.as_str(), self.after)
    }
}

impl Store {
    /// The rows of an identity after a place. The audit trail is not among them: its lines may name many.
    pub async fn export(&self, identity: &Digest, from: Place) -> Result<Page, Fault> {
        let (mut place, mut rows) = (Some(from), Vec::new());
        while let Some(Place { table, after }) = place {
            let (more, last) = match table {
                Table::Accounts => {
                    page::<account::Entity>(self, ("identity", identity), ("id", after.into())).await?
                }
                Table::Devices => {
                    page::<device::Entity>(self, ("identity", identity), ("id", after.into())).await?
                }
                Table::Bans => {
                    page::<ban::Entity>(self, ("identity", identity), ("id", after.into())).await?
                }
                Table::Roles => {
                    page::<role::Entity>(self, ("identity", identity), ("id", after.into())).await?
                }
                Table::Refreshes => {
                    page::<refresh::Entity>(self, ("identity", identity), ("digest", after.into())).await?
                }
                Table::Outbox => {
                    let after: i64 = after.parse().unwrap_or_default();
                    page::<outbox::Entity>(self, ("account", identity), ("id", after.into())).await?
                }
                Table::Names => {
                    page::<name::Entity>(self, ("identity", identity), ("id", after.into())).await?
                }
                Table::SessionEnds => {
                    page::<session_end::Entity>(self, ("identity", identity), ("id", after.into())).await?
                }
            };
            rows.extend(more);
            place = match last {
                Some(after) => return Ok(Page { rows, next: Some(Place { table, after }) }),
                None => table.next().map(|table| Place { table, after: String::new() }),
            };
        }
        Ok(Page { rows, next: None })
    }
}

/// The rows of a table that name an identity in the column `owner`, in the order of their `key` and after one; and the
/// last one's key, if there may be more.
async fn page<E: EntityTrait>(
    store: &Store,
    (owner, identity): (&'static str, &Digest),
    (key, after): (&'static str, Value),
) -> Result<(Vec<String>, Option<String>), Fault>
where
    E::Model: ModelTrait<Entity = E> + Row + Send + Sync,
{
    let rows = E::find()
        .filter(Expr::col(owner).eq(identity.to_string()))
        .filter(Expr::col(key).gt(after))
        .order_by(Expr::col(key), Order::Asc)
        .limit(PAGE)
        .all(&store.reader)
        .await?;
    rows.iter().try_for_each(|row| store.macs.verify(row))?;
    let is_full = u64::try_from(rows.len()).is_ok_and(|count| count == PAGE);
    let last = rows.last().filter(|_| is_full).and_then(|row| {
        let column = E::Column::iter().find(|column| column.as_str() == key)?;
        Some(spell(&row.get(column)).trim_matches('"').to_owned())
    });
    let table = E::default().table_name();
    let members = |row: &E::Model| {
        let members =
            E::Column::iter().map(|column| format!(r#","{}":{}"#, column.as_str(), spell(&row.get(column))));
        format!(r#"{{"table":"{table}"{}}}"#, members.collect::<String>())
    };
    Ok((rows.iter().map(members).collect(), last))
}

/// A column's value as JSON.
fn spell(value: &Value) -> String {
    match value {
        Value::Bool(Some(flag)) => flag.to_string(),
        Value::Int(Some(number)) => number.to_string(),
        Value::BigInt(Some(number)) => number.to_string(),
        Value::String(Some(text)) => json::string(text),
        _ => "null".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reads_back_and_every_table_has_its_turn() {
        let mut place = Some(Place::FIRST);
        let mut seen = Vec::new();
        while let Some(Place { table, after }) = place {
            let here = Place { table, after: format!("{after}x") };
            assert_eq!(Place::parse(&here.to_string()), Some(here));
            seen.push(table);
            place = table.next().map(|table| Place { table, after: String::new() });
        }
        assert_eq!(seen, Table::ALL);
        for bad in ["", "accounts", "secrets.x", "."] {
            assert_eq!(Place::parse(bad), None, "{bad}");
        }
    }
}
