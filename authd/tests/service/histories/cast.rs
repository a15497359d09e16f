//! The devices of a history, their keys, and the requests that they make with them.

use std::collections::BTreeMap;
use std::sync::Arc;

use authd::operation::order::{Order, Which};
use authd::record::BanEnd;
use keychain::message::{self, Operation, Request, Verified};
use keychain::{Digest, Nonce, PublicKey, SigningKey};
use tests::craft::{self, Device, Keys, Session, message as signed, same};

use super::call::{Asked, Opening};
use super::plan::{Deed, Kind, SLOTS, Who};

/// What all clients of a history know together. An answer that one of them waits for is not in it yet.
pub(super) struct Cast {
    accounts: Vec<Account>,
    devices: BTreeMap<Who, Known>,
    challenges: Vec<(Digest, Nonce)>,
    sent: Vec<Arc<Sent>>,
    orders: usize,
}

struct Account {
    identity: Digest,
    creation: String,
    founder: SigningKey,
    /// The newest recovery key.
    recovery: SigningKey,
}

struct Known {
    /// The keys that the device begins with.
    first: Keys,
    /// The keys before the newest, once there were any.
    before: Option<Keys>,
    device: Device,
    session_before: Option<Session>,
}

/// A request that can be sent, any number of times.
pub(super) struct Sent {
    pub(super) to: To,
    /// What is learned from its answer.
    gains: Gains,
}

/// Where a request goes.
pub(super) enum To {
    /// An operation, its `payload.request`, and the key that signs.
    Device { operation: Operation, request: String, signer: SigningKey, challenge_of: Option<Digest> },
    /// The admin socket.
    Operator { path: &'static str, body: String, identity: Digest, order: Order, reason: String },
}

enum Gains {
    Keys { who: Who, keys: Keys, recovery: Option<SigningKey> },
    Newcomer { who: Who, keys: Keys, recovery: SigningKey },
    Nothing,
    Session { who: Who, keys: Keys },
}

impl Cast {
    /// So many accounts, none of which is created yet, and devices that could belong to any of them.
    pub(super) fn of(accounts: usize) -> Self {
        let first: Vec<Device> = (0..SLOTS).map(|_| Device::draw()).collect();
        let account = |founder: &Device| Account {
            identity: founder.identity,
            creation: founder.create_request(),
            founder: same(&founder.keys.current),
            recovery: same(&founder.recovery),
        };
        let all: Vec<_> = first.iter().take(accounts).map(account).collect();
        let mut devices = BTreeMap::new();
        for (slot, device) in first.iter().enumerate() {
            for (place, account) in all.iter().enumerate() {
                let known = Known::new(account, copy(&device.keys));
                devices.insert(Who { slot, account: place }, known);
            }
        }
        Self { accounts: all, devices, challenges: Vec::new(), sent: Vec::new(), orders: 0 }
    }

    /// The account that a device is to open a session of.
    pub(super) fn identity(&self, who: Who) -> Digest {
        self.accounts[who.account].identity
    }

    /// All accounts.
    pub(super) fn identities(&self) -> Vec<Digest> {
        self.accounts.iter().map(|account| account.identity).collect()
    }

    /// Remembers a challenge.
    pub(super) fn learn(&mut self, identity: Digest, challenge: Nonce) {
        self.challenges.push((identity, challenge));
    }

    /// The request that a deed leads to, as far as it can be made.
    pub(super) fn request(&mut self, deed: Deed) -> Option<Arc<Sent>> {
        if let Deed::Again { back, refresh } = deed {
            let mut known = self.sent.iter().rev().filter(|sent| !refresh || sent.is_refresh());
            return known.nth(back).map(Arc::clone);
        }
        let sent = Arc::new(self.make(deed)?);
        // An order that is given again is another one.
        if matches!(sent.to, To::Device { .. }) {
            self.sent.push(Arc::clone(&sent));
        }
        Some(sent)
    }

