//! The PKCS#11 backend, on `cryptoki`.

mod confine;
mod module;
mod objects;
mod officer;
mod wrap;

use std::{collections::BTreeMap, fmt, path::PathBuf};

use cryptoki::{
    context::Function,
    error::{Error, RvError},
    mechanism::Mechanism,
    object::ObjectHandle,
    session::{Session, UserType},
    slot::Slot,
    types::AuthPin,
};
use keychain::{PublicKey, Signature};
use zeroize::Zeroizing;

use super::{
    Backend, Cause, Fault, Handle, Inventory, Key, KeyId, KeyIds, RefusedPin, Rung, WrapKeyId, Wrapped,
};
use module::{Turn, Use};

pub use officer::{Officer, OfficerSettings};

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
    pub pin: Pin,
    /// The ids that keys are made under.
    pub key_ids: KeyIds,
    /// Whether keys are made so that they can be carried to another token, if this one confines them.
    pub mirrored: bool,
    /// Where a refused PIN is remembered.
    pub refused_pin: Option<RefusedPin>,
}

/// A user's PIN, wiped from memory when dropped.
pub struct Pin(Zeroizing<String>);

impl From<String> for Pin {
    fn from(pin: String) -> Self {
        Self(pin.into())
    }
}

impl Pin {
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pin")
    }
}

/// A token behind a PKCS#11 module.
pub struct Token {
    settings: Settings,
    session: Option<Opened>,
    module: Option<Use>,
    /// What handles of this connection stand for: private and public object.
    objects: Vec<(Option<ObjectHandle>, Option<ObjectHandle>)>,
    /// Counts connections, so that no handle outlives its own.
    epoch: u64,
    /// Which token it is, once it was found: that it is not there later is a fault, not wrong configuration.
    identity: Option<String>,
    /// Set once the PIN was refused: presenting it again could lock the token.
    pin_refused: bool,
    /// The wrap keys that were tried, and why keys are not confined under them.
    tried: BTreeMap<WrapKeyId, Option<&'static str>>,
}

/// A session that is logged in, and the initialisation of the module that it is of.
struct Opened {
    session: Session,
    module_epoch: u64,
}

impl Token {
    /// Connects to the token, climbing the ladder if need be.
    pub fn open(settings: Settings) -> Result<Self, Fault> {
        let mut token = Self {
            settings,
            session: None,
            module: None,
            objects: Vec::new(),
            epoch: 0,
            identity: None,
            pin_refused: false,
            tried: BTreeMap::new(),
        };
        let mut outcome = token.connect();
        for rung in Rung::ALL {
            if outcome.as_ref().is_err_and(|fault| token.may_find(fault, rung)) {
                outcome = token.reconnect(rung);
            }
        }
        outcome.map(|()| token)
    }

    /// Whether going a rung further may cure the fault. A module that another token had initialised before this
    /// one was plugged in may go by the list of tokens that it made then (SoftHSM does).
    fn may_find(&self, fault: &Fault, rung: Rung) -> bool {
        let stale = || self.module.as_ref().is_some_and(Use::is_shared);
        fault.is_curable() || (rung == Rung::Module && matches!(fault, Fault::NoSuchToken(_)) && stale())
    }

    fn connect(&mut self) -> Result<(), Fault> {
        self.close_session();
        self.epoch = self.epoch.wrapping_add(1);
        if self.pin_refused {
            return Err(Fault::Pin { source: None });
        }
        let module = match self.module.take() {
            Some(module) => module,
            None => Use::of(&self.settings.module)?,
        };
        let opened = self.open_session(&module.lock());
        self.module = Some(module);
        self.session = Some(opened?);
        Ok(())
    }

