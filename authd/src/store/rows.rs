//! Records to rows and back. A row that does not parse, or that is not the one its address says, is a
//! fault of the store and never reaches a decision.

use keychain::message::Operation;
use keychain::{Digest, PublicKey, Signature, Timestamp};
use sea_orm::ActiveValue::Set;

use super::Fault;
use super::tables::{account, ban, device, refresh};
use crate::operation::session::{Grant, Refresh};
use crate::record::{AccountRecord, AccountState, BanRecord, Cause, DeviceRecord, DeviceState, Version};

pub(super) fn account_row(record: &AccountRecord) -> account::ActiveModel {
    let (version, cause) = (&record.version, &record.cause);
    account::ActiveModel {
        id: Set(version.id.to_string()),
        prefix: Set(version.prefix.to_string()),
        previous: Set(version.previous.map(|previous| previous.to_string())),
        sequence_number: Set(number(version)),
        created_at: Set(version.created_at.unix_millis()),
        identity: Set(record.identity.to_string()),
        recovery_hash: Set(record.recovery_hash.to_string()),
        revealed: Set(record.revealed.map(|revealed| revealed.to_string())),
        state: Set(record.state.as_str().to_owned()),
        path: Set(cause.operation.path().to_owned()),
        cause: Set(cause.digest.to_string()),
        payload: Set(cause.payload.clone()),
        signature: Set(cause.signature.to_string()),
    }
}

pub(super) fn device_row(record: &DeviceRecord) -> device::ActiveModel {
    let (version, cause) = (&record.version, &record.cause);
    device::ActiveModel {
        id: Set(version.id.to_string()),
        prefix: Set(version.prefix.to_string()),
        previous: Set(version.previous.map(|previous| previous.to_string())),
        sequence_number: Set(number(version)),
        created_at: Set(version.created_at.unix_millis()),
        identity: Set(record.identity.to_string()),
        device: Set(record.device.to_string()),
        public_key: Set(record.public_key.to_string()),
        rotation_hash: Set(record.rotation_hash.to_string()),
        state: Set(record.state.as_str().to_owned()),
        path: Set(cause.operation.path().to_owned()),
        cause: Set(cause.digest.to_string()),
        payload: Set(cause.payload.clone()),
        signature: Set(cause.signature.to_string()),
    }
}

pub(super) fn ban_row(record: &BanRecord) -> ban::ActiveModel {
    let version = &record.version;
    ban::ActiveModel {
        id: Set(version.id.to_string()),
        prefix: Set(version.prefix.to_string()),
        previous: Set(version.previous.map(|previous| previous.to_string())),
        sequence_number: Set(number(version)),
        created_at: Set(version.created_at.unix_millis()),
        identity: Set(record.identity.to_string()),
        banned: Set(record.banned),
    }
}

pub(super) fn refresh_row(refresh: &Refresh) -> refresh::ActiveModel {
    let grant = &refresh.grant;
    refresh::ActiveModel {
        digest: Set(refresh.digest.to_string()),
        cause: Set(refresh.cause.to_string()),
        identity: Set(grant.identity.to_string()),
        device: Set(grant.device.to_string()),
        public_key: Set(grant.public_key.to_string()),
        rotation_hash: Set(grant.rotation_hash.to_string()),
        issued_at: Set(grant.issued_at.unix_millis()),
        expiry: Set(grant.expiry.unix_millis()),
        refresh_expiry: Set(grant.refresh_expiry.unix_millis()),
    }
}

pub(super) fn account_record(row: account::Model) -> Result<AccountRecord, Fault> {
    let reader = Reader { table: "account_records", id: row.id.clone() };
    let version = (row.prefix.as_str(), row.previous.as_deref(), row.sequence_number, row.created_at);
    let record = AccountRecord {
        version: reader.version(version)?,
        identity: reader.digest(&row.identity)?,
        recovery_hash: reader.digest(&row.recovery_hash)?,
        revealed: row.revealed.as_deref().map(|text| reader.digest(text)).transpose()?,
        state: AccountState::parse(&row.state).ok_or_else(|| reader.corrupt("unknown state"))?,
        cause: reader.cause((&row.path, &row.cause, &row.signature), row.payload)?,
    };
    if record.is_intact() { Ok(record) } else { Err(reader.misaddressed()) }
}

