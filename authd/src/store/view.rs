//! What is read of the store, for one account at a time.
//!
//! What a request is first judged by is one statement: the newest row of each chain that it concerns, and the answers
//! to what it asks of older ones. One statement sees one moment, so no transaction is needed around it, and it reads
//! the same number of rows whatever the account's age. Lists of devices are read by another statement, once the
//! request's proof holds.

use std::sync::LazyLock;

use keychain::{Digest, Nonce, PublicKey, Timestamp};
use sea_orm::{
    ConnectionTrait, DbErr, EntityName, EntityTrait, FromQueryResult, IdenStatic, Iterable, ModelTrait,
    QueryResult, Statement, TryGetError, TryGetable, Value,
};

use super::mac::MacKeys;
use super::tables::{account, ban, challenge, device, refresh, role, session_end};
use super::{Fault, elsewhere, owned, rows};
use crate::operation::order::Standing;
use crate::operation::session::{Refresh, RefreshView, SessionView};
use crate::operation::{DEVICES_MAX, Needs, View};
use crate::record::{AccountRecord, BanRecord, DeviceRecord, Remains, RoleRecord, Version};

/// Most accounts of one device that a sign-in is tried for. A device is registered by a signature of its own
/// first key, or by a recovery, and then no other account has it. So more than one is its owner's doing, and
/// more than these only the owner's loss.
const OWNERS_MAX: u64 = 16;

/// A device whose newest row is not intact.
#[derive(Debug)]
pub(super) struct Damaged {
    /// What is left of it; nothing if its first row names no device, so that no request can name it either.
    pub(super) remains: Option<Box<Remains>>,
    /// What is wrong.
    pub(super) fault: Fault,
}

/// The rows that an account operation is judged by until its proof holds.
pub(super) async fn heads(db: &impl ConnectionTrait, macs: &MacKeys, needs: &Needs) -> Result<View, Fault> {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let of_device = "FROM device_records WHERE device = $2 AND identity = $1";
        let revealed = "FROM account_records WHERE identity = $1 AND revealed";
        let parts = [
            newest::<account::Entity>("a", &[("identity", "$1")]),
            newest::<ban::Entity>("b", &[("identity", "$1")]),
            newest::<device::Entity>("d", &[("device", "$2"), ("identity", "$1")]),
            newest::<device::Entity>("o", &[("device", "$3"), ("identity", "$1")]),
            asked("first_key", &format!("(SELECT public_key {of_device} AND sequence_number = 0)")),
            // A key is revealed by the row after the one that committed to it.
            asked(
                "key_spent",
                "EXISTS (SELECT 1 FROM device_records AS c JOIN device_records AS r ON r.device = c.device \
                 AND r.identity = c.identity AND r.sequence_number = c.sequence_number + 1 \
                 WHERE c.device = $2 AND c.identity = $1 AND c.rotation_hash = $5 AND r.public_key = $6)",
            ),
            asked("next_committed", &format!("EXISTS (SELECT 1 {of_device} AND rotation_hash = $7)")),
            asked("held", &elsewhere::held("$4", "$1")),
            asked("recovered", &elsewhere::recovered("$4", "$1")),
            asked("recovery_spent", &format!("EXISTS (SELECT 1 {revealed} = $8)")),
            asked("committed_spent", &format!("EXISTS (SELECT 1 {revealed} = $9)")),
        ];
        select("(SELECT 1) AS one", &parts)
    });
    let (key, next) = (needs.public_key, needs.next);
    let values = [
        needs.identity.to_string().into(),
        needs.device.to_string().into(),
        optional(needs.other),
        optional(needs.newcomer),
        key.digest().to_string().into(),
        key.to_string().into(),
        next.to_string().into(),
        optional(needs.recovery),
        optional(needs.committed),
    ];
    let row = &one(db, &TEXT, values).await?;
    let first_key: Option<String> = nullable(row, "first_key")?;
    let first_key = first_key.map(|text| rows::key("device_records", &text)).transpose()?;
    Ok(View {
        account: account(row, macs, &needs.identity)?,
        ban: ban(row, macs, &needs.identity)?,
        device: device(row, "d", macs, (&needs.identity, &needs.device))?,
        other: match &needs.other {
            Some(other) => device(row, "o", macs, (&needs.identity, other))?,
            None => None,
        },
        key_spent: first_key == Some(key) || answer(row, "key_spent")?,
        next_spent: first_key.is_some_and(|first| first.digest() == next) || answer(row, "next_committed")?,
        held_elsewhere: answer(row, "held")?,
        recovered_elsewhere: answer(row, "recovered")?,
        recovery_spent: answer(row, "recovery_spent")?,
        committed_spent: answer(row, "committed_spent")?,
        device_count: None,
        devices: None,
    })
}

