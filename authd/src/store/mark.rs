//! Whether every row of the store has a MAC: a mark that a new store has from its start, and that a store of
//! before rows had MACs gets when it is taken in. Without it no authd serves, so that nobody gets rows in by
//! making a store look like one of before.

use sea_orm::sea_query::OnConflict;
use sea_orm::{ConnectionTrait, EntityTrait, IntoActiveModel, Iterable, PrimaryKeyToColumn, QueryOrder};

use super::Fault;
use super::mac::{Flaw, MacKeys};
use super::tables::{
    account, audit, ban, challenge, device, endorsement, feed, mark, outbox, refresh, role, secret, signer,
};

/// The name of the mark.
const NAME: &str = "macs";

/// How far a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Its rows are being taken in.
    Begun,
    /// Each row has a MAC.
    Whole,
}

impl Taken {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Whole => "whole",
        }
    }
}

/// How far the store is; nothing if it has no mark.
pub(super) async fn read(on: &impl ConnectionTrait, macs: &MacKeys) -> Result<Option<Taken>, Fault> {
    let Some(row) = mark::Entity::find_by_id(NAME).one(on).await? else { return Ok(None) };
    match macs.judge(&row) {
        Ok(()) => {}
        Err(Flaw::UnknownKey) => return Err(another_key(&row, macs)),
        Err(_) => macs.verify(&row)?,
    }
    let taken = [Taken::Begun, Taken::Whole].into_iter().find(|taken| taken.as_str() == row.value);
    let because = "it says nothing that is known";
    taken.map(Some).ok_or(Fault::Corrupt { table: "marks", id: row.name, because })
}

/// Notes how far it is.
pub(super) async fn write(on: &impl ConnectionTrait, macs: &MacKeys, taken: Taken) -> Result<(), Fault> {
    let row = mark::Model { name: NAME.to_owned(), value: taken.as_str().to_owned(), mac: None };
    let mut newest = OnConflict::column(mark::Column::Name);
    newest.update_columns([mark::Column::Value, mark::Column::Mac]);
    let row = macs.with_mac(row).into_active_model();
    mark::Entity::insert(row).on_conflict(newest).exec_without_returning(on).await?;
    Ok(())
}

/// Marks a store that has no rows.
pub(super) async fn mark_new(on: &impl ConnectionTrait, macs: &MacKeys) -> Result<(), Fault> {
    let is_marked = mark::Entity::find_by_id(NAME).one(on).await?.is_some();
    if !is_marked && is_empty(on).await? {
        write(on, macs, Taken::Whole).await?;
    }
    Ok(())
}

/// Refuses a store of which not every row has a MAC.
pub(super) async fn demand_whole(on: &impl ConnectionTrait, macs: &MacKeys) -> Result<(), Fault> {
    let because = match read(on, macs).await? {
        Some(Taken::Whole) => return Ok(()),
        Some(Taken::Begun) => "its rows are not all taken in: run `authd take-in` to its end",
        None => {
            "its rows have no MACs, as those of an earlier authd: run `authd take-in` once; if it was taken in before, \
             somebody removed the mark: restore a backup"
        }
    };
    Err(Fault::Location(because.to_owned()))
}

fn another_key(row: &mark::Model, macs: &MacKeys) -> Fault {
    let named = row.mac.as_deref().and_then(|mac| mac.split_once('.')).map_or("", |(id, _)| id);
    let held: Vec<_> = macs.ids().collect();
    Fault::Location(format!(
        "its rows have MACs by the key `{named}`, and the credential of `store_mac_key` holds {}: give authd the \
         credential that it had, or add that key's line to it; if the key is lost, see authd/STORE.md",
        held.join(" and ")
    ))
}

async fn is_empty(on: &impl ConnectionTrait) -> Result<bool, Fault> {
    macro_rules! all_empty {
        ($($table:ident),*) => {
            $(first::<$table::Entity>(on).await?.is_none())&&*
        };
    }
    Ok(all_empty!(
        account,
        audit,
        ban,
        challenge,
        device,
        endorsement,
        feed,
        outbox,
        refresh,
        role,
        secret,
        signer
    ))
}

async fn first<E: EntityTrait>(on: &impl ConnectionTrait) -> Result<Option<E::Model>, Fault> {
    let mut rows = E::find();
    for key in E::PrimaryKey::iter() {
        rows = rows.order_by_asc(key.into_column());
    }
    Ok(rows.one(on).await?)
}
