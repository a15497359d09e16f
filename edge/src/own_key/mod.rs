//! A service's own key: made in memory, endorsed by the HSM, published, replaced in time.
//!
//! Invariants:
//! - A key is used only once its endorsement verifies against the chain *as verifiers see it* and stands
//!   in the directory, so that no answer names a key that nobody can check. One from before a restart stood there, and is
//!   put back like any other.
//! - A key whose generation is no longer live is not used for another answer: [`OwnKey::usable`] says so
//!   at once, and a new key is asked for within a second.
//! - The private half is wiped when the key is dropped. It leaves this process for the service manager's memory alone
//!   ([`systemd::kept`]), and comes back to the next process of the same service.

mod keeper;
mod kept;

use std::sync::Arc;
use std::time::Duration;

use keychain::chain::{Chain, windows};
use keychain::directory::{self, Db, Directory};
use keychain::endorsement::{Endorsement, Expected, Purpose, SignRequest};
use keychain::{Code, PublicKey, Refusal, SigningKey, Timestamp};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::endorser::{self, Endorser};
use crate::health::{self, End, Limit};
use crate::task::Task;
use crate::trust::{TrustFeed, TrustState};
use crate::updates::{Updates, readable};
use keeper::Keeper;
use kept::Kept;

/// How long a fresh endorsement may take to verify before another is asked for. The chain is pushed
/// within milliseconds; longer means that its generation was tainted meanwhile.
const VERIFY_DEADLINE: Duration = Duration::from_secs(1);

/// Pause between attempts to get the first key.
const START_PAUSE: Duration = Duration::from_millis(250);

/// Draws before giving up on a scalar. One draw in 2^32 is refused.
const DRAWS_MAX: usize = 8;

/// What a key is for, and when it is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// What the key signs.
    pub purpose: Purpose,
    /// The age at which it is replaced (with a tenth of jitter); half of a key's use by default.
    pub cycle: Duration,
    /// Longest random delay before a key is asked for after its generation died, so that a fleet does
    /// not ask at once. authd, which others wait for, takes none.
    pub spread: Duration,
    /// Whether its endorsement stands in the directory, where those who verify answers look for it.
    pub listed: bool,
}

impl Plan {
    /// The plan for a key that signs access tokens.
    pub const fn access(cycle: Duration) -> Self {
        Self { purpose: Purpose::Access, cycle, spread: Duration::ZERO, listed: true }
    }

    /// The plan for a key that signs answers.
    pub const fn response(cycle: Duration) -> Self {
        Self { purpose: Purpose::Response, cycle, spread: Duration::from_millis(300), listed: true }
    }

    /// The plan for a response key that signs no answers: no device is to find it.
    pub const fn unlisted(cycle: Duration) -> Self {
        Self { listed: false, ..Self::response(cycle) }
    }

    /// Under which name the service manager keeps the key over a restart.
    pub(crate) const fn kept_as(self) -> &'static str {
        match self.purpose {
            Purpose::Access => "access-key",
            Purpose::Response => "response-key",
        }
    }

    /// What the key is called among a daemon's dependencies.
    pub const fn dependency(self) -> &'static str {
        match self.purpose {
            Purpose::Access => health::ACCESS_KEY,
            Purpose::Response => health::RESPONSE_KEY,
        }
    }

    /// The window of those who verify what the key signs.
    const fn window(self) -> Duration {
        match self.purpose {
            Purpose::Access => windows::EDGE,
            Purpose::Response => windows::DEVICE,
        }
    }

    const fn db(self) -> Db {
        match self.purpose {
            Purpose::Access => Db::Access,
            Purpose::Response => Db::Response,
        }
    }
}

/// A key with its proof.
#[derive(Debug)]
pub struct Endorsed {
    signing_key: SigningKey,
    endorsement: Endorsement,
    made: Timestamp,
}

