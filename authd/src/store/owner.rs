//! What an account's owner asks: the rows that it is judged by, its nonce, and when devices were seen.

use std::sync::LazyLock;
use std::time::Duration;

use keychain::{Digest, Nonce, Timestamp};
use sea_orm::{ConnectionTrait, QueryResult};

use super::append::append;
use super::case::{Case, Locks, listed, session_guard, tell_damage};
use super::mac::MacKeys;
use super::tables::{challenge, device, name, refresh};
use super::view::{
    Part, answer, asked, columns, ended, head, head_at, intact, newest, one, optional, select, session,
    session_heads, statement,
};
use super::{Fault, Store, owned, rows, view};
use crate::operation::owner::{OwnerView, Sighting, Sightings, Write};

/// How long a spent nonce is kept: longer than any authd could take its request again.
const NONCE_KEPT: Duration = Duration::from_mins(2);

/// A request of an owner whose proof holds.
#[derive(Clone, Copy, Debug)]
pub struct Owning {
    /// The account.
    pub identity: Digest,
    /// The device that asks.
    pub device: Digest,
    /// The name of its nonce among those that were spent.
    pub nonce: Nonce,
    /// When it asks.
    pub asked_at: Timestamp,
    /// The device that the request is about, if it is about one.
    pub other: Option<Digest>,
    /// Whether more is written than the nonce.
    pub is_writing: bool,
}

impl Case for Owning {
    type View = OwnerView;
    type Write = Write;

    fn locks(&self) -> Option<Locks> {
        self.is_writing.then_some(Locks { identity: self.identity, newcomer: None })
    }

    async fn load(&self, on: &impl ConnectionTrait, macs: &MacKeys) -> Result<OwnerView, Fault> {
        static TEXT: LazyLock<String> = LazyLock::new(|| {
            let [account, ban, device, role] = session_heads("$1", "$2");
            let spent = Part {
                columns: columns::<challenge::Entity>("c"),
                join: " LEFT JOIN spent_challenges AS c ON c.nonce = $3".to_owned(),
            };
            // Unverified: who adds a denial has others refused, and who removes one is found by a check.
            let denials = "FROM outbox WHERE subject IN ($1, $2) AND NOT lifted AND cause <> 'sessions'";
            let denied = format!(
                "EXISTS (SELECT 1 {denials} AND expires_at IS NULL) \
                 OR EXISTS (SELECT 1 {denials} AND expires_at > $4)"
            );
            let (ends, denied) = (ended("$1", "$2"), asked("denied", &denied));
            let other = newest::<device::Entity>("o", &[("device", "$5"), ("identity", "$1")]);
            select("(SELECT 1) AS one", &[account, ban, device, role, ends, spent, denied, other])
        });
        let values = [
            self.identity.to_string().into(),
            self.device.to_string().into(),
            self.nonce.to_string().into(),
            self.asked_at.unix_millis().into(),
            optional(self.other),
        ];
        let row = &one(on, &TEXT, values).await?;
        let spent = head_at::<challenge::Model>(row, "c", "nonce")?;
        spent.as_ref().map(|spent| macs.verify(spent)).transpose()?;
        let of = (&self.identity, &self.device);
        Ok(OwnerView {
            session: session(row, macs, of)?,
            is_denied: answer(row, "denied")?,
            is_spent: spent.is_some(),
            other: match &self.other {
                Some(other) => view::device(row, "o", macs, (&self.identity, other))?,
                None => None,
            },
            devices: None,
        })
    }

    async fn complete(
        &self,
        on: &impl ConnectionTrait,
        macs: &MacKeys,
        view: &mut OwnerView,
    ) -> Result<(), Fault> {
        view.devices = Some(listed(view::devices(on, macs, &self.identity).await?));
        Ok(())
    }

    async fn write(
        &self,
        on: &impl ConnectionTrait,
        macs: &MacKeys,
        view: &OwnerView,
        write: &Write,
        now: Timestamp,
    ) -> Result<bool, Fault> {
        let row = rows::spent_row(macs, &self.nonce, now.plus(NONCE_KEPT));
        let mut guard = session_guard(self.identity, self.device, &view.session);
        if let Some(other) = self.other {
            guard = guard.device(self.identity, other, view.other.as_ref());
        }
        if !append(on, &[row], &mut Some(guard)).await? {
            return Ok(false);
        }
        match write {
            Write::Nothing => {}
            Write::Name(device, named) => {
                owned::rename(on, macs, (&self.identity, device), named.as_ref()).await?;
            }
            Write::End(devices, end) => {
                owned::end_sessions(on, macs, &self.identity, (devices, end)).await?;
            }
        }
        Ok(true)
    }
}

impl Store {
    /// The devices that an account ever had, and when they were seen.
    pub async fn sightings(&self, identity: &Digest) -> Result<Sightings, Fault> {
        static TEXT: LazyLock<String> = LazyLock::new(|| {
            let parts = [
                newest::<device::Entity>("d", &[("device", "f.device"), ("identity", "f.identity")]),
                Part { columns: columns::<device::Entity>("f"), join: String::new() },
                asked("last", "(SELECT max(sequence_number) FROM device_records WHERE prefix = f.id)"),
                Part {
                    columns: columns::<refresh::Entity>("s"),
                    join: " LEFT JOIN refreshes AS s ON s.digest = (SELECT digest FROM refreshes \
                           WHERE identity = f.identity AND device = f.device ORDER BY issued_at DESC LIMIT 1)"
                        .to_owned(),
                },
                Part {
                    columns: columns::<name::Entity>("n"),
                    join: " LEFT JOIN device_names AS n ON n.identity = f.identity AND n.device = f.device"
                        .to_owned(),
                },
            ];
            let text = select("device_records AS f", &parts);
            format!("{text} WHERE f.identity = $1 AND f.sequence_number = 0 ORDER BY f.device")
        });
        let values = [identity.to_string().into()];
        let rows = self.reader.query_all_raw(statement(&self.reader, &TEXT, values)).await?;
        let mut sightings = Sightings::default();
        for row in &rows {
            match sighting(row, &self.macs, identity) {
                Ok(sighting) => sightings.devices.push(sighting),
                Err(fault) => {
                    tell_damage("?", &fault, "its owner is told of it");
                    sightings.unreadable += 1;
                }
            }
        }
        Ok(sightings)
    }
}

/// What a row says of one device. Its first and newest record and its refresh are each verified.
fn sighting(row: &QueryResult, macs: &MacKeys, identity: &Digest) -> Result<Sighting, Fault> {
    let newest = intact(row, macs, identity)?;
    let because = "the database gave it in another's place";
    let exchanged = |table, id: String| Fault::Corrupt { table, id, because };
    let missing = || exchanged("device_records", newest.version.id.to_string());
    let first = head::<device::Model>(row, "f")?.ok_or_else(missing)?;
    let first = rows::of_device(rows::device_record(macs, first)?, identity, &newest.device)?;
    let refreshed = match head_at::<refresh::Model>(row, "s", "digest")? {
        None => None,
        Some(found) => {
            let found = rows::refresh(macs, &found)?;
            if (found.grant.identity, found.grant.device) != (*identity, newest.device) {
                return Err(exchanged("refreshes", found.digest.to_string()));
            }
            Some(found.grant.issued_at)
        }
    };
    let name = match head::<name::Model>(row, "n")? {
        Some(found) => Some(owned::device_name(macs, found, (identity, &newest.device))?),
        None => None,
    };
    Ok(Sighting { newest, first: first.version.created_at, refreshed, name })
}
