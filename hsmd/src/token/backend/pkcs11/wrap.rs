//! Keys on their way to the other token: wrap keys, and what a carried key may be.
//!
//! A wrap key is made by the security officer ([`super::officer`]). Whoever has only the user's PIN can use it for
//! nothing but to carry a key: the key under it is wrapped by trusted wrap keys only, which the user cannot make, and
//! what is unwrapped with it is as confined as before, whatever the user asks for (`CKA_UNWRAP_TEMPLATE`).

use cryptoki::{
    mechanism::Mechanism,
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
};

use super::{fault, objects::Name};
use crate::token::backend::{Fault, WrapKeyId, Wrapped};

/// Marks a wrap key as ours.
const LABEL: &[u8] = b"keelson-wrap";

/// AES key wrap with padding (RFC 5649).
pub(super) const MECHANISM: Mechanism<'static> = Mechanism::AesKeyWrapPad;

/// Longest key under a wrap key: a P-256 key takes 80 bytes.
const LENGTH_MAX: usize = 1024;

/// `CKA_UNWRAP_TEMPLATE`, which the bindings have no name for.
const UNWRAP_TEMPLATE: u64 = 0x4000_0212;

// What the rows of an unwrap template point at; static, so that no call outlives it.
static TRUE: u8 = 1;
static FALSE: u8 = 0;
static PRIVATE_KEY: u64 = 3;
static EC: u64 = 3;

/// What every key that can be carried is, wherever it is made or unwrapped.
pub(super) fn confined() -> Vec<Attribute> {
    vec![
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(true),
        Attribute::WrapWithTrusted(true),
        Attribute::Derive(false),
        Attribute::Copyable(false),
        // Last: SoftHSM sets no attribute after it.
        Attribute::Modifiable(false),
    ]
}

/// The same as the attribute of a wrap key that forces it on what is unwrapped.
fn unwrap_template() -> Attribute {
    // Class and type too: the bytes of a private key unwrapped as a secret key would be raw material for derivations.
    let rows = [
        row(0x000, &PRIVATE_KEY),
        row(0x100, &EC),
        row(0x002, &TRUE),
        row(0x103, &TRUE),
        row(0x162, &TRUE),
        row(0x210, &TRUE),
        row(0x10c, &FALSE),
        row(0x170, &FALSE),
        row(0x171, &FALSE),
    ];
    Attribute::VendorDefined((AttributeType::VendorDefined(UNWRAP_TEMPLATE), rows.concat()))
}

/// A `CK_ATTRIBUTE`: type, address and length of the value.
fn row<T>(kind: u64, value: &'static T) -> [u8; 24] {
    let address = std::ptr::from_ref(value).expose_provenance() as u64;
    let mut row = [0; 24];
    for (index, word) in row.chunks_exact_mut(8).zip([kind, address, size_of::<T>() as u64]) {
        index.copy_from_slice(&word.to_ne_bytes());
    }
    row
}

/// What the officer makes a wrap key as.
pub(super) fn wrap_key(key: &[u8], id: WrapKeyId) -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(true),
        // The officer can make public objects only; its value is sensitive all the same.
        Attribute::Private(false),
        Attribute::Label(LABEL.to_vec()),
        Attribute::Id(id.bytes().to_vec()),
        Attribute::Value(key.to_vec()),
        Attribute::Trusted(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Wrap(true),
        Attribute::Unwrap(true),
        // A wrapped key that could be decrypted as data would be read.
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
        Attribute::Sign(false),
        Attribute::Verify(false),
        Attribute::Derive(false),
        Attribute::Modifiable(false),
        Attribute::Copyable(false),
        unwrap_template(),
    ]
}

/// The wrap keys of ours that the officer made.
pub(super) fn find(session: &Session) -> Result<Vec<(WrapKeyId, ObjectHandle)>, Fault> {
    let wanted = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::Label(LABEL.to_vec()),
        Attribute::Trusted(true),
    ];
    let mut found = Vec::new();
    for handle in session.find_objects(&wanted).map_err(fault)? {
        let attributes = session.get_attributes(handle, &[AttributeType::Id]).map_err(fault)?;
        let id = attributes.iter().find_map(|attribute| match attribute {
            Attribute::Id(id) => WrapKeyId::from_bytes(id),
            _ => None,
        });
        found.extend(id.map(|id| (id, handle)));
    }
    Ok(found)
}

/// Encrypts a private key.
pub(super) fn wrap(session: &Session, key: ObjectHandle, under: ObjectHandle) -> Result<Wrapped, Fault> {
    let bytes = session.wrap_key(&MECHANISM, under, key).map_err(fault)?;
    if bytes.len() > LENGTH_MAX {
        return Err(Fault::Nonsense("a wrapped key of more than 1 KiB"));
    }
    Ok(Wrapped::new(bytes))
}

/// Takes in a private key.
pub(super) fn unwrap(
    session: &Session,
    name: Name,
    wrapped: &Wrapped,
    under: ObjectHandle,
) -> Result<ObjectHandle, Fault> {
    let mut template = name.attributes();
    template.extend([Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Sign(true)]);
    template.extend(confined());
    session.unwrap_key(&MECHANISM, under, wrapped.bytes(), &template).map_err(fault)
}