impl Endorsed {
    /// Puts a key and its endorsement together, once the endorsement verifies at `now`.
    pub fn new(
        signing_key: SigningKey,
        endorsement: Endorsement,
        plan: Plan,
        chain: &Chain,
        now: Timestamp,
    ) -> Result<Self, Refusal> {
        let public_key = signing_key.public_key();
        let expected = Expected { purpose: plan.purpose, public_key: &public_key, service: None };
        endorsement.verify(chain, expected, plan.window(), now)?;
        Ok(Self { signing_key, endorsement, made: now })
    }

    /// The key itself.
    pub const fn signing_key(&self) -> &SigningKey {
        &self.signing_key
    }

    /// Its public half: the name under which it stands in the directory.
    pub const fn public_key(&self) -> PublicKey {
        self.signing_key.public_key()
    }

    /// What the HSM said about it.
    pub const fn endorsement(&self) -> &Endorsement {
        &self.endorsement
    }
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory did not take it.
    #[error("the key directory did not take the key's endorsement")]
    Directory(#[from] directory::Error),
    /// hsmd did not endorse it.
    #[error("the key was not endorsed")]
    Endorser(#[from] endorser::Error),
    /// The system's random number generator failed.
    #[error("the system gives no random numbers")]
    Entropy,
    /// What hsmd answered does not verify against the chain in the directory.
    #[error(
        "the endorsement does not verify against the chain in the directory (is the publisher running, and `identity` right?): {0}"
    )]
    Unverified(Refusal),
}

/// The service's key for one purpose, kept usable in the background. Cloning shares it.
#[derive(Debug, Clone)]
pub struct OwnKey {
    current: watch::Receiver<Arc<Endorsed>>,
    /// How often a new key was ordered.
    orders: Arc<watch::Sender<u64>>,
    plan: Plan,
    feed: TrustFeed,
    _task: Arc<Task>,
}

impl OwnKey {
    /// Tries [`Beginning::attempt`] until it works, and says what it waits for.
    ///
    /// The chain is waited for first, so that hsmd is asked only when its answer can be verified.
    pub async fn await_first(
        plan: Plan,
        endorser: Endorser,
        directory: Directory,
        updates: &Updates,
        feed: TrustFeed,
    ) -> Self {
        feed.wait_until(|chain| chain.head().is_some()).await;
        let dependencies = updates.dependencies();
        let mut beginning = Beginning::new(plan, endorser, directory, feed);
        loop {
            match beginning.attempt(updates).await {
                Ok(key) => return key,
                Err(error) => {
                    dependencies.lost(plan.dependency(), &error);
                    tokio::time::sleep(START_PAUSE).await;
                }
            }
        }
    }

    /// When the key ends for those who accept what `trust` does, if none takes its place.
    pub fn end(&self, trust: &TrustState) -> End {
        let limit = match self.plan.purpose {
            Purpose::Access => Limit::AccessKey,
            Purpose::Response => Limit::ResponseKey,
        };
        End::of_key(limit, &self.current().endorsement, trust.chain(), self.plan.window())
    }

    /// The key to sign with, whatever has become of its endorsement.
    pub fn current(&self) -> Arc<Endorsed> {
        Arc::clone(&self.current.borrow())
    }

    /// The key to sign with, if verifiers accept it at `now`; otherwise `Unavailable`, because an answer
    /// that nobody can check is none.
    pub fn usable(&self, now: Timestamp) -> Result<Arc<Endorsed>, Refusal> {
        self.usable_under(&self.feed.state(), now)
    }

    /// The same for those who accept what `trust` does.
    pub(crate) fn usable_under(&self, trust: &TrustState, now: Timestamp) -> Result<Arc<Endorsed>, Refusal> {
        let key = self.current();
        match trust.check(&key.endorsement, self.plan.window(), now) {
            Ok(()) => Ok(key),
            Err(_) => Err(Refusal::new(Code::Unavailable, "this service's own key is not endorsed now")),
        }
    }

    /// Tells of each new key, to wait on.
    pub fn changes(&self) -> watch::Receiver<Arc<Endorsed>> {
        self.current.clone()
    }

