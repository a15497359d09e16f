//! What a device keeps, and how an answer changes it.

use std::mem;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Device, secret::Key};
use crate::{
    cesr::{Digest, Nonce},
    error::{Code, Refusal},
    json::Object,
    key::SigningKey,
    message::{Authentication, Operation},
    token::Token,
};

/// A device of an account, and its keys.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Account {
    pub(super) identity: Digest,
    pub(super) device: Digest,
    /// The key that the auth server holds as current; it opens sessions.
    pub(super) current: Key,
    /// The key that the auth server holds the digest of; the next gated operation reveals it.
    pub(super) next: Key,
    /// For a device that joins: its container, until an answer shows that it has been linked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) container: Option<String>,
}

impl Account {
    /// The account's device as it begins (`PROTOCOL.md#derivations`).
    pub(super) fn first(identity: impl FnOnce(&str, &str) -> Digest, current: Key, next: Key) -> Self {
        let (public_key, rotation_hash) = (current.public_key().to_string(), next.digest().to_string());
        let device = Digest::of_parts(&[&public_key, &rotation_hash]);
        let identity = identity(&public_key, &rotation_hash);
        Self { identity, device, current, next, container: None }
    }

    /// This device with its first keys.
    pub(super) fn beginning(&self) -> Authentication {
        Authentication {
            device: self.device,
            identity: self.identity,
            public_key: self.current.public_key(),
            rotation_hash: self.next.digest(),
        }
    }

    /// This device revealing its next key, and committing to another.
    pub(super) fn revealing(&self, rotation_hash: Digest) -> Authentication {
        Authentication {
            device: self.device,
            identity: self.identity,
            public_key: self.next.public_key(),
            rotation_hash,
        }
    }
}

/// A session: its token and keys.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Session {
    /// Signs access requests; the token names it.
    pub(super) current: Key,
    /// Refreshes the session; the token names its digest.
    pub(super) next: Key,
    pub(super) token: String,
}

/// An operation that waits for its answer.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Pending {
    #[serde(serialize_with = "write_path", deserialize_with = "read_path")]
    pub(super) operation: Operation,
    /// The bytes of `payload.request`: the same each time it is sent.
    pub(super) request: String,
    /// The nonce of the last time that it was sent.
    pub(super) nonce: Nonce,
    pub(super) effect: Effect,
}

/// What an answer will change.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) enum Effect {
    /// The device becomes one of this account (creation; recovery, which this key signs).
    Arrive {
        account: Box<Account>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        recovery_key: Option<Key>,
    },
    /// There will be a challenge.
    Challenge,
    /// There will be a session with these keys.
    Open { current: Key, next: Key },
    /// The session's next key becomes current, and this one next.
    Renew { next: Key },
    /// The device's next key becomes current and this one next, or (`leaves`) the device forgets its account.
    Rotate { next: Key, leaves: bool },
}

/// What a verified answer says.
pub(super) enum Answer {
    Challenge(Nonce),
    Done,
    Token(String),
}

impl Device {
    /// The key that signs a pending request; none for a session request.
    pub(super) fn signer<'a>(&'a self, pending: &'a Pending) -> Result<Option<&'a SigningKey>, Refusal> {
        let key = match &pending.effect {
            Effect::Challenge => return Ok(None),
            Effect::Arrive { recovery_key: Some(key), .. } => Some(key),
            Effect::Arrive { account, recovery_key: None } => Some(&account.current),
            Effect::Open { .. } => self.account.as_ref().map(|account| &account.current),
            Effect::Renew { .. } => self.session.as_ref().map(|session| &session.next),
            Effect::Rotate { .. } => self.account.as_ref().map(|account| &account.next),
        };
        key.map(Key::signing).map(Some).ok_or(BROKEN)
    }

    /// Reads what the auth server answered to a pending operation, without believing that it fits.
    pub(super) fn read(&self, pending: &Pending, response: &str) -> Result<Answer, Refusal> {
        let mut object = Object::parse(response)?;
        match &pending.effect {
            Effect::Challenge => {
                object.object("authentication")?.parsed("nonce", Nonce::parse).map(Answer::Challenge)
            }
            Effect::Open { current, next } => self.token(&mut object, current, next),
            Effect::Renew { next } => {
                let session = self.session.as_ref().ok_or(BROKEN)?;
                self.token(&mut object, &session.next, next)
            }
            Effect::Arrive { .. } | Effect::Rotate { .. } => Ok(Answer::Done),
        }
    }

    /// A token must be of this device and these keys; who issued it is for app servers to judge.
    fn token(&self, object: &mut Object<'_>, current: &Key, next: &Key) -> Result<Answer, Refusal> {
        let account = self.account.as_ref().ok_or(BROKEN)?;
        let text = object.object("access")?.string("token")?;
        let token = Token::parse(text)?;
        let claims = token.claims();
        let held = (account.device, account.identity, current.public_key(), next.digest());
        if (claims.device, claims.identity, claims.public_key, claims.rotation_hash) != held {
            return Err(Refusal::new(Code::InvalidToken, "the token is of another device, account or key"));
        }
        Ok(Answer::Token(text.to_owned()))
    }

    /// Takes the new state.
    pub(super) fn commit(&mut self, effect: Effect, answer: Answer) -> Result<(), Refusal> {
        match (effect, answer) {
            (Effect::Arrive { account, .. }, Answer::Done) => self.account = Some(*account),
            (Effect::Rotate { leaves: true, .. }, Answer::Done) => {
                self.account = None;
                self.session = None;
                self.challenge = None;
            }
            (Effect::Rotate { next, leaves: false }, Answer::Done) => {
                let account = self.account.as_mut().ok_or(BROKEN)?;
                account.current = mem::replace(&mut account.next, next);
                account.container = None;
            }
            (Effect::Challenge, Answer::Challenge(nonce)) => self.challenge = Some(nonce),
            (Effect::Open { current, next }, Answer::Token(token)) => {
                self.session = Some(Session { current, next, token });
                self.account.as_mut().ok_or(BROKEN)?.container = None;
            }
            (Effect::Renew { next }, Answer::Token(token)) => {
                let session = self.session.as_mut().ok_or(BROKEN)?;
                session.current = mem::replace(&mut session.next, next);
                session.token = token;
            }
            _ => return Err(BROKEN),
        }
        Ok(())
    }
}

/// A state that no command makes: the saved text was tampered with.
pub(super) const BROKEN: Refusal = Refusal::new(Code::Internal, "the device's state contradicts itself");

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn write_path<S: Serializer>(operation: &Operation, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(operation.path())
}

fn read_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Operation, D::Error> {
    let path = String::deserialize(deserializer)?;
    Operation::from_path(&path).ok_or_else(|| de::Error::custom("no operation has this path"))
}
