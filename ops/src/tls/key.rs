//! Private keys: made, kept in private files, and read from nothing else.

use std::path::Path;

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use systemd::credential;
use zeroize::Zeroizing;

use super::files::{self, Readers};
use crate::failure::{Exit, Failure, OrFail};

/// Longest key file: the largest RSA key has some 6 KiB of PEM.
const KEY_MAX: usize = 16 * 1024;

/// A key whose encoding is wiped when it is dropped. Copies that the PEM library makes on its way are not ours to wipe.
pub(super) type Key = Zeroizing<KeyPair>;

/// A new key: P-256, which everything that speaks TLS 1.3 has.
pub(super) fn make() -> Result<Key, Failure> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
        .map(Zeroizing::new)
        .or_fail(Exit::Software, || "cannot make a key")
}

/// Writes a key to a file that is not there yet, for its owner's eyes alone.
pub(super) fn write(path: &Path, key: &KeyPair) -> Result<(), Failure> {
    let pem = Zeroizing::new(key.serialize_pem());
    files::write_new(path, pem.as_bytes(), Readers::Owner)
}

/// Reads a key by the rules of the daemons: a file that others can read holds no secret.
pub(super) fn read(path: &Path) -> Result<Key, Failure> {
    let what = || format!("cannot use the key in `{}`", path.display());
    let absolute = std::path::absolute(path).or_fail(Exit::Io, what)?;
    let name = absolute.to_str().or_fail(Exit::Usage, || format!("{}: its path is no UTF-8", what()))?;
    let pem = credential::read(name, KEY_MAX).map_err(|error| {
        let exit = if let credential::Error::Unreadable { .. } = error { Exit::Io } else { Exit::Data };
        Failure::new(exit, what()).because(error)
    })?;
    let unusable = || format!("`{}` holds no usable private key: give PEM, unencrypted", path.display());
    let text = std::str::from_utf8(&pem).or_fail(Exit::Data, unusable)?;
    KeyPair::from_pem(text).map(Zeroizing::new).or_fail(Exit::Data, unusable)
}
