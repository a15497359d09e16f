//! No key byte for a thief of the user's PIN: each attack on two SoftHSM tokens that the shipped ceremony has paired,
//! and the refusal to mirror on a token where one of them would yield any.

use std::path::Path;

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
    mechanism::{Mechanism, MechanismType},
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    slot::Slot,
};
use hsmd::token::backend::{
    Backend as _, Fault, KeyIds,
    pkcs11::{Settings, Token},
};

use p11fault::{CONTROL, Plan};

use crate::faults::module as fault_module;
use crate::support::softhsm::{MODULE, PIN, SO_PIN, SoftHsm};

/// `CKM_RSA_PKCS` and `CKM_RSA_PKCS_OAEP`.
const CKM_RSA_PKCS: u64 = 1;
const CKM_RSA_PKCS_OAEP: u64 = 9;

fn pair(folder: &Path) -> SoftHsm {
    let softhsm = SoftHsm::new(folder);
    softhsm.add_token("spare");
    softhsm.pair(folder);
    softhsm
}

#[test]
fn the_pin_alone_yields_no_key() {
    let folder = tempfile::tempdir().unwrap();
    pair(folder.path()).run_inside("pair::confine::attacks_inside");
}

#[test]
fn a_token_that_confines_no_key_mirrors_none() {
    let folder = tempfile::tempdir().unwrap();
    let softhsm = SoftHsm::new(folder.path());
    softhsm.run_inside("pair::confine::lax_wrap_keys_inside");
}

/// A thief takes what the token wraps under an RSA key home and reads it there.
#[test]
fn a_token_that_wraps_under_a_users_rsa_key_mirrors_none() {
    let folder = tempfile::tempdir().unwrap();
    let softhsm = pair(folder.path());
    let control = folder.path().join("control");
    let environment = [(CONTROL, control.to_str().unwrap())];
    for (wraps_by, inside) in [
        (Some(CKM_RSA_PKCS), "pair::confine::rsa_wrapping_inside"),
        (Some(CKM_RSA_PKCS_OAEP), "pair::confine::rsa_wrapping_inside"),
        (None, "pair::confine::no_rsa_wrapping_inside"),
    ] {
        Plan { wraps_by, ..Plan::default() }.write(&control).unwrap();
        softhsm.run_with(inside, &environment);
    }
}

#[test]
#[ignore = "run by `a_token_that_wraps_under_a_users_rsa_key_mirrors_none` in a process of its own"]
fn rsa_wrapping_inside() {
    let mut token = open_by(&fault_module(), "keelson");
    for _ in 0..2 {
        let fault = token.wrap_keys().unwrap_err();
        assert!(matches!(fault, Fault::NotConfined(because) if because.contains("RSA key")), "{fault}");
    }
    assert!(!token.generate(KeyIds::default().of(0)).unwrap().carriable);
}

#[test]
#[ignore = "run by `a_token_that_wraps_under_a_users_rsa_key_mirrors_none` in a process of its own"]
fn no_rsa_wrapping_inside() {
    let mut token = open_by(&fault_module(), "keelson");
    assert_eq!(token.wrap_keys().unwrap().len(), 1);
    assert!(token.generate(KeyIds::default().of(1)).unwrap().carriable);
}

fn open(label: &str) -> Token {
    open_by(Path::new(MODULE), label)
}

fn open_by(module: &Path, label: &str) -> Token {
    Token::open(Settings {
        module: module.to_owned(),
        token_label: Some(label.to_owned()),
        token_serial: None,
        pin: PIN.to_owned().into(),
        key_ids: KeyIds::default(),
        mirrored: true,
        refused_pin: None,
    })
    .unwrap()
}

fn module() -> Pkcs11 {
    let module = Pkcs11::new(MODULE).unwrap();
    match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => module,
        Err(error) => panic!("{error}"),
    }
}

fn slot(module: &Pkcs11, label: &str) -> Slot {
    let slots = module.get_slots_with_initialized_token().unwrap();
    slots.into_iter().find(|slot| module.get_token_info(*slot).unwrap().label() == label).unwrap()
}

