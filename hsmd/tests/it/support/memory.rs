//! A token in memory that can fail on command, before or after the effect.

use std::sync::{Arc, Mutex};

use hsmd::token::backend::{
    Backend, Capabilities, Fault, Half, Handle, Inventory, Key, KeyId, Rung, WrapKeyId, Wrapped,
};
use keychain::{PublicKey, Signature};
use p256::ecdsa::{SigningKey, signature::hazmat::PrehashSigner as _};

/// What the device holds: survives the connections to it.
#[derive(Clone, Default)]
pub struct Device(Arc<Mutex<State>>, Arc<Mutex<Faults>>);

#[derive(Default)]
struct State {
    /// Sets the keys of one device apart from another's.
    salt: u8,
    keys: Vec<(KeyId, SigningKey)>,
    /// Keys that were made when there was no wrap key.
    staying: Vec<PublicKey>,
    wrap_key: Option<WrapKeyId>,
    /// Ids of halves of keys.
    halves: Vec<KeyId>,
    made: u64,
    /// An id names one key only.
    unique_ids: bool,
}

/// What goes wrong: with one device, or with all of one process.
#[derive(Default)]
struct Faults {
    calls: u64,
    plan: Option<Plan>,
    dead: bool,
}

/// When and how to fail.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// At which call, counted from now.
    pub at: u64,
    /// Whether the call has its effect.
    pub after_effect: bool,
    /// Whether everything fails from then on, as when the process dies there.
    pub fatal: bool,
}

impl Device {
    /// A device on which an id names one key only, as on a YubiHSM.
    pub fn with_unique_ids() -> Self {
        let device = Self::default();
        device.0.lock().unwrap().unique_ids = true;
        device
    }

    /// Another device of the same kind; a plan is for both, as when the process dies that has both open.
    pub fn beside(&self) -> Self {
        let unique_ids = self.0.lock().unwrap().unique_ids;
        let state = State { salt: 1, unique_ids, ..State::default() };
        Self(Arc::new(Mutex::new(state)), Arc::clone(&self.1))
    }

    /// The same with faults of its own.
    pub fn apart(&self) -> Self {
        Self(self.beside().0, Arc::default())
    }

    /// Gives the device a wrap key, or takes it away.
    pub fn pair(&self, wrap_key: Option<&[u8]>) {
        self.0.lock().unwrap().wrap_key = wrap_key.map(WrapKeyId::of);
    }

    pub fn plan(&self, plan: Plan) {
        let mut faults = self.1.lock().unwrap();
        faults.calls = 0;
        faults.plan = Some(plan);
    }

    /// From now on it does not answer.
    pub fn lose(&self) {
        self.1.lock().unwrap().dead = true;
    }

    /// Whether the plan was carried out.
    pub fn was_lost(&self) -> bool {
        self.1.lock().unwrap().dead
    }

    /// Takes every key away: another device of the kind, with the same wrap key, is in its place.
    pub fn empty(&self) {
        let mut state = self.0.lock().unwrap();
        state.keys.clear();
        state.halves.clear();
    }

    /// Forgets the plan; true if it was carried out.
    pub fn heal(&self) -> bool {
        let mut faults = self.1.lock().unwrap();
        faults.dead = false;
        faults.plan.take().is_none()
    }

    pub fn keys(&self) -> Vec<PublicKey> {
        self.0.lock().unwrap().keys.iter().map(|(_, key)| public(key)).collect()
    }

    pub fn add_half(&self, id: KeyId) {
        self.0.lock().unwrap().halves.push(id);
    }

    /// The ids of the keys, in order.
    pub fn ids(&self) -> Vec<KeyId> {
        let mut ids: Vec<_> = self.0.lock().unwrap().keys.iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        // By generation, where the range of ids begins again between the two.
        if ids.first().zip(ids.last()).is_some_and(|(first, last)| last.number() - first.number() > 1) {
            ids.rotate_right(1);
        }
        ids
    }

    /// Makes a key that nothing names, listed before or after all others.
    pub fn add_key(&self, id: KeyId, first: bool) {
        let mut state = self.0.lock().unwrap();
        let key = make(&mut state);
        let index = if first { 0 } else { state.keys.len() };
        state.keys.insert(index, (id, key));
    }

    /// Takes a key away, as somebody with the token in hand could.
    pub fn steal(&self, public_key: &PublicKey) {
        self.0.lock().unwrap().keys.retain(|(_, key)| public(key) != *public_key);
    }

    pub fn objects(&self) -> usize {
        let state = self.0.lock().unwrap();
        state.keys.len() * 2 + state.halves.len()
    }

    pub fn connect(&self) -> Memory {
        Memory { device: self.clone(), epoch: 0 }
    }
}

pub struct Memory {
    device: Device,
    epoch: u64,
}

impl Memory {
    /// Runs one call under the plan.
    fn call<T>(&self, work: impl FnOnce(&mut State) -> Result<T, Fault>) -> Result<T, Fault> {
        let mut state = self.device.0.lock().unwrap();
        let mut faults = self.device.1.lock().unwrap();
        if faults.dead {
            return Err(died());
        }
        let call = faults.calls;
        faults.calls += 1;
        let Some(plan) = faults.plan.filter(|plan| plan.at == call) else { return work(&mut state) };
        faults.plan = None;
        faults.dead = plan.fatal;
        if plan.after_effect {
            work(&mut state)?;
        }
        Err(if plan.fatal { died() } else { Fault::Lost { call: "a call".into(), source: "planned".into() } })
    }
}