pub(super) fn device_record(row: device::Model) -> Result<DeviceRecord, Fault> {
    let reader = Reader { table: "device_records", id: row.id.clone() };
    let version = (row.prefix.as_str(), row.previous.as_deref(), row.sequence_number, row.created_at);
    let record = DeviceRecord {
        version: reader.version(version)?,
        identity: reader.digest(&row.identity)?,
        device: reader.digest(&row.device)?,
        public_key: reader.key(&row.public_key)?,
        rotation_hash: reader.digest(&row.rotation_hash)?,
        state: DeviceState::parse(&row.state).ok_or_else(|| reader.corrupt("unknown state"))?,
        cause: reader.cause((&row.path, &row.cause, &row.signature), row.payload)?,
    };
    if record.is_intact() { Ok(record) } else { Err(reader.misaddressed()) }
}

pub(super) fn ban_record(row: &ban::Model) -> Result<BanRecord, Fault> {
    let reader = Reader { table: "ban_records", id: row.id.clone() };
    let version = (row.prefix.as_str(), row.previous.as_deref(), row.sequence_number, row.created_at);
    let record = BanRecord {
        version: reader.version(version)?,
        identity: reader.digest(&row.identity)?,
        banned: row.banned,
    };
    if record.is_intact() { Ok(record) } else { Err(reader.misaddressed()) }
}

pub(super) fn refresh(row: &refresh::Model) -> Result<Refresh, Fault> {
    let reader = Reader { table: "refreshes", id: row.digest.clone() };
    let grant = Grant {
        identity: reader.digest(&row.identity)?,
        device: reader.digest(&row.device)?,
        public_key: reader.key(&row.public_key)?,
        rotation_hash: reader.digest(&row.rotation_hash)?,
        issued_at: Timestamp::from_unix_millis(row.issued_at),
        expiry: Timestamp::from_unix_millis(row.expiry),
        refresh_expiry: Timestamp::from_unix_millis(row.refresh_expiry),
    };
    Ok(Refresh { digest: reader.digest(&row.digest)?, cause: reader.digest(&row.cause)?, grant })
}

/// The digest that a column holds.
pub(super) fn digest(table: &'static str, text: &str) -> Result<Digest, Fault> {
    Reader { table, id: text.to_owned() }.digest(text)
}

fn number(version: &Version) -> i64 {
    i64::try_from(version.sequence_number).unwrap_or(i64::MAX)
}

/// Reads the columns of one row.
struct Reader {
    table: &'static str,
    id: String,
}

impl Reader {
    fn version(&self, columns: (&str, Option<&str>, i64, i64)) -> Result<Version, Fault> {
        let (prefix, previous, number, created_at) = columns;
        Ok(Version {
            id: self.digest(&self.id)?,
            prefix: self.digest(prefix)?,
            previous: previous.map(|text| self.digest(text)).transpose()?,
            sequence_number: u64::try_from(number).map_err(|_| self.corrupt("negative sequence number"))?,
            created_at: Timestamp::from_unix_millis(created_at),
        })
    }

    fn cause(&self, columns: (&str, &str, &str), payload: String) -> Result<Cause, Fault> {
        let (path, digest, signature) = columns;
        Ok(Cause {
            operation: Operation::from_path(path).ok_or_else(|| self.corrupt("unknown path"))?,
            digest: self.digest(digest)?,
            payload,
            signature: Signature::parse(signature).map_err(|_| self.corrupt("malformed signature"))?,
        })
    }

    fn digest(&self, text: &str) -> Result<Digest, Fault> {
        Digest::parse(text).map_err(|_| self.corrupt("malformed digest"))
    }

    fn key(&self, text: &str) -> Result<PublicKey, Fault> {
        PublicKey::parse(text).map_err(|_| self.corrupt("malformed key"))
    }

    fn misaddressed(&self) -> Fault {
        self.corrupt("its text does not have its address")
    }

    fn corrupt(&self, because: &'static str) -> Fault {
        Fault::Corrupt { table: self.table, id: self.id.clone(), because }
    }
}
