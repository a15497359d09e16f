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
    /// Keys on the token that has more of them.
    keys: usize,
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
    let mut carried = Carried::default();
    for (from, to) in [(0, 1), (1, 0)] {
        // A listing proves each key by a signature.
        let keys = list(tokens, from)?;
        carried.keys = carried.keys.max(keys.len());
        for key in keys {
            if copies(tokens, to, &key)? > 0 {
                continue;
            }
            if !key.carriable {
                carried.staying += 1;
                continue;
            }
            let wrapped = backend(tokens, from)?.wrap(key.handle, under).map_err(at(from))?;
            let copy =
                backend(tokens, to)?.unwrap(key.id, &key.public_key, &wrapped, under).map_err(at(to))?;
            // An hsmd that runs meanwhile carries keys, too.
            if copies(tokens, to, &key)? > 1 {
                backend(tokens, to)?.destroy(copy.handle).map_err(at(to))?;
            }
        }
    }
    let [first, second] = [list(tokens, 0)?, list(tokens, 1)?];
    let is_second = |key: &&Key| second.iter().any(|other| other.public_key == key.public_key);
    carried.mirrored = first.iter().filter(is_second).count();
    if carried.keys == 0 { Err(Error::Empty) } else { Ok(carried) }
}

fn copies(tokens: &mut [Box<dyn Backend>; 2], index: usize, key: &Key) -> Result<usize, Error> {
    Ok(list(tokens, index)?.iter().filter(|other| other.public_key == key.public_key).count())
}

fn list(tokens: &mut [Box<dyn Backend>; 2], index: usize) -> Result<Vec<Key>, Error> {
    Ok(backend(tokens, index)?.inventory().map_err(at(index))?.keys)
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
