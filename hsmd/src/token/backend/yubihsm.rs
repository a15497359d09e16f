//! The YubiHSM 2 backend, on `yubihsm`: over USB, or through `yubihsm-connector` on the same host.
//!
//! An id names one object here, and a public key is no object of its own: there are no halves of keys, and
//! no second key under an id. A session dies after 30 s without a command, a device has sixteen of them,
//! and none can be closed by a process that lost it ([`sessions`]). The device keeps a log of 62 entries, and one
//! that is set to force auditing refuses to sign while it is full: the log is carried into a file before
//! that, each entry checked ([`journal`]). How a device is set up: `hsmd/YUBIHSM.md`.

pub mod attestation;
pub mod backup;
mod fault;
pub mod journal;
mod key;
pub mod log;
pub mod sessions;
mod wrap;

use std::{net::SocketAddr, path::PathBuf, time::Instant};

use keychain::{PublicKey, Signature};
use yubihsm::{
    Capability, Client, Connector, Credentials, Domain, HttpConfig, UsbConfig, client,
    device::SerialNumber,
    object::{Info, Label, Type},
};

use super::{
    Backend, Capabilities, DeviceLog, Fault, Handle, Inventory, Key, KeyId, KeyIds, RefusedPin, Rung,
    WrapKeyId, Wrapped,
};
use fault::{Cause, cause, fault};
use journal::Journal;
use sessions::Sessions;

pub use wrap::Officer;

/// Marks an object as ours; padded with zeros to the forty bytes of a label.
pub const LABEL: &str = "keelson";

/// How long the device may take for one command over USB, in milliseconds. Making a key takes it a tenth of a
/// second; a caller waits twelve seconds for a signature ([`crate::token::signer::DEADLINE`]).
const USB_TIMEOUT_MS: u64 = 5_000;

/// How a device is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Through `yubihsm-connector`, which listens there, on this host. What passes is encrypted and
    /// authenticated between hsmd and the device.
    Http(SocketAddr),
    /// Over USB, by hsmd itself: no other process can use the device meanwhile.
    Usb,
}

/// Which device, and how its keys are known.
#[derive(Debug)]
pub struct Settings {
    /// How the device is reached.
    pub link: Link,
    /// The serial number that it must have; any if absent.
    pub serial: Option<SerialNumber>,
    /// The authentication key: its id, and what is derived from its password.
    pub credentials: Credentials,
    /// The domain that keys are made in.
    pub domain: Domain,
    /// Whether keys are made so that they can be exported under a wrap key, for backups.
    pub exportable: bool,
    /// Whether keys are made so that they can be carried to another device, if this one confines them.
    pub mirrored: bool,
    /// Where a refused password is remembered.
    pub refused_pin: Option<RefusedPin>,
    /// The ids that keys are made under.
    pub key_ids: KeyIds,
    /// The file that the device's log is carried into.
    pub device_log: PathBuf,
}

impl Settings {
    /// Which device and authentication key a refused password is of: before a session is open nothing else is known.
    fn place_of_login(&self) -> String {
        let serial = self.serial.map_or_else(|| format!("{:?}", self.link), |serial| serial.to_string());
        format!("YubiHSM {serial} {}", self.credentials.authentication_key_id)
    }

    /// What is derived from the password.
    pub(super) fn secret(&self) -> &[u8] {
        self.credentials.authentication_key.as_secret_slice()
    }

    fn connector(&self) -> Connector {
        self.link.connector(self.serial)
    }
}

impl Link {
    /// Reads `usb`, or the address of a connector on this host, as `http://127.0.0.1:12345`; else says what is
    /// wrong.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text == "usb" {
            return Ok(Self::Usb);
        }
        let address = text.strip_prefix("http://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
        match address.and_then(|address| address.parse::<SocketAddr>().ok()) {
            Some(address) if address.ip().is_loopback() => Ok(Self::Http(address)),
            Some(_) => Err("must be on this host: yubihsm-connector listens on 127.0.0.1"),
            None => Err("is neither \"usb\" nor of the form \"http://127.0.0.1:12345\""),
        }
    }

    /// The way to the device; over USB, to the one of that serial number.
    pub fn connector(self, serial: Option<SerialNumber>) -> Connector {
        match self {
            Self::Http(address) => Connector::http(&HttpConfig {
                addr: address.ip().to_string(),
                port: address.port(),
                ..HttpConfig::default()
            }),
            Self::Usb => Connector::usb(&UsbConfig { serial, timeout_ms: USB_TIMEOUT_MS }),
        }
    }
}