    fn open_session(&mut self, module: &Turn<'_>) -> Result<Opened, Fault> {
        let context = module.context()?;
        let named = [&self.settings.token_label, &self.settings.token_serial].map(Option::as_deref);
        let found = find_slot(module, named).map_err(|fault| match fault {
            Fault::NoSuchToken(seen) if self.identity.is_some() => {
                Fault::Lost { call: "the search for the token".to_owned(), source: seen.into() }
            }
            fault => fault,
        })?;
        let identity = found.identity;
        self.identity = Some(identity.clone());
        let pin = self.settings.pin.as_bytes();
        let memory = self.settings.refused_pin.as_ref();
        if memory.is_some_and(|memory| !memory.admits(&identity, pin, found.refused_lately)) {
            self.pin_refused = true;
            return Err(Fault::Pin { source: None });
        }
        let session = context.open_rw_session_no_drop(found.slot).map_err(fault)?;
        if let Some(memory) = memory {
            memory.begin(&identity);
        }
        let logged_in =
            session.login(UserType::User, Some(&AuthPin::new(self.settings.pin.0.as_str().into())));
        let refused = logged_in.as_ref().is_err_and(refuses_pin);
        match memory {
            Some(memory) if refused => memory.refuse(&identity, pin),
            Some(memory) => note_ended(memory),
            None => {}
        }
        match logged_in {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                Ok(Opened { session, module_epoch: module.epoch() })
            }
            Err(error) => {
                self.pin_refused = refused;
                close(session);
                Err(if refused { Fault::Pin { source: Some(Cause::new(error)) } } else { fault(error) })
            }
        }
    }

    /// Calls the module in the session, alone.
    fn with<T>(&self, work: impl FnOnce(&Session) -> Result<T, Fault>) -> Result<T, Fault> {
        let lost = |source: &str| Fault::Lost {
            call: "a call without a session".to_owned(),
            source: source.to_owned().into(),
        };
        let never = || lost("the last attempt to connect failed");
        let module = self.module.as_ref().ok_or_else(never)?.lock();
        let opened = self.session.as_ref().ok_or_else(never)?;
        if opened.module_epoch != module.epoch() {
            return Err(lost("the module was initialised anew for another token"));
        }
        work(&opened.session)
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

    fn close_session(&mut self) {
        self.objects.clear();
        let (Some(opened), Some(module)) = (self.session.take(), &self.module) else { return };
        let module = module.lock();
        // A session of an earlier initialisation is gone, and its number may be another's by now.
        if opened.module_epoch == module.epoch() {
            close(opened.session);
        }
    }
}

impl Backend for Token {
    fn identity(&self) -> Option<String> {
        self.identity.clone()
    }

    fn generate(&mut self, id: KeyId) -> Result<Key, Fault> {
        let carriable = match self.wrap_keys() {
            Ok(wrap_keys) => !wrap_keys.is_empty(),
            Err(Fault::NotConfined(_)) => false,
            Err(fault) => return Err(fault),
        };
        let (private, public, public_key) = self.with(|session| objects::make(session, id, carriable))?;
        Ok(Key { handle: self.handle(Some(private), Some(public)), id, public_key, carriable })
    }

    fn sign(&mut self, handle: Handle, digest: &[u8; 32]) -> Result<Signature, Fault> {
        let (private, _) = self.objects(handle)?;
        let private = private.ok_or(Fault::EarlierHandle)?;
        self.with(|session| objects::sign(session, private, digest))
    }

    fn inventory(&mut self) -> Result<Inventory, Fault> {
        let found = self.with(|session| objects::find(session, self.settings.key_ids))?;
        let mut inventory = Inventory::default();
        for pair in found.pairs {
            let handle = self.handle(Some(pair.private), Some(pair.public));
            let (id, public_key, carriable) = (pair.id, pair.public_key, pair.carriable);
            inventory.keys.push(Key { handle, id, public_key, carriable });
        }
        for (id, private, public) in found.halves {
            inventory.halves.push(super::Half { handle: self.handle(private, public), id });
        }
        Ok(inventory)
    }

    fn destroy(&mut self, handle: Handle) -> Result<(), Fault> {
        let (private, public) = self.objects(handle)?;
        self.with(|session| objects::destroy(session, [private, public]))
    }

    fn wrap_keys(&mut self) -> Result<Vec<WrapKeyId>, Fault> {
        if !self.settings.mirrored {
            return Ok(Vec::new());
        }
        let found = self.with(wrap::find)?;
        let mut confining = Vec::new();
        for (id, handle) in found {
            let unconfined = match self.tried.get(&id) {
                Some(known) => *known,
                None => match self.with(|session| confine::demand(session, handle)) {
                    Ok(()) => None,
                    Err(Fault::NotConfined(because)) => Some(because),
                    Err(fault) => return Err(fault),
                },
            };
            self.tried.insert(id, unconfined);
            // One wrap key that yields bytes yields those of every key.
            if let Some(because) = unconfined {
                return Err(Fault::NotConfined(because));
            }
            confining.push(id);
        }
        Ok(confining)
    }

    fn wrap(&mut self, handle: Handle, under: WrapKeyId) -> Result<Wrapped, Fault> {
        let (private, _) = self.objects(handle)?;
        let private = private.ok_or(Fault::EarlierHandle)?;
        self.with(|session| {
            if !objects::is_carriable(session, private)? {
                return Err(Fault::NotExtractable);
            }
            wrap::wrap(session, private, wrap_key(session, under)?)
        })
    }

    fn unwrap(
        &mut self,
        id: KeyId,
        public_key: &PublicKey,
        wrapped: &Wrapped,
        under: WrapKeyId,
    ) -> Result<Key, Fault> {
        let (private, public) = self.with(|session| {
            objects::take_in(session, (id, public_key), wrapped, wrap_key(session, under)?)
        })?;
        let handle = self.handle(Some(private), Some(public));
        Ok(Key { handle, id, public_key: *public_key, carriable: true })
    }

