//! Rows in memory, read as the store reads them, and devices that write real messages.

use keychain::message::{self, AccessKeys, Authentication, Operation, Verified, body};
use keychain::{Digest, Nonce, PublicKey, Refusal, SigningKey, Timestamp};

use crate::operation::{self, Change, Decision, Devices, Listed, Needs, View};
use crate::record::proof::{self, Open, Witness};
use crate::record::{AccountRecord, Action, BanEnd, BanRecord, Cause, DeviceRecord, Mandate, Remains};

/// The key of a seed.
pub(super) fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32]).unwrap()
}

pub(super) fn public(seed: u8) -> PublicKey {
    key(seed).public_key()
}

pub(super) fn hash(seed: u8) -> Digest {
    public(seed).digest()
}

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix_millis(1_800_000_000_000 + seconds * 1000)
}

/// A device: its names, and the seed of its current key; the next key has the next seed.
#[derive(Clone, Copy)]
pub(super) struct Phone {
    pub(super) identity: Digest,
    pub(super) device: Digest,
    pub(super) seed: u8,
}

impl Phone {
    /// A device that begins an account with this recovery key.
    pub(super) fn founder(seed: u8, recovery: u8) -> Self {
        let (first, next) = (public(seed).to_string(), hash(seed + 1).to_string());
        let identity = Digest::of_parts(&[&first, &next, &hash(recovery).to_string()]);
        Self { identity, device: Digest::of_parts(&[&first, &next]), seed }
    }

    /// A device that joins an account.
    pub(super) fn joining(identity: Digest, seed: u8) -> Self {
        Self { identity, ..Self::founder(seed, seed) }
    }

    /// With its key of now.
    pub(super) fn here(&self) -> Authentication {
        let (public_key, rotation_hash) = (public(self.seed), hash(self.seed + 1));
        Authentication { device: self.device, identity: self.identity, public_key, rotation_hash }
    }

    /// With its key after the next rotation.
    pub(super) fn next(&self) -> Self {
        Self { seed: self.seed + 1, ..*self }
    }

    pub(super) fn container(&self) -> String {
        message::link_container(&key(self.seed), &self.here()).unwrap()
    }
}

/// A verified request, signed by `signer`, with some nonce.
pub(super) fn signed(operation: Operation, signer: u8, nonce: u8, request: &str) -> Verified {
    let text = message::request(&key(signer), &Nonce::from_bytes([nonce; 16]), request).unwrap();
    message::parse(operation, text.as_bytes()).unwrap().verify().unwrap()
}

/// A request gated by a rotation of `phone`, which is given as it will be after it.
pub(super) fn gated(operation: Operation, phone: &Phone, request: &str) -> Verified {
    signed(operation, phone.seed, 1, request)
}

pub(super) fn create(phone: &Phone, recovery: u8) -> Verified {
    let request = body::with_recovery_hash(&phone.here(), &hash(recovery));
    signed(Operation::AccountCreate, phone.seed, 1, &request)
}

pub(super) fn recover(phone: &Phone, recovery: u8, next: u8) -> Verified {
    let request = body::recover(&phone.here(), &hash(next), &public(recovery));
    signed(Operation::AccountRecover, recovery, 1, &request)
}

pub(super) fn rotate(phone: &Phone) -> Verified {
    gated(Operation::DeviceRotate, phone, &body::of_device(&phone.here()))
}

pub(super) fn delete(phone: &Phone) -> Verified {
    gated(Operation::AccountDelete, phone, &body::of_device(&phone.here()))
}

pub(super) fn link(phone: &Phone, new: &Phone) -> Verified {
    gated(Operation::DeviceLink, phone, &body::link(&phone.here(), &new.container()))
}

pub(super) fn unlink(phone: &Phone, target: &Digest) -> Verified {
    gated(Operation::DeviceUnlink, phone, &body::unlink(&phone.here(), target))
}

pub(super) fn change(phone: &Phone, recovery: u8) -> Verified {
    let request = body::with_recovery_hash(&phone.here(), &hash(recovery));
    gated(Operation::RecoveryChange, phone, &request)
}

pub(super) fn access(seed: u8) -> AccessKeys {
    AccessKeys { public_key: public(seed), rotation_hash: hash(seed + 1) }
}

/// The operation that a device caused a record by.
pub(super) fn operation_of(cause: &Cause) -> Operation {
    let Cause::Device(request) = cause else { panic!("an operator's record") };
    request.operation
}

/// A ban without an end.
pub(super) fn ban(identity: Digest) -> BanRecord {
    let key = key(1);
    let mandate = Mandate { action: Action::Ban, operator: "uid 0", reason: "test", key: &key };
    BanRecord::new(None, identity, Some(BanEnd::Never), &mandate, at(0)).unwrap()
}

/// All rows, oldest first.
#[derive(Clone, Default, PartialEq, Debug)]
pub(super) struct Book {
    pub(super) accounts: Vec<AccountRecord>,
    pub(super) devices: Vec<DeviceRecord>,
    pub(super) damaged: Vec<Remains>,
    pub(super) revoked: Vec<Digest>,
    pub(super) ban: Option<BanRecord>,
}

