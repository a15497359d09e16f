//! Records to rows and back. A row that does not parse, or that is not the one its address says, is a
//! fault of the store and never reaches a decision.

use keychain::message::Operation;
use keychain::{Digest, PublicKey, Signature, Timestamp};
use sea_orm::ActiveValue::Set;

use super::Fault;
use super::tables::{account, ban, device, refresh, role};
use crate::operation::session::{Grant, Refresh};
use crate::record::{
    AccountRecord, AccountState, Action, BanRecord, Cause, DeviceRecord, DeviceState, FORMAT, Order,
    RoleRecord, SignedRequest, Version,
};

pub(super) fn account_row(record: &AccountRecord) -> account::ActiveModel {
    let (version, columns) = (&record.version, Columns::of(&record.cause));
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
        format: Set(FORMAT),
        path: Set(columns.path),
        cause: Set(columns.cause),
        payload: Set(columns.payload),
        action: Set(columns.action),
        operator: Set(columns.operator),
        reason: Set(columns.reason),
        signer: Set(columns.signer),
        signature: Set(columns.signature),
    }
}

pub(super) fn device_row(record: &DeviceRecord) -> device::ActiveModel {
    let (version, columns) = (&record.version, Columns::of(&record.cause));
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
        format: Set(FORMAT),
        path: Set(columns.path),
        cause: Set(columns.cause),
        payload: Set(columns.payload),
        action: Set(columns.action),
        operator: Set(columns.operator),
        reason: Set(columns.reason),
        signer: Set(columns.signer),
        signature: Set(columns.signature),
    }
}

pub(super) fn ban_row(record: &BanRecord) -> ban::ActiveModel {
    let (version, order) = (&record.version, &record.order);
    ban::ActiveModel {
        id: Set(version.id.to_string()),
        prefix: Set(version.prefix.to_string()),
        previous: Set(version.previous.map(|previous| previous.to_string())),
        sequence_number: Set(number(version)),
        created_at: Set(version.created_at.unix_millis()),
        identity: Set(record.identity.to_string()),
        banned: Set(record.banned),
        until: Set(record.until.map(Timestamp::unix_millis)),
        format: Set(FORMAT),
        action: Set(order.action.as_str().to_owned()),
        operator: Set(order.operator.clone()),
        reason: Set(order.reason.clone()),
        signer: Set(order.signer.to_string()),
        signature: Set(order.signature.to_string()),
    }
}

