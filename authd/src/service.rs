//! One request from its bytes to its answer: read, prove, decide in the store, answer.
//!
//! The order is that of cost: shape and size, the request's own signature and every rule that needs no
//! store, then one read of few rows, then (if something is to be written) one transaction. Nothing is decided here;
//! the decisions stand in [`crate::operation`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use edge::health::Dependencies;
use edge::own_key::{Endorsed, OwnKey};
use edge::roll::Roll;
use edge::trust::TrustFeed;
use edge::verifier::AccessVerifier;
use keychain::directory::Directory;
use keychain::feed::Position;
use keychain::message::{self, AccessKeys, Operation, Request, Unverified, Verified};
use keychain::token::{Attributes, Claims, Token};
use keychain::{Code, Digest, Nonce, Refusal, Timestamp};
use systemd::telemetry::Quota;
use tokio::sync::{Notify, watch};

use crate::challenge::Challenger;
use crate::issuer::Issuers;
use crate::operation::owner::Margins;
use crate::operation::session::{self, Grant, Lifetimes, RefreshView, SessionView};
use crate::operation::{self, Decision};
use crate::roles::Roles;
use crate::store::{Account, Failure, Refreshing, SessionOpening, Store, Verdict};
use crate::throttle::{self, Throttles};

/// How long an answer waits for the mirror of its refresh: SQL has decided, and a directory that is away
/// must not make devices wait.
const MIRROR_WAIT: Duration = Duration::from_millis(200);

/// How long a request waits for own keys that verifiers accept. After a taint they come within a second.
const KEY_WAIT: Duration = Duration::from_secs(3);

/// Lines about refreshes that public auth servers were not told of.
static UNMIRRORED: Quota = Quota::per_minute(12);

/// What the operations work with.
pub struct Service {
    /// The records.
    pub store: Store,
    /// The key directory.
    pub directory: Directory,
    /// What is trusted: the chain and its heads.
    pub trust: TrustFeed,
    /// Whose tokens may be refreshed.
    pub issuers: Issuers,
    /// Judges access requests to authd itself. It keeps no nonces: the store does.
    pub owners: AccessVerifier,
    /// The session challenges.
    pub challenger: Challenger,
    /// Signs tokens.
    pub access: OwnKey,
    /// Signs answers.
    pub response: OwnKey,
    /// What tokens permit.
    pub roles: Roles,
    /// How long tokens and sessions last.
    pub lifetimes: Lifetimes,
    /// How long edges are to deny a revoked device.
    pub denial: Duration,
    /// How long ends of sessions hold.
    pub margins: Margins,
    /// How often somebody may ask.
    pub throttles: Throttles,
    /// Whether public auth servers on the directory are told of spent refresh keys.
    pub public_auth_servers: bool,
    /// Wakes the task that tells the directory of revocations.
    pub revoked: Notify,
    /// Wakes the task that writes the denial feed.
    pub denied: Notify,
    /// How far this authd has told the denial feed; nothing while another one writes it.
    pub fed: watch::Sender<Option<Position>>,
    /// Ends that task.
    pub stopping: Notify,
    /// Whether that task waits for an operator, because the store is behind the feed that is published.
    pub feed_behind: AtomicBool,
    /// Whether the database was seen not to write: nothing is to wait for it.
    pub store_away: AtomicBool,
    /// What this authd rests on, to be told how it is.
    pub dependencies: Dependencies,
}

/// A success, not signed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The request's nonce, which the answer repeats.
    pub nonce: Nonce,
    /// The `response` member.
    pub response: String,
    /// Whether this was an exact repeat, so that nothing changed.
    pub repeated: bool,
}

impl Service {
    /// What orders new keys: those that issue tokens first, for others wait for them.
    pub fn roll(&self) -> Roll {
        Roll::new(vec![self.access.clone(), self.response.clone()])
    }

    /// Refuses while the database does not write: a request that waited for it would hold its place for seconds.
    pub fn demand_store(&self) -> Result<(), Refusal> {
        if self.store_away.load(Ordering::Relaxed) {
            return Err(Refusal::new(Code::Unavailable, "the database does not write"));
        }
        Ok(())
    }