fn refused<T: std::fmt::Debug>(what: &str, attempt: cryptoki::error::Result<T>) {
    let error = attempt.expect_err(what);
    assert!(matches!(error, Error::Pkcs11(..)), "{what}: {error}");
}

fn one(session: &Session, template: &[Attribute]) -> ObjectHandle {
    let found = session.find_objects(template).unwrap();
    assert_eq!(found.len(), 1, "{template:?}");
    found[0]
}

/// A key that the user knows, to wrap others with.
fn known_key(more: &[Attribute]) -> Vec<Attribute> {
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Value(vec![7; 32]),
        Attribute::Wrap(true),
        Attribute::Unwrap(true),
        Attribute::Extractable(true),
    ];
    [&template[..], more].concat()
}

#[test]
#[ignore = "run by `the_pin_alone_yields_no_key` in a process of its own"]
fn attacks_inside() {
    // A key is made on one token, carried to the other, and signs there.
    let (mut first, mut second) = (open("keelson"), open("spare"));
    let key = first.generate(KeyIds::default().of(0)).unwrap();
    assert!(key.carriable);
    let [under] = first.wrap_keys().unwrap()[..] else { panic!() };
    assert_eq!(second.wrap_keys().unwrap(), [under]);
    let wrapped = first.wrap(key.handle, under).unwrap();
    assert_eq!(wrapped.bytes().len(), 80);
    let copy = second.unwrap(key.id, &key.public_key, &wrapped, under).unwrap();
    second.sign(copy.handle, &[1; 32]).unwrap();
    let listed = second.inventory().unwrap();
    assert!(listed.halves.is_empty() && listed.keys.len() == 1 && listed.keys[0].carriable);

    // From here on as a thief of the PIN, on either token: hsmd's own session has logged this process in.
    let module = module();
    for label in ["keelson", "spare"] {
        let session = module.open_rw_session(slot(&module, label)).unwrap();
        let wrap_key = one(&session, &[Attribute::Label(b"keelson-wrap".to_vec())]);
        let key = one(
            &session,
            &[Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Label(b"keelson".to_vec())],
        );
        assert_eq!(session.get_attributes(key, &[AttributeType::Value]).unwrap(), []);
        assert_eq!(session.get_attributes(wrap_key, &[AttributeType::Value]).unwrap(), []);
        own_wrap_keys(&session, key);
        lax_unwrapping(&session, wrap_key, wrapped.bytes());
        changed_attributes(&session, key, wrap_key);
        other_mechanisms(&session, key, wrap_key, wrapped.bytes());
    }
}

fn own_wrap_keys(session: &Session, key: ObjectHandle) {
    for (on_token, private) in [(true, true), (true, false), (false, true), (false, false)] {
        let placed = [Attribute::Token(on_token), Attribute::Private(private)];
        let own = session.create_object(&known_key(&placed)).unwrap();
        for mechanism in [Mechanism::AesKeyWrapPad, Mechanism::AesKeyWrap, Mechanism::AesCbcPad([0; 16])] {
            refused("own wrap key", session.wrap_key(&mechanism, own, key));
        }
        refused("made trusted", session.update_attributes(own, &[Attribute::Trusted(true)]));
        refused("copied trusted", session.copy_object(own, &[Attribute::Trusted(true)]));
        let trusted = [&placed[..], &[Attribute::Trusted(true)]].concat();
        refused("created trusted", session.create_object(&known_key(&trusted)));
        session.destroy_object(own).unwrap();
    }
    let generated = [Attribute::ValueLen(32.into()), Attribute::Wrap(true), Attribute::Trusted(true)];
    refused("generated trusted", session.generate_key(&Mechanism::AesKeyGen, &generated));
    let bits = Attribute::ModulusBits(2048.into());
    let (public, private) = session
        .generate_key_pair(&Mechanism::RsaPkcsKeyPairGen, &[bits, Attribute::Wrap(true)], &[])
        .unwrap();
    refused("own RSA key", session.wrap_key(&Mechanism::RsaPkcs, public, key));
    refused("RSA made trusted", session.update_attributes(public, &[Attribute::Trusted(true)]));
    session.destroy_object(private).unwrap();
}

