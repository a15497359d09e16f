//! The one suite that every backend passes, and what goes beyond it by what a device can do.

use aws_lc_rs::digest;
use cryptoki::object::{Attribute, ObjectClass};
use hsmd::token::backend::{
    Backend, Fault, Inventory, Key, KeyIds, Rung,
    pkcs11::{Settings, Token},
};
use keychain::{Code, PublicKey, VerifyingKey};

use crate::faults;
use crate::support::{
    memory::Device,
    softhsm::{MODULE, PIN, SoftHsm, log_in_inside, named_inside},
};

/// `connect` makes a new connection to one and the same empty device.
pub fn conforms(connect: &dyn Fn() -> Box<dyn Backend>) {
    let ids = KeyIds::default();
    let mut hsm = connect();
    assert_eq!(hsm.inventory().unwrap(), Inventory::default());

    let first = hsm.generate(ids.of(0)).unwrap();
    let second = hsm.generate(ids.of(1)).unwrap();
    assert_eq!((first.id, second.id), (ids.of(0), ids.of(1)));
    for key in [first, second] {
        assert!(signs_as(hsm.as_mut(), key.handle, &key.public_key), "each handle signs with its own key");
    }
    if hsm.capabilities().duplicate_ids {
        keeps_two_keys_under_one_id_apart(hsm.as_mut(), first, second);
    } else {
        refuses_an_id_that_is_taken(hsm.as_mut(), first, second);
    }
    let gone = hsm.generate(ids.of(2)).unwrap();
    hsm.destroy(gone.handle).unwrap();
    assert_eq!(listed(hsm.as_mut()), sorted([first.public_key, second.public_key]));
    assert!(hsm.sign(gone.handle, &[0; 32]).is_err());
    // What is gone is not destroyed by mistake in another's stead.
    let after = hsm.generate(ids.of(2)).unwrap();
    drop(hsm.destroy(gone.handle));
    assert!(signs_as(hsm.as_mut(), after.handle, &after.public_key));
    hsm.destroy(after.handle).unwrap();

    // Handles do not outlive their connection; keys do.
    for rung in Rung::ALL {
        let before = hsm.inventory().unwrap().keys[0];
        hsm.reconnect(rung).unwrap();
        assert!(matches!(hsm.sign(before.handle, &[0; 32]), Err(Fault::EarlierHandle)), "{rung:?}");
        assert!(matches!(hsm.destroy(before.handle), Err(Fault::EarlierHandle)), "{rung:?}");
        let after = hsm.inventory().unwrap();
        let same = after.keys.iter().find(|key| key.public_key == before.public_key).unwrap();
        assert_eq!(same.id, before.id);
        assert!(signs_as(hsm.as_mut(), same.handle, &same.public_key));
    }
    drop(hsm);
    let mut hsm = connect();
    assert_eq!(listed(hsm.as_mut()), sorted([first.public_key, second.public_key]));
    for key in hsm.inventory().unwrap().keys {
        hsm.destroy(key.handle).unwrap();
    }
    assert_eq!(hsm.inventory().unwrap(), Inventory::default());
}

fn keeps_two_keys_under_one_id_apart(hsm: &mut dyn Backend, first: Key, second: Key) {
    let twin = hsm.generate(second.id).unwrap();
    assert_eq!(twin.id, second.id);
    for key in [first, second, twin] {
        assert!(signs_as(hsm, key.handle, &key.public_key), "each handle signs with its own key");
    }
    assert_eq!(listed(hsm), sorted([first.public_key, second.public_key, twin.public_key]));

    // One of two keys under one id is destroyed by its handle, and only that one.
    hsm.destroy(twin.handle).unwrap();
    assert_eq!(listed(hsm), sorted([first.public_key, second.public_key]));
    assert!(hsm.sign(twin.handle, &[0; 32]).is_err());
    assert!(signs_as(hsm, second.handle, &second.public_key));
}

fn refuses_an_id_that_is_taken(hsm: &mut dyn Backend, first: Key, second: Key) {
    let fault = hsm.generate(second.id).unwrap_err();
    assert!(matches!(fault, Fault::IdTaken(id) if id == second.id), "{fault}");
    assert_eq!(listed(hsm), sorted([first.public_key, second.public_key]));
    assert!(signs_as(hsm, second.handle, &second.public_key));
}