/// The rows that a sign-in is judged by: of the account among the device's that `is_owner` names. Returns `None` if it
/// names none of them. The second answer is whether the challenge `nonce` was answered before.
pub(super) async fn opening(
    db: &impl ConnectionTrait,
    macs: &MacKeys,
    device: &Digest,
    nonce: &Nonce,
    is_owner: impl Fn(&Digest) -> bool,
) -> Result<(Option<SessionView>, bool), Fault> {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let owners = format!(
            "(SELECT 1) AS one LEFT JOIN (SELECT identity FROM device_records WHERE device = $1 \
             AND sequence_number = 0 ORDER BY created_at LIMIT {OWNERS_MAX}) AS owners ON true"
        );
        let [account, ban, device, role] = session_heads("owners.identity", "$1");
        let ends = ended("owners.identity", "$1");
        let spent = Part {
            columns: columns::<challenge::Entity>("c"),
            join: " LEFT JOIN spent_challenges AS c ON c.nonce = $2".to_owned(),
        };
        select(&owners, &[account, ban, device, role, ends, asked("owner", "owners.identity"), spent])
    });
    let values = [device.to_string().into(), nonce.to_string().into()];
    let owners = db.query_all_raw(statement(db, &TEXT, values)).await?;
    let spent = match owners.first() {
        Some(row) => head_at::<challenge::Model>(row, "c", "nonce")?,
        None => None,
    };
    spent.as_ref().map(|spent| macs.verify(spent)).transpose()?;
    let is_spent = spent.is_some();
    for row in &owners {
        let owner: Option<String> = nullable(row, "owner")?;
        let owner = owner.map(|text| rows::digest("device_records", &text)).transpose()?;
        if let Some(owner) = owner.filter(|owner| is_owner(owner)) {
            return Ok((Some(session(row, macs, (&owner, device))?), is_spent));
        }
    }
    Ok((None, is_spent))
}

/// The rows that a refresh is judged by: `digest` is of the revealed key, `next` of the one after it.
pub(super) async fn refresh(
    db: &impl ConnectionTrait,
    macs: &MacKeys,
    (identity, device): (&Digest, &Digest),
    digest: &Digest,
    next: &Digest,
) -> Result<RefreshView, Fault> {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let [account, ban, device, role] = session_heads("$1", "$2");
        let ends = ended("$1", "$2");
        let spent = Part {
            columns: columns::<refresh::Entity>("s"),
            join: " LEFT JOIN refreshes AS s ON s.digest = $3".to_owned(),
        };
        let superseded = Part {
            columns: columns::<refresh::Entity>("n"),
            join: " LEFT JOIN refreshes AS n ON n.digest = $4".to_owned(),
        };
        select("(SELECT 1) AS one", &[account, ban, device, role, ends, spent, superseded])
    });
    let values = [identity, device, digest, next].map(|digest| digest.to_string().into());
    let row = &one(db, &TEXT, values).await?;
    Ok(RefreshView {
        session: session(row, macs, (identity, device))?,
        spent: refreshed(row, "s", macs, digest)?,
        superseded: refreshed(row, "n", macs, next)?.is_some(),
    })
}

