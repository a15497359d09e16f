//! Reads the rows of a history's accounts, as one moment's commits left them.

use keychain::Digest;
use keychain::message::Request;
use sea_orm::{
    AccessMode, ConnectionTrait, DatabaseConnection, DbBackend, IsolationLevel, Statement, TransactionTrait,
};

use super::call::{Asked, Call, Rows};

/// Of each table: the chain that a row stands in and what it says, as [`super::book::Row`] spells both; the column that
/// chooses rows; their order.
const TABLES: [(&str, &str, &str, &str, &str); 7] = [
    (
        "account_records",
        "'account ' || identity",
        "sequence_number, state, recovery_hash, coalesce(revealed, '-'), coalesce(path, action), coalesce(cause, reason)",
        "identity",
        "identity, sequence_number",
    ),
    (
        "device_records",
        "'device ' || identity || ' ' || device",
        "sequence_number, state, public_key, rotation_hash, coalesce(path, action), coalesce(cause, reason)",
        "identity",
        "identity, device, sequence_number",
    ),
    (
        "ban_records",
        "'ban ' || identity",
        "sequence_number, CASE WHEN banned THEN 'banned' ELSE 'lifted' END, reason",
        "identity",
        "identity, sequence_number",
    ),
    (
        "role_records",
        "'roles ' || identity",
        "sequence_number, roles, reason",
        "identity",
        "identity, sequence_number",
    ),
    (
        "outbox",
        "'outbox ' || account",
        "CASE WHEN lifted THEN 'lifted' ELSE 'denied' END, subject, cause",
        "account",
        "id",
    ),
    (
        "refreshes",
        "'refresh ' || digest",
        "cause, identity, device, public_key, rotation_hash",
        "digest",
        "digest",
    ),
    ("spent_challenges", "'challenge ' || nonce", "'answered'", "nonce", "nonce"),
];

/// What chooses the rows of a history.
#[derive(Default)]
pub(super) struct Names {
    pub(super) identities: Vec<Digest>,
    refreshes: Vec<String>,
    challenges: Vec<String>,
}

impl Names {
    /// Of these accounts, and of all that these calls could leave.
    pub(super) fn of(identities: Vec<Digest>, calls: &mut dyn Iterator<Item = &Call>) -> Self {
        let mut names = Self { identities, ..Self::default() };
        for call in calls {
            match &call.asked {
                Asked::Refresh(request) => {
                    if let Request::SessionRefresh { token, .. } = request.request() {
                        names.refreshes.push(token.claims().rotation_hash.to_string());
                    }
                }
                Asked::Open(opening) => names.challenges.push(opening.challenge.to_string()),
                Asked::Change(_) | Asked::Order { .. } | Asked::Look => {}
            }
        }
        names
    }

    fn of_column(&self, column: &str) -> Vec<String> {
        match column {
            "digest" => self.refreshes.clone(),
            "nonce" => self.challenges.clone(),
            _ => self.identities.iter().map(Digest::to_string).collect(),
        }
    }
}

/// All rows that `names` choose.
pub(super) async fn read(sql: &DatabaseConnection, names: &Names) -> Rows {
    let backend = sql.get_database_backend();
    let snapshot = match backend {
        DbBackend::Postgres => {
            let level = Some(IsolationLevel::RepeatableRead);
            sql.begin_with_config(level, Some(AccessMode::ReadOnly)).await.unwrap()
        }
        _ => sql.begin().await.unwrap(),
    };
    let mut rows = Rows::new();
    for (table, chain, says, column, order) in TABLES {
        let names = names.of_column(column);
        if names.is_empty() {
            continue;
        }
        let list: Vec<_> = names.iter().map(|name| format!("'{name}'")).collect();
        let text = format!(
            "SELECT {chain} AS chain, concat_ws(' ', {says}) AS line FROM {table} WHERE {column} IN ({}) ORDER BY {order}",
            list.join(",")
        );
        for row in snapshot.query_all_raw(Statement::from_string(backend, text)).await.unwrap() {
            let chain: String = row.try_get("", "chain").unwrap();
            rows.entry(chain).or_default().push(row.try_get("", "line").unwrap());
        }
    }
    snapshot.rollback().await.unwrap();
    rows
}
