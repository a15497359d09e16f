//! What owners say of their devices, as rows: names, and which sessions are ended. One row a device, written in its place
//! under the account's lock.

use std::collections::BTreeMap;

use keychain::feed::{Cause, Place};
use keychain::{Digest, Timestamp};
use sea_orm::sea_query::{Expr, OnConflict};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, IntoActiveModel, QueryFilter};

use super::append::append;
use super::mac::{MacKeys, Row, name_of, table_of};
use super::outbox::{self, NewRow};
use super::tables::{name, session_end};
use super::{Fault, Store};
use crate::operation::owner::{Ending, Named};

/// Rows of one statement.
const PAGE: usize = 100;

impl Store {
    /// What an account's owner calls its devices.
    pub async fn names(&self, identity: &Digest) -> Result<BTreeMap<String, String>, Fault> {
        let named = name::Entity::find().filter(name::Column::Identity.eq(identity.to_string()));
        let rows = named.all(&self.reader).await?;
        rows.iter().try_for_each(|row| self.macs.verify(row))?;
        Ok(rows.into_iter().map(|row| (row.device, row.name)).collect())
    }
}

/// Puts a name in the place of the last one, or takes it away.
pub(super) async fn rename(
    on: &impl ConnectionTrait,
    macs: &MacKeys,
    (identity, device): (&Digest, &Digest),
    named: Option<&Named>,
) -> Result<(), Fault> {
    let id = id_of("device_names", identity, device);
    name::Entity::delete_by_id(id.clone()).exec(on).await?;
    let Some(named) = named else { return Ok(()) };
    let row = name::Model {
        id,
        identity: identity.to_string(),
        device: device.to_string(),
        name: named.name.clone(),
        named_at: named.at.unix_millis(),
        named_by: named.by.to_string(),
        mac: None,
    };
    append(on, &[macs.with_mac(row).into_active_model()], &mut None).await?;
    Ok(())
}

/// Ends the sessions of devices, and has edges told. A later end that is there stays.
pub(super) async fn end_sessions(
    on: &impl ConnectionTrait,
    macs: &MacKeys,
    identity: &Digest,
    (devices, end): (&[Digest], &Ending),
) -> Result<(), Fault> {
    use session_end::Column::{EndedAt, EndedBy, ForgottenAt, Id, IssuedUpTo, Mac};
    let rows = devices.iter().map(|device| session_end::Model {
        id: id_of("session_ends", identity, device),
        identity: identity.to_string(),
        device: device.to_string(),
        issued_up_to: end.issued_up_to.unix_millis(),
        ended_at: end.at.unix_millis(),
        ended_by: end.by.to_string(),
        forgotten_at: end.forgotten_at.unix_millis(),
        mac: None,
    });
    let rows: Vec<_> = rows.map(|row| macs.with_mac(row).into_active_model()).collect();
    for rows in rows.chunks(PAGE) {
        let mut in_place = OnConflict::column(Id);
        in_place.update_columns([IssuedUpTo, EndedAt, EndedBy, ForgottenAt, Mac]);
        in_place.action_and_where(Expr::cust("excluded.issued_up_to > session_ends.issued_up_to"));
        let insert = session_end::Entity::insert_many(rows.to_vec()).on_conflict(in_place);
        insert.exec_without_returning(on).await?;
    }
    let place = |subject: &Digest| Place { subject: *subject, account: *identity, cause: Cause::Sessions };
    let denials = devices.iter().map(|device| NewRow::ended(place(device), end.issued_up_to, end.until));
    outbox::put(on, macs, denials.collect()).await
}

/// The name in a row, if it is of that device.
pub(super) fn device_name(
    macs: &MacKeys,
    row: name::Model,
    (identity, device): (&Digest, &Digest),
) -> Result<String, Fault> {
    demand_its(macs, &row, (&row.identity, &row.device), (identity, device))?;
    Ok(row.name)
}

/// Up to which issue of a token a row ends sessions, if it is of that device.
pub(super) fn sessions_ended(
    macs: &MacKeys,
    row: &session_end::Model,
    (identity, device): (&Digest, &Digest),
) -> Result<Timestamp, Fault> {
    demand_its(macs, row, (&row.identity, &row.device), (identity, device))?;
    Ok(Timestamp::from_unix_millis(row.issued_up_to))
}

fn demand_its<R: Row>(
    macs: &MacKeys,
    row: &R,
    says: (&str, &str),
    (identity, device): (&Digest, &Digest),
) -> Result<(), Fault> {
    macs.verify(row)?;
    if says == (identity.to_string().as_str(), device.to_string().as_str()) {
        return Ok(());
    }
    let because = "the database gave it in another's place";
    Err(Fault::Corrupt { table: table_of::<R>(), id: name_of(row), because })
}

/// The key of the one row that a table has for a device of an account.
pub(super) fn id_of(table: &str, identity: &Digest, device: &Digest) -> String {
    let (identity, device) = (identity.to_string(), device.to_string());
    Digest::of_parts(&["keelson store row of a device\n", table, "\n", &identity, &device]).to_string()
}
