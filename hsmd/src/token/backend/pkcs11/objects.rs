//! Keys as PKCS#11 objects: their templates, their pairing, their signatures.

use aws_lc_rs::digest;
use cryptoki::{
    error::{Error, RvError},
    mechanism::Mechanism,
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::Session,
};
use keychain::{PublicKey, Signature, VerifyingKey};

use super::{fault, sign_mechanism, wrap};
use crate::token::backend::{Fault, KeyId, KeyIds, Wrapped};

/// Marks an object as ours. Short, because a label of more than 40 bytes makes a YubiHSM keep a second
/// object for each key.
const LABEL: &[u8] = b"keelson";

/// Marks a key that attacks are tried on.
const TRIAL_LABEL: &[u8] = b"keelson-trial";

/// The object identifier of P-256, in DER.
const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

/// The head of a DER octet string of 65 bytes.
const OCTETS_OF_65: &[u8] = &[0x04, 65];

/// What a key signs to prove which public key is its own. No event or endorsement starts so.
const PROOF: &[u8] = b"keelson: proof that a key on the token signs as itself";

/// A private and a public object that belong together.
pub(super) struct Pair {
    pub(super) id: KeyId,
    pub(super) private: ObjectHandle,
    pub(super) public: ObjectHandle,
    pub(super) public_key: PublicKey,
    /// Whether it can be carried to another token.
    pub(super) carriable: bool,
}

/// How a key is named, and how long it lives.
#[derive(Clone, Copy)]
pub(super) enum Name {
    /// A key of the chain, on the token.
    Chain(KeyId),
    /// A key to try attacks on, for the session alone.
    Trial,
}

impl Name {
    /// What both objects of the key say of it.
    pub(super) fn attributes(self) -> Vec<Attribute> {
        let mut attributes =
            vec![Attribute::KeyType(KeyType::EC), Attribute::Token(matches!(self, Self::Chain(_)))];
        attributes.extend(match self {
            Self::Chain(id) => vec![Attribute::Id(id.bytes().to_vec()), Attribute::Label(LABEL.to_vec())],
            // No key of ours, whatever becomes of it.
            Self::Trial => vec![Attribute::Label(TRIAL_LABEL.to_vec())],
        });
        attributes
    }
}

/// Every object of ours.
pub(super) struct Found {
    pub(super) pairs: Vec<Pair>,
    /// Id, private object, public object: one of the two is absent.
    pub(super) halves: Vec<(Option<KeyId>, Option<ObjectHandle>, Option<ObjectHandle>)>,
}

/// An object of ours, as it presents itself.
struct Object {
    handle: ObjectHandle,
    /// None if it has neither label nor id.
    id: Option<KeyId>,
    /// Whether it has a curve. One without is what SoftHSM leaves when it is killed while it makes an object:
    /// first comes the object, then its name, then the key.
    is_key: bool,
}

/// Makes a key pair and proves that it signs; answers the private and the public object and the key. A pair
/// that cannot be proven is taken away again, so that tries in vain do not fill the token.
pub(super) fn make(
    session: &Session,
    id: KeyId,
    carriable: bool,
) -> Result<(ObjectHandle, ObjectHandle, PublicKey), Fault> {
    let (private, public) = generate(session, Name::Chain(id), carriable)?;
    match prove(session, private, public, (id, carriable)) {
        Ok(public_key) => Ok((private, public, public_key)),
        Err(unproven) => {
            if let Err(fault) = destroy(session, [Some(private), Some(public)]) {
                tracing::warn!(%fault, %id, "a key made in vain is left for the reconciliation");
            }
            Err(unproven)
        }
    }
}

/// Takes in a key that another token wrapped, with a public object beside it, and proves that it signs; answers
/// the private and the public object.
pub(super) fn take_in(
    session: &Session,
    (id, public_key): (KeyId, &PublicKey),
    wrapped: &Wrapped,
    under: ObjectHandle,
) -> Result<(ObjectHandle, ObjectHandle), Fault> {
    let private = wrap::unwrap(session, Name::Chain(id), wrapped, under)?;
    let mut second = None;
    let taken = make_public(session, id, public_key).and_then(|public| {
        second = Some(public);
        let proven = prove(session, private, public, (id, true))?;
        if proven == *public_key {
            Ok((private, public))
        } else {
            Err(Fault::Nonsense("another key than was carried"))
        }
    });
    if taken.is_err()
        && let Err(fault) = destroy(session, [Some(private), second])
    {
        tracing::warn!(%fault, %id, "a key carried in vain is left for the reconciliation");
    }
    taken
}

fn make_public(session: &Session, id: KeyId, public_key: &PublicKey) -> Result<ObjectHandle, Fault> {
    let point = p256::ecdsa::VerifyingKey::from_sec1_bytes(public_key.sec1())
        .map_err(|_| Fault::Nonsense("a public key that is no point"))?
        .to_sec1_point(false);
    let mut template = Name::Chain(id).attributes();
    template.extend([
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::Private(false),
        Attribute::Verify(true),
        Attribute::EcParams(P256.to_vec()),
        Attribute::EcPoint([OCTETS_OF_65, point.as_bytes()].concat()),
    ]);
    session.create_object(&template).map_err(fault)
}

