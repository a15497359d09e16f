//! What the security officer of a device does: wrap keys, which a signer can use and not make.

use super::{Fault, WrapKeyId, pkcs11, yubihsm};

/// Bytes of a wrap key: AES-256.
pub const WRAP_KEY_LENGTH: usize = 32;

/// A device with its officer logged in.
pub trait Officer {
    /// The wrap keys of ours on the device.
    fn wrap_keys(&mut self) -> Result<Vec<WrapKeyId>, Fault>;

    /// Imports a wrap key so that it does nothing but carry keys.
    fn import(&mut self, key: &[u8; WRAP_KEY_LENGTH]) -> Result<WrapKeyId, Fault>;

    /// Destroys a wrap key; nothing if there is none of that name.
    fn destroy(&mut self, id: WrapKeyId) -> Result<(), Fault>;
}

/// How an officer is logged in.
#[derive(Debug)]
pub enum OfficerSettings {
    /// To a token behind a PKCS#11 module, with the security officer's PIN.
    Pkcs11(pkcs11::OfficerSettings),
    /// To a YubiHSM 2, with an authentication key that may put and delete wrap keys.
    YubiHsm(Box<yubihsm::Settings>),
}

/// Logs an officer in. Blocks meanwhile.
pub fn log_in(settings: OfficerSettings) -> Result<Box<dyn Officer>, Fault> {
    Ok(match settings {
        OfficerSettings::Pkcs11(settings) => Box::new(pkcs11::Officer::log_in(&settings)?),
        OfficerSettings::YubiHsm(settings) => Box::new(yubihsm::Officer::log_in(*settings)?),
    })
}