/// A YubiHSM 2.
pub struct Device {
    settings: Settings,
    connect: Connect,
    connector: Option<Connector>,
    client: Option<Client>,
    sessions: Sessions,
    journal: Journal,
    /// What handles of this connection stand for.
    keys: Vec<(KeyId, PublicKey)>,
    /// Counts connections, so that no handle outlives its own.
    epoch: u64,
    /// What the device said its serial number is.
    serial: Option<SerialNumber>,
    /// Set once the password was refused: it is not presented again.
    password_refused: bool,
}

type Connect = Box<dyn Fn(&Settings) -> Connector + Send>;

impl Device {
    /// Connects to the device.
    pub fn open(settings: Settings) -> Result<Self, Fault> {
        Self::open_by(settings, Box::new(Settings::connector))
    }

    /// Connects to the device by connectors that `connect` makes: for one that neither link reaches, as the
    /// mock device of tests.
    pub fn open_by(settings: Settings, connect: Connect) -> Result<Self, Fault> {
        let journal = Journal::open(&settings.device_log)?;
        let mut device = Self {
            settings,
            connect,
            connector: None,
            client: None,
            sessions: Sessions::default(),
            journal,
            keys: Vec::new(),
            epoch: 0,
            serial: None,
            password_refused: false,
        };
        device.connect()?;
        Ok(device)
    }

    fn connect(&mut self) -> Result<(), Fault> {
        self.epoch = self.epoch.wrapping_add(1);
        self.keys.clear();
        self.client = None;
        if self.password_refused {
            return Err(Fault::Pin { source: None });
        }
        self.sessions.admit(Instant::now())?;
        let connector = self.connector.get_or_insert_with(|| (self.connect)(&self.settings)).clone();
        // The client opens a new session by itself when it knows the old one to be dead of idleness.
        if !self.admits() {
            self.password_refused = true;
            return Err(Fault::Pin { source: None });
        }
        let client = Client::open(connector, self.settings.credentials.clone(), true)
            .map_err(|error| fault("open session", error))
            .inspect_err(|fault| self.note_login(fault))?;
        self.sessions.note(Instant::now());
        let (serial, log_capacity) = self.identify(&client)?;
        self.journal.attach(serial, log_capacity);
        self.serial = serial.or(self.serial);
        self.client = Some(client);
        self.journal.note_commands(sessions::LOGGED);
        self.drain_if_due();
        Ok(())
    }

    /// The device's serial number, and how many entries its log holds. The client library cannot read what a
    /// device of a newer firmware than it knows says of itself: over USB the serial number is then known all the
    /// same, because the device was chosen by it; through a connector it is compared when a key is attested.
    fn identify(&self, client: &Client) -> Result<(Option<SerialNumber>, u8), Fault> {
        let wanted = self.settings.serial;
        match client.device_info() {
            Ok(info) => match wanted.filter(|wanted| *wanted != info.serial_number) {
                None => Ok((Some(info.serial_number), info.log_store_capacity)),
                Some(wanted) => Err(Fault::NoSuchToken(format!(
                    "the device has serial number {}, and `hsm.serial` wants {wanted}",
                    info.serial_number
                ))),
            },
            // The session works, so that it is the answer that cannot be read.
            Err(_) if client.ping().is_ok() => Ok((wanted, journal::CAPACITY)),
            Err(error) => Err(fault("device info", error)),
        }
    }

    /// Has the device do something. One that refuses because its log is full is relieved of it first.
    fn call<T>(
        &mut self,
        name: &'static str,
        work: impl Fn(&Client) -> Result<T, client::Error>,
    ) -> Result<T, Fault> {
        let client = self.client()?;
        let mut done = work(&client);
        if done.as_ref().is_err_and(|error| cause(error) == Cause::LogFull) {
            self.journal.drain(&client)?;
            done = work(&client);
        }
        self.journal.note_commands(1);
        self.drain_if_due();
        done.map_err(|error| fault(name, error)).inspect_err(|fault| {
            // The client opens sessions by itself: without one it presents the password no more.
            self.note_login(fault);
            if self.password_refused {
                self.client = None;
            }
        })
    }

    /// Whether the password was not refused before, by this process or an earlier one. A device has no counter of
    /// refusals: a login that was cut short says nothing.
    fn admits(&self) -> bool {
        let secret = self.settings.secret();
        let memory = self.settings.refused_pin.as_ref();
        memory.is_none_or(|memory| memory.admits(&self.settings.place_of_login(), secret, false))
    }

    /// Remembers that the password was refused.
    fn note_login(&mut self, fault: &Fault) {
        if let (Fault::Pin { source: Some(_) }, false) = (fault, self.password_refused) {
            self.password_refused = true;
            let secret = self.settings.secret();
            if let Some(memory) = &self.settings.refused_pin {
                memory.refuse(&self.settings.place_of_login(), secret);
            }
        }
    }

