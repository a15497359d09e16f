//! The device: sessions, commands, capabilities, log.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_lc_rs::digest;

use super::{
    card::{Channel, head},
    object::{EC_P256, Object, WrapKey, random},
};

pub const SERIAL: u32 = 12_345_678;
const SESSIONS_MAX: u8 = 16;
const OBJECTS_MAX: usize = 256;
const LOG_MAX: usize = 62;
const IDLE_MAX: Duration = Duration::from_secs(30);

// Types of objects.
const AUTHENTICATION_KEY: u8 = 2;
const ASYMMETRIC_KEY: u8 = 3;
const WRAP_KEY: u8 = 4;

// Codes of errors.
const INVALID_COMMAND: u8 = 0x01;
const INVALID_DATA: u8 = 0x02;
const INVALID_SESSION: u8 = 0x03;
const SESSIONS_FULL: u8 = 0x05;
const STORAGE_FAILED: u8 = 0x07;
const PERMISSION: u8 = 0x09;
const LOG_FULL: u8 = 0x0a;
const NOT_FOUND: u8 = 0x0b;
const EXISTS: u8 = 0x11;

/// What an authentication key may do, where, and what keys that it makes may do.
#[derive(Clone, Copy)]
pub struct Role {
    pub domains: u16,
    pub capabilities: u64,
    pub delegated: u64,
}

#[derive(Clone)]
pub struct Emulator(Arc<Mutex<State>>);

struct State {
    now: Duration,
    plugged: bool,
    serial: u32,
    force_audit: bool,
    roles: BTreeMap<u16, ([u8; 32], Role)>,
    sessions: BTreeMap<u8, Session>,
    objects: BTreeMap<u16, Object>,
    wrap_keys: BTreeMap<u16, WrapKey>,
    /// Objects that are not asymmetric keys, the authentication keys included.
    others: usize,
    sequences: BTreeMap<u16, u8>,
    log: Vec<[u8; 32]>,
    number: u16,
    digest: [u8; 16],
    unlogged: [u16; 2],
    commands: BTreeMap<u8, usize>,
    lose_answer_to: Option<u8>,
}

struct Session {
    role: u16,
    channel: Channel,
    authenticated: bool,
    last: Duration,
}

impl Emulator {
    /// A device with one authentication key, and the two log entries of its first start.
    pub fn new(role_id: u16, password: &[u8], role: Role) -> Self {
        let key = yubihsm::authentication::Key::derive_from_password(password);
        let key: [u8; 32] = key.as_secret_slice().try_into().unwrap();
        let mut state = State {
            now: Duration::ZERO,
            plugged: true,
            serial: SERIAL,
            force_audit: false,
            roles: BTreeMap::from([(role_id, (key, role))]),
            sessions: BTreeMap::new(),
            objects: BTreeMap::new(),
            wrap_keys: BTreeMap::new(),
            others: 1,
            sequences: BTreeMap::new(),
            log: Vec::new(),
            number: 0,
            digest: random(),
            unlogged: [0; 2],
            commands: BTreeMap::new(),
            lose_answer_to: None,
        };
        state.note(0xff, 0xffff, 0xffff, 0xffff, 0xff);
        state.note(0, 0, 0xffff, 0, 0);
        Self(Arc::new(Mutex::new(state)))
    }

    /// Adds an authentication key.
    pub fn add_role(&self, id: u16, password: &[u8], role: Role) {
        let key = yubihsm::authentication::Key::derive_from_password(password);
        let key = key.as_secret_slice().try_into().unwrap();
        self.0.lock().unwrap().roles.insert(id, (key, role));
    }

    pub fn wrap_keys(&self) -> usize {
        self.0.lock().unwrap().wrap_keys.len()
    }

    /// Takes every key and wrap key away: another device is in its place.
    pub fn replace(&self) {
        let mut state = self.0.lock().unwrap();
        state.objects.clear();
        state.wrap_keys.clear();
    }

