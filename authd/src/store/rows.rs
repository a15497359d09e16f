//! Records to rows and back. Each row that is made has its MAC, and the MAC of each row that is read is
//! verified first. A row whose MAC does not hold, that does not parse, or that is not the one its address says,
//! is a fault of the store and never reaches a decision.

use keychain::message::Operation;
use keychain::{Digest, Nonce, PublicKey, Signature, Timestamp};
use sea_orm::IntoActiveModel;

use super::Fault;
use super::mac::{MacKeys, Row, name_of, table_of};
use super::tables::{account, ban, challenge, device, refresh, role};
use crate::operation::session::{Grant, Refresh};
use crate::record::{
    AccountRecord, AccountState, Action, BanRecord, Cause, DeviceRecord, DeviceState, FORMAT, Order,
    RoleRecord, SignedRequest, Version,
};

pub(super) fn account_row(macs: &MacKeys, record: &AccountRecord) -> account::ActiveModel {
    let (version, columns) = (&record.version, Columns::of(&record.cause));
    let row = account::Model {
        id: version.id.to_string(),
        prefix: version.prefix.to_string(),
        previous: version.previous.map(|previous| previous.to_string()),
        sequence_number: number(version),
        created_at: version.created_at.unix_millis(),
        identity: record.identity.to_string(),
        recovery_hash: record.recovery_hash.to_string(),
        revealed: record.revealed.map(|revealed| revealed.to_string()),
        state: record.state.as_str().to_owned(),
        format: FORMAT,
        path: columns.path,
        cause: columns.cause,
        payload: columns.payload,
        action: columns.action,
        operator: columns.operator,
        reason: columns.reason,
        signer: columns.signer,
        signature: columns.signature,
        mac: None,
    };
    macs.with_mac(row).into_active_model()
}

pub(super) fn device_row(macs: &MacKeys, record: &DeviceRecord) -> device::ActiveModel {
    let (version, columns) = (&record.version, Columns::of(&record.cause));
    let row = device::Model {
        id: version.id.to_string(),
        prefix: version.prefix.to_string(),
        previous: version.previous.map(|previous| previous.to_string()),
        sequence_number: number(version),
        created_at: version.created_at.unix_millis(),
        identity: record.identity.to_string(),
        device: record.device.to_string(),
        public_key: record.public_key.to_string(),
        rotation_hash: record.rotation_hash.to_string(),
        state: record.state.as_str().to_owned(),
        format: FORMAT,
        path: columns.path,
        cause: columns.cause,
        payload: columns.payload,
        action: columns.action,
        operator: columns.operator,
        reason: columns.reason,
        signer: columns.signer,
        signature: columns.signature,
        mac: None,
    };
    macs.with_mac(row).into_active_model()
}

pub(super) fn ban_row(macs: &MacKeys, record: &BanRecord) -> ban::ActiveModel {
    let (version, order) = (&record.version, &record.order);
    let row = ban::Model {
        id: version.id.to_string(),
        prefix: version.prefix.to_string(),
        previous: version.previous.map(|previous| previous.to_string()),
        sequence_number: number(version),
        created_at: version.created_at.unix_millis(),
        identity: record.identity.to_string(),
        banned: record.banned,
        until: record.until.map(Timestamp::unix_millis),
        format: FORMAT,
        action: order.action.as_str().to_owned(),
        operator: order.operator.clone(),
        reason: order.reason.clone(),
        signer: order.signer.to_string(),
        signature: order.signature.to_string(),
        mac: None,
    };
    macs.with_mac(row).into_active_model()
}

pub(super) fn role_row(macs: &MacKeys, record: &RoleRecord) -> role::ActiveModel {
    let (version, order) = (&record.version, &record.order);
    let row = role::Model {
        id: version.id.to_string(),
        prefix: version.prefix.to_string(),
        previous: version.previous.map(|previous| previous.to_string()),
        sequence_number: number(version),
        created_at: version.created_at.unix_millis(),
        identity: record.identity.to_string(),
        roles: record.text(),
        format: FORMAT,
        action: order.action.as_str().to_owned(),
        operator: order.operator.clone(),
        reason: order.reason.clone(),
        signer: order.signer.to_string(),
        signature: order.signature.to_string(),
        mac: None,
    };
    macs.with_mac(row).into_active_model()
}

pub(super) fn refresh_row(macs: &MacKeys, refresh: &Refresh) -> refresh::ActiveModel {
    let grant = &refresh.grant;
    let row = refresh::Model {
        digest: refresh.digest.to_string(),
        cause: refresh.cause.to_string(),
        identity: grant.identity.to_string(),
        device: grant.device.to_string(),
        public_key: grant.public_key.to_string(),
        rotation_hash: grant.rotation_hash.to_string(),
        issued_at: grant.issued_at.unix_millis(),
        expiry: grant.expiry.unix_millis(),
        refresh_expiry: grant.refresh_expiry.unix_millis(),
        mac: None,
    };
    macs.with_mac(row).into_active_model()
}

