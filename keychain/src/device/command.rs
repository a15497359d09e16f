//! The commands: each draws its keys, leaves the device waiting, and returns what to send.

use super::secret::{self, Entropy, Key};
use super::state::{Account, Effect, Pending, Session};
use super::{Device, Outgoing};
use crate::{
    cesr::Digest,
    error::{Code, Refusal},
    key::SigningKey,
    message::{self, AccessKeys, Authentication, Operation, body},
};

impl Device {
    /// Creates an account with this device as its first (`PROTOCOL.md#account-create`). `recovery_hash` is
    /// the digest of the recovery key, which the user keeps elsewhere.
    pub fn create(
        &mut self,
        recovery_hash: &Digest,
        entropy: &mut impl Entropy,
    ) -> Result<Outgoing, Refusal> {
        self.accountless()?;
        let recovery = recovery_hash.to_string();
        let account = Account::first(
            |public_key, rotation_hash| Digest::of_parts(&[public_key, rotation_hash, &recovery]),
            Key::draw(entropy)?,
            Key::draw(entropy)?,
        );
        let account = Box::new(account);
        let request = body::with_recovery_hash(&account.beginning(), recovery_hash);
        let effect = Effect::Arrive { account, recovery_key: None };
        self.begin(Pending::new(Operation::AccountCreate, request, effect, entropy))
    }

    /// Takes an account over with its recovery key: this device becomes its only one
    /// (`PROTOCOL.md#account-recover`). `recovery_hash` is the digest of the next recovery key.
    pub fn recover(
        &mut self,
        identity: &Digest,
        recovery_key: &SigningKey,
        recovery_hash: &Digest,
        entropy: &mut impl Entropy,
    ) -> Result<Outgoing, Refusal> {
        self.accountless()?;
        let account = Box::new(Account::first(|_, _| *identity, Key::draw(entropy)?, Key::draw(entropy)?));
        let request = body::recover(&account.beginning(), recovery_hash, &recovery_key.public_key());
        let recovery_key = Some(Key::copy_of(recovery_key)?);
        let effect = Effect::Arrive { account, recovery_key };
        self.begin(Pending::new(Operation::AccountRecover, request, effect, entropy))
    }

    /// Makes this device ready to be linked to an account, and returns the container for an existing device
    /// of it (`PROTOCOL.md#device-link`). Save this device before the container leaves it. Whether it was
    /// linked shows when it opens a session.
    pub fn join(&mut self, identity: &Digest, entropy: &mut impl Entropy) -> Result<String, Refusal> {
        self.accountless()?;
        let mut account = Account::first(|_, _| *identity, Key::draw(entropy)?, Key::draw(entropy)?);
        let container = message::link_container(account.current.signing(), &account.beginning())?;
        account.container = Some(container.clone());
        self.account = Some(account);
        Ok(container)
    }

    /// Links the device that made `container` to this device's account.
    pub fn link(&mut self, container: &str, entropy: &mut impl Entropy) -> Result<Outgoing, Refusal> {
        self.reveal(Operation::DeviceLink, false, entropy, |by| body::link(by, container))
    }

    /// Removes a device of this account. If it is this one, it forgets its account with the answer.
    pub fn unlink(&mut self, device: &Digest, entropy: &mut impl Entropy) -> Result<Outgoing, Refusal> {
        if self.device() != Some(*device) {
            return self.reveal(Operation::DeviceUnlink, false, entropy, |by| body::unlink(by, device));
        }
        // Nothing is to follow: the commitment left behind is of no key (`PROTOCOL.md#device-unlink`).
        self.reveal(Operation::DeviceUnlink, true, entropy, |by| {
            let rotation_hash = Digest::of(by.rotation_hash.to_string());
            body::unlink(&Authentication { rotation_hash, ..*by }, device)
        })
    }