    fn make(&mut self, deed: Deed) -> Option<Sent> {
        match deed {
            Deed::Again { .. } => None,
            Deed::Change(who) => {
                let recovery = craft::key();
                let next = same(&recovery);
                let change = |by: &Device, keys: &Keys| by.change_request(keys, &next);
                self.gated(who, false, Operation::RecoveryChange, Some(recovery), change)
            }
            Deed::Create(account) => {
                let Account { creation, founder, .. } = self.accounts.get(account)?;
                let (request, signer) = (creation.clone(), same(founder));
                Some(Sent::by_device(Operation::AccountCreate, request, signer, Gains::Nothing))
            }
            Deed::Delete(who) => {
                self.gated(who, false, Operation::AccountDelete, None, Device::rotate_request)
            }
            Deed::Link { by, new } => {
                let new = self.devices.get(&Who { slot: new, account: by.account })?.newcomer();
                let container = new.link_container();
                let link = |by: &Device, keys: &Keys| by.link_request(keys, &container);
                self.gated(by, false, Operation::DeviceLink, None, link)
            }
            Deed::Open { who, earlier } => self.open(who, earlier),
            Deed::Order { account, order } => self.order(account, order),
            Deed::Recover { who, fresh } => {
                let account = self.accounts.get(who.account)?;
                let keys = if fresh { Keys::draw() } else { copy(&self.devices.get(&who)?.first) };
                let new = Known::new(account, keys).device;
                let (next, signer) = (craft::key(), same(&account.recovery));
                let request = new.recover_request(&next);
                let gains = Gains::Newcomer { who, keys: new.keys, recovery: next };
                Some(Sent::by_device(Operation::AccountRecover, request, signer, gains))
            }
            Deed::Refresh { who, stale } => {
                let known = self.devices.get(&who)?;
                let session =
                    if stale { known.session_before.as_ref()? } else { known.device.session.as_ref()? };
                let keys = session.keys.ahead();
                let (request, signer) = (session.refresh_request(&keys), same(&keys.current));
                let gains = Gains::Session { who, keys };
                Some(Sent::by_device(Operation::SessionRefresh, request, signer, gains))
            }
            Deed::Rotate { who, stale } => {
                self.gated(who, stale, Operation::DeviceRotate, None, Device::rotate_request)
            }
            Deed::Unlink { by, slot } => {
                let target = self.devices.get(&Who { slot, account: by.account })?.device.device;
                let unlink = |by: &Device, keys: &Keys| by.unlink_request(keys, &target);
                self.gated(by, false, Operation::DeviceUnlink, None, unlink)
            }
        }
    }

    fn gated(
        &self,
        who: Who,
        stale: bool,
        operation: Operation,
        recovery: Option<SigningKey>,
        request: impl FnOnce(&Device, &Keys) -> String,
    ) -> Option<Sent> {
        let known = self.devices.get(&who)?;
        let keys = if stale { known.before.as_ref()?.ahead() } else { known.device.keys.ahead() };
        let (request, signer) = (request(&known.device, &keys), same(&keys.current));
        Some(Sent::by_device(operation, request, signer, Gains::Keys { who, keys, recovery }))
    }

    /// The challenge is the newest, or an earlier one.
    fn open(&self, who: Who, earlier: Option<usize>) -> Option<Sent> {
        let (identity, challenge) = *self.challenges.iter().rev().nth(earlier.unwrap_or(0))?;
        let (device, keys) = (&self.devices.get(&who)?.device, Keys::draw());
        let request = device.session_request(&keys, &challenge.to_string());
        let signer = same(&device.keys.current);
        let to =
            To::Device { operation: Operation::SessionCreate, request, signer, challenge_of: Some(identity) };
        Some(Sent { to, gains: Gains::Session { who, keys } })
    }