    /// What a key that is made now may do: sign, and be carried if that is wanted and confined.
    fn new_capabilities(&mut self) -> Result<Capability, Fault> {
        let carriable = match self.wrap_keys() {
            Ok(wrap_keys) => !wrap_keys.is_empty(),
            Err(Fault::NotConfined(_)) => false,
            Err(fault) => return Err(fault),
        };
        let exportable = self.settings.exportable || carriable;
        let exported = if exportable { Capability::EXPORTABLE_UNDER_WRAP } else { Capability::empty() };
        Ok(Capability::SIGN_ECDSA | exported)
    }

    /// The object of a wrap key.
    fn wrap_key(&mut self, name: WrapKeyId) -> Result<u16, Fault> {
        let found = self.call("list wrap keys", wrap::find)?;
        let found = found.into_iter().find(|(found, ..)| *found == name);
        found.map(|(_, id, _)| id).ok_or(Fault::NoWrapKey)
    }

    fn info(&mut self, id: KeyId) -> Result<Info, Fault> {
        self.call("get object info", |client| client.get_object_info(id.number(), Type::AsymmetricKey))
    }

    /// Relieves the device of its log before that is full. A failure is not the caller's: the device goes on
    /// until its log is full, and then says so.
    fn drain_if_due(&mut self) {
        if let (true, Some(client)) = (self.journal.is_due(), &self.client)
            && let Err(fault) = self.journal.drain(client)
        {
            metrics::counter!("hsmd_device_log_failures_total").increment(1);
            tracing::error!(
                error = &fault as &dyn std::error::Error,
                "cannot carry the device's log into its file"
            );
        }
    }

    fn client(&self) -> Result<Client, Fault> {
        if self.password_refused {
            return Err(Fault::Pin { source: None });
        }
        self.client.clone().ok_or_else(|| Fault::Lost {
            call: "a call without a session".to_owned(),
            source: "the last attempt to connect failed".into(),
        })
    }

    fn handle(&mut self, id: KeyId, public_key: PublicKey) -> Handle {
        let number = u64::try_from(self.keys.len()).unwrap_or(u64::MAX);
        self.keys.push((id, public_key));
        Handle { epoch: self.epoch, number }
    }

    fn key(&self, handle: Handle) -> Result<(KeyId, PublicKey), Fault> {
        if handle.epoch != self.epoch {
            return Err(Fault::EarlierHandle);
        }
        let index = usize::try_from(handle.number).map_err(|_| Fault::EarlierHandle)?;
        self.keys.get(index).copied().ok_or(Fault::EarlierHandle)
    }

    fn key_of(&mut self, id: KeyId, public_key: PublicKey, info: &Info) -> Key {
        let carriable = info.capabilities.contains(Capability::EXPORTABLE_UNDER_WRAP);
        Key { handle: self.handle(id, public_key), id, public_key, carriable }
    }

    /// The public key of the object under an id; none if there is none, or none of P-256.
    fn public_key(&mut self, id: KeyId) -> Result<Option<PublicKey>, Fault> {
        match self.call("get public key", |client| key::public(client, id)) {
            Err(Fault::EarlierHandle) => Ok(None),
            answer => answer,
        }
    }

    /// Signs with what is under `id`, and checks whose signature it is: an id may be another key's by now.
    fn sign_as(&mut self, id: KeyId, key: &PublicKey, digest: &[u8; 32]) -> Result<Signature, Fault> {
        let der =
            self.call("sign ecdsa", |client| client.sign_ecdsa_prehash_raw(id.number(), &digest[..]))?;
        key::checked(&der, key, digest)
    }
}

impl Backend for Device {
    fn identity(&self) -> Option<String> {
        self.serial.map(|serial| format!("YubiHSM {serial}"))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { duplicate_ids: false, attestation: true }
    }

    fn generate(&mut self, id: KeyId) -> Result<Key, Fault> {
        if self.call("get object info", |client| key::is_taken(client, id))? {
            return Err(Fault::IdTaken(id));
        }
        let (domain, capabilities) = (self.settings.domain, self.new_capabilities()?);
        let made =
            self.call("generate asymmetric key", |client| key::generate(client, id, domain, capabilities))?;
        if !made {
            return Err(Fault::IdTaken(id));
        }
        let info = self.info(id)?;
        key::demand_confined(&info, domain, capabilities)?;
        let public_key = self.public_key(id)?.ok_or(Fault::Nonsense("a new key that is not of P-256"))?;
        self.sign_as(id, &public_key, &key::proof())
            .map_err(|fault| fault::or_nonsense(fault, "a new key does not sign as itself"))?;
        Ok(self.key_of(id, public_key, &info))
    }

    fn sign(&mut self, handle: Handle, digest: &[u8; 32]) -> Result<Signature, Fault> {
        let (id, public_key) = self.key(handle)?;
        self.sign_as(id, &public_key, digest)
    }