    /// Replaces this device's key by the one committed to.
    pub fn rotate(&mut self, entropy: &mut impl Entropy) -> Result<Outgoing, Refusal> {
        self.reveal(Operation::DeviceRotate, false, entropy, body::of_device)
    }

    /// Replaces the commitment to the account's recovery key.
    pub fn change_recovery(
        &mut self,
        recovery_hash: &Digest,
        entropy: &mut impl Entropy,
    ) -> Result<Outgoing, Refusal> {
        self.reveal(Operation::RecoveryChange, false, entropy, |by| {
            body::with_recovery_hash(by, recovery_hash)
        })
    }

    /// Deletes the account. The device forgets it with the answer.
    pub fn delete(&mut self, entropy: &mut impl Entropy) -> Result<Outgoing, Refusal> {
        self.reveal(Operation::AccountDelete, true, entropy, body::of_device)
    }

    /// Asks for a challenge, the first half of opening a session. [`Self::session_create`] is the second.
    pub fn session_request(&mut self, entropy: &mut impl Entropy) -> Result<Outgoing, Refusal> {
        self.idle()?;
        let request = body::session_request(&self.account()?.identity);
        self.begin(Pending::new(Operation::SessionRequest, request, Effect::Challenge, entropy))
    }

    /// Answers the challenge and opens a session, which replaces the one before.
    pub fn session_create(&mut self, entropy: &mut impl Entropy) -> Result<Outgoing, Refusal> {
        self.idle()?;
        let account = self.account()?;
        let challenge =
            self.challenge.ok_or(Refusal::new(Code::Conflict, "a challenge is asked for first"))?;
        let (current, next) = (Key::draw(entropy)?, Key::draw(entropy)?);
        let access = AccessKeys { public_key: current.public_key(), rotation_hash: next.digest() };
        let request = body::session_create(&access, &account.device, &challenge);
        let effect = Effect::Open { current, next };
        let outgoing = self.begin(Pending::new(Operation::SessionCreate, request, effect, entropy))?;
        self.challenge = None; // it counts once
        Ok(outgoing)
    }

    /// Asks for the session's next token, revealing the session's next key.
    pub fn session_refresh(&mut self, entropy: &mut impl Entropy) -> Result<Outgoing, Refusal> {
        self.idle()?;
        let session = self.session()?;
        let next = Key::draw(entropy)?;
        let access = AccessKeys { public_key: session.next.public_key(), rotation_hash: next.digest() };
        let request = body::session_refresh(&access, &session.token);
        let effect = Effect::Renew { next };
        self.begin(Pending::new(Operation::SessionRefresh, request, effect, entropy))
    }

    /// An operation gated by a rotation (`PROTOCOL.md#rotation`).
    fn reveal(
        &mut self,
        operation: Operation,
        leaves: bool,
        entropy: &mut impl Entropy,
        request: impl FnOnce(&Authentication) -> String,
    ) -> Result<Outgoing, Refusal> {
        self.idle()?;
        let account = self.account()?;
        let next = Key::draw(entropy)?;
        let request = request(&account.revealing(next.digest()));
        let effect = Effect::Rotate { next, leaves };
        self.begin(Pending::new(operation, request, effect, entropy))
    }

    fn account(&self) -> Result<&Account, Refusal> {
        self.account.as_ref().ok_or(Refusal::new(Code::Conflict, "this device has no account"))
    }

    pub(super) fn session(&self) -> Result<&Session, Refusal> {
        self.session.as_ref().ok_or(Refusal::new(Code::Conflict, "this device has no session"))
    }

    fn accountless(&self) -> Result<(), Refusal> {
        self.idle()?;
        match self.account {
            Some(_) => Err(Refusal::new(Code::Conflict, "this device has an account: begin with a new one")),
            None => Ok(()),
        }
    }
}

impl Pending {
    fn new(operation: Operation, request: String, effect: Effect, entropy: &mut impl Entropy) -> Self {
        Self { operation, request, nonce: secret::nonce(entropy), effect }
    }
}