    fn order(&mut self, account: usize, kind: Kind) -> Option<Sent> {
        let identity = self.accounts.get(account)?.identity;
        let device = |slot| self.devices.get(&Who { slot, account }).map(|known| known.device.device);
        let role = "moderator";
        let (path, order, more) = match kind {
            Kind::Ban => ("/ban", Order::Ban(BanEnd::Never), String::new()),
            Kind::Delete => ("/account/delete", Order::AccountDelete, String::new()),
            Kind::Grant => {
                ("/roles/grant", Order::RoleGrant(role.to_owned()), format!(r#","role":"{role}""#))
            }
            Kind::Restore => ("/account/restore", Order::AccountRestore, String::new()),
            Kind::Revoke(slot) => {
                let one = device(slot)?;
                ("/devices/revoke", Order::DeviceRevoke(Which::One(one)), format!(r#","device":"{one}""#))
            }
            Kind::RevokeAllBut(slot) => {
                let kept = device(slot)?;
                let more = format!(r#","allBut":"{kept}""#);
                ("/devices/revoke", Order::DeviceRevoke(Which::AllBut(kept)), more)
            }
            Kind::Unban => ("/unban", Order::Unban, String::new()),
            Kind::Withdraw => {
                ("/roles/revoke", Order::RoleRevoke(role.to_owned()), format!(r#","role":"{role}""#))
            }
        };
        self.orders += 1;
        let reason = format!("order {}", self.orders);
        let body = format!(r#"{{"identity":"{identity}","reason":"{reason}"{more}}}"#);
        Some(Sent { to: To::Operator { path, body, identity, order, reason }, gains: Gains::Nothing })
    }

    /// Takes over what a request leads to, once it was answered (or is believed to have been carried out).
    pub(super) fn gain(&mut self, sent: &Sent, token: Option<&str>) {
        match &sent.gains {
            Gains::Nothing => {}
            Gains::Keys { who, keys, recovery } => {
                if let Some(recovery) = recovery {
                    self.accounts[who.account].recovery = same(recovery);
                }
                let known = self.devices.get_mut(who).unwrap();
                // An exact repeat, or one that was overtaken, is no news.
                if known.device.keys.rotation_hash() == keys.public_key().digest() {
                    known.before = Some(std::mem::replace(&mut known.device.keys, copy(keys)));
                }
            }
            Gains::Newcomer { who, keys, recovery } => {
                let account = &mut self.accounts[who.account];
                account.recovery = same(recovery);
                self.devices.insert(*who, Known::new(account, copy(keys)));
            }
            Gains::Session { who, keys } => {
                let Some(token) = token else { return };
                let known = self.devices.get_mut(who).unwrap();
                let session = Session { keys: copy(keys), token: token.to_owned() };
                known.session_before = known.device.session.replace(session);
            }
        }
    }
}

impl Known {
    fn new(account: &Account, keys: Keys) -> Self {
        let device = Device {
            identity: account.identity,
            device: keys.device(),
            keys: copy(&keys),
            recovery: same(&account.recovery),
            session: None,
        };
        Self { first: keys, before: None, device, session_before: None }
    }

    /// The device as it begins.
    fn newcomer(&self) -> Device {
        let Device { identity, device, recovery, .. } = &self.device;
        let (keys, recovery) = (copy(&self.first), same(recovery));
        Device { identity: *identity, device: *device, keys, recovery, session: None }
    }
}

impl Sent {
    fn by_device(operation: Operation, request: String, signer: SigningKey, gains: Gains) -> Self {
        Self { to: To::Device { operation, request, signer, challenge_of: None }, gains }
    }

    fn is_refresh(&self) -> bool {
        matches!(self.to, To::Device { operation: Operation::SessionRefresh, .. })
    }

    /// The path, and the body with a fresh nonce.
    pub(super) fn message(&self) -> (&'static str, String) {
        match &self.to {
            To::Device { operation, request, signer, .. } => (operation.path(), signed(request, signer)),
            To::Operator { path, body, .. } => (*path, body.clone()),
        }
    }

    /// The same as the checker sees it.
    pub(super) fn asked(&self, body: &str) -> Asked {
        match &self.to {
            To::Device { operation: Operation::SessionCreate, request, signer, challenge_of } => {
                Asked::Open(opening(body, request, signer.public_key(), challenge_of.unwrap()))
            }
            To::Device { operation, .. } => {
                let verified = verified(*operation, body);
                match operation {
                    Operation::SessionRefresh => Asked::Refresh(verified),
                    _ => Asked::Change(verified),
                }
            }
            To::Operator { identity, order, reason, .. } => {
                Asked::Order { identity: *identity, order: order.clone(), reason: reason.clone() }
            }
        }
    }
}

fn opening(body: &str, request: &str, signer: PublicKey, identity: Digest) -> Opening {
    let unverified = message::parse(Operation::SessionCreate, body.as_bytes()).unwrap();
    let Request::SessionCreate { access, device, challenge } = unverified.request() else { unreachable!() };
    let cause = Digest::of_parts(&[Operation::SessionCreate.path(), request]);
    Opening { identity, device: *device, challenge: *challenge, access: *access, signer, cause }
}

/// Every request of a history is sound in itself.
fn verified(operation: Operation, body: &str) -> Verified {
    message::parse(operation, body.as_bytes()).unwrap().verify().unwrap()
}

fn copy(keys: &Keys) -> Keys {
    Keys { current: same(&keys.current), next: same(&keys.next) }
}
