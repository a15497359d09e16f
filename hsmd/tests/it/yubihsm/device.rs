//! The backend against the emulation, through the connector: what hsmd does about the limits of a device.

use std::{path::Path, time::Duration};

use hsmd::token::backend::{
    Backend as _, Fault, KeyIds, Rung,
    yubihsm::{Device, Link, Settings, attestation::Attestation, log::Entry},
};
use yubihsm::{Credentials, Domain};

use super::emulator::{Connector, Emulator, Role};
use crate::conformance::conforms;

pub const PASSWORD: &[u8] = b"a long password";
pub const AUTH_KEY: u16 = 2;

const GENERATE: u64 = 0x10;
const SIGN: u64 = 0x80;
const LOG: u64 = 0x100_0000;
const ATTEST: u64 = 0x4_0000_0000;
const DELETE: u64 = 0x200_0000_0000;

/// The least that hsmd's authentication key needs, in one domain: what `hsmd/YUBIHSM.md` sets up.
pub const LEAST: Role =
    Role { domains: 1, capabilities: GENERATE | SIGN | LOG | ATTEST | DELETE, delegated: SIGN };

const SIGN_ECDSA: u8 = 0x56;
const GENERATE_KEY: u8 = 0x46;

pub fn emulator() -> (Emulator, Connector) {
    let device = Emulator::new(AUTH_KEY, PASSWORD, LEAST);
    let connector = Connector::start(&device);
    (device, connector)
}

pub fn settings(connector: &Connector, folder: &Path) -> Settings {
    Settings {
        link: Link::Http(connector.address),
        serial: Some("0012345678".parse().unwrap()),
        credentials: Credentials::from_password(AUTH_KEY, PASSWORD),
        domain: Domain::DOM1,
        exportable: false,
        mirrored: false,
        refused_pin: None,
        key_ids: KeyIds::default(),
        device_log: folder.join("device-log.jsonl"),
    }
}

/// Every entry that was kept, each proven to follow the one before; whether any was lost between.
pub fn kept(folder: &Path) -> (Vec<Entry>, bool) {
    let text = std::fs::read_to_string(folder.join("device-log.jsonl")).unwrap();
    let mut gap = false;
    let mut entries: Vec<Entry> = Vec::new();
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["device"], "0012345678");
        let lost = line["gap"] == true;
        gap |= lost;
        for (index, entry) in line["entries"].as_array().unwrap().iter().enumerate() {
            let entry = Entry::from_hex(entry.as_str().unwrap()).unwrap();
            if let Some(before) = entries.last() {
                assert!(entry.follows(&before.digest) || lost && index == 0, "{}", entry.number());
            }
            entries.push(entry);
        }
    }
    (entries, gap)
}

#[test]
fn conforms_on_the_emulation_with_the_least_capabilities() {
    let folder = tempfile::tempdir().unwrap();
    let (_, connector) = emulator();
    conforms(&|| Box::new(Device::open(settings(&connector, folder.path())).unwrap()));
}

#[test]
fn a_capability_that_is_missing_is_told() {
    for (missing, shown) in [(GENERATE, "generate asymmetric key"), (SIGN, "sign ecdsa")] {
        let folder = tempfile::tempdir().unwrap();
        let role = Role { capabilities: LEAST.capabilities & !missing, ..LEAST };
        let device = Emulator::new(AUTH_KEY, PASSWORD, role);
        let connector = Connector::start(&device);
        let mut hsm = Device::open(settings(&connector, folder.path())).unwrap();
        let fault = hsm.generate(KeyIds::default().of(0)).unwrap_err();
        assert!(matches!(fault, Fault::Refused { .. }), "{fault:?}");
        assert!(fault.to_string().contains(shown) && fault.to_string().contains("lacks"), "{fault}");
    }
}

/// Idle for longer than a session lives, unplugged, plugged in again: the ladder's first rungs suffice.
#[test]
fn a_dead_session_is_followed_by_a_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let (device, connector) = emulator();
    let mut hsm = Device::open(settings(&connector, folder.path())).unwrap();
    let key = hsm.generate(KeyIds::default().of(0)).unwrap();
    device.pass(Duration::from_secs(29));
    hsm.sign(key.handle, &[7; 32]).unwrap();
    device.pass(Duration::from_secs(31));
    assert_eq!(device.sessions(), 1);
    let fault = hsm.sign(key.handle, &[7; 32]).unwrap_err();
    assert!(fault.is_curable(), "{fault:?}");
    assert_eq!(device.sessions(), 0);
    hsm.reconnect(Rung::Session).unwrap();
    let key = hsm.inventory().unwrap().keys[0];
    hsm.sign(key.handle, &[7; 32]).unwrap();

    device.plug(false);
    for rung in Rung::ALL {
        assert!(hsm.sign(key.handle, &[7; 32]).unwrap_err().is_curable());
        assert!(hsm.reconnect(rung).unwrap_err().is_curable(), "{rung:?}");
    }
    device.plug(true);
    hsm.reconnect(Rung::Session).unwrap();
    assert_eq!(hsm.inventory().unwrap().keys[0].public_key, key.public_key);
}

