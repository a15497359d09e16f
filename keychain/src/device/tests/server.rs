//! An auth server in a few lines: the rules of the ten operations over maps, and exact repeats.

use std::collections::BTreeMap;

use super::world::World;
use crate::{
    access,
    cesr::{Digest, Nonce, PublicKey},
    error::{Code, Refusal},
    key::VerifyingKey,
    limits,
    message::{self, AccessKeys, Authentication, Operation, Request, Verified},
    time::Timestamp,
    token::{Attributes, Claims, Token},
};

#[derive(Default)]
pub(super) struct Server {
    identities: BTreeMap<Digest, Identity>,
    challenges: BTreeMap<Nonce, (Digest, Timestamp)>,
    refreshes: BTreeMap<Digest, (Digest, String)>,
    /// Requests that changed something.
    pub(super) applied: Vec<Operation>,
}

struct Identity {
    recovery_hash: Digest,
    cause: Digest,
    devices: BTreeMap<Digest, Row>,
}

struct Row {
    public_key: PublicKey,
    rotation_hash: Digest,
    cause: Digest,
    revoked: bool,
}

impl Row {
    fn new(first: &Authentication, cause: Digest) -> Self {
        let Authentication { public_key, rotation_hash, .. } = *first;
        Self { public_key, rotation_hash, cause, revoked: false }
    }
}

/// Whether a request was applied now or before.
#[derive(PartialEq)]
enum Step {
    Applied,
    Repeated,
}

impl Server {
    pub(super) fn answer(
        &mut self,
        world: &World,
        operation: Operation,
        body: &[u8],
    ) -> Result<String, Refusal> {
        let unverified = message::parse(operation, body)?;
        let nonce = unverified.nonce();
        let response = match unverified.request() {
            Request::SessionRequest { identity } => self.challenge(*identity, world.now),
            Request::SessionCreate { device, challenge, .. } => {
                let (identity, key) = self.challenged(challenge, device, world.now)?;
                self.open(world, identity, &unverified.verify_with(&key)?)?
            }
            Request::SessionRefresh { .. } => self.refresh(world, &unverified.verify()?)?,
            _ => {
                let verified = unverified.verify()?;
                if self.keep(&verified)? == Step::Applied {
                    self.applied.push(operation);
                }
                "{}".to_owned()
            }
        };
        access::seal_response(&world.response_key, &nonce, &response)
    }

    fn keep(&mut self, verified: &Verified) -> Result<Step, Refusal> {
        let cause = verified.cause();
        match verified.request() {
            Request::AccountCreate { authentication, recovery_hash } => {
                self.create(authentication, *recovery_hash, cause)
            }
            Request::AccountRecover { authentication, recovery_hash, recovery_key } => {
                self.recover(authentication, *recovery_hash, recovery_key, cause)
            }
            Request::AccountDelete { authentication } => {
                let step = self.rotate(verified.operation(), authentication, cause)?;
                if step == Step::Applied {
                    let identity = self.identity(authentication)?;
                    identity.devices.values_mut().for_each(|row| row.revoked = true);
                }
                Ok(step)
            }
            Request::DeviceUnlink { authentication, device } => {
                self.row(authentication.identity, device)?;
                let step = self.rotate(verified.operation(), authentication, cause)?;
                self.row(authentication.identity, device)?.revoked = true;
                Ok(step)
            }
            Request::DeviceLink { authentication, link } => {
                let step = self.rotate(verified.operation(), authentication, cause)?;
                if step == Step::Applied {
                    let new = &link.authentication;
                    let identity = self.identity(authentication)?;
                    identity.devices.insert(new.device, Row::new(new, cause));
                }
                Ok(step)
            }
            Request::RecoveryChange { authentication, recovery_hash } => {
                let step = self.rotate(verified.operation(), authentication, cause)?;
                self.identity(authentication)?.recovery_hash = *recovery_hash;
                Ok(step)
            }
            Request::DeviceRotate { authentication } => {
                self.rotate(verified.operation(), authentication, cause)
            }
            _ => unreachable!("sessions are kept elsewhere"),
        }
    }

    fn create(&mut self, first: &Authentication, hash: Digest, cause: Digest) -> Result<Step, Refusal> {
        if let Some(identity) = self.identities.get(&first.identity) {
            return repeated(identity.cause == cause, Code::Conflict);
        }
        let devices = BTreeMap::from([(first.device, Row::new(first, cause))]);
        self.identities.insert(first.identity, Identity { recovery_hash: hash, cause, devices });
        Ok(Step::Applied)
    }

    fn recover(
        &mut self,
        new: &Authentication,
        hash: Digest,
        key: &PublicKey,
        cause: Digest,
    ) -> Result<Step, Refusal> {
        let identity = self.identity(new)?;
        if identity.cause == cause {
            return Ok(Step::Repeated);
        }
        if key.digest() != identity.recovery_hash {
            return Err(Refusal::new(Code::RotationMismatch, "another recovery key"));
        }
        identity.devices.values_mut().for_each(|row| row.revoked = true);
        identity.devices.insert(new.device, Row::new(new, cause));
        (identity.recovery_hash, identity.cause) = (hash, cause);
        Ok(Step::Applied)
    }