    fn reconnect(&mut self, rung: Rung) -> Result<(), Fault> {
        if rung == Rung::Module {
            self.close_session();
            if let Some(module) = &self.module {
                module.lock().finalise();
            }
        }
        self.connect()
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        self.close_session();
    }
}

fn note_ended(memory: &RefusedPin) {
    if let Err(error) = memory.forget() {
        tracing::warn!(%error, path = %memory.path().display(), "cannot note that a login has ended");
    }
}

/// The object of a wrap key.
fn wrap_key(session: &Session, id: WrapKeyId) -> Result<ObjectHandle, Fault> {
    let found = wrap::find(session)?.into_iter().find(|(found, _)| *found == id);
    found.map(|(_, handle)| handle).ok_or(Fault::NoWrapKey)
}

/// A session that cannot be closed is left to the module's next initialisation.
fn close(session: Session) {
    if let Err(error) = session.close() {
        tracing::warn!(%error, "cannot close a session of the token");
    }
}

/// Whether the token refused the PIN: a code that only a login may say so with.
const fn refuses_pin(error: &Error) -> bool {
    matches!(
        error,
        Error::Pkcs11(
            RvError::PinIncorrect
                | RvError::PinInvalid
                | RvError::PinLenRange
                | RvError::PinExpired
                | RvError::PinLocked,
            Function::Login,
        )
    )
}

/// The slot of a token.
#[derive(Clone)]
struct Found {
    slot: Slot,
    /// Which token it is.
    identity: String,
    /// Whether the token says that it has refused a PIN since the last that it took.
    refused_lately: bool,
}

/// The slot of the one token that has the label and serial number asked for: never a slot's number,
/// which changes when a device is plugged in; and which token that is. A slot that does not answer hides no other.
fn find_slot(module: &Turn<'_>, [label, serial]: [Option<&str>; 2]) -> Result<Found, Fault> {
    let (mut seen, mut matching, mut silent) = (Vec::new(), Vec::new(), None);
    for slot in module.context()?.get_slots_with_token().map_err(fault)? {
        let info = match module.token_in(slot) {
            Ok(info) if info.token_initialized() => info,
            Ok(_) => continue,
            Err(fault) => {
                silent = Some(fault);
                continue;
            }
        };
        let wants = |want: Option<&str>, have: &str| want.is_none_or(|want| want == have);
        if wants(label, info.label()) && wants(serial, info.serial_number()) {
            let identity = [info.manufacturer_id(), info.model(), info.serial_number()].join(" ");
            let refused_lately = info.user_pin_count_low() || info.user_pin_final_try();
            matching.push(Found { slot, identity, refused_lately });
        }
        seen.push(format!("label `{}` serial `{}`", info.label(), info.serial_number()));
    }
    match (matching.as_slice(), silent) {
        ([found], _) => Ok(found.clone()),
        ([], Some(fault)) => Err(fault),
        ([], None) if seen.is_empty() => Err(Fault::Lost {
            call: "the search for the token".to_owned(),
            source: "no token is there: plug it in".into(),
        }),
        ([], None) => Err(Fault::NoSuchToken(format!(
            "no token has `hsm.token_label` and `hsm.token_serial` as configured; tokens seen: {}",
            seen.join(", ")
        ))),
        _ => Err(Fault::NoSuchToken(format!(
            "several tokens match; set `hsm.token_serial` to one of: {}",
            seen.join(", ")
        ))),
    }
}

fn sign_mechanism() -> Mechanism<'static> {
    Mechanism::Ecdsa
}

/// Sorts what a module says into what may be cured by a new connection and what may not.
fn fault(error: Error) -> Fault {
    let Error::Pkcs11(code, function) = &error else {
        // An answer that makes no sense may be about an object that another process was just destroying.
        return Fault::Lost { call: "a call".to_owned(), source: Cause::new(error) };
    };
    let call = function.to_string();
    // Curable or not: it is the module that says so, not a token.
    if matches!(function, Function::Initialize | Function::GetSlotList) {
        return Fault::ModuleFailed { call, source: Cause::new(error) };
    }
    match code {
        // A device that is full stays so on a new connection.
        RvError::DeviceMemory if matches!(function, Function::GenerateKeyPair) => {
            Fault::Full { source: Cause::new(error) }
        }
        // Of a PIN only a login says anything: elsewhere it is a fault like another.
        RvError::PinIncorrect
        | RvError::PinInvalid
        | RvError::PinLenRange
        | RvError::PinExpired
        | RvError::PinLocked
        | RvError::CryptokiNotInitialized
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
        | RvError::UserNotLoggedIn => Fault::Lost { call, source: Cause::new(error) },
        _ => Fault::Refused { call, source: Cause::new(error) },
    }
}
