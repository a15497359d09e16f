//! What hsmd asks of an HSM, and how an HSM may fail.
//!
//! A backend is blocking, single-threaded and dumb: it generates, signs, lists and destroys, and can
//! drop its connection and make a new one. What may be signed or destroyed, and when to try again, is
//! decided above it ([`crate::token::signer`], [`crate::chain`]). Every backend passes the one suite in
//! `hsmd/tests/conformance.rs`.

mod device_log;
mod fault;
mod key_id;
mod note_file;
pub mod officer;
pub mod pkcs11;
mod refused;
mod wrapped;
pub mod yubihsm;

use keychain::{PublicKey, Signature};
use zeroize::Zeroizing;

pub use device_log::{DeviceLog, Kept};
pub use fault::{Cause, Fault};
pub use key_id::{KeyId, KeyIds};
pub use note_file::NoteFile;
pub use refused::RefusedPin;
pub use wrapped::{WrapKeyId, Wrapped};

/// An HSM that holds P-256 keys and signs with them.
///
/// An implementation must keep these promises:
///
/// - a private key is made inside the device and survives a power cut once [`Backend::generate`] has returned;
///   it cannot leave the device but under a wrap key that a thief of the PIN alone can neither read, make nor use
///   for more than carrying a key to a device that confines it likewise;
/// - a key is reported with a public key only if a signature by its private half verified under it, in
///   the same call (two half-made keys under one id must never be mixed up);
/// - [`Backend::destroy`] destroys what its handle names and nothing else, and a handle from before a
///   reconnect is refused, not reinterpreted;
/// - keys that do not bear this program's label and an id of the configured range do not exist for it, but
///   an object that has no name and is no key yet is half of one;
/// - a refused PIN is never presented a second time.
///
/// What goes beyond that differs between devices, and [`Backend::capabilities`] says it.
pub trait Backend: Send {
    /// What this kind of device can do beyond what every one must.
    fn capabilities(&self) -> Capabilities {
        Capabilities { duplicate_ids: true, attestation: false }
    }

    /// Which device this is, told apart from every other of its kind. None if it has not said.
    fn identity(&self) -> Option<String> {
        None
    }

    /// Makes a key pair under `id` and proves that it signs. Where several keys may bear one id it does so
    /// whether or not the id is taken; where they may not, a taken id is [`Fault::IdTaken`] and nothing is
    /// changed.
    fn generate(&mut self, id: KeyId) -> Result<Key, Fault>;

    /// Signs a SHA-256 digest with the key that `handle` names.
    fn sign(&mut self, handle: Handle, digest: &[u8; 32]) -> Result<Signature, Fault>;

    /// Lists every key of ours, and every half of one.
    fn inventory(&mut self) -> Result<Inventory, Fault>;

    /// Destroys one key or half of one: the private part first, so that what an interruption leaves can
    /// no longer sign.
    fn destroy(&mut self, handle: Handle) -> Result<(), Fault>;

    /// The wrap keys that keys can be carried under. [`Fault::NotConfined`] if a key under one of them would be
    /// readable with the PIN; empty where keys never leave the device.
    fn wrap_keys(&mut self) -> Result<Vec<WrapKeyId>, Fault> {
        Ok(Vec::new())
    }

    /// Encrypts a key under a wrap key. [`Fault::NotExtractable`] if the key was made to stay.
    fn wrap(&mut self, _: Handle, _: WrapKeyId) -> Result<Wrapped, Fault> {
        Err(Fault::NoWrapKey)
    }

    /// Takes in a key that another device encrypted, under `id`, and proves that it signs as `public_key`. A taken
    /// id is treated as by [`Backend::generate`].
    fn unwrap(&mut self, _: KeyId, _: &PublicKey, _: &Wrapped, _: WrapKeyId) -> Result<Key, Fault> {
        Err(Fault::NoWrapKey)
    }

    /// The device's own certificate, DER, that it made this key itself and that the key cannot leave it; checked
    /// against the key. None where the device issues none.
    fn attest(&mut self, _: Handle) -> Result<Option<Vec<u8>>, Fault> {
        Ok(None)
    }

    /// How many more objects fit. None where the device does not tell.
    fn free_objects(&mut self) -> Result<Option<u32>, Fault> {
        Ok(None)
    }

    /// What is kept of the device's own log, shared; nothing ever where the device keeps none.
    fn log(&self) -> DeviceLog {
        DeviceLog::default()
    }

    /// Drops the connection as far as `rung` says and makes a new one. Earlier handles are void.
    fn reconnect(&mut self, rung: Rung) -> Result<(), Fault>;
}

/// Which HSM, and how it is opened.
#[derive(Debug)]
pub enum Settings {
    /// A token behind a PKCS#11 module.
    Pkcs11(pkcs11::Settings),
    /// A YubiHSM 2.
    YubiHsm(yubihsm::Settings),
}

impl Settings {
    /// What is presented to the HSM at the login, wiped when dropped.
    pub fn secret(&self) -> Zeroizing<Vec<u8>> {
        match self {
            Self::Pkcs11(settings) => settings.pin.as_bytes().to_vec().into(),
            Self::YubiHsm(settings) => settings.secret().to_vec().into(),
        }
    }

    /// Where a refusal of it is remembered.
    pub const fn refused_pin(&self) -> Option<&RefusedPin> {
        match self {
            Self::Pkcs11(settings) => settings.refused_pin.as_ref(),
            Self::YubiHsm(settings) => settings.refused_pin.as_ref(),
        }
    }
}

/// Connects to an HSM. Blocks meanwhile.
pub fn open(settings: Settings) -> Result<Box<dyn Backend>, Fault> {
    Ok(match settings {
        Settings::Pkcs11(settings) => Box::new(pkcs11::Token::open(settings)?),
        Settings::YubiHsm(settings) => Box::new(yubihsm::Device::open(settings)?),
    })
}

/// What a kind of HSM can do beyond what every one must.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Several keys may bear one id: a generation that was interrupted may leave a second key under it. Where
    /// they may not, it leaves a key that keeps the id from being used until it is destroyed.
    pub duplicate_ids: bool,
    /// The device certifies keys that it made ([`Backend::attest`]).
    pub attestation: bool,
}

/// How much of the connection to an HSM to give up: the rungs of the ladder out of a fault, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// A new session, logged in anew.
    Session,
    /// The module or transport initialised anew.
    Module,
}

impl Rung {
    /// Every rung, lowest first.
    pub const ALL: [Self; 2] = [Self::Session, Self::Module];

    /// The rung's name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Module => "module",
        }
    }
}

/// Names an object of one connection; void after [`Backend::reconnect`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle {
    /// Which connection the handle was given out by.
    pub epoch: u64,
    /// The backend's own number for the object in that connection.
    pub number: u64,
}

/// A whole key of ours on the token, proven to sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Names the key in this connection.
    pub handle: Handle,
    /// The id that it was made under; not unique.
    pub id: KeyId,
    /// The public half; unique.
    pub public_key: PublicKey,
    /// Whether it can be carried to another token under a wrap key.
    pub carriable: bool,
}

/// A private key without its public one or the other way round: what an interrupted generation or
/// destruction leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Half {
    /// Names the object in this connection.
    pub handle: Handle,
    /// The id that it was made under; none if the interruption came before it had one, or a key at all.
    pub id: Option<KeyId>,
}

/// Everything of ours on a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// The whole keys.
    pub keys: Vec<Key>,
    /// The halves.
    pub halves: Vec<Half>,
}