fn prove(
    session: &Session,
    private: ObjectHandle,
    public: ObjectHandle,
    (id, carriable): (KeyId, bool),
) -> Result<PublicKey, Fault> {
    for object in [private, public] {
        demand_named(session, object, id)?;
    }
    let key = public_key(session, public)?.ok_or_else(|| misread("a key without a point"))?;
    demand_confined(session, private, carriable)?;
    if proves(&proof(session, private)?, &key)? {
        Ok(key)
    } else {
        Err(Fault::Nonsense("a new key does not sign as itself"))
    }
}

/// Destroys what is there of a key, in this order.
pub(super) fn destroy(session: &Session, objects: [Option<ObjectHandle>; 2]) -> Result<(), Fault> {
    for object in objects.into_iter().flatten() {
        match session.destroy_object(object) {
            Ok(()) => {}
            // Gone already (a device that makes the public object up from the private one has neither by now),
            // or so it says: it is read back.
            Err(Error::Pkcs11(RvError::ObjectHandleInvalid, _)) if is_gone(session, object) => {}
            Err(error) => return Err(fault(error)),
        }
    }
    Ok(())
}

/// Whether the token knows the object no more.
fn is_gone(session: &Session, object: ObjectHandle) -> bool {
    let asked = session.get_attributes(object, &[AttributeType::Class]);
    matches!(asked, Err(Error::Pkcs11(RvError::ObjectHandleInvalid, _)))
}

/// Makes a key pair; answers the private and the public object.
pub(super) fn generate(
    session: &Session,
    name: Name,
    carriable: bool,
) -> Result<(ObjectHandle, ObjectHandle), Fault> {
    let mut public = name.attributes();
    public.extend([Attribute::Private(false), Attribute::Verify(true), Attribute::EcParams(P256.to_vec())]);
    let mut private = name.attributes();
    private.push(Attribute::Sign(true));
    private.extend(if carriable { wrap::confined() } else { kept() });
    let (public, private) =
        session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private).map_err(fault)?;
    Ok((private, public))
}

/// What a key is that never leaves its token.
fn kept() -> Vec<Attribute> {
    vec![Attribute::Private(true), Attribute::Sensitive(true), Attribute::Extractable(false)]
}

/// Refuses a private key that the module made other than its template says.
fn demand_confined(session: &Session, private: ObjectHandle, carriable: bool) -> Result<(), Fault> {
    let wanted = if carriable { wrap::confined() } else { kept() };
    let types: Vec<_> = wanted.iter().map(Attribute::attribute_type).collect();
    let attributes = session.get_attributes(private, &types).map_err(fault)?;
    if wanted.iter().all(|wanted| attributes.contains(wanted)) {
        Ok(())
    } else {
        Err(misread("a private key that could leave the token"))
    }
}

/// Whether a private key can be carried to another token.
pub(super) fn is_carriable(session: &Session, private: ObjectHandle) -> Result<bool, Fault> {
    let wanted = [AttributeType::Extractable, AttributeType::WrapWithTrusted];
    let attributes = session.get_attributes(private, &wanted).map_err(fault)?;
    Ok([Attribute::Extractable(true), Attribute::WrapWithTrusted(true)]
        .iter()
        .all(|is| attributes.contains(is)))
}

/// Refuses a key that the token does not know by name: after the next start it would not be found, and the
/// chain may rest on it by then.
fn demand_named(session: &Session, object: ObjectHandle, id: KeyId) -> Result<(), Fault> {
    let attributes =
        session.get_attributes(object, &[AttributeType::Label, AttributeType::Id]).map_err(fault)?;
    let named = [Attribute::Label(LABEL.to_vec()), Attribute::Id(id.bytes().to_vec())];
    if named.iter().all(|name| attributes.contains(name)) {
        Ok(())
    } else {
        Err(misread("a key without a name"))
    }
}

/// What reads wrong of a key that was just made. Where two processes use one token, SoftHSM (2.6.1) now and
/// then loses what the object was made with, its name even, while the other reads: so the key is made anew over a new
/// connection, and only a token that goes on telling the same is refused.
fn misread(what: &'static str) -> Fault {
    Fault::Lost { call: "reading a new key".to_owned(), source: what.into() }
}

/// The P-256 key of a public object; nothing for another curve.
fn public_key(session: &Session, public: ObjectHandle) -> Result<Option<PublicKey>, Fault> {
    let attributes = session.get_attributes(public, &[AttributeType::EcPoint]).map_err(fault)?;
    Ok(attributes.iter().find_map(|attribute| match attribute {
        Attribute::EcPoint(point) => PublicKey::from_sec1(unwrap_point(point)).ok(),
        _ => None,
    }))
}