fn lax_unwrapping(session: &Session, wrap_key: ObjectHandle, wrapped: &[u8]) {
    let key = |class, kind, more: &[Attribute]| {
        [&[Attribute::Class(class), Attribute::KeyType(kind), Attribute::Token(false)][..], more].concat()
    };
    let private = |more: &[Attribute]| key(ObjectClass::PRIVATE_KEY, KeyType::EC, more);
    let secret = |kind, more: &[Attribute]| key(ObjectClass::SECRET_KEY, kind, more);
    let as_kept = [
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(true),
        Attribute::WrapWithTrusted(true),
        Attribute::Derive(false),
        Attribute::Modifiable(false),
        Attribute::Copyable(false),
    ];
    // Each attribute alone the other way round.
    for (index, lax) in [
        Attribute::Private(false),
        Attribute::Sensitive(false),
        Attribute::Extractable(false),
        Attribute::WrapWithTrusted(false),
        Attribute::Derive(true),
        Attribute::Modifiable(true),
        Attribute::Copyable(true),
    ]
    .into_iter()
    .enumerate()
    {
        let mut template = as_kept.to_vec();
        template[index] = lax;
        let what = format!("unwrapped with {:?}", template[index]);
        refused(&what, session.unwrap_key(&Mechanism::AesKeyWrapPad, wrap_key, wrapped, &private(&template)));
        template.remove(index);
        let what = format!("unwrapped without {index}");
        refused(&what, session.unwrap_key(&Mechanism::AesKeyWrapPad, wrap_key, wrapped, &private(&template)));
    }
    for template in [
        secret(KeyType::GENERIC_SECRET, &[Attribute::Sensitive(false), Attribute::Extractable(true)]),
        secret(KeyType::GENERIC_SECRET, &as_kept),
        secret(KeyType::AES, &as_kept),
        key(ObjectClass::PRIVATE_KEY, KeyType::RSA, &as_kept),
        key(ObjectClass::DATA, KeyType::EC, &[]),
    ] {
        refused("another class", session.unwrap_key(&Mechanism::AesKeyWrapPad, wrap_key, wrapped, &template));
    }
    // What the user knows, taken in as a wrap key that the officer is said to have made.
    let own = session.create_object(&known_key(&[Attribute::Token(false)])).unwrap();
    let wrapped = session.wrap_key(&Mechanism::AesKeyWrapPad, wrap_key, own).unwrap();
    for trusted in [true, false] {
        let template = secret(KeyType::AES, &[Attribute::Wrap(true), Attribute::Trusted(trusted)]);
        let unwrapped = session.unwrap_key(&Mechanism::AesKeyWrapPad, wrap_key, &wrapped, &template);
        refused("an own key unwrapped", unwrapped);
    }
}

fn changed_attributes(session: &Session, key: ObjectHandle, wrap_key: ObjectHandle) {
    for lax in [
        Attribute::Sensitive(false),
        Attribute::WrapWithTrusted(false),
        Attribute::Private(false),
        Attribute::Derive(true),
        Attribute::Modifiable(true),
        Attribute::Decrypt(true),
    ] {
        refused("a changed key", session.update_attributes(key, std::slice::from_ref(&lax)));
        refused("a changed copy", session.copy_object(key, &[lax, Attribute::Token(false)]));
    }
    let template = AttributeType::VendorDefined(0x4000_0212);
    for lax in [
        Attribute::Decrypt(true),
        Attribute::Encrypt(true),
        Attribute::Derive(true),
        Attribute::Extractable(true),
        Attribute::Sensitive(false),
        Attribute::Modifiable(true),
        Attribute::Copyable(true),
        Attribute::VendorDefined((template, Vec::new())),
    ] {
        refused("a changed wrap key", session.update_attributes(wrap_key, std::slice::from_ref(&lax)));
        refused("a changed copy of it", session.copy_object(wrap_key, &[lax, Attribute::Token(false)]));
    }
}

