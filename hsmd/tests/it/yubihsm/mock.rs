//! On the mock device: it keeps no log, attests nothing, enforces no capability, and forgets at exit.

use std::path::Path;

use hsmd::token::backend::{
    Fault, Inventory, KeyIds, Rung,
    yubihsm::{Device, Link, Settings},
};
use yubihsm::{Capability, Connector, Credentials, Domain, asymmetric, object::Type};

use crate::conformance::conforms;
use hsmd::token::backend::Backend as _;

pub fn settings(folder: &Path) -> Settings {
    Settings {
        link: Link::Usb,
        serial: None,
        credentials: Credentials::default(),
        domain: Domain::DOM1,
        exportable: false,
        mirrored: false,
        refused_pin: None,
        key_ids: KeyIds::default(),
        device_log: folder.join("device-log.jsonl"),
    }
}

/// Connects to the mock behind `connector`, whatever the settings say of the way.
pub fn open(connector: &Connector, settings: Settings) -> Result<Device, Fault> {
    let connector = connector.clone();
    Device::open_by(settings, Box::new(move |_| connector.clone()))
}

#[test]
fn conforms_on_the_mock() {
    let folder = tempfile::tempdir().unwrap();
    let mock = Connector::mockhsm();
    conforms(&|| Box::new(open(&mock, settings(folder.path())).unwrap()));
}

#[test]
fn objects_of_others_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mock = Connector::mockhsm();
    let ids = KeyIds::default();
    let client = yubihsm::Client::open(mock.clone(), Credentials::default(), true).unwrap();
    let foreign = |id, label: &str, capabilities, algorithm| {
        client.generate_asymmetric_key(id, label.into(), Domain::DOM1, capabilities, algorithm).unwrap();
    };
    foreign(3, "someone's", Capability::SIGN_ECDSA, asymmetric::Algorithm::EcP256);
    foreign(4, "keelson", Capability::SIGN_EDDSA, asymmetric::Algorithm::Ed25519);
    let mut hsm = open(&mock, settings(folder.path())).unwrap();
    assert_eq!(hsm.inventory().unwrap(), Inventory::default());
    for number in [3, 4] {
        let fault = hsm.generate(ids.of(number - 1)).unwrap_err();
        assert!(fault.to_string().contains("hsm.key_ids"), "{fault}");
    }
    // Keys of another range of ids are not ours.
    hsm.generate(ids.of(4)).unwrap();
    let mut other = settings(folder.path());
    other.key_ids = KeyIds::new(100, 200).unwrap();
    assert_eq!(open(&mock, other).unwrap().inventory().unwrap(), Inventory::default());
    // Nothing is an object but keys: no meta objects, no public ones.
    assert_eq!(client.list_objects(&[yubihsm::object::Filter::Type(Type::AsymmetricKey)]).unwrap().len(), 3);
}

/// A key that came under the id of ours in the meantime does not sign in its name, and is not destroyed for it.
#[test]
fn an_id_that_was_given_to_another_key_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let mock = Connector::mockhsm();
    let ids = KeyIds::default();
    let mut hsm = open(&mock, settings(folder.path())).unwrap();
    let key = hsm.generate(ids.of(0)).unwrap();
    let client = yubihsm::Client::open(mock.clone(), Credentials::default(), true).unwrap();
    client.delete_object(1, Type::AsymmetricKey).unwrap();
    assert!(matches!(hsm.sign(key.handle, &[7; 32]), Err(Fault::EarlierHandle)));
    let mut other = open(&mock, settings(folder.path())).unwrap();
    let newer = other.generate(ids.of(0)).unwrap();
    assert!(matches!(hsm.sign(key.handle, &[7; 32]), Err(Fault::EarlierHandle)));
    hsm.destroy(key.handle).unwrap();
    assert_eq!(hsm.inventory().unwrap().keys[0].public_key, newer.public_key);
}

#[test]
fn a_wrong_password_is_presented_once() {
    let folder = tempfile::tempdir().unwrap();
    let mock = Connector::mockhsm();
    let mut wrong = settings(folder.path());
    wrong.credentials = Credentials::from_password(1, b"not the password");
    let fault = open(&mock, wrong).err().unwrap();
    assert!(matches!(fault, Fault::Pin { source: Some(_) }), "{fault:?}");

    // The password is changed under a running hsmd: refused once, then not asked again.
    let mut hsm = open(&mock, settings(folder.path())).unwrap();
    let client = yubihsm::Client::open(mock.clone(), Credentials::default(), true).unwrap();
    client.delete_object(1, Type::AuthenticationKey).unwrap();
    let other = yubihsm::authentication::Key::derive_from_password(b"another password");
    let all = (Domain::all(), Capability::all(), Capability::all());
    let aes = yubihsm::authentication::Algorithm::YubicoAes;
    client.put_authentication_key(1, "changed".into(), all.0, all.1, all.2, aes, other).unwrap();
    assert!(matches!(hsm.reconnect(Rung::Session), Err(Fault::Pin { source: Some(_) })));
    for rung in Rung::ALL {
        assert!(matches!(hsm.reconnect(rung), Err(Fault::Pin { source: None })), "{rung:?}");
    }
}

#[test]
fn a_device_of_another_serial_number_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut other = settings(folder.path());
    other.serial = Some("0007550001".parse().unwrap());
    let fault = open(&Connector::mockhsm(), other).err().unwrap();
    assert!(matches!(fault, Fault::NoSuchToken(_)), "{fault}");
    for shown in ["0123456789", "0007550001", "hsm.serial"] {
        assert!(fault.to_string().contains(shown), "{fault}");
    }
}