    /// Carries out one request.
    pub async fn answer(&self, operation: Operation, body: &[u8], now: Timestamp) -> Result<Answer, Failure> {
        let unverified = message::parse(operation, body)?;
        if let Request::SessionCreate { access, device, challenge } = unverified.request() {
            let (access, device, challenge) = (*access, *device, *challenge);
            return self.create_session(unverified, &access, &device, challenge, now).await;
        }
        let verified = unverified.verify()?;
        match verified.request() {
            Request::SessionRequest { identity } => self.request_session(&verified, identity, now),
            Request::SessionRefresh { access, token } => {
                self.refresh_session(&verified, access, token, now).await
            }
            request => match operation::needs(request) {
                Some(needs) => self.change_account(&verified, &needs, now).await,
                None => Err(Refusal::new(Code::Internal, "no rows are known for this operation").into()),
            },
        }
    }

    /// The time by the clock of this process.
    pub fn now(&self) -> Timestamp {
        self.trust.now()
    }

    /// The key to sign an answer with. After a taint it is on its way, and is waited for.
    pub async fn response_key(&self) -> Result<Arc<Endorsed>, Refusal> {
        self.response.usable_within(KEY_WAIT).await
    }

    /// The same for a token, which this authd can refresh from now on also while the directory is away.
    async fn access_key(&self) -> Result<Arc<Endorsed>, Refusal> {
        let key = self.access.usable_within(KEY_WAIT).await?;
        self.learn(&key)?;
        Ok(key)
    }

    /// Wakes those who tell others whom to deny.
    pub fn tell_denials(&self) {
        self.denied.notify_one();
        self.revoked.notify_one();
    }

    async fn change_account(
        &self,
        request: &Verified,
        needs: &operation::Needs,
        now: Timestamp,
    ) -> Result<Answer, Failure> {
        self.response_key().await?;
        let case = Account { needs: *needs, denial: self.denial };
        let count = self.counted_once(request.operation(), now);
        let judge = |view: &_| {
            let decision = operation::decide(request, view, now)?;
            if decision != Decision::Repeat {
                count((needs.identity, needs.device))?;
            }
            Ok(match decision {
                Decision::Apply(change) => {
                    let revokes = !change.revoked.is_empty();
                    Verdict::Write(*change, (false, revokes))
                }
                Decision::Incomplete => Verdict::Incomplete,
                Decision::Repeat => Verdict::Answer((true, false)),
            })
        };
        let (repeated, revokes) = self.store.decide(&case, now, judge).await?;
        if revokes {
            self.tell_denials();
        }
        Ok(Answer { nonce: request.nonce(), response: "{}".to_owned(), repeated })
    }