pub(super) fn role_row(record: &RoleRecord) -> role::ActiveModel {
    let (version, order) = (&record.version, &record.order);
    role::ActiveModel {
        id: Set(version.id.to_string()),
        prefix: Set(version.prefix.to_string()),
        previous: Set(version.previous.map(|previous| previous.to_string())),
        sequence_number: Set(number(version)),
        created_at: Set(version.created_at.unix_millis()),
        identity: Set(record.identity.to_string()),
        roles: Set(record.text()),
        format: Set(FORMAT),
        action: Set(order.action.as_str().to_owned()),
        operator: Set(order.operator.clone()),
        reason: Set(order.reason.clone()),
        signer: Set(order.signer.to_string()),
        signature: Set(order.signature.to_string()),
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
    reader.format(row.format)?;
    let columns = Columns {
        path: row.path,
        cause: row.cause,
        payload: row.payload,
        action: row.action,
        operator: row.operator,
        reason: row.reason,
        signer: row.signer,
        signature: row.signature,
    };
    let record = AccountRecord {
        version: reader.version(version)?,
        identity: reader.digest(&row.identity)?,
        recovery_hash: reader.digest(&row.recovery_hash)?,
        revealed: row.revealed.as_deref().map(|text| reader.digest(text)).transpose()?,
        state: AccountState::parse(&row.state).ok_or_else(|| reader.corrupt("unknown state"))?,
        cause: reader.cause(columns)?,
    };
    if record.is_intact() { Ok(record) } else { Err(reader.misaddressed()) }
}

pub(super) fn device_record(row: device::Model) -> Result<DeviceRecord, Fault> {
    let reader = Reader { table: "device_records", id: row.id.clone() };
    let version = (row.prefix.as_str(), row.previous.as_deref(), row.sequence_number, row.created_at);
    reader.format(row.format)?;
    let columns = Columns {
        path: row.path,
        cause: row.cause,
        payload: row.payload,
        action: row.action,
        operator: row.operator,
        reason: row.reason,
        signer: row.signer,
        signature: row.signature,
    };
    let record = DeviceRecord {
        version: reader.version(version)?,
        identity: reader.digest(&row.identity)?,
        device: reader.digest(&row.device)?,
        public_key: reader.key(&row.public_key)?,
        rotation_hash: reader.digest(&row.rotation_hash)?,
        state: DeviceState::parse(&row.state).ok_or_else(|| reader.corrupt("unknown state"))?,
        cause: reader.cause(columns)?,
    };
    if record.is_intact() { Ok(record) } else { Err(reader.misaddressed()) }
}

pub(super) fn ban_record(row: &ban::Model) -> Result<BanRecord, Fault> {
    let reader = Reader { table: "ban_records", id: row.id.clone() };
    let version = (row.prefix.as_str(), row.previous.as_deref(), row.sequence_number, row.created_at);
    reader.format(row.format)?;
    let words = (row.operator.as_str(), row.reason.as_str());
    let record = BanRecord {
        version: reader.version(version)?,
        identity: reader.digest(&row.identity)?,
        banned: row.banned,
        until: row.until.map(Timestamp::from_unix_millis),
        order: reader.order(&row.action, words, (&row.signer, &row.signature))?,
    };
    if record.is_intact() { Ok(record) } else { Err(reader.misaddressed()) }
}

pub(super) fn role_record(row: &role::Model) -> Result<RoleRecord, Fault> {
    let reader = Reader { table: "role_records", id: row.id.clone() };
    let version = (row.prefix.as_str(), row.previous.as_deref(), row.sequence_number, row.created_at);
    reader.format(row.format)?;
    let words = (row.operator.as_str(), row.reason.as_str());
    let record = RoleRecord {
        version: reader.version(version)?,
        identity: reader.digest(&row.identity)?,
        roles: RoleRecord::parse(&row.roles).ok_or_else(|| reader.corrupt("malformed roles"))?,
        order: reader.order(&row.action, words, (&row.signer, &row.signature))?,
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

/// The key that a column holds.
pub(super) fn key(table: &'static str, text: &str) -> Result<PublicKey, Fault> {
    Reader { table, id: text.to_owned() }.key(text)
}

/// The columns of a record's cause.
#[derive(Default)]
struct Columns {
    path: Option<String>,
    cause: Option<String>,
    payload: Option<String>,
    action: Option<String>,
    operator: Option<String>,
    reason: Option<String>,
    signer: Option<String>,
    signature: String,
}

impl Columns {
    fn of(cause: &Cause) -> Self {
        match cause {
            Cause::Device(request) => Self {
                path: Some(request.operation.path().to_owned()),
                cause: Some(request.digest.to_string()),
                payload: Some(request.payload.clone()),
                signature: request.signature.to_string(),
                ..Self::default()
            },
            Cause::Operator(order) => Self {
                action: Some(order.action.as_str().to_owned()),
                operator: Some(order.operator.clone()),
                reason: Some(order.reason.clone()),
                signer: Some(order.signer.to_string()),
                signature: order.signature.to_string(),
                ..Self::default()
            },
        }
    }
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

    fn format(&self, format: i32) -> Result<(), Fault> {
        if format == FORMAT { Ok(()) } else { Err(self.corrupt("a format that this authd does not know")) }
    }

    /// The columns of a device's request, or those of an operator's order; never of both.
    fn cause(&self, columns: Columns) -> Result<Cause, Fault> {
        let Columns { path, cause, payload, action, operator, reason, signer, signature } = columns;
        match (path, cause, payload, action, operator, reason, signer) {
            (Some(path), Some(cause), Some(payload), None, None, None, None) => {
                Ok(Cause::Device(SignedRequest {
                    operation: Operation::from_path(&path).ok_or_else(|| self.corrupt("unknown path"))?,
                    digest: self.digest(&cause)?,
                    payload,
                    signature: self.signature(&signature)?,
                }))
            }
            (None, None, None, Some(action), Some(operator), Some(reason), Some(signer)) => {
                let order = self.order(&action, (&operator, &reason), (&signer, &signature))?;
                Ok(Cause::Operator(order))
            }
            _ => Err(self.corrupt("its cause is neither a device's nor an operator's")),
        }
    }

    fn order(&self, action: &str, words: (&str, &str), proof: (&str, &str)) -> Result<Order, Fault> {
        let ((operator, reason), (signer, signature)) = (words, proof);
        Ok(Order {
            action: Action::parse(action).ok_or_else(|| self.corrupt("unknown action"))?,
            operator: operator.to_owned(),
            reason: reason.to_owned(),
            signer: self.key(signer)?,
            signature: self.signature(signature)?,
        })
    }

    fn signature(&self, text: &str) -> Result<Signature, Fault> {
        Signature::parse(text).map_err(|_| self.corrupt("malformed signature"))
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
