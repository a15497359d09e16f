//! Pairing: both officers give their tokens one wrap key, under which keys are carried from one to the other.
//!
//! The wrap key is random bytes in this process's memory, imported into both tokens and forgotten. A replacement is a
//! pairing anew: a new wrap key, every key that can leave the survivor carried and proven, the old wrap keys destroyed.

use std::collections::BTreeSet;

use aws_lc_rs::rand;
use zeroize::Zeroizing;

use super::backend::{
    Backend, Fault, Key, WrapKeyId,
    officer::{Officer, WRAP_KEY_LENGTH},
};

/// Why a ceremony did not end well. What it had begun is undone or harmless; it can be repeated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The tokens are paired.
    #[error("the tokens are paired already, by the wrap key {0}; to pair them anew, `opsctl hsm replace`")]
    Paired(WrapKeyId),
    /// A token failed or declined.
    #[error("the token `{token}` failed: {}", source.with_causes())]
    Token {
        /// Its slot.
        token: &'static str,
        /// What it said.
        source: Fault,
    },
    /// The system has no randomness.
    #[error("the system gives no randomness")]
    Randomness,
    /// No token has a key.
    #[error("neither token has a key that can be carried; if the chain is new, `opsctl hsm pair`")]
    Empty,
}

/// What came of carrying keys to a replacement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Keys that are on both tokens now.
    pub mirrored: usize,
    /// Keys that were made to stay on one token: two rotations leave them behind.
    pub staying: usize,
}

/// The names of the two slots.
const NAMES: [&str; 2] = ["first", "second"];

/// Gives both tokens a first wrap key.
pub fn pair(officers: &mut [Box<dyn Officer>; 2]) -> Result<WrapKeyId, Error> {
    let [first, second] = wrap_keys(officers)?;
    match first.intersection(&second).next() {
        Some(common) => Err(Error::Paired(*common)),
        None => give(officers),
    }
}

/// Gives both tokens a new wrap key beside what they have; which.
pub fn give(officers: &mut [Box<dyn Officer>; 2]) -> Result<WrapKeyId, Error> {
    let mut key = Zeroizing::new([0; WRAP_KEY_LENGTH]);
    rand::fill(key.as_mut_slice()).map_err(|_| Error::Randomness)?;
    let [first, second] = officers;
    let id = first.import(&key).map_err(at(0))?;
    match second.import(&key) {
        Ok(_) => Ok(id),
        Err(source) => {
            // One that only one token has is of no use.
            first.destroy(id).map_err(at(0))?;
            Err(at(1)(source))
        }
    }
}

/// Destroys every wrap key of ours but one, on both tokens.
pub fn keep_only(officers: &mut [Box<dyn Officer>; 2], kept: WrapKeyId) -> Result<(), Error> {
    for (index, officer) in officers.iter_mut().enumerate() {
        let others = officer.wrap_keys().map_err(at(index))?.into_iter().filter(|id| *id != kept);
        others
            .collect::<BTreeSet<_>>()
            .into_iter()
            .try_for_each(|id| officer.destroy(id))
            .map_err(at(index))?;
    }
    Ok(())
}

/// Carries every key that one token has and the other lacks, and proves each on both by a signature.
pub fn carry(tokens: &mut [Box<dyn Backend>; 2], under: WrapKeyId) -> Result<Carried, Error> {
    // A listing proves each key by a signature.
    let mut listed = Vec::new();
    for (index, token) in tokens.iter_mut().enumerate() {
        listed.push(token.inventory().map_err(at(index))?.keys);
    }
    let [first, second] = listed.as_slice() else { return Err(Error::Empty) };
    if first.is_empty() && second.is_empty() {
        return Err(Error::Empty);
    }
    let lacking = |from: &[Key], to: &[Key]| -> Vec<Key> {
        from.iter().filter(|key| to.iter().all(|other| other.public_key != key.public_key)).copied().collect()
    };
    let (to_second, to_first) = (lacking(first, second), lacking(second, first));
    let mut carried = Carried { mirrored: first.len() - to_second.len(), staying: 0 };
    for (from, to, keys) in [(0, 1, to_second), (1, 0, to_first)] {
        for key in keys {
            if !key.carriable {
                carried.staying += 1;
                continue;
            }
            let wrapped = backend(tokens, from)?.wrap(key.handle, under).map_err(at(from))?;
            backend(tokens, to)?.unwrap(key.id, &key.public_key, &wrapped, under).map_err(at(to))?;
            carried.mirrored += 1;
        }
    }
    Ok(carried)
}

fn backend(tokens: &mut [Box<dyn Backend>; 2], index: usize) -> Result<&mut Box<dyn Backend>, Error> {
    tokens.get_mut(index).ok_or(Error::Empty)
}

fn wrap_keys(officers: &mut [Box<dyn Officer>; 2]) -> Result<[BTreeSet<WrapKeyId>; 2], Error> {
    let [first, second] = officers;
    let first = first.wrap_keys().map_err(at(0))?;
    let second = second.wrap_keys().map_err(at(1))?;
    Ok([first, second].map(|ids| ids.into_iter().collect()))
}

/// Says which token a fault is of.
fn at(index: usize) -> impl Fn(Fault) -> Error {
    move |source| Error::Token { token: NAMES.get(index).copied().unwrap_or_default(), source }
}