    /// Orders a new key, and waits `most` for it to be in use. The old one signs until then, and what it signed stays
    /// good; nothing that is under way is dropped.
    pub async fn roll(&self, most: Duration) -> Result<Arc<Endorsed>, Refusal> {
        let mut current = self.current.clone();
        let old = current.borrow_and_update().public_key();
        self.orders.send_modify(|orders| *orders = orders.wrapping_add(1));
        let is_new = |key: &Arc<Endorsed>| key.public_key() != old;
        match tokio::time::timeout(most, current.wait_for(is_new)).await {
            Ok(Ok(key)) => Ok(Arc::clone(&key)),
            // It goes on trying: hsmd or the directory does not answer.
            _ => Err(Refusal::new(
                Code::Unavailable,
                "no new key was endorsed yet; it is still being asked for",
            )),
        }
    }

    /// The same, waiting `most` for a key that verifiers accept: for an answer whose request has had its effect.
    /// After a taint or a revocation the next key is on its way.
    pub async fn usable_within(&self, most: Duration) -> Result<Arc<Endorsed>, Refusal> {
        let (mut current, mut trust) = (self.current.clone(), self.feed.version());
        let waited = tokio::time::timeout(most, async {
            loop {
                let now = self.feed.now();
                if let Ok(key) = self.usable(now) {
                    return Ok(key);
                }
                self.demand_not_ended(now)?;
                tokio::select! {
                    Ok(()) = current.changed() => {}
                    Ok(()) = trust.changed() => {}
                    else => std::future::pending().await, // both tell as long as this key is kept
                }
            }
        });
        match waited.await {
            Ok(key) => key,
            Err(_late) => self.usable(self.feed.now()),
        }
    }

    /// Refuses if the key has merely ended: hsmd did not answer for hours then, and no other is about to come. One that a
    /// taint, a denial or a revocation killed is replaced in a moment.
    pub fn demand_not_ended(&self, now: Timestamp) -> Result<(), Refusal> {
        let (trust, key) = (self.feed.state(), self.current());
        let killed = key.endorsement.killed(trust.chain(), now);
        if killed.is_ok_and(|killed| killed.is_some()) { Ok(()) } else { self.usable(now).map(drop) }
    }
}

/// A service that has no key yet.
pub struct Beginning {
    maker: Maker,
    /// What came back from before a restart, until it was judged.
    kept: Option<Kept>,
}

impl Beginning {
    /// Takes what came back from before a restart.
    pub fn new(plan: Plan, endorser: Endorser, directory: Directory, feed: TrustFeed) -> Self {
        Self { maker: Maker { plan, endorser, directory, feed }, kept: Kept::take(plan) }
    }

    /// Takes the first key into use, and keeps the service in keys from then on. It is the key from before a restart, for
    /// which neither hsmd nor the directory is asked, or a new one, endorsed and published.
    ///
    /// One attempt: whoever starts a daemon tries again, and says what it waits for.
    pub async fn attempt(&mut self, updates: &Updates) -> Result<OwnKey, Error> {
        let subscription = updates.subscribe();
        self.maker.await_live_head().await?;
        let first = if let Some(first) = self.adopt() {
            first
        } else {
            let first = self.maker.make().await?;
            self.maker.publish(&first).await?;
            kept::keep(self.maker.plan, &first);
            first
        };
        let (plan, feed, first) = (self.maker.plan, self.maker.feed.clone(), Arc::new(first));
        let (sender, current) = watch::channel(Arc::clone(&first));
        let (orders, ordered) = watch::channel(0);
        let keeper = Keeper::new(self.maker.clone(), first, sender);
        let task = Arc::new(Task::spawn(keeper.run(subscription, ordered)));
        Ok(OwnKey { current, orders: Arc::new(orders), plan, feed, _task: task })
    }