/// All that an order is judged by. In one transaction, or its parts are of two moments.
pub(super) async fn standing(
    db: &impl ConnectionTrait,
    macs: &MacKeys,
    identity: &Digest,
) -> Result<Standing, Fault> {
    static TEXT: LazyLock<String> = LazyLock::new(|| select("(SELECT 1) AS one", &session_heads("$1", "$2")));
    let row = one(db, &TEXT, [identity.to_string().into(), optional(None)]).await?;
    let (account, ban) = (account(&row, macs, identity)?, ban(&row, macs, identity)?);
    let roles = roles(&row, macs, identity)?;
    let devices = devices(db, macs, identity).await?.into_iter();
    let devices = devices.map(|device| device.map_err(|damaged| damaged.fault)).collect::<Result<_, _>>()?;
    Ok(Standing { account, ban, devices, roles })
}

/// The newest record of each device that an account ever had.
pub(super) async fn devices(
    db: &impl ConnectionTrait,
    macs: &MacKeys,
    identity: &Digest,
) -> Result<Vec<Result<DeviceRecord, Damaged>>, Fault> {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let parts = [
            newest::<device::Entity>("d", &[("device", "f.device"), ("identity", "f.identity")]),
            asked("name", "f.device"),
            asked("chain", "f.id"),
            // Higher, if a later row of the chain does not name the device any more.
            asked("last", "(SELECT max(sequence_number) FROM device_records WHERE prefix = f.id)"),
        ];
        let text = select("device_records AS f", &parts);
        format!("{text} WHERE f.identity = $1 AND f.sequence_number = 0 ORDER BY f.device")
    });
    let all = db.query_all_raw(statement(db, &TEXT, [identity.to_string().into()])).await?;
    let damaged = |row, fault| Damaged { remains: remains(row, *identity).map(Box::new), fault };
    Ok(all.iter().map(|row| intact(row, macs, identity).map_err(|fault| damaged(row, fault))).collect())
}

/// How many devices were registered for an account since it was created or last recovered; more than
/// [`DEVICES_MAX`] are not counted.
pub(super) async fn device_count(db: &impl ConnectionTrait, identity: &Digest) -> Result<usize, Fault> {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        format!(
            "SELECT count(*) AS devices FROM (SELECT 1 FROM device_records WHERE identity = $1 \
             AND sequence_number = 0 AND created_at >= coalesce((SELECT created_at FROM account_records \
             WHERE identity = $1 AND revealed IS NOT NULL ORDER BY sequence_number DESC LIMIT 1), 0) \
             LIMIT {DEVICES_MAX}) AS counted"
        )
    });
    let row = one(db, &TEXT, [identity.to_string().into()]).await?;
    let count: i64 = answer(&row, "devices")?;
    Ok(usize::try_from(count).unwrap_or(usize::MAX))
}

/// What a statement reads: columns, and the table that they are of, if that is not among the others'.
pub(super) struct Part {
    pub(super) columns: String,
    pub(super) join: String,
}

/// The newest row of a chain: of those whose columns have the values that `place` says.
pub(super) fn newest<E: EntityTrait>(alias: &str, place: &[(&str, &str)]) -> Part {
    let table = E::default().table_name();
    let inner: Vec<_> = place.iter().map(|(column, value)| format!("{column} = {value}")).collect();
    let outer: Vec<_> = inner.iter().map(|equal| format!("{alias}.{equal}")).collect();
    let (inner, outer) = (inner.join(" AND "), outer.join(" AND "));
    let last = format!("(SELECT max(sequence_number) FROM {table} WHERE {inner})");
    Part {
        columns: columns::<E>(alias),
        join: format!(" LEFT JOIN {table} AS {alias} ON {outer} AND {alias}.sequence_number = {last}"),
    }
}

/// One value.
pub(super) fn asked(name: &str, expression: &str) -> Part {
    Part { columns: format!("{expression} AS {name}"), join: String::new() }
}

/// The newest rows that a sign-in or refresh is judged by.
pub(super) fn session_heads(identity: &str, device: &str) -> [Part; 4] {
    [
        newest::<account::Entity>("a", &[("identity", identity)]),
        newest::<ban::Entity>("b", &[("identity", identity)]),
        newest::<device::Entity>("d", &[("device", device), ("identity", identity)]),
        newest::<role::Entity>("r", &[("identity", identity)]),
    ]
}