    /// Puts another device in its place that has the same keys.
    pub fn set_serial(&self, serial: u32) {
        self.0.lock().unwrap().serial = serial;
    }

    /// Lets time pass for the device.
    pub fn pass(&self, time: Duration) {
        self.0.lock().unwrap().now += time;
    }

    /// Pulls the device out, or plugs it in again, which ends its sessions.
    pub fn plug(&self, plugged: bool) {
        let mut state = self.0.lock().unwrap();
        state.plugged = plugged;
        state.sessions.clear();
        if plugged {
            state.note(0, 0, 0xffff, 0, 0);
        }
    }

    pub fn force_audit(&self) {
        self.0.lock().unwrap().force_audit = true;
    }

    /// Does the next command of that code, and loses the answer.
    pub fn lose_answer_to(&self, command: u8) {
        self.0.lock().unwrap().lose_answer_to = Some(command);
    }

    /// Fills the device with objects of others.
    pub fn fill(&self, free: usize) {
        let mut state = self.0.lock().unwrap();
        state.others = OBJECTS_MAX - state.objects.len() - free;
    }

    /// Fills the log, as another client's commands do.
    pub fn fill_log(&self) {
        let mut state = self.0.lock().unwrap();
        while state.log.len() < LOG_MAX {
            state.note(0x41, 0, 1, 0xffff, 0xc1);
        }
    }

    /// Forgets a log entry that was not read.
    pub fn lose_log_entry(&self) {
        let mut state = self.0.lock().unwrap();
        state.note(0x41, 0, 1, 0xffff, 0xc1);
        state.log.clear();
    }

    pub fn objects(&self) -> usize {
        self.0.lock().unwrap().objects.len()
    }

    pub fn sessions(&self) -> usize {
        self.0.lock().unwrap().sessions.len()
    }

    pub fn log_used(&self) -> usize {
        self.0.lock().unwrap().log.len()
    }

    /// How often a command was asked for.
    pub fn count(&self, command: u8) -> usize {
        self.0.lock().unwrap().commands.get(&command).copied().unwrap_or_default()
    }

    /// Answers a message; nothing if the device is out, or the answer is to be lost.
    pub fn answer(&self, message: &[u8]) -> Option<Vec<u8>> {
        let mut state = self.0.lock().unwrap();
        if !state.plugged {
            return None;
        }
        let now = state.now;
        state.sessions.retain(|_, session| now < session.last + IDLE_MAX);
        let (code, body) = (*message.first()?, message.get(3..)?);
        let answered = match code {
            0x03 => state.create(body),
            0x04 => state.authenticate(body),
            0x05 => return state.message(body),
            _ => Err(INVALID_COMMAND),
        };
        Some(spell(code, answered))
    }
}

fn spell(code: u8, answered: Result<Vec<u8>, u8>) -> Vec<u8> {
    let (code, body) = match answered {
        Ok(body) => (code | 0x80, body),
        Err(error) => (0x7f, vec![error]),
    };
    [&head(code, body.len())[..], &body].concat()
}

fn number(bytes: &[u8], at: usize) -> Result<u16, u8> {
    let bytes = bytes.get(at..at + 2).ok_or(INVALID_DATA)?;
    Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
}

impl State {
    fn create(&mut self, body: &[u8]) -> Result<Vec<u8>, u8> {
        let role = number(body, 0)?;
        let host = body.get(2..10).and_then(|host| host.try_into().ok()).ok_or(INVALID_DATA)?;
        let (key, _) = self.roles.get(&role).ok_or(NOT_FOUND)?;
        let free = (0..SESSIONS_MAX).find(|id| !self.sessions.contains_key(id)).ok_or(SESSIONS_FULL)?;
        let card = random();
        let channel = Channel::new(key, host, card);
        let answer = [&[free], &card[..], &channel.card_cryptogram()].concat();
        let last = self.now;
        self.sessions.insert(free, Session { role, channel, authenticated: false, last });
        self.note_session(0x03, 10, role);
        Ok(answer)
    }