    fn inventory(&mut self) -> Result<Inventory, Fault> {
        let ids = self.settings.key_ids;
        let listed = self.call("list objects", key::list)?;
        let mut inventory = Inventory::default();
        for id in listed.iter().filter_map(|id| ids.read(&id.to_be_bytes())) {
            let Some(public_key) = self.public_key(id)? else { continue };
            self.sign_as(id, &public_key, &key::proof())?;
            let info = self.info(id)?;
            let key = self.key_of(id, public_key, &info);
            inventory.keys.push(key);
        }
        Ok(inventory)
    }

    fn destroy(&mut self, handle: Handle) -> Result<(), Fault> {
        let (id, public_key) = self.key(handle)?;
        // The id may have been given to another key since, by another hsmd.
        if self.public_key(id)? != Some(public_key) {
            return Ok(());
        }
        self.call("delete object", |client| key::delete(client, id))
    }

    fn wrap_keys(&mut self) -> Result<Vec<WrapKeyId>, Fault> {
        if !self.settings.mirrored {
            return Ok(Vec::new());
        }
        let found = self.call("list wrap keys", wrap::find)?;
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let own = self.settings.credentials.authentication_key_id;
        let own = match self
            .call("get object info", |client| client.get_object_info(own, Type::AuthenticationKey))
        {
            Ok(info) => Some(info),
            Err(Fault::EarlierHandle | Fault::Refused { .. }) => None,
            Err(fault) => return Err(fault),
        };
        found
            .into_iter()
            .map(|(name, _, info)| wrap::demand_confined(own.as_ref(), &info).map(|()| name))
            .collect()
    }

    fn wrap(&mut self, handle: Handle, under: WrapKeyId) -> Result<Wrapped, Fault> {
        let (id, _) = self.key(handle)?;
        if !self.info(id)?.capabilities.contains(Capability::EXPORTABLE_UNDER_WRAP) {
            return Err(Fault::NotExtractable);
        }
        let wrap_key = self.wrap_key(under)?;
        let message = self.call("export wrapped", |client| {
            client.export_wrapped(wrap_key, Type::AsymmetricKey, id.number())
        })?;
        Ok(Wrapped::new(message.into_vec()))
    }

    fn unwrap(
        &mut self,
        id: KeyId,
        public_key: &PublicKey,
        wrapped: &Wrapped,
        under: WrapKeyId,
    ) -> Result<Key, Fault> {
        let message = wrap::message(wrapped)?;
        // An attempt before this one may have had its effect.
        if self.public_key(id)? != Some(*public_key) {
            if self.call("get object info", |client| key::is_taken(client, id))? {
                return Err(Fault::IdTaken(id));
            }
            let wrap_key = self.wrap_key(under)?;
            let taken =
                self.call("import wrapped", |client| client.import_wrapped(wrap_key, message.clone()))?;
            if taken.object_id != id.number() || taken.object_type != Type::AsymmetricKey {
                return Err(Fault::Nonsense("a carried key under another id than it had"));
            }
        }
        let info = self.info(id)?;
        wrap::demand_carried(&info, &self.settings)?;
        if self.public_key(id)? != Some(*public_key) {
            return Err(Fault::Nonsense("another key than was carried"));
        }
        self.sign_as(id, public_key, &key::proof())
            .map_err(|fault| fault::or_nonsense(fault, "a carried key does not sign as itself"))?;
        Ok(self.key_of(id, *public_key, &info))
    }

    fn attest(&mut self, handle: Handle) -> Result<Option<Vec<u8>>, Fault> {
        let (id, public_key) = self.key(handle)?;
        let der = self.call("sign attestation certificate", |client| {
            client.sign_attestation_certificate(id.number(), None)
        })?;
        let attested = attestation::Attestation::parse(der.as_slice())?;
        let exportable = self.settings.exportable || self.settings.mirrored;
        attested.demand(&public_key, exportable, self.settings.serial)?;
        // Of a device whose own description cannot be read this is the only word.
        self.serial = attested.serial().or(self.serial);
        Ok(Some(der.into_vec()))
    }

    fn free_objects(&mut self) -> Result<Option<u32>, Fault> {
        let storage = self.call("get storage info", Client::get_storage_info)?;
        Ok(Some(u32::from(storage.free_records)))
    }

    fn log(&self) -> DeviceLog {
        self.journal.shared()
    }

    fn reconnect(&mut self, rung: Rung) -> Result<(), Fault> {
        if rung == Rung::Module {
            self.connector = None;
        }
        self.connect()
    }
}

/// The label of our objects, as the device stores it.
fn label() -> Label {
    Label::from_bytes(LABEL.as_bytes()).unwrap_or_default()
}