    fn rotate(&mut self, operation: Operation, by: &Authentication, cause: Digest) -> Result<Step, Refusal> {
        let row = self.row(by.identity, &by.device)?;
        if row.cause == cause {
            return Ok(Step::Repeated);
        }
        if row.revoked {
            return Err(UNKNOWN);
        }
        let held = (row.public_key, row.rotation_hash) == (by.public_key, by.rotation_hash);
        if held && operation == Operation::DeviceRotate {
            return Ok(Step::Repeated);
        }
        if by.public_key.digest() != row.rotation_hash {
            return Err(Refusal::new(Code::RotationMismatch, "another key"));
        }
        *row = Row::new(by, cause);
        Ok(Step::Applied)
    }

    fn challenge(&mut self, identity: Digest, now: Timestamp) -> String {
        let number = u128::try_from(self.challenges.len()).unwrap();
        let nonce = Nonce::from_bytes(number.to_be_bytes());
        self.challenges.insert(nonce, (identity, now));
        format!("{{\"authentication\":{{\"nonce\":\"{nonce}\"}}}}")
    }

    fn challenged(
        &mut self,
        challenge: &Nonce,
        device: &Digest,
        now: Timestamp,
    ) -> Result<(Digest, PublicKey), Refusal> {
        let unknown = Refusal::new(Code::UnknownChallenge, "another challenge");
        let (identity, issued) = *self.challenges.get(challenge).ok_or(unknown.clone())?;
        if now.since(issued) > limits::CHALLENGE_LIFETIME {
            return Err(unknown);
        }
        let row = self.row(identity, device)?;
        if row.revoked { Err(UNKNOWN) } else { Ok((identity, row.public_key)) }
    }

    fn open(&mut self, world: &World, identity: Digest, verified: &Verified) -> Result<String, Refusal> {
        let Request::SessionCreate { access, device, challenge } = verified.request() else {
            return Err(UNKNOWN);
        };
        self.challenges.remove(challenge);
        self.applied.push(Operation::SessionCreate);
        let refresh_expiry = world.now.plus(limits::REFRESH_LIFETIME);
        token(world, (identity, *device), access, refresh_expiry)
    }

    fn refresh(&mut self, world: &World, verified: &Verified) -> Result<String, Refusal> {
        let Request::SessionRefresh { access, token: held } = verified.request() else { return Err(UNKNOWN) };
        let claims = held.claims();
        held.verify(&VerifyingKey::new(&world.access_key.public_key())?)?;
        claims.check_refresh_times(world.now, limits::CLOCK_SKEW)?;
        if access.public_key.digest() != claims.rotation_hash {
            return Err(Refusal::new(Code::RotationMismatch, "another key"));
        }
        if self.row(claims.identity, &claims.device)?.revoked {
            return Err(UNKNOWN);
        }
        if let Some((cause, answer)) = self.refreshes.get(&claims.rotation_hash) {
            let spent = Refusal::new(Code::RefreshSpent, "refreshed otherwise");
            return if *cause == verified.cause() { Ok(answer.clone()) } else { Err(spent) };
        }
        let answer = token(world, (claims.identity, claims.device), access, claims.refresh_expiry)?;
        self.refreshes.insert(claims.rotation_hash, (verified.cause(), answer.clone()));
        self.applied.push(Operation::SessionRefresh);
        Ok(answer)
    }

    fn identity(&mut self, by: &Authentication) -> Result<&mut Identity, Refusal> {
        self.identities.get_mut(&by.identity).ok_or(UNKNOWN)
    }

    fn row(&mut self, identity: Digest, device: &Digest) -> Result<&mut Row, Refusal> {
        self.identities
            .get_mut(&identity)
            .and_then(|identity| identity.devices.get_mut(device))
            .ok_or(UNKNOWN)
    }
}

const UNKNOWN: Refusal = Refusal::new(Code::UnknownDevice, "unknown, revoked or deleted");

fn repeated(same: bool, otherwise: Code) -> Result<Step, Refusal> {
    if same { Ok(Step::Repeated) } else { Err(Refusal::new(otherwise, "done otherwise before")) }
}

fn token(
    world: &World,
    (identity, device): (Digest, Digest),
    access: &AccessKeys,
    refresh_expiry: Timestamp,
) -> Result<String, Refusal> {
    let claims = Claims {
        server_identity: world.access_key.public_key(),
        device,
        identity,
        public_key: access.public_key,
        rotation_hash: access.rotation_hash,
        issued_at: world.now,
        expiry: world.now.plus(limits::ACCESS_LIFETIME),
        refresh_expiry,
        attributes: Attributes::new(BTreeMap::new())?,
    };
    let text = claims.issue(&world.access_key)?;
    Token::parse(&text)?;
    Ok(format!("{{\"access\":{{\"token\":\"{text}\"}}}}"))
}