    fn authenticate(&mut self, body: &[u8]) -> Result<Vec<u8>, u8> {
        let session = self.sessions.get_mut(body.first().ok_or(INVALID_DATA)?).ok_or(INVALID_SESSION)?;
        let cryptogram = session.channel.host_cryptogram();
        if session.channel.open(0x04, body) != Some(&cryptogram) {
            return Err(0x04);
        }
        session.authenticated = true;
        let role = session.role;
        self.note_session(0x04, 17, role);
        Ok(Vec::new())
    }

    fn message(&mut self, body: &[u8]) -> Option<Vec<u8>> {
        let id = *body.first()?;
        let now = self.now;
        let opened = self.sessions.get_mut(&id).filter(|session| session.authenticated).and_then(|session| {
            session.last = now;
            let data = session.channel.open(0x05, body)?;
            Some((session.channel.decrypt(data)?, session.role))
        });
        let Some((command, role)) = opened else { return Some(spell(0x05, Err(INVALID_SESSION))) };
        let (code, data) = (*command.first()?, command.get(3..)?);
        let answered = self.perform(code, data, role);
        *self.commands.entry(code).or_default() += 1;
        if self.lose_answer_to == Some(code) {
            self.lose_answer_to = None;
            return None;
        }
        let answer = spell(code, answered);
        let sealed = self.sessions.get_mut(&id)?.channel.seal(id, &answer);
        Some([&head(0x85, sealed.len())[..], &sealed].concat())
    }

    /// Does a command and logs it: first there must be room.
    fn perform(&mut self, code: u8, data: &[u8], role: u16) -> Result<Vec<u8>, u8> {
        let logged = !matches!(code, 0x01 | 0x06 | 0x4d);
        if logged && code != 0x67 && self.force_audit && self.log.len() >= LOG_MAX {
            return Err(LOG_FULL);
        }
        let (_, rights) = self.roles[&role];
        let done = self.act(code, data, rights);
        if logged {
            let target = number(data, 0).unwrap_or(0xffff);
            let result = done.as_ref().map_or_else(|error| *error, |_| code | 0x80);
            self.note(code, u16::try_from(data.len()).unwrap(), role, target, result);
        }
        done
    }

    fn act(&mut self, code: u8, data: &[u8], rights: Role) -> Result<Vec<u8>, u8> {
        let demand = |bit: u64| if rights.capabilities & bit == 0 { Err(PERMISSION) } else { Ok(()) };
        match code {
            0x01 => Ok(data.to_vec()),
            0x06 => Ok(self.describe()),
            0x41 => Ok(self.storage()),
            0x46 => demand(0x10).and_then(|()| self.generate(data, rights)),
            0x48 => Ok(self.list(data, rights)),
            0x4a => demand(0x1000).and_then(|()| self.export(data, rights)),
            0x4b => demand(0x2000).and_then(|()| self.import(data, rights)),
            0x4c => demand(0x4000).and_then(|()| self.put_wrap_key(data, rights)),
            0x4d => demand(0x100_0000).map(|()| self.tell_log()),
            0x4e => self.info(number(data, 0)?, *data.get(2).ok_or(INVALID_DATA)?, rights),
            0x54 => {
                let key = self.find(number(data, 0)?, rights)?;
                Ok([&[key.algorithm], &key.point()[1..]].concat())
            }
            0x56 => demand(0x80).and_then(|()| {
                let key = self.find(number(data, 0)?, rights)?;
                if key.capabilities & 0x80 == 0 { Err(PERMISSION) } else { Ok(key.sign(&data[2..])) }
            }),
            0x58 if data.get(2) == Some(&WRAP_KEY) => demand(0x400_0000_0000)
                .and_then(|()| self.wrap_keys.remove(&number(data, 0)?).map(|_| Vec::new()).ok_or(NOT_FOUND)),
            0x58 => demand(0x200_0000_0000).and_then(|()| {
                self.find(number(data, 0)?, rights)?;
                self.objects.remove(&number(data, 0)?);
                Ok(Vec::new())
            }),
            0x64 => demand(0x4_0000_0000).and_then(|()| {
                let id = number(data, 0)?;
                Ok(self.find(id, rights)?.attest(id, self.serial))
            }),
            0x67 => demand(0x100_0000).and_then(|()| {
                let last = number(data, 0)?;
                let kept = self.log.iter().position(|entry| entry[..2] == last.to_be_bytes());
                self.log.drain(..=kept.ok_or(INVALID_DATA)?);
                Ok(Vec::new())
            }),
            _ => Err(INVALID_COMMAND),
        }
    }