    /// The key from before a restart, if it is still endorsed.
    fn adopt(&mut self) -> Option<Endorsed> {
        let (plan, feed) = (self.maker.plan, &self.maker.feed);
        match self.kept.take()?.prove(plan, &feed.state(), feed.now()) {
            Ok(key) => {
                tracing::info!(key = %key.public_key(), purpose = plan.purpose.as_str(), "goes on with the key from before the restart");
                Some(key)
            }
            Err(refusal) => {
                let name = plan.kept_as();
                tracing::warn!(name, %refusal, "the key that was kept over the restart counts no more; a new one is made");
                kept::drop_kept(name);
                None
            }
        }
    }
}

/// Makes and publishes keys.
#[derive(Debug, Clone)]
struct Maker {
    plan: Plan,
    endorser: Endorser,
    directory: Directory,
    feed: TrustFeed,
}

impl Maker {
    /// A new key, endorsed, and verified against the chain as verifiers see it.
    async fn make(&self) -> Result<Endorsed, Error> {
        self.await_live_head().await?;
        let key = draw()?;
        let (purpose, public_key) = (self.plan.purpose, key.public_key());
        let expiration = self.feed.now().plus(purpose.longest_lifetime());
        let request = SignRequest { purpose, public_key, expiration };
        let text = self.endorser.endorse(&request).await?;
        let endorsement = Endorsement::parse(&text).map_err(Error::Unverified)?;
        let expected = Expected { purpose, public_key: &public_key, service: None };
        let verifies =
            |chain: &Chain| endorsement.verify(chain, expected, self.plan.window(), self.feed.now()).is_ok();
        // Late is no error here: the verdict below says what is wrong.
        drop(tokio::time::timeout(VERIFY_DEADLINE, self.feed.wait_until(verifies)).await);
        Endorsed::new(key, endorsement, self.plan, self.feed.state().chain(), self.feed.now())
            .map_err(Error::Unverified)
    }

    /// A chain on which nothing is live (contested, rolled back) verifies no endorsement: none is asked for.
    async fn await_live_head(&self) -> Result<(), Error> {
        let is_live = |chain: &Chain| head_is_live(chain, self.plan.window(), self.feed.now()).is_ok();
        // Late is no error here: the verdict below says what is wrong.
        drop(tokio::time::timeout(VERIFY_DEADLINE, self.feed.wait_until(is_live)).await);
        head_is_live(self.feed.state().chain(), self.plan.window(), self.feed.now())
            .map_err(Error::Unverified)
    }

    /// Puts a key's endorsement into the directory for the rest of its life.
    async fn publish(&self, key: &Endorsed) -> Result<(), directory::Error> {
        if !self.plan.listed {
            return Ok(());
        }
        let left = key.endorsement.subject.expiration.since(self.feed.now());
        self.directory.publish(self.plan.db(), &key.public_key(), key.endorsement.text(), left).await
    }

    /// Whether a key's endorsement stands in the directory as published.
    async fn is_published(&self, key: &Endorsed) -> Result<bool, directory::Error> {
        if !self.plan.listed {
            return Ok(true);
        }
        let found = readable(self.directory.endorsement(self.plan.db(), &key.public_key()).await)?;
        Ok(found.as_deref() == Some(key.endorsement.text()))
    }
}

fn head_is_live(chain: &Chain, window: Duration, now: Timestamp) -> Result<(), Refusal> {
    let head = chain.head().ok_or(Refusal::new(Code::Unavailable, "the chain is not known yet"))?;
    chain.live(&head.id(), window, now).map(drop)
}

/// A fresh key from the system's randomness.
fn draw() -> Result<SigningKey, Error> {
    let mut seed = Zeroizing::new([0_u8; 32]);
    for _ in 0..DRAWS_MAX {
        aws_lc_rs::rand::fill(seed.as_mut_slice()).map_err(|_| Error::Entropy)?;
        if let Ok(key) = SigningKey::from_seed(&seed) {
            return Ok(key);
        }
    }
    Err(Error::Entropy)
}