/// Which sessions of a device were ended.
pub(super) fn ended(identity: &str, device: &str) -> Part {
    Part {
        columns: columns::<session_end::Entity>("e"),
        join: format!(" LEFT JOIN session_ends AS e ON e.identity = {identity} AND e.device = {device}"),
    }
}

pub(super) fn session(
    row: &QueryResult,
    macs: &MacKeys,
    (identity, name): (&Digest, &Digest),
) -> Result<SessionView, Fault> {
    Ok(SessionView {
        account: account(row, macs, identity)?,
        ban: ban(row, macs, identity)?,
        device: device(row, "d", macs, (identity, name))?,
        roles: roles(row, macs, identity)?,
        ended: sessions_ended(row, macs, (identity, name))?,
    })
}

fn account(row: &QueryResult, macs: &MacKeys, of: &Digest) -> Result<Option<AccountRecord>, Fault> {
    let found: Option<account::Model> = head(row, "a")?;
    found.map(|found| rows::of_account(rows::account_record(macs, found)?, of)).transpose()
}

fn ban(row: &QueryResult, macs: &MacKeys, of: &Digest) -> Result<Option<BanRecord>, Fault> {
    let found: Option<ban::Model> = head(row, "b")?;
    found.map(|found| rows::of_account(rows::ban_record(macs, &found)?, of)).transpose()
}

pub(super) fn device(
    row: &QueryResult,
    alias: &str,
    macs: &MacKeys,
    (identity, name): (&Digest, &Digest),
) -> Result<Option<DeviceRecord>, Fault> {
    let found: Option<device::Model> = head(row, alias)?;
    found.map(|found| rows::of_device(rows::device_record(macs, found)?, identity, name)).transpose()
}

fn roles(row: &QueryResult, macs: &MacKeys, of: &Digest) -> Result<Option<RoleRecord>, Fault> {
    let found: Option<role::Model> = head(row, "r")?;
    found.map(|found| rows::of_account(rows::role_record(macs, &found)?, of)).transpose()
}

fn sessions_ended(
    row: &QueryResult,
    macs: &MacKeys,
    (identity, device): (&Digest, &Digest),
) -> Result<Option<Timestamp>, Fault> {
    let found: Option<session_end::Model> = head(row, "e")?;
    found.map(|found| owned::sessions_ended(macs, &found, (identity, device))).transpose()
}

fn refreshed(
    row: &QueryResult,
    alias: &str,
    macs: &MacKeys,
    digest: &Digest,
) -> Result<Option<Refresh>, Fault> {
    let found: Option<refresh::Model> = head_at(row, alias, "digest")?;
    let found = found.map(|found| rows::refresh(macs, &found)).transpose()?;
    if found.as_ref().is_some_and(|found| found.digest != *digest) {
        let because = "the database gave another row in its place";
        return Err(Fault::Corrupt { table: "refreshes", id: digest.to_string(), because });
    }
    Ok(found)
}

pub(super) fn intact(row: &QueryResult, macs: &MacKeys, identity: &Digest) -> Result<DeviceRecord, Fault> {
    let because = "the device's chain goes on elsewhere";
    let damaged = |id: &str| Fault::Corrupt { table: "device_records", id: id.to_owned(), because };
    let newest: device::Model = head(row, "d")?.ok_or_else(|| damaged("?"))?;
    let last: Option<i64> = nullable(row, "last")?;
    if last != Some(newest.sequence_number) {
        return Err(damaged(&newest.id));
    }
    rows::of_account(rows::device_record(macs, newest)?, identity)
}