fn signs_as(hsm: &mut dyn Backend, handle: hsmd::token::backend::Handle, key: &PublicKey) -> bool {
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(digest::digest(&digest::SHA256, b"message").as_ref());
    let signature = hsm.sign(handle, &sha256).unwrap();
    let key = VerifyingKey::new(key).unwrap();
    assert_eq!(key.verify(b"massage", &signature).unwrap_err().code(), Code::BadSignature);
    key.verify(b"message", &signature).is_ok()
}

fn listed(hsm: &mut dyn Backend) -> Vec<PublicKey> {
    let inventory = hsm.inventory().unwrap();
    assert_eq!(inventory.halves, []);
    sorted(inventory.keys.iter().map(|key| key.public_key))
}

fn sorted(keys: impl IntoIterator<Item = PublicKey>) -> Vec<PublicKey> {
    let mut keys: Vec<_> = keys.into_iter().collect();
    keys.sort_unstable();
    keys
}

#[test]
fn memory() {
    let device = Device::default();
    conforms(&|| Box::new(device.connect()));
}

#[test]
fn memory_with_unique_ids() {
    let device = Device::with_unique_ids();
    conforms(&|| Box::new(device.connect()));
}

#[test]
fn softhsm() {
    let folder = tempfile::tempdir().unwrap();
    let softhsm = SoftHsm::new(folder.path());
    softhsm.add_token("another");
    softhsm.run_inside("conformance::softhsm_inside");
}

#[test]
fn fault_module() {
    let folder = tempfile::tempdir().unwrap();
    SoftHsm::new(folder.path()).run_inside("conformance::fault_module_inside");
}

/// Without a control file the fault module changes nothing.
#[test]
#[ignore = "run by `fault_module` in a process of its own"]
fn fault_module_inside() {
    let open = || {
        let settings = settings(Some("keelson"), KeyIds::default());
        Token::open(Settings { module: faults::module(), ..settings }).unwrap()
    };
    conforms(&|| Box::new(open()));
}

fn settings(label: Option<&str>, key_ids: KeyIds) -> Settings {
    Settings {
        module: MODULE.into(),
        token_label: label.map(str::to_owned),
        token_serial: None,
        pin: PIN.to_owned().into(),
        key_ids,
        mirrored: false,
        refused_pin: None,
    }
}

#[test]
#[ignore = "run by `softhsm` in a process of its own"]
fn softhsm_inside() {
    let open = |label, ids| Token::open(settings(label, ids));
    conforms(&|| Box::new(open(Some("keelson"), KeyIds::default()).unwrap()));

    // Two tokens match, or none: neither is guessed at.
    for (label, shown) in [(None, "hsm.token_serial"), (Some("nobody"), "label `another`")] {
        let fault = open(label, KeyIds::default()).err().unwrap();
        assert!(matches!(fault, Fault::NoSuchToken(_)) && fault.to_string().contains(shown), "{fault}");
    }
    // Keys of another range of ids are not ours.
    let mut low = open(Some("keelson"), KeyIds::new(1, 100).unwrap()).unwrap();
    low.generate(KeyIds::new(1, 100).unwrap().of(5)).unwrap();
    drop(low);
    let mut high = open(Some("keelson"), KeyIds::new(101, 200).unwrap()).unwrap();
    assert_eq!(high.inventory().unwrap(), Inventory::default());
    drop(high);

    // A refused PIN is not presented again: SoftHSM counts attempts, and so does every device.
    let wrong =
        Settings { pin: "wrong-pin".to_owned().into(), ..settings(Some("keelson"), KeyIds::default()) };
    assert!(matches!(Token::open(wrong), Err(Fault::Pin { source: Some(_) })));
}

#[test]
#[ignore = "run by `SoftHsm::objects` in a process of its own"]
fn objects_inside() {
    let session = log_in_inside();
    // Not counted: what SoftHSM leaves if it is killed before the object that it makes has a class.
    let keys = [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY];
    let count = |class| session.find_objects(&[Attribute::Class(class)]).unwrap().len();
    println!("objects: {}", keys.map(count).iter().sum::<usize>());
}

/// Destroys both objects of the key whose id the environment names.
#[test]
#[ignore = "run by `SoftHsm::destroy` in a process of its own"]
fn destroy_inside() {
    let session = log_in_inside();
    let objects = named_inside(&session);
    for object in &objects {
        session.destroy_object(*object).unwrap();
    }
    println!("destroyed: {}", objects.len());
}
