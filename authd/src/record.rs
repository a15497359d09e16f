//! Account records: rows that follow one another, each its own address, each with its cause.
//!
//! A record is never changed. What happens to an account or a device is a new record that names the one
//! before it, and whose `id` is the digest of its own text with `id` (and `prefix`, in the first) blanked,
//! as in the HSM's chain (`PROTOCOL.md#self-addressing`). The payload that caused it stands beside it with
//! the device's signature, so that a record can be checked against what the device said.
//!
//! A self-address finds accidents (a bit, a half-restored backup, a hasty `UPDATE`). Against someone who
//! can write rows it proves nothing: the signature of the cause does.

use std::fmt::Write as _;

use keychain::message::Operation;
use keychain::{Digest, PublicKey, Signature, Timestamp};

/// What a record's `id` (and a first record's `prefix`) is while its address is computed.
const BLANK: &str = "############################################";

/// Where a record stands among those before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The record's self-address.
    pub id: Digest,
    /// The address of the first record of this chain.
    pub prefix: Digest,
    /// The address of the record before; none in the first.
    pub previous: Option<Digest>,
    /// 0, 1, 2, … without a hole.
    pub sequence_number: u64,
    /// When it was written, in whole milliseconds; never before its predecessor.
    pub created_at: Timestamp,
}

/// The signed request that caused a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Which operation it was.
    pub operation: Operation,
    /// digest(path ‖ bytes of `payload.request`): what an exact repeat has in common with the first.
    pub digest: Digest,
    /// The bytes of `payload`, as received.
    pub payload: String,
    /// The device's signature over `payload`.
    pub signature: Signature,
}

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
    /// What the device signed.
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
    /// What a device of this account signed; not this one where another unlinked or recovered.
    pub cause: Cause,
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
}

impl AccountRecord {
    /// The record after `before`, or the first; its address is computed here.
    pub fn new(
        before: Option<&Self>,
        identity: Digest,
        recovery_hash: Digest,
        state: AccountState,
        cause: Cause,
        now: Timestamp,
    ) -> Self {
        let version = Version::after(before.map(|record| &record.version), now);
        let mut record = Self { version, identity, recovery_hash, revealed: None, state, cause };
        record.version.address(&record.fields());
        record
    }

    /// The same record, saying also that it revealed the recovery key with this digest.
    #[must_use]
    pub fn revealing(mut self, revealed: Digest) -> Self {
        self.revealed = Some(revealed);
        let fields = self.fields();
        self.version.address(&fields);
        self
    }

