//! The PKCS#11 backend, on `cryptoki`.

mod objects;

use std::path::PathBuf;

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
    mechanism::Mechanism,
    object::ObjectHandle,
    session::{Session, UserType},
    slot::Slot,
    types::AuthPin,
};
use keychain::Signature;

use super::{Backend, Fault, Handle, Inventory, Key, KeyId, KeyIds, Rung};

/// Where a PKCS#11 token is and how its keys are known.
#[derive(Debug)]
pub struct Settings {
    /// The module, a shared library.
    pub module: PathBuf,
    /// The label of the token; any if absent.
    pub token_label: Option<String>,
    /// The serial number of the token; any if absent.
    pub token_serial: Option<String>,
    /// The user PIN of the token.
    pub pin: AuthPin,
    /// The ids that keys are made under.
    pub key_ids: KeyIds,
}

/// A token behind a PKCS#11 module.
pub struct Token {
    settings: Settings,
    module: Option<Pkcs11>,
    session: Option<Session>,
    /// What handles of this connection stand for: private and public object.
    objects: Vec<(Option<ObjectHandle>, Option<ObjectHandle>)>,
    /// Counts connections, so that no handle outlives its own.
    epoch: u64,
    /// Set once the PIN was refused: presenting it again could lock the token.
    pin_refused: bool,
}

impl Token {
    /// Connects to the token.
    pub fn open(settings: Settings) -> Result<Self, Fault> {
        let mut token =
            Self { settings, module: None, session: None, objects: Vec::new(), epoch: 0, pin_refused: false };
        token.connect()?;
        Ok(token)
    }

    fn connect(&mut self) -> Result<(), Fault> {
        self.epoch = self.epoch.wrapping_add(1);
        self.objects.clear();
        self.session = None;
        if self.pin_refused {
            return Err(Fault::Pin { source: None });
        }
        if self.module.is_none() {
            self.module = Some(load(&self.settings)?);
        }
        let module = self.module.as_ref().ok_or(Fault::Stopped)?;
        let session = module.open_rw_session(find_slot(module, &self.settings)?).map_err(fault)?;
        match session.login(UserType::User, Some(&self.settings.pin)) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
            Err(error) => {
                let fault = fault(error);
                self.pin_refused = matches!(fault, Fault::Pin { .. });
                return Err(fault);
            }
        }
        self.session = Some(session);
        Ok(())
    }

    fn session(&self) -> Result<&Session, Fault> {
        self.session.as_ref().ok_or_else(|| Fault::Lost {
            call: "a call without a session".to_owned(),
            source: "the last attempt to connect failed".into(),
        })
    }

    fn handle(&mut self, private: Option<ObjectHandle>, public: Option<ObjectHandle>) -> Handle {
        let number = u64::try_from(self.objects.len()).unwrap_or(u64::MAX);
        self.objects.push((private, public));
        Handle { epoch: self.epoch, number }
    }

    fn objects(&self, handle: Handle) -> Result<(Option<ObjectHandle>, Option<ObjectHandle>), Fault> {
        if handle.epoch != self.epoch {
            return Err(Fault::EarlierHandle);
        }
        let index = usize::try_from(handle.number).map_err(|_| Fault::EarlierHandle)?;
        self.objects.get(index).copied().ok_or(Fault::EarlierHandle)
    }

    fn close(&mut self) {
        self.objects.clear();
        self.session = None;
        if let Some(module) = self.module.take()
            && let Err(error) = module.finalize()
        {
            tracing::warn!(%error, "cannot finalise the PKCS#11 module");
        }
    }
}

impl Backend for Token {
    fn generate(&mut self, id: KeyId) -> Result<Key, Fault> {
        let session = self.session()?;
        let (private, public) = objects::generate(session, id)?;
        let public_key =
            objects::public_key(session, public)?.ok_or(Fault::Nonsense("a key without a point"))?;
        objects::demand_confined(session, private)?;
        if !objects::signs_as(session, private, &public_key)? {
            return Err(Fault::Nonsense("a new key does not sign as itself"));
        }
        Ok(Key { handle: self.handle(Some(private), Some(public)), id, public_key })
    }

    fn sign(&mut self, handle: Handle, digest: &[u8; 32]) -> Result<Signature, Fault> {
        let (private, _) = self.objects(handle)?;
        objects::sign(self.session()?, private.ok_or(Fault::EarlierHandle)?, digest)
    }