/// A nonce that is spent: a challenge that was answered, or the request of an owner.
pub(super) fn spent_row(macs: &MacKeys, nonce: &Nonce, forgotten_at: Timestamp) -> challenge::ActiveModel {
    let row =
        challenge::Model { nonce: nonce.to_string(), forgotten_at: forgotten_at.unix_millis(), mac: None };
    macs.with_mac(row).into_active_model()
}

pub(super) fn account_record(macs: &MacKeys, row: account::Model) -> Result<AccountRecord, Fault> {
    let reader = Reader::of(macs, &row)?;
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

pub(super) fn device_record(macs: &MacKeys, row: device::Model) -> Result<DeviceRecord, Fault> {
    let reader = Reader::of(macs, &row)?;
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

pub(super) fn ban_record(macs: &MacKeys, row: &ban::Model) -> Result<BanRecord, Fault> {
    let reader = Reader::of(macs, row)?;
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

pub(super) fn role_record(macs: &MacKeys, row: &role::Model) -> Result<RoleRecord, Fault> {
    let reader = Reader::of(macs, row)?;
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

pub(super) fn refresh(macs: &MacKeys, row: &refresh::Model) -> Result<Refresh, Fault> {
    let reader = Reader::of(macs, row)?;
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

/// The record, if it is of the account that was asked for: a database that is not believed may give another's.
pub(super) fn of_account<R: OfAccount>(record: R, identity: &Digest) -> Result<R, Fault> {
    if record.identity() == identity { Ok(record) } else { Err(exchanged(&record)) }
}

/// The same for a device's.
pub(super) fn of_device(
    record: DeviceRecord,
    identity: &Digest,
    device: &Digest,
) -> Result<DeviceRecord, Fault> {
    if record.device == *device { of_account(record, identity) } else { Err(exchanged(&record)) }
}

fn exchanged<R: OfAccount>(record: &R) -> Fault {
    let because = "the database gave it in another's place";
    Fault::Corrupt { table: R::TABLE, id: record.version().id.to_string(), because }
}

/// A record of an account.
pub(super) trait OfAccount {
    /// Where it is kept.
    const TABLE: &'static str;

    /// Its account.
    fn identity(&self) -> &Digest;

    /// Its place.
    fn version(&self) -> &Version;
}

macro_rules! of_account {
    ($($record:ident in $table:literal),* $(,)?) => {
        $(impl OfAccount for $record {
            const TABLE: &'static str = $table;

            fn identity(&self) -> &Digest {
                &self.identity
            }

            fn version(&self) -> &Version {
                &self.version
            }
        })*
    };
}

of_account!(
    AccountRecord in "account_records",
    BanRecord in "ban_records",
    DeviceRecord in "device_records",
    RoleRecord in "role_records",
);

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
    /// Of a row whose MAC holds.
    fn of<R: Row>(macs: &MacKeys, row: &R) -> Result<Self, Fault> {
        macs.verify(row)?;
        Ok(Self { table: table_of::<R>(), id: name_of(row) })
    }

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

#[cfg(test)]
mod tests {
    use keychain::SigningKey;

    use super::*;
    use crate::record::{BanEnd, Mandate};

    #[test]
    fn a_record_of_another_account_is_not_the_one_that_was_asked_for() {
        let key = SigningKey::from_seed(&[1; 32]).unwrap();
        let mandate = Mandate { action: Action::Ban, operator: "uid 0", reason: "a test", key: &key };
        let (identity, now) = (Digest::of("identity"), Timestamp::from_unix_millis(0));
        let record = BanRecord::new(None, identity, Some(BanEnd::Never), &mandate, now).unwrap();
        assert_eq!(of_account(record.clone(), &identity).unwrap(), record);
        let fault = of_account(record, &Digest::of("another")).unwrap_err();
        assert!(matches!(fault, Fault::Corrupt { table: "ban_records", .. }), "{fault}");
        let request = SignedRequest {
            operation: Operation::DeviceRotate,
            digest: Digest::of("cause"),
            payload: "{}".to_owned(),
            signature: Signature::from_bytes([1; 64]),
        };
        let (owner, keys) = ((identity, Digest::of("device")), (key.public_key(), Digest::of("next")));
        let record = DeviceRecord::new(None, owner, keys, DeviceState::Active, request, now);
        assert_eq!(of_device(record.clone(), &owner.0, &owner.1).unwrap(), record);
        for (identity, device) in [("identity", "another"), ("another", "device")] {
            let (identity, device) = (Digest::of(identity), Digest::of(device));
            let fault = of_device(record.clone(), &identity, &device).unwrap_err();
            assert!(matches!(fault, Fault::Corrupt { table: "device_records", .. }), "{fault}");
        }
    }
}
