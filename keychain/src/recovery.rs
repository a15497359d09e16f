//! Recovery keys from words (`PROTOCOL.md#recovery-passphrase`).

use argon2::{Algorithm, Argon2, Block, Params, Version};
use zeroize::{Zeroize as _, Zeroizing};

use crate::{
    error::{Code, Refusal},
    key::SigningKey,
};

/// Memory that a guess costs, in KiB: 256 MiB.
const MEMORY_KIB: u32 = 262_144;
/// Passes over that memory.
const PASSES: u32 = 9;

/// The private scalar that a passphrase stands for: Argon2id, 256 MiB, nine passes. It takes seconds.
///
/// The words count as they are, byte by byte: trimming or normalising them is the caller's affair. Errs for
/// an empty passphrase, for one whose scalar is not one of P-256 (one passphrase in 2^32), and if the memory
/// cannot be had.
pub fn seed_from_passphrase(passphrase: &str) -> Result<Zeroizing<[u8; 32]>, Refusal> {
    key_from_passphrase(passphrase).map(|key| key.seed().clone())
}

/// The recovery key that a passphrase stands for: the key of [`seed_from_passphrase`].
pub fn key_from_passphrase(passphrase: &str) -> Result<SigningKey, Refusal> {
    if passphrase.is_empty() {
        return Err(Refusal::new(Code::InvalidMessage, "the passphrase is empty: everybody knows its key"));
    }
    let seed = derive(passphrase.as_bytes()).map_err(|_| FAILED)?;
    SigningKey::from_seed(&seed).map_err(|_| {
        Refusal::new(Code::InvalidMessage, "the passphrase stands for no key of P-256: choose another")
    })
}

const FAILED: Refusal = Refusal::new(Code::Internal, "Argon2id failed: it needs 256 MiB of memory");

fn derive(passphrase: &[u8]) -> Result<Zeroizing<[u8; 32]>, argon2::Error> {
    let params = Params::new(MEMORY_KIB, PASSES, 1, Some(32))?;
    let mut salt = blake3::Hasher::new();
    salt.update(passphrase).update(b"salt");
    let mut memory = Vec::new();
    memory.try_reserve_exact(params.block_count()).map_err(|_| argon2::Error::OutOfMemory)?;
    memory.resize(params.block_count(), Block::default());
    let mut seed = Zeroizing::new([0; 32]);
    let outcome = Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into_with_memory(
        passphrase,
        salt.finalize().as_bytes(),
        seed.as_mut_slice(),
        &mut memory,
    );
    memory.iter_mut().for_each(Block::zeroize);
    outcome.map(|()| seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with the reference implementation of Argon2 (through Python's argon2-cffi) and the BLAKE3
    /// authors' Python module.
    #[test]
    fn known_answer() {
        let seed = seed_from_passphrase("pässwörd ☃").unwrap();
        let hex = seed.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        assert_eq!(hex, "f65ac6b53ffe7a7776285860702f89fcff1585a98243fdbbef687747f2ee0806");
    }

    #[test]
    fn an_empty_passphrase_is_refused() {
        assert_eq!(key_from_passphrase("").unwrap_err().code(), Code::InvalidMessage);
    }
}