    fn inventory(&mut self) -> Result<Inventory, Fault> {
        let found = objects::find(self.session()?, self.settings.key_ids)?;
        let mut inventory = Inventory::default();
        for pair in found.pairs {
            let handle = self.handle(Some(pair.private), Some(pair.public));
            inventory.keys.push(Key { handle, id: pair.id, public_key: pair.public_key });
        }
        for (id, private, public) in found.halves {
            inventory.halves.push(super::Half { handle: self.handle(private, public), id });
        }
        Ok(inventory)
    }

    fn destroy(&mut self, handle: Handle) -> Result<(), Fault> {
        let (private, public) = self.objects(handle)?;
        let session = self.session()?;
        for object in [private, public].into_iter().flatten() {
            match session.destroy_object(object) {
                // A device that makes the public object up from the private one has neither by now.
                Ok(()) | Err(Error::Pkcs11(RvError::ObjectHandleInvalid, _)) => {}
                Err(error) => return Err(fault(error)),
            }
        }
        Ok(())
    }

    fn reconnect(&mut self, rung: Rung) -> Result<(), Fault> {
        if rung == Rung::Module {
            self.close();
        }
        self.connect()
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.close();
    }
}

fn load(settings: &Settings) -> Result<Pkcs11, Fault> {
    let bad_module = |source: Error| Fault::Module {
        path: settings.module.display().to_string(),
        source: Box::new(source),
    };
    let module = Pkcs11::new(&settings.module).map_err(bad_module)?;
    match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(module),
        Err(error) => Err(fault(error)),
    }
}

/// The slot of the one token that has the label and serial number asked for: never a slot's number,
/// which changes when a device is plugged in.
fn find_slot(module: &Pkcs11, settings: &Settings) -> Result<Slot, Fault> {
    let mut seen = Vec::new();
    let mut matching = Vec::new();
    for slot in module.get_slots_with_initialized_token().map_err(fault)? {
        let info = module.get_token_info(slot).map_err(fault)?;
        let wants = |want: &Option<String>, have: &str| want.as_deref().is_none_or(|want| want == have);
        if wants(&settings.token_label, info.label()) && wants(&settings.token_serial, info.serial_number()) {
            matching.push(slot);
        }
        seen.push(format!("label `{}` serial `{}`", info.label(), info.serial_number()));
    }
    let seen = if seen.is_empty() { "none".to_owned() } else { seen.join(", ") };
    match matching.as_slice() {
        [slot] => Ok(*slot),
        [] => Err(Fault::NoSuchToken(format!(
            "no token has `hsm.token_label` and `hsm.token_serial` as configured; tokens seen: {seen}"
        ))),
        _ => {
            Err(Fault::NoSuchToken(format!("several tokens match; set `hsm.token_serial` to one of: {seen}")))
        }
    }
}

fn sign_mechanism() -> Mechanism<'static> {
    Mechanism::Ecdsa
}

/// Sorts what a module says into what may be cured by a new connection and what may not.
fn fault(error: Error) -> Fault {
    let Error::Pkcs11(code, function) = &error else {
        return Fault::Refused { call: "a call".to_owned(), source: Box::new(error) };
    };
    let call = function.to_string();
    match code {
        RvError::PinIncorrect
        | RvError::PinInvalid
        | RvError::PinLenRange
        | RvError::PinExpired
        | RvError::PinLocked => Fault::Pin { source: Some(Box::new(error)) },
        RvError::CryptokiNotInitialized
        | RvError::DeviceError
        | RvError::DeviceMemory
        | RvError::DeviceRemoved
        | RvError::FunctionCanceled
        | RvError::FunctionFailed
        | RvError::GeneralError
        | RvError::HostMemory
        | RvError::KeyHandleInvalid
        | RvError::ObjectHandleInvalid
        | RvError::OperationActive
        | RvError::OperationNotInitialized
        | RvError::SessionClosed
        | RvError::SessionCount
        | RvError::SessionHandleInvalid
        | RvError::SlotIdInvalid
        | RvError::TokenNotPresent
        | RvError::TokenNotRecognized
        | RvError::UserNotLoggedIn => Fault::Lost { call, source: Box::new(error) },
        _ => Fault::Refused { call, source: Box::new(error) },
    }
}
