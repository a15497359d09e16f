//! Account records: rows that follow one another, each its own address, each with its cause.
//!
//! A record is never changed. What happens to an account or a device is a new record that names the one
//! before it, and whose `id` is the digest of its own text with `id` (and `prefix`, in the first) blanked,
//! as in the HSM's chain (`PROTOCOL.md#self-addressing`). Beside it stands its cause: the payload that a device
//! signed, or an operator's order (who, why, when), for which authd signs the record itself.
//!
//! A self-address finds accidents (a bit, a half-restored backup, a hasty `UPDATE`). Against someone who
//! can write rows it proves nothing: the signature of the cause does. What an operator caused is signed with
//! its place and content, so that an order can stand nowhere else; the endorsement of the key that signed is
//! kept in the store, because the key ends in hours.

mod address;
mod cause;
pub mod proof;
mod role;
#[cfg(test)]
mod tests;

use keychain::{Digest, PublicKey, Refusal, Timestamp};

use address::Fields;
pub use address::{FORMAT, Version};
pub use cause::{Action, Cause, Mandate, Order, SignedRequest};
pub use role::RoleRecord;

/// Whether an account stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountState {
    /// It stands.
    Active,
    /// A tombstone: nothing may be done with it until an operator lifts it.
    Deleted,
}

/// Whether a device may act.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceState {
    /// It may, while its account stands.
    Active,
    /// It may not, for good.
    Revoked,
}

/// One version of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountRecord {
    /// Where it stands.
    pub version: Version,
    /// The account.
    pub identity: Digest,
    /// Digest of the key that may recover the account next.
    pub recovery_hash: Digest,
    /// Digest of the recovery key that this very change revealed: that key is spent.
    pub revealed: Option<Digest>,
    /// Whether the account stands from here on.
    pub state: AccountState,
    /// Who wants it so.
    pub cause: Cause,
}

/// One version of a device of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRecord {
    /// Where it stands.
    pub version: Version,
    /// The account.
    pub identity: Digest,
    /// The device.
    pub device: Digest,
    /// The device's current key.
    pub public_key: PublicKey,
    /// Digest of the key that it will reveal next.
    pub rotation_hash: Digest,
    /// Whether the device may act from here on.
    pub state: DeviceState,
    /// Who wants it so. Not this device where another unlinked it or recovered the account.
    pub cause: Cause,
}

/// What can be read of a device whose newest record is not intact. It is enough to revoke the device, and for nothing
/// else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remains {
    /// Where the newest record stands, or seems to.
    pub version: Version,
    /// The account.
    pub identity: Digest,
    /// The device.
    pub device: Digest,
    /// The device's key, if there is one to be read.
    pub public_key: Option<PublicKey>,
    /// Digest of the key after it.
    pub rotation_hash: Digest,
}

/// One version of an operator's decision about an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BanRecord {
    /// Where it stands.
    pub version: Version,
    /// The identity, which need not have an account yet.
    pub identity: Digest,
    /// Whether it is banned from here on.
    pub banned: bool,
    /// Until when; for ever if nothing is said.
    pub until: Option<Timestamp>,
    /// Who wants it so.
    pub order: Order,
}

/// When a ban ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BanEnd {
    /// When an operator lifts it.
    Never,
    /// By itself.
    At(Timestamp),
}

impl AccountRecord {
    /// The record after `before`, or the first, that a device caused.
    pub fn new(
        before: Option<&Self>,
        identity: Digest,
        recovery_hash: Digest,
        state: AccountState,
        request: SignedRequest,
        now: Timestamp,
    ) -> Self {
        let version = Version::after(before.map(|record| &record.version), now);
        let cause = Cause::Device(request);
        Self { version, identity, recovery_hash, revealed: None, state, cause }.addressed()
    }

    /// The same record, saying also that it revealed the recovery key with this digest.
    #[must_use]
    pub fn revealing(self, revealed: Digest) -> Self {
        Self { revealed: Some(revealed), ..self }.addressed()
    }

    /// The same account in `state`, as an operator orders.
    pub fn ordered(
        &self,
        state: AccountState,
        mandate: &Mandate<'_>,
        now: Timestamp,
    ) -> Result<Self, Refusal> {
        let (version, order) = (Version::after(Some(&self.version), now), mandate.unsigned());
        let cause = Cause::Operator(order.clone());
        let mut record = Self { version, revealed: None, state, cause, ..self.clone() };
        let fields = record.fields();
        let signature = record.version.sign(&fields, mandate)?;
        record.cause = Cause::Operator(Order { signature, ..order });
        Ok(record)
    }

    /// Whether the record still has its own address.
    pub fn is_intact(&self) -> bool {
        self.version.is_of(&self.fields(), self.cause.signature())
    }

    /// Verifies that an operator's record is the one that was signed; of a device's it says nothing.
    pub fn verify_order(&self) -> Result<(), Refusal> {
        self.version.verify(&self.fields(), &self.cause)
    }

    fn addressed(mut self) -> Self {
        let fields = self.fields();
        self.version.address(&fields, self.cause.signature());
        self
    }

    fn fields(&self) -> Fields {
        let mut fields = Fields::of("account");
        fields.put("identity", self.identity);
        fields.put("recoveryHash", self.recovery_hash);
        if let Some(revealed) = self.revealed {
            fields.put("revealed", revealed);
        }
        fields.put("state", self.state.as_str());
        fields.put_cause(&self.cause);
        fields
    }
}