/// The point inside `CKA_EC_POINT`: by the book a DER octet string around its 65 bytes, by some modules
/// the bytes themselves.
fn unwrap_point(point: &[u8]) -> &[u8] {
    match point {
        [0x04, 65, inner @ ..] if inner.len() == 65 => inner,
        _ => point,
    }
}

/// Signs a SHA-256 digest.
pub(super) fn sign(session: &Session, private: ObjectHandle, digest: &[u8; 32]) -> Result<Signature, Fault> {
    let signature = session.sign(&sign_mechanism(), private, digest).map_err(fault)?;
    let bytes =
        <[u8; 64]>::try_from(signature).map_err(|_| Fault::Nonsense("a signature not of 64 bytes"))?;
    Ok(Signature::from_bytes(bytes))
}

/// What a private object signs to show which public key is its own.
fn proof(session: &Session, private: ObjectHandle) -> Result<Signature, Fault> {
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(digest::digest(&digest::SHA256, PROOF).as_ref());
    sign(session, private, &sha256)
}

/// Whether a proof is that of `public_key`.
fn proves(proof: &Signature, public_key: &PublicKey) -> Result<bool, Fault> {
    let key = VerifyingKey::new(public_key).map_err(|_| Fault::Nonsense("a point off the curve"))?;
    Ok(key.verify(PROOF, proof).is_ok())
}

/// Finds all that is ours and pairs it. Several keys may bear one id after a crash, so a pair is proven
/// by a signature, never assumed.
pub(super) fn find(session: &Session, ids: KeyIds) -> Result<Found, Fault> {
    let mut found = Found { pairs: Vec::new(), halves: Vec::new() };
    let mut publics = Vec::new();
    for object in ours(session, ids, ObjectClass::PUBLIC_KEY)? {
        match (object.id, public_key(session, object.handle)?) {
            (Some(id), Some(public_key)) => publics.push((id, object.handle, public_key)),
            (id, _) => found.halves.push((id, None, Some(object.handle))),
        }
    }
    for object in ours(session, ids, ObjectClass::PRIVATE_KEY)? {
        let partner = match object.id.filter(|_| object.is_key) {
            Some(id) => partner(session, id, object.handle, &publics)?,
            None => None,
        };
        let Some(index) = partner else {
            found.halves.push((object.id, Some(object.handle), None));
            continue;
        };
        let (id, public, public_key) = publics.swap_remove(index);
        let carriable = is_carriable(session, object.handle)?;
        found.pairs.push(Pair { id, private: object.handle, public, public_key, carriable });
    }
    found.halves.extend(publics.into_iter().map(|(id, public, _)| (Some(id), None, Some(public))));
    Ok(found)
}

/// Which of the public objects is the private one's. It signs once, however many bear its id: a token that an
/// outage has left many keys on is listed in no more signatures than it has keys.
fn partner(
    session: &Session,
    id: KeyId,
    private: ObjectHandle,
    publics: &[(KeyId, ObjectHandle, PublicKey)],
) -> Result<Option<usize>, Fault> {
    let mut candidates = publics.iter().enumerate().filter(|(_, (public, ..))| *public == id).peekable();
    if candidates.peek().is_none() {
        return Ok(None);
    }
    let proof = proof(session, private)?;
    for (index, (_, _, public_key)) in candidates {
        if proves(&proof, public_key)? {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

/// Objects that bear our label and an id of ours, and those that have no name and are no key: nobody could
/// find or use them.
fn ours(session: &Session, ids: KeyIds, class: ObjectClass) -> Result<Vec<Object>, Fault> {
    let wanted = [AttributeType::Label, AttributeType::Id, AttributeType::EcParams];
    let mut objects = Vec::new();
    // Not restricted to token objects: what SoftHSM has only begun to make does not say yet that it is one,
    // and session objects are this process's own, which makes none.
    for handle in
        session.find_objects(&[Attribute::Class(class), Attribute::KeyType(KeyType::EC)]).map_err(fault)?
    {
        let (mut label, mut id, mut curve) = (None, None, None);
        for attribute in session.get_attributes(handle, &wanted).map_err(fault)? {
            match attribute {
                Attribute::Label(bytes) => label = Some(bytes),
                Attribute::Id(bytes) => id = Some(bytes),
                Attribute::EcParams(bytes) => curve = Some(bytes),
                _ => {}
            }
        }
        let is_empty = |bytes: &Option<Vec<u8>>| bytes.as_ref().is_none_or(Vec::is_empty);
        if label.as_deref() == Some(LABEL) {
            let id = id.and_then(|bytes| ids.read(&bytes));
            // A module that does not tell a private key's curve is taken at its word that this is a key.
            let is_key = curve.is_none_or(|curve| !curve.is_empty());
            objects.extend(id.map(|id| Object { handle, id: Some(id), is_key }));
        } else if is_empty(&label) && is_empty(&id) && is_empty(&curve) {
            objects.push(Object { handle, id: None, is_key: false });
        }
    }
    Ok(objects)
}
