//! Two devices that mirror each other, against the emulation.

use std::{path::Path, sync::Arc};

use hsmd::{
    chain::{Advance, Keeper},
    clock::{System, TrustedClock},
    token::{
        Tokens,
        backend::{
            Backend, Fault, KeyIds, WrapKeyId,
            officer::{self, Officer, OfficerSettings},
            yubihsm::{Device, Settings},
        },
        ceremony,
        signer::Signer,
    },
};
use yubihsm::Credentials;

use super::{
    device::{AUTH_KEY, LEAST, PASSWORD, settings},
    emulator::{Connector, Emulator, Role},
};

const ROTATE: Advance = Advance { from: None, taint: false };

const OFFICER: u16 = 3;
const OFFICER_PASSWORD: &[u8] = b"the officer's password";

const PUT_WRAP_KEY: u64 = 0x4000;
const EXPORT_IMPORT: u64 = 0x1000 | 0x2000;
const EXPORTABLE: u64 = 0x1_0000;
const DELETE_WRAP_KEY: u64 = 0x400_0000_0000;
const UNWRAP_DATA: u64 = 0x40_0000_0000;

/// What hsmd's authentication key needs with two devices: what `hsmd/YUBIHSM.md` sets up.
const MIRROR: Role = Role {
    domains: 1,
    capabilities: LEAST.capabilities | EXPORT_IMPORT,
    delegated: LEAST.delegated | EXPORTABLE,
};

/// What the officer's needs.
const PUTS: Role = Role {
    domains: 1,
    capabilities: PUT_WRAP_KEY | DELETE_WRAP_KEY,
    delegated: EXPORT_IMPORT | LEAST.delegated | EXPORTABLE,
};

struct Pair {
    folder: tempfile::TempDir,
    devices: [Emulator; 2],
    connectors: [Connector; 2],
}

impl Pair {
    fn new(role: Role) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let devices = [Emulator::new(AUTH_KEY, PASSWORD, role), Emulator::new(AUTH_KEY, PASSWORD, role)];
        for device in &devices {
            device.add_role(OFFICER, OFFICER_PASSWORD, PUTS);
        }
        let connectors = [Connector::start(&devices[0]), Connector::start(&devices[1])];
        for name in ["0", "1"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        Self { folder, devices, connectors }
    }

    fn settings(&self, index: usize) -> Settings {
        let folder = self.folder.path().join(index.to_string());
        Settings { mirrored: true, ..settings(&self.connectors[index], &folder) }
    }

    fn open(&self) -> [Box<dyn Backend>; 2] {
        [0, 1].map(|index| Box::new(Device::open(self.settings(index)).unwrap()) as Box<dyn Backend>)
    }

    fn officers(&self) -> [Box<dyn Officer>; 2] {
        [0, 1].map(|index| {
            let credentials = Credentials::from_password(OFFICER, OFFICER_PASSWORD);
            let settings = Settings { credentials, ..self.settings(index) };
            officer::log_in(OfficerSettings::YubiHsm(Box::new(settings))).unwrap()
        })
    }

    async fn start(&self) -> Arc<Keeper> {
        let [first, second] = self.open().map(|device| Signer::start(device).unwrap().0);
        let ledger = crate::support::ledger::open(&self.folder.path().join("ledger.db")).await.unwrap();
        let clock = TrustedClock::new(Box::new(System::start()));
        let tokens = Tokens::pair(first, second);
        Arc::new(Keeper::start(ledger, tokens, clock, KeyIds::default()).await.unwrap())
    }

    fn objects(&self) -> [usize; 2] {
        [self.devices[0].objects(), self.devices[1].objects()]
    }
}

#[tokio::test]
async fn either_device_is_lost_and_replaced() {
    let pair = Pair::new(MIRROR);
    ceremony::pair(&mut pair.officers()).unwrap();
    assert!(matches!(ceremony::pair(&mut pair.officers()), Err(ceremony::Error::Paired(_))));
    let keeper = pair.start().await;
    for _ in 0..3 {
        assert_eq!(pair.objects(), [2, 2]);
        keeper.advance(ROTATE).await.unwrap();
        keeper.probe().await.unwrap();
    }
    for lost in [0, 1] {
        pair.devices[lost].plug(false);
        keeper.probe().await.unwrap();
        keeper.advance(ROTATE).await.unwrap();
        pair.devices[lost].plug(true);
        pair.devices[lost].replace();
        let id = ceremony::give(&mut pair.officers()).unwrap();
        let carried = ceremony::carry(&mut pair.open(), id).unwrap();
        assert_eq!((carried.mirrored, carried.staying), (2, 0));
        ceremony::keep_only(&mut pair.officers(), id).unwrap();
        assert_eq!([pair.devices[0].wrap_keys(), pair.devices[1].wrap_keys()], [1, 1]);
        assert_eq!(pair.objects(), [2, 2]);
        keeper.tokens().ask_silent().await;
        keeper.probe().await.unwrap();
        keeper.advance(ROTATE).await.unwrap();
        assert_eq!(pair.objects(), [2, 2]);
    }
    // What was carried is attested as that.
    keeper.attest().await.unwrap();
    assert!(!keeper.attestations().await.unwrap().is_empty());
}

/// An authentication key that may do more than hsmd needs would read the keys with its password alone.
#[test]
fn a_careless_authentication_key_mirrors_nothing() {
    for (more, delegated) in
        [(PUT_WRAP_KEY, 0), (UNWRAP_DATA, 0), (0, PUT_WRAP_KEY), (0x4, 0), (0x4000_0000_0000, 0)]
    {
        let role = Role {
            capabilities: MIRROR.capabilities | more,
            delegated: MIRROR.delegated | delegated,
            ..MIRROR
        };
        let pair = Pair::new(role);
        ceremony::pair(&mut pair.officers()).unwrap();
        let [mut first, _] = pair.open();
        assert!(matches!(first.wrap_keys(), Err(Fault::NotConfined(_))), "{more:x} {delegated:x}");
        let key = first.generate(KeyIds::default().of(0)).unwrap();
        assert!(!key.carriable);
        assert!(matches!(first.wrap(key.handle, WrapKeyId::of(b"any")), Err(Fault::NotExtractable)));
    }
}

/// A refused password is not presented to the device again, whichever process asks.
#[test]
fn a_refused_password_is_presented_once() {
    let folder = tempfile::tempdir().unwrap();
    let device = Emulator::new(AUTH_KEY, PASSWORD, LEAST);
    let connector = Connector::start(&device);
    let open = |folder: &Path, password: &[u8]| {
        let memory = hsmd::token::backend::RefusedPin::at(folder.join("refused-pin"));
        let credentials = Credentials::from_password(AUTH_KEY, password);
        Device::open(Settings { credentials, refused_pin: Some(memory), ..settings(&connector, folder) })
    };
    assert!(matches!(open(folder.path(), b"not the password"), Err(Fault::Pin { source: Some(_) })));
    for _ in 0..5 {
        assert!(matches!(open(folder.path(), b"not the password"), Err(Fault::Pin { source: None })));
    }
    open(folder.path(), PASSWORD).map(drop).unwrap();
}