    fn find(&self, id: u16, rights: Role) -> Result<&Object, u8> {
        self.objects.get(&id).filter(|object| object.domains & rights.domains != 0).ok_or(NOT_FOUND)
    }

    fn generate(&mut self, data: &[u8], rights: Role) -> Result<Vec<u8>, u8> {
        let id = number(data, 0)?;
        if self.objects.contains_key(&id) {
            return Err(EXISTS);
        }
        if self.objects.len() + self.others >= OBJECTS_MAX {
            return Err(STORAGE_FAILED);
        }
        let sequence = self.sequences.get(&id).map_or(0, |sequence| sequence.wrapping_add(1));
        let object = Object::generate(&data[2..], sequence).ok_or(INVALID_DATA)?;
        let beyond = object.capabilities & !rights.delegated != 0 || object.domains & !rights.domains != 0;
        if beyond || object.algorithm != EC_P256 {
            return Err(if beyond { PERMISSION } else { INVALID_DATA });
        }
        self.sequences.insert(id, sequence);
        self.objects.insert(id, object);
        Ok(id.to_be_bytes().to_vec())
    }

    fn info(&self, id: u16, kind: u8, rights: Role) -> Result<Vec<u8>, u8> {
        match kind {
            AUTHENTICATION_KEY => {
                let (_, role) = self.roles.get(&id).ok_or(NOT_FOUND)?;
                let bits = [role.capabilities, role.delegated].map(u64::to_be_bytes);
                let head =
                    [&bits[0][..], &id.to_be_bytes(), &40_u16.to_be_bytes(), &role.domains.to_be_bytes()];
                Ok([&head.concat()[..], &[AUTHENTICATION_KEY, 38, 0, 2], &[0; 40], &bits[1]].concat())
            }
            WRAP_KEY => self.wrap_key(id, rights).map(|key| key.info(id)),
            _ => self.find(id, rights).map(|key| key.info(id)),
        }
    }

    fn wrap_key(&self, id: u16, rights: Role) -> Result<&WrapKey, u8> {
        self.wrap_keys.get(&id).filter(|key| key.domains & rights.domains != 0).ok_or(NOT_FOUND)
    }

    fn put_wrap_key(&mut self, data: &[u8], rights: Role) -> Result<Vec<u8>, u8> {
        let id = number(data, 0)?;
        if self.wrap_keys.contains_key(&id) {
            return Err(EXISTS);
        }
        let key = WrapKey::parse(&data[2..]).ok_or(INVALID_DATA)?;
        if (key.capabilities | key.delegated) & !rights.delegated != 0 {
            return Err(PERMISSION);
        }
        self.wrap_keys.insert(id, key);
        Ok(id.to_be_bytes().to_vec())
    }

    /// Encrypts a key that may be exported, under a wrap key that may carry it.
    fn export(&mut self, data: &[u8], rights: Role) -> Result<Vec<u8>, u8> {
        let (wrap_key, id) = (self.wrap_key(number(data, 0)?, rights)?, number(data, 3)?);
        let object = self.find(id, rights)?;
        let allowed = wrap_key.capabilities & 0x1000 != 0 && object.capabilities & 0x1_0000 != 0;
        if !allowed || object.capabilities & !wrap_key.delegated != 0 {
            return Err(PERMISSION);
        }
        Ok(wrap_key.encrypt(&object.spell(id)))
    }