impl DeviceRecord {
    /// The record after `before`, or the first, that a device caused.
    pub fn new(
        before: Option<&Self>,
        owner: (Digest, Digest),
        keys: (PublicKey, Digest),
        state: DeviceState,
        request: SignedRequest,
        now: Timestamp,
    ) -> Self {
        let version = Version::after(before.map(|record| &record.version), now);
        Self::at(version, owner, keys, state, request)
    }

    fn at(
        version: Version,
        (identity, device): (Digest, Digest),
        (public_key, rotation_hash): (PublicKey, Digest),
        state: DeviceState,
        request: SignedRequest,
    ) -> Self {
        let cause = Cause::Device(request);
        let mut record = Self { version, identity, device, public_key, rotation_hash, state, cause };
        let fields = record.fields();
        record.version.address(&fields, record.cause.signature());
        record
    }

    /// The same device, revoked, its keys as they were.
    #[must_use]
    pub fn revoked(&self, request: SignedRequest, now: Timestamp) -> Self {
        let (owner, keys) = ((self.identity, self.device), (self.public_key, self.rotation_hash));
        Self::new(Some(self), owner, keys, DeviceState::Revoked, request, now)
    }

    /// The same device, revoked, as an operator orders.
    pub fn revoked_by_order(&self, mandate: &Mandate<'_>, now: Timestamp) -> Result<Self, Refusal> {
        let (version, order) = (Version::after(Some(&self.version), now), mandate.unsigned());
        let cause = Cause::Operator(order.clone());
        let mut record = Self { version, state: DeviceState::Revoked, cause, ..self.clone() };
        let fields = record.fields();
        let signature = record.version.sign(&fields, mandate)?;
        record.cause = Cause::Operator(Order { signature, ..order });
        Ok(record)
    }

    /// Whether the record still has its own address.
    pub fn is_intact(&self) -> bool {
        self.version.is_of(&self.fields(), self.cause.signature())
    }

    /// Verifies that an operator's record is the one that was signed; of a device's it says nothing.
    pub fn verify_order(&self) -> Result<(), Refusal> {
        self.version.verify(&self.fields(), &self.cause)
    }

    fn fields(&self) -> Fields {
        let mut fields = Fields::of("device");
        fields.put("identity", self.identity);
        fields.put("device", self.device);
        fields.put("publicKey", self.public_key);
        fields.put("rotationHash", self.rotation_hash);
        fields.put("state", self.state.as_str());
        fields.put_cause(&self.cause);
        fields
    }
}

impl Remains {
    /// The record that revokes the device. It has the key `any` if there is none to be read.
    pub fn revoked(&self, any: PublicKey, request: SignedRequest, now: Timestamp) -> DeviceRecord {
        let version = Version::after(Some(&self.version), now);
        let keys = (self.public_key.unwrap_or(any), self.rotation_hash);
        DeviceRecord::at(version, (self.identity, self.device), keys, DeviceState::Revoked, request)
    }
}

impl BanRecord {
    /// The record after `before`, or the first, signed.
    pub fn new(
        before: Option<&Self>,
        identity: Digest,
        ban: Option<BanEnd>,
        mandate: &Mandate<'_>,
        now: Timestamp,
    ) -> Result<Self, Refusal> {
        let version = Version::after(before.map(|record| &record.version), now);
        let until = ban.and_then(BanEnd::time).map(Timestamp::to_millis);
        let order = mandate.unsigned();
        let mut record = Self { version, identity, banned: ban.is_some(), until, order };
        let fields = record.fields();
        record.order.signature = record.version.sign(&fields, mandate)?;
        Ok(record)
    }

    /// When the ban ends, if it is one.
    pub fn end(&self) -> BanEnd {
        self.until.map_or(BanEnd::Never, BanEnd::At)
    }

    /// Whether it bans at `now`.
    pub fn is_in_force(&self, now: Timestamp) -> bool {
        self.banned && self.until.is_none_or(|until| now < until)
    }

    /// Whether the record still has its own address.
    pub fn is_intact(&self) -> bool {
        self.version.is_of(&self.fields(), &self.order.signature)
    }

    /// Verifies that the record is the one that was signed.
    pub fn verify_order(&self) -> Result<(), Refusal> {
        self.version.verify_order(&self.fields(), &self.order)
    }

    fn fields(&self) -> Fields {
        let mut fields = Fields::of("ban");
        fields.put("identity", self.identity);
        fields.put("state", if self.banned { "banned" } else { "lifted" });
        if let Some(until) = self.until {
            fields.put("until", until);
        }
        fields.put_order(&self.order);
        fields
    }
}

impl BanEnd {
    /// The time, if it has one.
    pub const fn time(self) -> Option<Timestamp> {
        match self {
            Self::Never => None,
            Self::At(time) => Some(time),
        }
    }
}

impl AccountState {
    /// The word that stands for it in a record.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Deleted => "deleted",
        }
    }

    /// The state that the word stands for.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Active, Self::Deleted].into_iter().find(|state| state.as_str() == word)
    }
}

impl DeviceState {
    /// The word that stands for it in a record.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Revoked => "revoked",
        }
    }

    /// The state that the word stands for.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Active, Self::Revoked].into_iter().find(|state| state.as_str() == word)
    }
}
