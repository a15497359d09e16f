//! What caused a record: a device's signed request, or an operator's order, which authd signs.

use keychain::message::Operation;
use keychain::{Digest, PublicKey, Refusal, Signature, SigningKey, VerifyingKey};

/// What authd's signature of an operator's record begins with. The same key signs tokens, whose text has no
/// line feed: neither signature can stand for the other.
pub(super) const DOMAIN: &str = "keelson operator record\n";

/// What caused a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A device of the account, or the holder of its recovery key.
    Device(SignedRequest),
    /// An operator.
    Operator(Order),
}

/// The signed request that caused a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedRequest {
    /// Which operation it was.
    pub operation: Operation,
    /// digest(path ‖ bytes of `payload.request`): what an exact repeat has in common with the first.
    pub digest: Digest,
    /// The bytes of `payload`, as received.
    pub payload: String,
    /// The device's signature over `payload`.
    pub signature: Signature,
}

/// The operator's order that caused a record: who and why. When is the record's `created_at`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// What was ordered.
    pub action: Action,
    /// Who ordered it, as the kernel named the caller of the admin socket.
    pub operator: String,
    /// Why, in the operator's words.
    pub reason: String,
    /// The access key of the authd that carried it out.
    pub signer: PublicKey,
    /// That key's signature over the record, but for its `id` and this signature.
    pub signature: Signature,
}

/// An order that is to be carried out, and the key that signs what it leads to.
#[derive(Clone, Copy, Debug)]
pub struct Mandate<'a> {
    /// What is ordered.
    pub action: Action,
    /// Who orders it.
    pub operator: &'a str,
    /// Why: any text without control characters.
    pub reason: &'a str,
    /// authd's access key.
    pub key: &'a SigningKey,
}

/// What an operator can order that leads to records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The account is deleted.
    AccountDelete,
    /// A deleted account stands again.
    AccountRestore,
    /// An identity is refused everything.
    Ban,
    /// Devices are revoked.
    DeviceRevoke,
    /// An account may have a role besides those that all have.
    RoleGrant,
    /// It may not any more.
    RoleRevoke,
    /// A ban is lifted.
    Unban,
}

impl Cause {
    /// Whether a device's request with this digest is the cause.
    pub fn is_request(&self, digest: &Digest) -> bool {
        matches!(self, Self::Device(request) if request.digest == *digest)
    }

    /// The signature that vouches for the record: the device's over its request, or authd's.
    pub(super) const fn signature(&self) -> &Signature {
        match self {
            Self::Device(request) => &request.signature,
            Self::Operator(order) => &order.signature,
        }
    }
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 7] = [
        Self::AccountDelete,
        Self::AccountRestore,
        Self::Ban,
        Self::DeviceRevoke,
        Self::RoleGrant,
        Self::RoleRevoke,
        Self::Unban,
    ];

    /// The word that stands for it in a record.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AccountDelete => "account-delete",
            Self::AccountRestore => "account-restore",
            Self::Ban => "ban",
            Self::DeviceRevoke => "device-revoke",
            Self::RoleGrant => "role-grant",
            Self::RoleRevoke => "role-revoke",
            Self::Unban => "unban",
        }
    }

    /// The action that the word stands for.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == word)
    }
}

impl Mandate<'_> {
    /// The order with a signature that is none yet: its record's text has to be known first.
    pub(super) fn unsigned(&self) -> Order {
        Order {
            action: self.action,
            operator: self.operator.to_owned(),
            reason: self.reason.to_owned(),
            signer: self.key.public_key(),
            signature: Signature::from_bytes([0; 64]),
        }
    }

    /// The signature over a record's text.
    pub(super) fn sign(&self, text: &str) -> Result<Signature, Refusal> {
        self.key.sign(message(text).as_bytes())
    }
}

impl Order {
    /// Verifies that the signature is the signer's over a record's text.
    pub(super) fn verify(&self, text: &str) -> Result<(), Refusal> {
        VerifyingKey::new(&self.signer)?.verify(message(text).as_bytes(), &self.signature)
    }
}

fn message(text: &str) -> String {
    [DOMAIN, text].concat()
}