/// What can be read of a damaged device. Where a digest should stand and does not, there is one of what stands there.
fn remains(row: &QueryResult, identity: Digest) -> Option<Remains> {
    let text = |column| nullable::<String>(row, column).ok().flatten().unwrap_or_default();
    let digest = |column| Digest::parse(&text(column)).unwrap_or_else(|_| Digest::of(text(column)));
    let number = |column| nullable::<i64>(row, column).ok().flatten().unwrap_or_default();
    let sequence_number = u64::try_from(number("last").max(number("d_sequence_number"))).unwrap_or_default();
    Some(Remains {
        identity,
        device: Digest::parse(&text("name")).ok()?,
        public_key: PublicKey::parse(&text("d_public_key")).ok(),
        rotation_hash: digest("d_rotation_hash"),
        version: Version {
            id: digest("d_id"),
            prefix: digest("chain"),
            previous: None,
            sequence_number,
            created_at: Timestamp::from_unix_millis(0),
        },
    })
}

pub(super) fn select(from: &str, parts: &[Part]) -> String {
    let columns: Vec<_> = parts.iter().map(|part| part.columns.as_str()).collect();
    let joins: String = parts.iter().map(|part| part.join.as_str()).collect();
    format!("SELECT {} FROM {from}{joins}", columns.join(", "))
}

/// Every column of a table, named so that [`head_at`] finds it.
pub(super) fn columns<E: EntityTrait>(alias: &str) -> String {
    let names = E::Column::iter().map(|column| column.as_str());
    let columns: Vec<_> =
        names.map(|name| format!(r#"{alias}."{name}" AS "{}""#, prefix(alias) + name)).collect();
    columns.join(", ")
}

fn prefix(alias: &str) -> String {
    format!("{alias}_")
}

pub(super) fn statement(
    db: &impl ConnectionTrait,
    text: &str,
    values: impl IntoIterator<Item = Value>,
) -> Statement {
    Statement::from_sql_and_values(db.get_database_backend(), text, values)
}

/// The one row of a statement that always has one.
pub(super) async fn one(
    db: &impl ConnectionTrait,
    text: &str,
    values: impl IntoIterator<Item = Value>,
) -> Result<QueryResult, Fault> {
    let row = db.query_one_raw(statement(db, text, values)).await?;
    row.ok_or_else(|| DbErr::RecordNotFound("a statement that has one row had none".to_owned()).into())
}

pub(super) fn optional(digest: Option<Digest>) -> Value {
    digest.map(|digest| digest.to_string()).into()
}

/// The row of a record's table, if there is one.
pub(super) fn head<M: ModelTrait + FromQueryResult>(
    row: &QueryResult,
    alias: &str,
) -> Result<Option<M>, Fault> {
    head_at(row, alias, "identity")
}

/// The row of a table, if there is one: then `known`, by which it was found, is not null.
///
/// A row that cannot be read is never taken for none: who is banned by it would not be any more.
pub(super) fn head_at<M: ModelTrait + FromQueryResult>(
    row: &QueryResult,
    alias: &str,
    known: &str,
) -> Result<Option<M>, Fault> {
    let prefix = prefix(alias);
    let found: Option<String> = nullable(row, &format!("{prefix}{known}"))?;
    let read = |_| M::from_query_result(row, &prefix).map_err(|_| unreadable::<M>(row, &prefix));
    found.map(read).transpose()
}

fn unreadable<M: ModelTrait>(row: &QueryResult, prefix: &str) -> Fault {
    Fault::Corrupt {
        table: M::Entity::default().table_name(),
        id: row.try_get(prefix, "id").unwrap_or_else(|_| "?".to_owned()),
        because: "a column has another type",
    }
}

pub(super) fn answer<T: TryGetable>(row: &QueryResult, name: &str) -> Result<T, Fault> {
    Ok(row.try_get("", name)?)
}

/// The same for what may be null. (`Option` would take a column that is not there for one that is null.)
fn nullable<T: TryGetable>(row: &QueryResult, name: &str) -> Result<Option<T>, Fault> {
    match row.try_get_nullable("", name) {
        Ok(value) => Ok(Some(value)),
        Err(TryGetError::Null(_)) => Ok(None),
        Err(TryGetError::DbErr(error)) => Err(error.into()),
    }
}