/// However often it reconnects, hsmd leaves sessions for others, and goes on when the device has freed some.
#[test]
fn sessions_are_left_for_others() {
    let folder = tempfile::tempdir().unwrap();
    let (device, connector) = emulator();
    let mut hsm = Device::open(settings(&connector, folder.path())).unwrap();
    let refused = (0..40).filter(|_| hsm.reconnect(Rung::Session).is_err()).count();
    assert!(refused > 20, "{refused}");
    assert!(device.sessions() <= 13, "{}", device.sessions());
}

#[test]
fn the_log_never_fills_and_every_entry_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (device, connector) = emulator();
    device.force_audit();
    let mut hsm = Device::open(settings(&connector, folder.path())).unwrap();
    let key = hsm.generate(KeyIds::default().of(0)).unwrap();
    for count in 0..200 {
        hsm.sign(key.handle, &[7; 32]).unwrap();
        assert!(device.log_used() < 62, "after {count}");
    }
    // Filled by another client's commands: relieved, and the request is not lost; after a restart too, which
    // goes on where the file ends.
    for _ in 0..2 {
        drop(hsm);
        hsm = Device::open(settings(&connector, folder.path())).unwrap();
        let found = hsm.inventory().unwrap().keys[0];
        assert_eq!(found.public_key, key.public_key);
        device.fill_log();
        assert_eq!(device.log_used(), 62);
        hsm.sign(found.handle, &[7; 32]).unwrap();
        assert!(device.log_used() < 62);
    }

    drop(hsm);
    drop(Device::open(settings(&connector, folder.path())).unwrap());
    let (entries, gap) = kept(folder.path());
    assert!(!gap);
    assert_eq!(entries[0].number(), 1);
    assert_eq!(usize::from(entries.last().unwrap().number()), entries.len(), "each entry once");
    let signed = entries.iter().filter(|entry| entry.fact[2] == SIGN_ECDSA).count();
    // Twice the device refused, because its log was full: that leaves no entry.
    assert_eq!(signed, device.count(SIGN_ECDSA) - 2, "every signature is in the log");
}

#[test]
fn entries_that_are_lost_are_noticed_and_a_torn_file_is_mended() {
    let folder = tempfile::tempdir().unwrap();
    let (device, connector) = emulator();
    drop(Device::open(settings(&connector, folder.path())).unwrap());
    let (entries, gap) = kept(folder.path());
    assert!(!entries.is_empty() && !gap);
    // Killed while it wrote.
    let path = folder.path().join("device-log.jsonl");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, [&whole[..], b"{\"device\":\"00123"].concat()).unwrap();
    device.lose_log_entry();
    drop(Device::open(settings(&connector, folder.path())).unwrap());
    let (more, gap) = kept(folder.path());
    assert!(gap && more.len() > entries.len());
    assert!(std::fs::read(&path).unwrap().starts_with(&whole));

    // What is no log of the device is not written to.
    std::fs::write(&path, "keep this\n").unwrap();
    let fault = Device::open(settings(&connector, folder.path())).err().unwrap();
    assert!(matches!(fault, Fault::DeviceLog { .. }), "{fault:?}");
    assert_eq!(std::fs::read(&path).unwrap(), b"keep this\n");
}

#[test]
fn a_key_whose_answer_was_lost_keeps_its_id() {
    let folder = tempfile::tempdir().unwrap();
    let (device, connector) = emulator();
    let mut hsm = Device::open(settings(&connector, folder.path())).unwrap();
    let id = KeyIds::default().of(0);
    device.lose_answer_to(GENERATE_KEY);
    assert!(hsm.generate(id).unwrap_err().is_curable());
    hsm.reconnect(Rung::Session).unwrap();
    assert!(matches!(hsm.generate(id), Err(Fault::IdTaken(taken)) if taken == id));
    let made = hsm.inventory().unwrap().keys[0];
    hsm.destroy(made.handle).unwrap();
    hsm.generate(id).unwrap();
    assert_eq!(device.objects(), 1);
}

