//! A device made by hand: every message is put together from its text, so that a test can put it
//! together wrongly. `keychain::device` is what a real device uses; this is what an attacker uses.
//!
//! Requests are spelled as `PROTOCOL.md#messages` has them, members in alphabetical order.

use std::time::SystemTime;

use keychain::cesr::{Digest, Nonce, PublicKey};
use keychain::key::SigningKey;
use keychain::signed;
use keychain::time::Timestamp;

use crate::http::{Answer, Http};

/// Fresh entropy.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    bytes
}

/// A fresh key pair.
pub fn key() -> SigningKey {
    // A seed that is no scalar comes once in 2^32 draws.
    SigningKey::from_seed(&random()).unwrap()
}

/// The same key pair again.
pub fn same(key: &SigningKey) -> SigningKey {
    SigningKey::from_seed(key.seed()).unwrap()
}

/// A fresh nonce.
pub fn nonce() -> Nonce {
    Nonce::from_bytes(random())
}

/// The clock.
pub fn now() -> Timestamp {
    SystemTime::now().into()
}

/// `{"payload":…,"signature":…}` with the signature of `key`.
pub fn seal(payload: &str, key: &SigningKey) -> String {
    signed::seal(payload, &key.sign(payload.as_bytes()).unwrap())
}

/// `{"access":{"nonce":…},"request":…}` with a fresh nonce.
pub fn payload(request: &str) -> String {
    format!(r#"{{"access":{{"nonce":"{}"}},"request":{request}}}"#, nonce())
}

/// A whole signed request with a fresh nonce.
pub fn message(request: &str, key: &SigningKey) -> String {
    seal(&payload(request), key)
}

/// A key pair in use and the one committed to.
pub struct Keys {
    /// In use.
    pub current: SigningKey,
    /// Committed to by its digest.
    pub next: SigningKey,
}

impl Keys {
    /// A fresh pair of pairs.
    pub fn draw() -> Self {
        Self { current: key(), next: key() }
    }

    /// One step ahead: the committed key in use, a fresh commitment.
    #[must_use]
    pub fn ahead(&self) -> Self {
        Self { current: same(&self.next), next: key() }
    }

    /// The key in use.
    pub fn public_key(&self) -> PublicKey {
        self.current.public_key()
    }

    /// The commitment.
    pub fn rotation_hash(&self) -> Digest {
        self.next.public_key().digest()
    }

    /// The device that has these as its first keys.
    pub fn device(&self) -> Digest {
        Digest::of_parts(&[&self.public_key().to_string(), &self.rotation_hash().to_string()])
    }

    /// `{"publicKey":…,"rotationHash":…}`
    pub fn access(&self) -> String {
        format!(r#"{{"publicKey":"{}","rotationHash":"{}"}}"#, self.public_key(), self.rotation_hash())
    }
}

/// A device of an account, with what it knows.
pub struct Device {
    /// The account.
    pub identity: Digest,
    /// This device.
    pub device: Digest,
    /// Its authentication keys.
    pub keys: Keys,
    /// The account's recovery key.
    pub recovery: SigningKey,
    /// Its session, once it has one.
    pub session: Option<Session>,
}

/// A session: access keys and the token that names them.
pub struct Session {
    /// Access keys.
    pub keys: Keys,
    /// The token.
    pub token: String,
}

impl Device {
    /// A device with fresh keys, whose account is not created yet.
    pub fn draw() -> Self {
        let (keys, recovery) = (Keys::draw(), key());
        let identity = Digest::of_parts(&[
            &keys.public_key().to_string(),
            &keys.rotation_hash().to_string(),
            &recovery.public_key().digest().to_string(),
        ]);
        Self { identity, device: keys.device(), keys, recovery, session: None }
    }

    /// A further device for the same account, not linked yet.
    #[must_use]
    pub fn another(&self) -> Self {
        let keys = Keys::draw();
        let recovery = same(&self.recovery);
        Self { identity: self.identity, device: keys.device(), keys, recovery, session: None }
    }

    /// The `authentication` member for `keys`.
    pub fn authentication(&self, keys: &Keys) -> String {
        self.authentication_with(keys, "")
    }

    /// The same with further members, which stand before `rotationHash` and end in a comma.
    fn authentication_with(&self, keys: &Keys, further: &str) -> String {
        format!(
            r#"{{"device":"{}","identity":"{}","publicKey":"{}",{further}"rotationHash":"{}"}}"#,
            self.device,
            self.identity,
            keys.public_key(),
            keys.rotation_hash()
        )
    }

    /// `/account/create`.
    pub fn create_request(&self) -> String {
        self.change_request(&self.keys, &self.recovery)
    }

    /// `/account/delete` and `/device/rotate`, which have the same bytes.
    pub fn rotate_request(&self, keys: &Keys) -> String {
        format!(r#"{{"authentication":{}}}"#, self.authentication(keys))
    }

    /// `/recovery/change`.
    pub fn change_request(&self, keys: &Keys, recovery: &SigningKey) -> String {
        let further = format!(r#""recoveryHash":"{}","#, recovery.public_key().digest());
        format!(r#"{{"authentication":{}}}"#, self.authentication_with(keys, &further))
    }

    /// `/account/recover` by this new device, revealing the account's recovery key.
    pub fn recover_request(&self, next_recovery: &SigningKey) -> String {
        let (hash, key) = (next_recovery.public_key().digest(), self.recovery.public_key());
        let further = format!(r#""recoveryHash":"{hash}","recoveryKey":"{key}","#);
        format!(r#"{{"authentication":{}}}"#, self.authentication_with(&self.keys, &further))
    }

    /// The container by which this new device asks to be linked.
    pub fn link_container(&self) -> String {
        seal(&self.rotate_request(&self.keys), &self.keys.current)
    }

    /// `/device/link` of the device that made `container`.
    pub fn link_request(&self, keys: &Keys, container: &str) -> String {
        format!(r#"{{"authentication":{},"link":{container}}}"#, self.authentication(keys))
    }

    /// `/device/unlink`.
    pub fn unlink_request(&self, keys: &Keys, device: &Digest) -> String {
        format!(r#"{{"authentication":{},"link":{{"device":"{device}"}}}}"#, self.authentication(keys))
    }

    /// `/session/create` answering `challenge`, for new access keys.
    pub fn session_request(&self, access: &Keys, challenge: &str) -> String {
        format!(
            r#"{{"access":{},"authentication":{{"device":"{}","nonce":"{challenge}"}}}}"#,
            access.access(),
            self.device
        )
    }

    /// Creates an account on `auth`.
    pub async fn create(auth: &Http) -> Self {
        let device = Self::draw();
        let answer =
            auth.post("/account/create", message(&device.create_request(), &device.keys.current)).await;
        assert_eq!(answer.response(), serde_json::json!({}));
        device
    }

    /// Sends a rotation-gated request, made from the keys one step ahead; on success they are taken
    /// into use.
    pub async fn gated(
        &mut self,
        auth: &Http,
        path: &str,
        request: impl FnOnce(&Self, &Keys) -> String,
    ) -> Answer {
        let keys = self.keys.ahead();
        let answer = auth.post(path, message(&request(self, &keys), &keys.current)).await;
        if answer.status == 200 {
            self.keys = keys;
        }
        answer
    }

    /// Rotates.
    pub async fn rotate(&mut self, auth: &Http) -> Answer {
        self.gated(auth, "/device/rotate", Self::rotate_request).await
    }

    /// Links a further device and returns it.
    pub async fn link(&mut self, auth: &Http) -> Self {
        let other = self.another();
        let container = other.link_container();
        let answer =
            self.gated(auth, "/device/link", |device, keys| device.link_request(keys, &container)).await;
        assert_eq!(answer.response(), serde_json::json!({}));
        other
    }

    /// Asks for a challenge for the account.
    pub async fn challenge(&self, auth: &Http) -> String {
        challenge_of(&self.try_challenge(auth).await)
    }

    /// The same, where it may be refused.
    async fn try_challenge(&self, auth: &Http) -> Answer {
        let request = format!(r#"{{"authentication":{{"identity":"{}"}}}}"#, self.identity);
        auth.post("/session/request", format!(r#"{{"payload":{}}}"#, payload(&request))).await
    }

    /// Tries to open a session.
    pub async fn try_session(&mut self, auth: &Http) -> Answer {
        let challenge = self.try_challenge(auth).await;
        if challenge.status != 200 {
            return challenge;
        }
        let (challenge, keys) = (challenge_of(&challenge), Keys::draw());
        let answer = auth
            .post("/session/create", message(&self.session_request(&keys, &challenge), &self.keys.current))
            .await;
        if answer.status == 200 {
            self.session = Some(Session { token: token_of(&answer), keys });
        }
        answer
    }

    /// Opens a session.
    pub async fn open_session(&mut self, auth: &Http) -> &Session {
        self.try_session(auth).await.response();
        self.session()
    }

    /// The session that was opened.
    pub fn session(&self) -> &Session {
        self.session.as_ref().expect("an open session")
    }

    /// Tries to refresh; on success the new access keys and token are taken into use.
    pub async fn try_refresh(&mut self, auth: &Http) -> Answer {
        let keys = self.session().keys.ahead();
        let answer = auth
            .post("/session/refresh", message(&self.session().refresh_request(&keys), &keys.current))
            .await;
        if answer.status == 200 {
            self.session = Some(Session { token: token_of(&answer), keys });
        }
        answer
    }
}

impl Session {
    /// `/session/refresh`.
    pub fn refresh_request(&self, keys: &Keys) -> String {
        format!(
            r#"{{"access":{{"publicKey":"{}","rotationHash":"{}","token":"{}"}}}}"#,
            keys.public_key(),
            keys.rotation_hash(),
            self.token
        )
    }

    /// An access request around `request`, made now.
    pub fn access(&self, request: &str) -> String {
        self.access_with(request, &nonce(), &now().to_string(), &self.token)
    }

    /// An access request whose parts are chosen.
    pub fn access_with(&self, request: &str, nonce: &Nonce, timestamp: &str, token: &str) -> String {
        let access = format!(r#"{{"nonce":"{nonce}","timestamp":"{timestamp}","token":"{token}"}}"#);
        seal(&format!(r#"{{"access":{access},"request":{request}}}"#), &self.keys.current)
    }
}

fn challenge_of(answer: &Answer) -> String {
    let response = answer.response();
    response.pointer("/authentication/nonce").and_then(|nonce| nonce.as_str()).unwrap().to_owned()
}

fn token_of(answer: &Answer) -> String {
    let response = answer.response();
    response.pointer("/access/token").and_then(|token| token.as_str()).expect("a token").to_owned()
}