    fn import(&mut self, data: &[u8], rights: Role) -> Result<Vec<u8>, u8> {
        let wrap_key = self.wrap_key(number(data, 0)?, rights)?;
        if wrap_key.capabilities & 0x2000 == 0 {
            return Err(PERMISSION);
        }
        let opened = wrap_key.decrypt(&data[2..]).ok_or(INVALID_DATA)?;
        let (id, object) = Object::read(&opened).ok_or(INVALID_DATA)?;
        if object.capabilities & !wrap_key.delegated != 0 {
            return Err(PERMISSION);
        }
        if self.objects.contains_key(&id) {
            return Err(EXISTS);
        }
        if self.objects.len() + self.others >= OBJECTS_MAX {
            return Err(STORAGE_FAILED);
        }
        self.objects.insert(id, object);
        Ok([&[ASYMMETRIC_KEY][..], &id.to_be_bytes()].concat())
    }

    /// Every key in the session's domains, or every wrap key if those are asked for. Other filters are not emulated: the
    /// mock device has them.
    fn list(&self, data: &[u8], rights: Role) -> Vec<u8> {
        if data == [2, WRAP_KEY] {
            let visible = self.wrap_keys.iter().filter(|(_, key)| key.domains & rights.domains != 0);
            return visible.flat_map(|(id, _)| [&id.to_be_bytes()[..], &[WRAP_KEY, 0]].concat()).collect();
        }
        let visible = self.objects.iter().filter(|(_, object)| object.domains & rights.domains != 0);
        visible.flat_map(|(id, object)| [&id.to_be_bytes()[..], &[3, object.sequence]].concat()).collect()
    }

    /// Firmware 2.4, with an algorithm that the client library does not know.
    fn describe(&self) -> Vec<u8> {
        let used = u8::try_from(self.log.len()).unwrap();
        [&[2, 4, 0][..], &self.serial.to_be_bytes(), &[62, used, EC_P256, 0x31]].concat()
    }

    fn storage(&self) -> Vec<u8> {
        let free = u16::try_from(OBJECTS_MAX - self.objects.len() - self.others).unwrap();
        [256, free, 1024, free * 4, 126].iter().flat_map(|number: &u16| number.to_be_bytes()).collect()
    }

    fn tell_log(&mut self) -> Vec<u8> {
        let unlogged = std::mem::take(&mut self.unlogged).map(u16::to_be_bytes);
        let count = u8::try_from(self.log.len()).unwrap();
        [unlogged.as_flattened(), &[count], self.log.as_flattened()].concat()
    }

    /// Sessions may be opened although the log is full; then they are only counted.
    fn note_session(&mut self, code: u8, length: u16, role: u16) {
        if self.force_audit && self.log.len() >= LOG_MAX {
            self.unlogged[1] += 1;
        } else {
            self.note_targets(code, length, 0xffff, [role, 0xffff], code | 0x80);
        }
    }

    fn note(&mut self, code: u8, length: u16, role: u16, target: u16, result: u8) {
        self.note_targets(code, length, role, [target, 0xffff], result);
    }

    fn note_targets(&mut self, code: u8, length: u16, role: u16, targets: [u16; 2], result: u8) {
        self.number = self.number.wrapping_add(1);
        let tick = u32::try_from(self.now.as_millis()).unwrap();
        let [number, length, role, first, second] =
            [self.number, length, role, targets[0], targets[1]].map(u16::to_be_bytes);
        let fact =
            [&number[..], &[code], &length, &role, &first, &second, &[result], &tick.to_be_bytes()].concat();
        let whole = digest::digest(&digest::SHA256, &[&fact[..], &self.digest].concat());
        self.digest = whole.as_ref()[..16].try_into().unwrap();
        if self.log.len() == LOG_MAX {
            self.log.remove(0);
        }
        self.log.push([fact, self.digest.to_vec()].concat().try_into().unwrap());
    }
}