fn died() -> Fault {
    Fault::Refused { call: "a call".into(), source: "the process died here".into() }
}

/// A key that is like no other of this device.
fn make(state: &mut State) -> SigningKey {
    state.made += 1;
    let mut seed = [1; 32];
    seed[..8].copy_from_slice(&(state.made | u64::from(state.salt) << 32).to_be_bytes());
    SigningKey::from_slice(&seed).unwrap()
}

fn public(key: &SigningKey) -> PublicKey {
    PublicKey::from_sec1(key.verifying_key().to_sec1_point(true).as_bytes()).unwrap()
}

/// Numbers of keys and halves in one number.
const HALVES: u64 = 1 << 48;

impl Backend for Memory {
    fn capabilities(&self) -> Capabilities {
        let duplicate_ids = !self.device.0.lock().unwrap().unique_ids;
        Capabilities { duplicate_ids, attestation: false }
    }

    fn generate(&mut self, id: KeyId) -> Result<Key, Fault> {
        let epoch = self.epoch;
        self.call(|state| {
            if state.unique_ids && state.keys.iter().any(|(taken, _)| *taken == id) {
                return Err(Fault::IdTaken(id));
            }
            let key = make(state);
            let (public_key, number) = (public(&key), number(&key));
            state.keys.push((id, key));
            let carriable = state.wrap_key.is_some();
            if !carriable {
                state.staying.push(public_key);
            }
            Ok(Key { handle: Handle { epoch, number }, id, public_key, carriable })
        })
    }

    fn wrap_keys(&mut self) -> Result<Vec<WrapKeyId>, Fault> {
        self.call(|state| Ok(state.wrap_key.into_iter().collect()))
    }

    fn wrap(&mut self, handle: Handle, under: WrapKeyId) -> Result<Wrapped, Fault> {
        let epoch = self.epoch;
        self.call(|state| {
            let found = state.keys.iter().find(|(_, key)| Handle { epoch, number: number(key) } == handle);
            let (_, key) = found.ok_or(Fault::EarlierHandle)?;
            if state.staying.contains(&public(key)) {
                return Err(Fault::NotExtractable);
            }
            assert_eq!(state.wrap_key, Some(under));
            Ok(Wrapped::new(key.to_bytes().to_vec()))
        })
    }

    fn unwrap(
        &mut self,
        id: KeyId,
        public_key: &PublicKey,
        wrapped: &Wrapped,
        under: WrapKeyId,
    ) -> Result<Key, Fault> {
        let epoch = self.epoch;
        self.call(|state| {
            assert_eq!(state.wrap_key, Some(under));
            let key = SigningKey::from_slice(wrapped.bytes()).unwrap();
            assert_eq!(public(&key), *public_key);
            let there = state.keys.iter().find(|(taken, _)| state.unique_ids && *taken == id);
            match there.map(|(_, there)| public(there)) {
                Some(there) if there != *public_key => return Err(Fault::IdTaken(id)),
                Some(_) => {}
                None => state.keys.push((id, key.clone())),
            }
            let handle = Handle { epoch, number: number(&key) };
            Ok(Key { handle, id, public_key: *public_key, carriable: true })
        })
    }

    fn sign(&mut self, handle: Handle, digest: &[u8; 32]) -> Result<Signature, Fault> {
        let epoch = self.epoch;
        self.call(|state| {
            let found = state.keys.iter().find(|(_, key)| Handle { epoch, number: number(key) } == handle);
            let (_, key) = found.ok_or(Fault::EarlierHandle)?;
            let signature: p256::ecdsa::Signature = key.sign_prehash(digest).unwrap();
            Ok(Signature::from_bytes(signature.to_bytes().into()))
        })
    }

    fn inventory(&mut self) -> Result<Inventory, Fault> {
        let epoch = self.epoch;
        self.call(|state| {
            let key = |(id, key): &(KeyId, SigningKey)| Key {
                handle: Handle { epoch, number: number(key) },
                id: *id,
                public_key: public(key),
                carriable: !state.staying.contains(&public(key)),
            };
            let half = |(index, id): (u64, &KeyId)| Half {
                handle: Handle { epoch, number: HALVES + index },
                id: Some(*id),
            };
            Ok(Inventory {
                keys: state.keys.iter().map(key).collect(),
                halves: (0..).zip(&state.halves).map(half).collect(),
            })
        })
    }

    fn destroy(&mut self, handle: Handle) -> Result<(), Fault> {
        let epoch = self.epoch;
        self.call(|state| {
            if handle.epoch != epoch {
                return Err(Fault::EarlierHandle);
            }
            match handle.number.checked_sub(HALVES) {
                // Handles of the other halves must hold: leave the slot, take the half.
                Some(_) => drop(state.halves.pop()),
                None => state.keys.retain(|(_, key)| number(key) != handle.number),
            }
            Ok(())
        })
    }

    fn reconnect(&mut self, _: Rung) -> Result<(), Fault> {
        self.epoch += 1;
        self.call(|_| Ok(()))
    }
}

/// The number that the key was made as: the head of its seed.
fn number(key: &SigningKey) -> u64 {
    u64::from_be_bytes(key.to_bytes()[..8].try_into().unwrap())
}