    /// Whether the record still has its own address.
    pub fn is_intact(&self) -> bool {
        self.version.is_of(&self.fields())
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
    /// The record after `before`, or the first; its address is computed here.
    pub fn new(
        before: Option<&Self>,
        owner: (Digest, Digest),
        keys: (PublicKey, Digest),
        state: DeviceState,
        cause: Cause,
        now: Timestamp,
    ) -> Self {
        let version = Version::after(before.map(|record| &record.version), now);
        let ((identity, device), (public_key, rotation_hash)) = (owner, keys);
        let mut record = Self { version, identity, device, public_key, rotation_hash, state, cause };
        record.version.address(&record.fields());
        record
    }

    /// The same device, revoked, its keys as they were.
    #[must_use]
    pub fn revoked(&self, cause: Cause, now: Timestamp) -> Self {
        let (owner, keys) = ((self.identity, self.device), (self.public_key, self.rotation_hash));
        Self::new(Some(self), owner, keys, DeviceState::Revoked, cause, now)
    }

    /// Whether the record still has its own address.
    pub fn is_intact(&self) -> bool {
        self.version.is_of(&self.fields())
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

impl BanRecord {
    /// The record after `before`, or the first; its address is computed here.
    pub fn new(before: Option<&Self>, identity: Digest, banned: bool, now: Timestamp) -> Self {
        let version = Version::after(before.map(|record| &record.version), now);
        let mut record = Self { version, identity, banned };
        record.version.address(&record.fields());
        record
    }

    /// Whether the record still has its own address.
    pub fn is_intact(&self) -> bool {
        self.version.is_of(&self.fields())
    }

    fn fields(&self) -> Fields {
        let mut fields = Fields::of("ban");
        fields.put("identity", self.identity);
        fields.put("state", if self.banned { "banned" } else { "lifted" });
        fields
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

impl Version {
    /// The place after `before`, not addressed yet.
    fn after(before: Option<&Self>, now: Timestamp) -> Self {
        let (unset, now) = (Digest::of(BLANK), now.to_millis());
        match before {
            None => Self { id: unset, prefix: unset, previous: None, sequence_number: 0, created_at: now },
            Some(before) => Self {
                id: unset,
                prefix: before.prefix,
                previous: Some(before.id),
                sequence_number: before.sequence_number.saturating_add(1),
                created_at: now.max(before.created_at),
            },
        }
    }

    fn address(&mut self, fields: &Fields) {
        self.id = self.address_of(fields);
        if self.previous.is_none() {
            self.prefix = self.id;
        }
    }

    fn is_of(&self, fields: &Fields) -> bool {
        let first = self.previous.is_none();
        self.id == self.address_of(fields)
            && first == (self.sequence_number == 0)
            && (!first || self.prefix == self.id)
    }

    fn address_of(&self, fields: &Fields) -> Digest {
        let mut text = String::with_capacity(1024);
        let number = self.sequence_number;
        match &self.previous {
            None => put(&mut text, format_args!(r#"{{"id":"{BLANK}","prefix":"{BLANK}","sequenceNumber":0"#)),
            Some(previous) => put(
                &mut text,
                format_args!(
                    r#"{{"id":"{BLANK}","prefix":"{}","sequenceNumber":{number},"previous":"{previous}""#,
                    self.prefix
                ),
            ),
        }
        put(&mut text, format_args!(r#","createdAt":"{}"{}}}"#, self.created_at, fields.0));
        Digest::of(text)
    }
}

/// The members of a record after its version. Every value is ASCII that JSON does not escape: the
/// payload, which need not be, goes in as its digest.
struct Fields(String);

impl Fields {
    fn of(kind: &'static str) -> Self {
        let mut fields = Self(String::with_capacity(768));
        fields.put("kind", kind);
        fields
    }

    fn put(&mut self, name: &'static str, value: impl std::fmt::Display) {
        put(&mut self.0, format_args!(r#","{name}":"{value}""#));
    }

    fn put_cause(&mut self, cause: &Cause) {
        self.put("path", cause.operation.path());
        self.put("cause", cause.digest);
        self.put("payload", Digest::of(&cause.payload));
        self.put("signature", cause.signature);
    }
}

/// Appends to a string, which cannot fail.
fn put(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    let _infallible = text.write_fmt(arguments);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause() -> Cause {
        Cause {
            operation: Operation::DeviceRotate,
            digest: Digest::of("cause"),
            payload: r#"{"request":{}}"#.to_owned(),
            signature: Signature::from_bytes([1; 64]),
        }
    }

    fn key(seed: u8) -> PublicKey {
        keychain::SigningKey::from_seed(&[seed; 32]).unwrap().public_key()
    }

    fn first() -> DeviceRecord {
        let owner = (Digest::of("identity"), Digest::of("device"));
        let keys = (key(1), Digest::of("next"));
        let now = Timestamp::from_unix_millis(1_800_000_000_000);
        DeviceRecord::new(None, owner, keys, DeviceState::Active, cause(), now)
    }

    #[test]
    fn a_record_follows_the_one_before_and_never_in_time_before_it() {
        let first = first();
        assert!(first.is_intact());
        assert_eq!(first.version.id, first.version.prefix);
        let earlier = first.version.created_at.minus(std::time::Duration::from_secs(9));
        let second = first.revoked(cause(), earlier);
        assert!(second.is_intact());
        assert_eq!(second.version.prefix, first.version.id);
        assert_eq!(second.version.previous, Some(first.version.id));
        assert_eq!(second.version.sequence_number, 1);
        assert_eq!(second.version.created_at, first.version.created_at);
        assert_eq!(second.state, DeviceState::Revoked);
    }

    #[test]
    fn any_change_of_a_record_is_found() {
        type Change = fn(&mut DeviceRecord);
        let changes: [(&str, Change); 13] = [
            ("id", |r| r.version.id = Digest::of("x")),
            ("prefix", |r| r.version.prefix = Digest::of("x")),
            ("previous", |r| r.version.previous = Some(Digest::of("x"))),
            ("sequence number", |r| r.version.sequence_number = 1),
            ("created at", |r| r.version.created_at = Timestamp::from_unix_millis(1)),
            ("identity", |r| r.identity = Digest::of("x")),
            ("device", |r| r.device = Digest::of("x")),
            ("public key", |r| r.public_key = key(2)),
            ("rotation hash", |r| r.rotation_hash = Digest::of("x")),
            ("state", |r| r.state = DeviceState::Revoked),
            ("path", |r| r.cause.operation = Operation::AccountDelete),
            ("payload", |r| r.cause.payload.push(' ')),
            ("signature", |r| r.cause.signature = Signature::from_bytes([2; 64])),
        ];
        for (what, change) in changes {
            let mut record = first();
            change(&mut record);
            assert!(!record.is_intact(), "a changed {what} went unseen");
        }
    }

    #[test]
    fn what_a_recovery_revealed_is_part_of_the_address() {
        let now = Timestamp::from_unix_millis(1_800_000_000_000);
        let (identity, hash) = (Digest::of("identity"), Digest::of("recovery"));
        let plain = AccountRecord::new(None, identity, hash, AccountState::Active, cause(), now);
        let revealing = plain.clone().revealing(Digest::of("revealed"));
        assert!(plain.is_intact() && revealing.is_intact());
        assert_ne!(plain.version.id, revealing.version.id);
        let lifted = BanRecord::new(Some(&BanRecord::new(None, identity, true, now)), identity, false, now);
        assert!(lifted.is_intact() && lifted.version.sequence_number == 1);
    }

    #[test]
    fn states_have_words_and_words_states() {
        for state in [AccountState::Active, AccountState::Deleted] {
            assert_eq!(AccountState::parse(state.as_str()), Some(state));
        }
        for state in [DeviceState::Active, DeviceState::Revoked] {
            assert_eq!(DeviceState::parse(state.as_str()), Some(state));
        }
        assert_eq!((AccountState::parse("Active"), DeviceState::parse("")), (None, None));
    }
}