fn other_mechanisms(session: &Session, key: ObjectHandle, wrap_key: ObjectHandle, wrapped: &[u8]) {
    for mechanism in [Mechanism::AesEcb, Mechanism::AesCbc([0; 16]), Mechanism::AesCbcPad([0; 16])] {
        refused("decrypted", session.decrypt(&mechanism, wrap_key, &wrapped[..16]));
        refused("encrypted", session.encrypt(&mechanism, wrap_key, &wrapped[..16]));
        refused("wrapped", session.wrap_key(&mechanism, wrap_key, key));
    }
    for mechanism in [Mechanism::AesKeyWrapPad, Mechanism::AesKeyWrap] {
        refused("the wrap key wrapped", session.wrap_key(&mechanism, wrap_key, wrap_key));
    }
    let derived = [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::KeyType(KeyType::GENERIC_SECRET)];
    let point = session.get_attributes(key, &[AttributeType::EcParams]).unwrap();
    assert!(!point.is_empty());
    refused("derived", session.derive_key(&Mechanism::Sha256Hmac, key, &derived));
    refused("derived of the wrap key", session.derive_key(&Mechanism::Sha256Hmac, wrap_key, &derived));
    // Mechanisms that would read a key wrapped by the trusted one are known here: a new one in a new module is tried.
    assert_eq!(MechanismType::AES_KEY_WRAP_PAD, Mechanism::AesKeyWrapPad.mechanism_type());
}

/// Wrap keys that an officer made carelessly. None of them carries a key.
#[test]
#[ignore = "run by `a_token_that_confines_no_key_mirrors_none` in a process of its own"]
fn lax_wrap_keys_inside() {
    let careful = || {
        vec![
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Token(true),
            Attribute::Private(false),
            Attribute::Label(b"keelson-wrap".to_vec()),
            Attribute::Id(vec![1; 8]),
            Attribute::Value(vec![7; 32]),
            Attribute::Trusted(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Wrap(true),
            Attribute::Unwrap(true),
            Attribute::Encrypt(false),
            Attribute::Decrypt(false),
            Attribute::Derive(false),
            Attribute::Modifiable(false),
            Attribute::Copyable(false),
        ]
    };
    let make = |module: &Pkcs11, template: &[Attribute]| {
        let session = module.open_rw_session(slot(module, "keelson")).unwrap();
        session.login(UserType::So, Some(&SO_PIN.to_owned().into())).unwrap();
        session.create_object(template).unwrap();
        session.logout().unwrap();
    };
    // Without an unwrap template the user chooses what is unwrapped; with a use for data the wrapped key is read.
    let lax = |lax: Attribute| {
        let kind = lax.attribute_type();
        let mut template = careful();
        template.retain(|attribute| attribute.attribute_type() != kind);
        template.push(lax);
        template
    };
    for (template, because) in [
        (careful(), "unwrapped with laxer attributes"),
        (lax(Attribute::Decrypt(true)), "can do more than carry keys"),
        (lax(Attribute::Encrypt(true)), "can do more than carry keys"),
        (lax(Attribute::Derive(true)), "can do more than carry keys"),
        (lax(Attribute::Modifiable(true)), "can do more than carry keys"),
        (lax(Attribute::Copyable(true)), "can do more than carry keys"),
        (lax(Attribute::Extractable(true)), "can do more than carry keys"),
    ] {
        // Each token that is closed finalises the module.
        let module = module();
        make(&module, &template);
        let mut token = open("keelson");
        let fault = token.wrap_keys().unwrap_err();
        assert!(
            matches!(fault, Fault::NotConfined(shown) if shown.contains(because)),
            "{fault} {template:?}"
        );
        // A key that is made meanwhile never leaves the token.
        let key = token.generate(KeyIds::default().of(0)).unwrap();
        assert!(!key.carriable);
        assert!(matches!(
            token.wrap(key.handle, hsmd::token::backend::WrapKeyId::of(&[7; 32])),
            Err(Fault::NotExtractable)
        ));
        token.destroy(key.handle).unwrap();
        let session = module.open_rw_session(slot(&module, "keelson")).unwrap();
        let wrap_key = one(&session, &[Attribute::Label(b"keelson-wrap".to_vec())]);
        session.destroy_object(wrap_key).unwrap();
        drop(token);
    }
}