#[test]
fn a_full_device_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (device, connector) = emulator();
    let mut hsm = Device::open(settings(&connector, folder.path())).unwrap();
    device.fill(1);
    assert_eq!(hsm.free_objects().unwrap(), Some(1));
    hsm.generate(KeyIds::default().of(0)).unwrap();
    assert_eq!(hsm.free_objects().unwrap(), Some(0));
    assert!(matches!(hsm.generate(KeyIds::default().of(1)), Err(Fault::Refused { .. })));
}

#[test]
fn a_key_is_attested_and_what_the_certificate_says_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let (_, connector) = emulator();
    let mut hsm = Device::open(settings(&connector, folder.path())).unwrap();
    let key = hsm.generate(KeyIds::default().of(0)).unwrap();
    let der = hsm.attest(key.handle).unwrap().unwrap();
    let attestation = Attestation::parse(&der).unwrap();
    let serial = |text: &str| Some(text.parse().unwrap());
    attestation.demand(&key.public_key, false, serial("0012345678")).unwrap();
    let other = keychain::SigningKey::from_seed(&[7; 32]).unwrap().public_key();
    assert!(attestation.demand(&other, false, None).is_err());
    assert!(attestation.demand(&key.public_key, false, serial("0012345679")).is_err());

    // Origin and capabilities, changed in the certificate's own bytes; its signature is Yubico's matter.
    let change = |from: &[u8], to: &[u8]| {
        let index = der.windows(from.len()).position(|window| window == from).expect("a recorded spelling");
        let mut changed = der.clone();
        changed[index..index + to.len()].copy_from_slice(to);
        Attestation::parse(&changed)
    };
    let (generated, oid) = ([3, 2, 0, 1], [0x82, 0xc4, 0x0a, 4, 3, 4, 4]);
    for (origin, made_here, can_leave) in [(1, true, false), (2, false, false), (0x11, true, true)] {
        let attestation =
            change(&[&oid[..], &generated].concat(), &[&oid[..], &[3, 2, 0, origin]].concat()).unwrap();
        let demand = |exportable| attestation.demand(&key.public_key, exportable, None).is_ok();
        assert_eq!(demand(false), made_here && !can_leave, "{origin}");
        assert_eq!(demand(true), made_here, "{origin}");
    }
    let exportable = change(&[0, 0, 0, 0, 0, 0, 0, 0, 0x80], &[0, 0, 0, 0, 0, 0, 1, 0, 0x80]).unwrap();
    assert!(exportable.demand(&key.public_key, false, None).is_err());
    exportable.demand(&key.public_key, true, None).unwrap();
    assert!(change(&[&oid[..], &generated].concat(), &[&oid[..], &[4, 2, 0, 1]].concat()).is_err());
    assert!(change(&oid, &[0x82, 0xc4, 0x0a, 4, 7]).is_err(), "no word on the origin");
    for cut in [0, 1, der.len() / 2, der.len() - 1] {
        assert!(Attestation::parse(&der[..cut]).is_err(), "{cut}");
    }
    assert!(Attestation::parse(&[&der[..], &[0]].concat()).is_err());
}

/// The file is bounded: a long one is put aside, and the entries go on without a gap, after a restart too.
#[test]
fn a_long_journal_is_put_aside_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (_device, connector) = emulator();
    let path = folder.path().join("device-log.jsonl");
    let use_it = || {
        let mut hsm = Device::open(settings(&connector, folder.path())).unwrap();
        let key = hsm.generate(KeyIds::default().of(0)).unwrap();
        for _ in 0..70 {
            hsm.sign(key.handle, &[7; 32]).unwrap();
        }
        hsm.destroy(key.handle).unwrap();
    };
    use_it();
    // As long as months make it, without their bytes on the disk: the last line stays the last.
    let text = std::fs::read(&path).unwrap();
    let padded = [&vec![b' '; (64 << 20) - text.len()][..], &text].concat();
    std::fs::write(&path, padded).unwrap();
    use_it();
    let older = folder.path().join("device-log.jsonl.older");
    assert!(older.metadata().unwrap().len() >= 64 << 20);
    assert!(path.metadata().unwrap().len() < 1 << 20);
    let (entries, gap) = kept(folder.path());
    assert!(!gap && !entries.is_empty());
    let last = std::fs::read_to_string(&older).unwrap();
    let last: serde_json::Value = serde_json::from_str(last.lines().last().unwrap().trim()).unwrap();
    let last =
        Entry::from_hex(last["entries"].as_array().unwrap().last().unwrap().as_str().unwrap()).unwrap();
    assert!(entries[0].follows(&last.digest), "the first entry here follows the last one there");
    // A start with nothing in the new file yet goes on from the older one.
    std::fs::rename(&path, &older).unwrap();
    use_it();
    assert!(!kept(folder.path()).1);
}