    /// Anyone may ask for a challenge, for any identity: being unsigned, the answer tells nothing of it.
    fn request_session(
        &self,
        request: &Verified,
        identity: &Digest,
        now: Timestamp,
    ) -> Result<Answer, Failure> {
        let mut salt = [0; 3];
        aws_lc_rs::rand::fill(&mut salt)
            .map_err(|_| Refusal::new(Code::Unavailable, "the system gives no random numbers"))?;
        let nonce = self.challenger.issue(identity, now, salt);
        let response = format!(r#"{{"authentication":{{"nonce":"{nonce}"}}}}"#);
        Ok(Answer { nonce: request.nonce(), response, repeated: false })
    }

    async fn create_session(
        &self,
        request: Unverified,
        access: &AccessKeys,
        device: &Digest,
        challenge: Nonce,
        now: Timestamp,
    ) -> Result<Answer, Failure> {
        let challenge = self.challenger.recognise(challenge, now, self.lifetimes.skew)?;
        // A token that no edge could accept is none.
        self.trust.state().demand_fresh(now)?;
        self.response_key().await?;
        self.access_key().await?;
        let nonce = request.nonce();
        // The account is the one of the device's that the challenge names.
        let is_for = |identity: &Digest| self.challenger.is_for(&challenge, identity);
        let case = SessionOpening { device: *device, challenge, is_for };
        let count = self.counted_once(Operation::SessionCreate, now);
        let judge = |view: &Result<SessionView, Refusal>| {
            let view = view.as_ref().map_err(Refusal::clone)?;
            let device = session::device(view)?;
            request.clone().verify_with(&device.public_key)?;
            let attributes = self.roles.attributes(view.roles.as_ref())?;
            let grant = session::create(view, access, &self.lifetimes, now)?;
            count((grant.identity, grant.device))?;
            Ok(Verdict::Write(device.identity, (grant, attributes)))
        };
        let (grant, attributes) = self.store.decide(&case, now, judge).await?;
        Ok(Answer { nonce, response: self.token(&grant, attributes).await?, repeated: false })
    }

    async fn refresh_session(
        &self,
        request: &Verified,
        access: &AccessKeys,
        token: &Token,
        now: Timestamp,
    ) -> Result<Answer, Failure> {
        let claims = token.claims();
        session::check_token(access, claims, &self.lifetimes, now)?;
        self.access.demand_not_ended(now)?;
        // Own tokens are refreshed also while the directory is away, and after a restart with the same key.
        if let Ok(key) = self.access.usable(now) {
            self.learn(&key)?;
        }
        token.verify(&self.issuers.key(&claims.server_identity, now).await?)?;
        self.trust.state().demand_fresh(now)?;
        self.response_key().await?;
        self.access_key().await?;
        let case = Refreshing {
            identity: claims.identity,
            device: claims.device,
            digest: claims.rotation_hash,
            next: access.rotation_hash,
        };
        let count = self.counted_once(Operation::SessionRefresh, now);
        let judge = |view: &RefreshView| {
            let decision = session::refresh(request.cause(), access, claims, view, &self.lifetimes, now)?;
            let attributes = self.roles.attributes(view.session.roles.as_ref())?;
            Ok(match decision {
                session::Decision::Apply(refresh) => {
                    count((refresh.grant.identity, refresh.grant.device))?;
                    Verdict::Write(refresh.clone(), (refresh.grant, attributes, false))
                }
                session::Decision::Repeat(refresh) => Verdict::Answer((refresh.grant, attributes, true)),
            })
        };
        let (grant, attributes, repeated) = self.store.decide(&case, now, judge).await?;
        // Each copy wakes every follower of the directory.
        if self.public_auth_servers {
            self.mirror(claims.rotation_hash, request.cause()).await;
        }
        let response = self.token(&grant, attributes).await?;
        Ok(Answer { nonce: request.nonce(), response, repeated })
    }

    /// Counts what a device is about to have written; once, however often it is judged.
    fn counted_once(
        &self,
        operation: Operation,
        now: Timestamp,
    ) -> impl Fn((Digest, Digest)) -> Result<(), Refusal> {
        throttle::once(move |asking| self.throttles.count(operation, asking, now))
    }

    /// Takes in an own key, whose tokens are judged also while the directory is away.
    pub(crate) fn learn(&self, key: &Endorsed) -> Result<(), Refusal> {
        let name = key.public_key();
        if !self.issuers.knows(&name) {
            self.issuers.take(&name, key.endorsement().clone(), self.now())?;
        }
        Ok(())
    }

    /// Issues a token with the key that verifiers accept now: the one of before the decision may be tainted meanwhile.
    async fn token(&self, grant: &Grant, attributes: Attributes) -> Result<String, Refusal> {
        let key = self.access_key().await?;
        let claims = Claims {
            server_identity: key.public_key(),
            device: grant.device,
            identity: grant.identity,
            public_key: grant.public_key,
            rotation_hash: grant.rotation_hash,
            issued_at: grant.issued_at,
            expiry: grant.expiry,
            refresh_expiry: grant.refresh_expiry,
            attributes,
        };
        let token = claims.issue(key.signing_key())?;
        Ok(format!(r#"{{"access":{{"token":"{token}"}}}}"#))
    }

    /// Tells public auth servers on the same directory that the key is spent. It decides nothing here.
    async fn mirror(&self, spent: Digest, cause: Digest) {
        let directory = self.directory.clone();
        let lifetime = self.lifetimes.refresh;
        let reserve = async move { directory.reserve(&spent, &cause, lifetime).await };
        let outcome = tokio::time::timeout(MIRROR_WAIT, reserve).await;
        if matches!(outcome, Ok(Ok(true))) {
            return;
        }
        // Whoever has an account can refresh as often as he likes.
        let Some(left_out) = UNMIRRORED.admit() else { return };
        match outcome {
            Ok(Ok(_)) => {
                tracing::warn!(%spent, left_out, "another auth server on this directory accepted the same refresh key");
            }
            Ok(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, left_out, "a refresh was not mirrored");
            }
            Err(_) => tracing::warn!(left_out, "a refresh was not mirrored in time"),
        }
    }
}