impl Book {
    /// Decides a request and applies what was decided.
    pub(super) fn take(&mut self, request: &Verified, now: Timestamp) -> Result<Decision, Refusal> {
        let needs = operation::needs(request.request()).unwrap();
        let view = self.view(&needs);
        let mut decision = operation::decide(request, &view, now)?;
        if decision == Decision::Incomplete {
            decision = operation::decide(request, &self.completed(view, &needs), now)?;
        }
        if let Decision::Apply(change) = &decision {
            self.assert_proven(change);
            let Change { account, devices, revoked } = change.as_ref();
            self.accounts.extend(account.clone());
            self.devices.extend(devices.iter().cloned());
            self.revoked.extend(revoked);
        }
        Ok(decision)
    }

    /// Whatever an operation decides, `authd check` finds that it follows; but for devices whose records are damaged.
    fn assert_proven(&self, change: &Change) {
        let is_whole = |record: &&DeviceRecord| self.damaged.iter().all(|gone| gone.device != record.device);
        let opens = change
            .devices
            .iter()
            .filter(is_whole)
            .map(|record| proof::device(self.newest(&record.identity, &record.device), record).unwrap());
        let account = change.account.as_ref();
        let opens = opens.chain(account.map(|record| {
            let before = self.accounts.iter().rev().find(|row| row.identity == record.identity);
            proof::account(before, record).unwrap()
        }));
        for open in opens {
            let Open::Made(witness, cause) = open else { continue };
            let found = match witness {
                Witness::Account => account.is_some_and(|record| record.cause.is_request(&cause)),
                Witness::Device(device) => change
                    .devices
                    .iter()
                    .any(|record| record.device == device && record.cause.is_request(&cause)),
            };
            assert!(found, "{witness:?} has no record of the same request");
        }
    }

    pub(super) fn device(&self, phone: &Phone) -> Option<&DeviceRecord> {
        self.newest(&phone.identity, &phone.device)
    }

    fn newest(&self, identity: &Digest, device: &Digest) -> Option<&DeviceRecord> {
        self.devices.iter().rev().find(|row| row.identity == *identity && row.device == *device)
    }

    pub(super) fn account(&self, identity: &Digest) -> Option<&AccountRecord> {
        self.accounts.iter().rev().find(|row| row.identity == *identity)
    }

    /// The view with what is read once the proof holds.
    fn completed(&self, view: View, needs: &Needs) -> View {
        let firsts = self.devices.iter().filter(|row| row.identity == needs.identity);
        let firsts: Vec<_> = firsts.filter(|row| row.version.sequence_number == 0).collect();
        let recovered = self.accounts.iter().rev().find(|row| row.revealed.is_some());
        let since = |row: &&&DeviceRecord| {
            recovered.is_none_or(|recovery| row.version.created_at >= recovery.version.created_at)
        };
        let newest = |row: &&DeviceRecord| self.newest(&needs.identity, &row.device).cloned();
        match needs.devices {
            Devices::Unneeded => view,
            Devices::Counted => View { device_count: Some(firsts.iter().filter(since).count()), ..view },
            Devices::Listed => {
                let intact = firsts.iter().filter_map(newest).collect();
                View { devices: Some(Listed { intact, damaged: self.damaged.clone() }), ..view }
            }
        }
    }

    pub(super) fn view(&self, needs: &Needs) -> View {
        let of_device = |row: &&DeviceRecord| row.identity == needs.identity && row.device == needs.device;
        let revealed_next = |row: &DeviceRecord| row.public_key.digest() == needs.next;
        let newest = |device: &Digest| self.newest(&needs.identity, device).cloned();
        let mine = |row: &&AccountRecord| row.identity == needs.identity;
        let revealed: Vec<_> = self.accounts.iter().filter(mine).filter_map(|row| row.revealed).collect();
        let is_spent = |key: Option<Digest>| key.is_some_and(|key| revealed.contains(&key));
        let firsts_elsewhere = self.devices.iter().filter(|row| row.identity != needs.identity);
        let firsts_elsewhere = firsts_elsewhere.filter(|row| row.version.sequence_number == 0);
        let registrations = firsts_elsewhere.filter(|row| Some(row.device) == needs.newcomer);
        let registrations: Vec<_> = registrations.map(|row| operation_of(&row.cause)).collect();
        View {
            account: self.account(&needs.identity).cloned(),
            ban: self.ban.clone(),
            device: newest(&needs.device),
            key_spent: self.devices.iter().filter(of_device).any(|row| row.public_key == needs.public_key),
            next_spent: self.devices.iter().filter(of_device).any(revealed_next),
            other: needs.other.and_then(|other| newest(&other)),
            held_elsewhere: !registrations.is_empty(),
            recovered_elsewhere: registrations.contains(&Operation::AccountRecover),
            recovery_spent: is_spent(needs.recovery),
            committed_spent: is_spent(needs.committed),
            device_count: None,
            devices: None,
        }
    }
}
