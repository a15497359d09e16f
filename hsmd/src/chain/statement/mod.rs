//! The head: what hsmd states beside the chain, and when. One is made on a schedule, with each event, and with each
//! denial and revocation (`PROTOCOL.md#statements`).
//!
//! The ledger decides: what is denied or revoked is durable there before a head that lists it is signed, and every
//! issue begins by reading it. So a process that dies between the two states it after its next start, and another
//! hsmd on the same ledger states it within [`READ_EVERY`].
//!
//! The answer that a generation is denied, or a key revoked, leaves after the head was signed.

mod first_report;
mod issue;
mod issued;
mod judge;
mod kept;
mod listed;
mod published;
mod take_over;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use keychain::{
    Code, Digest, PublicKey, Refusal, Timestamp,
    audit::Record,
    chain::{SignedEvent, windows},
    endorsement::Purpose,
};
use tokio::sync::watch;

use crate::{
    chain::{Error, Keeper},
    health::Health,
    ledger::{Compose, Declaration, Entry, RevokedService, RolledService, Stated},
};

pub use first_report::PATIENCE as REPORT_PATIENCE;
pub use issued::Issued;
use judge::Judged;
pub use published::{Finding, REPORT_MAX, REPORTED_MAX, Report, Restored};
pub use take_over::{Choice, TakenOver};

/// How often the ledger is asked for what another hsmd on it had denied or revoked.
pub const READ_EVERY: Duration = Duration::from_secs(10);

/// Pause after an issue that failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Age of the newest head from which on hsmd is not ready: half of the verifiers' default staleness, where
/// they begin to warn. Until then endorsements and everything else go on as if nothing were wrong, and
/// `GET /health` says what is.
pub const STALE: Duration = Duration::from_hours(6);

/// When heads are made, and what they allow for.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The longest pause between two heads.
    pub head_interval: Duration,
    /// How far other clocks may be off.
    pub skew: Duration,
    /// How long a publisher's report is waited for; nothing if there is none.
    pub report_patience: Option<Duration>,
}

/// What was done about a generation that is compromised and not the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The event after it taints it.
    Tainted,
    /// Heads deny it.
    Denied,
    /// Nothing: it is beyond the window of every verifier.
    Ended,
}

impl Effect {
    /// The effect in an answer.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tainted => "tainted",
            Self::Denied => "denied",
            Self::Ended => "ended",
        }
    }
}

/// An older generation that was named as compromised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The generation.
    pub generation: Digest,
    /// The one that followed it.
    pub successor: Digest,
    /// When verifiers begin to use the one that followed it.
    pub live_from: Timestamp,
    /// What was done about it.
    pub effect: Effect,
}

/// A declaration that is durable in the ledger, and whether a head lists it.
#[derive(Debug)]
pub struct Declared<T> {
    /// What was declared.
    pub done: T,
    /// Why the head that lists it is not signed yet, if it is not: [`Statements::run`] goes on trying.
    pub head: Result<(), Error>,
}

impl<T> Declared<T> {
    /// The same with what was declared changed.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Declared<U> {
        Declared { done: change(self.done), head: self.head }
    }

    /// What was declared, once a head lists it.
    pub fn stated(self) -> Result<T, Error> {
        self.head.map(|()| self.done)
    }
}

impl<T> From<T> for Declared<T> {
    /// A declaration that no head has to list.
    fn from(done: T) -> Self {
        Self { done, head: Ok(()) }
    }
}

/// What is refused endorsements, as the ledger said last.
#[derive(Debug, Default)]
struct Refused {
    /// Every key that was ever revoked.
    keys: BTreeSet<PublicKey>,
    /// Services that were revoked and not opened since.
    services: BTreeSet<String>,
}

fn find(stated: &Stated, service: &str) -> Result<RevokedService, Error> {
    let found = stated.services.iter().find(|row| row.service == service);
    found.cloned().ok_or(Error::Conflict("the service is not revoked"))
}

/// Lines about a service as it is stated then.
fn of_service(
    service: &str,
    lines: impl Fn(&RevokedService) -> Vec<Record> + Send + Sync + 'static,
) -> Compose {
    let service = service.to_owned();
    Box::new(move |stated| find(stated, &service).map(|row| lines(&row)).unwrap_or_default())
}

/// Keeps the newest head: the only one who has heads signed.
pub struct Statements {
    keeper: Arc<Keeper>,
    settings: Settings,
    /// One issue at a time.
    issuing: tokio::sync::Mutex<()>,
    newest: watch::Sender<Arc<Issued>>,
    /// The newest head of an earlier process, if it still holds.
    kept: Option<Arc<Issued>>,
    /// What is refused endorsements.
    refused: RwLock<Refused>,
    /// When the newest head was made, by the monotonic clock; the start of the process before.
    made: Mutex<Instant>,
    /// Why the newest attempt to make statements failed.
    problem: Mutex<Option<String>>,
    /// When this process began to make heads.
    since: Timestamp,
    /// What the comparisons with the published chain came to.
    judged: Mutex<Judged>,
}

impl Statements {
    /// Reads what is stated, and makes the first statements. It errs if the ledger cannot be read; that
    /// statements cannot be signed is a matter of [`Self::run`].
    pub async fn open(keeper: Arc<Keeper>, settings: Settings) -> Result<Self, Error> {
        let mut statements = Self {
            since: keeper.now(),
            judged: Mutex::default(),
            keeper,
            settings,
            issuing: tokio::sync::Mutex::new(()),
            newest: watch::Sender::new(Arc::new(Issued::default())),
            kept: None,
            refused: RwLock::default(),
            made: Mutex::new(Instant::now()),
            problem: Mutex::default(),
        };
        statements.read().await?;
        statements.read_kept().await;
        statements.await_first_report().await?;
        drop(statements.issue().await);
        Ok(statements)
    }

    /// Makes statements when they are due, for ever, and notes in `health` when the newest is too old.
    pub async fn run(&self, health: &Health) {
        let mut chain = self.keeper.watch();
        let read_every = READ_EVERY.min(self.settings.head_interval);
        loop {
            let outcome = self.make_due(health).await;
            let pause = if outcome.is_ok() { read_every.min(self.until_due()) } else { PAUSE };
            tokio::select! {
                _ = chain.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Makes a head if one is due, and notes in `health` how that went.
    pub async fn make_due(&self, health: &Health) -> Result<(), Error> {
        let outcome = self.issue().await;
        // That no statement can be made is a warning at once, and is a problem once the newest is too old.
        health.warn("head", self.problem());
        health.note("head", self.staleness());
        health.warn("published", self.uncompared());
        self.note_health(health);
        outcome.map(drop)
    }

    /// The newest statements.
    pub fn newest(&self) -> Arc<Issued> {
        Arc::clone(&self.newest.borrow())
    }

    /// Follows the newest statements.
    pub fn watch(&self) -> watch::Receiver<Arc<Issued>> {
        self.newest.subscribe()
    }

    /// Why the newest attempt to make statements failed, if it did.
    pub fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Refuses a key that was revoked: it is never endorsed again.
    pub fn demand_not_revoked(&self, key: &PublicKey) -> Result<(), Refusal> {
        if self.refused.read().unwrap_or_else(PoisonError::into_inner).keys.contains(key) {
            return Err(Refusal::new(Code::Revoked, "the key was revoked; make another"));
        }
        Ok(())
    }

    /// Refuses a service that was revoked, until it is opened again.
    pub fn demand_open(&self, service: &str) -> Result<(), Refusal> {
        if self.refused.read().unwrap_or_else(PoisonError::into_inner).services.contains(service) {
            return Err(Refusal::new(Code::Revoked, "the service was revoked; an operator has to open it"));
        }
        Ok(())
    }

    /// Has an older generation denied. It is durable, and a head that denies it is signed, when this answers
    /// [`Effect::Denied`]; saying it again does no harm.
    pub async fn deny(&self, generation: Digest) -> Result<Denial, Error> {
        self.deny_with(generation, |_| Vec::new()).await?.stated()
    }

    /// The same with lines for the audit trail, which are durable together with the denial. It errs if nothing was denied.
    pub async fn deny_with(
        &self,
        generation: Digest,
        lines: impl Fn(&Denial) -> Vec<Record> + Send + Sync + 'static,
    ) -> Result<Declared<Denial>, Error> {
        // The denial is durable in the ledger whatever the tokens do; the head that lists it follows.
        let view = self.keeper.seen().ok_or_else(|| Error::State(self.keeper.chain_state()))?;
        let unknown = Error::Conflict("the chain has no such generation");
        let left = view.find(&generation).ok_or(unknown)?;
        let next = view.after(left).ok_or(Error::Conflict("the generation is the newest: taint it"))?;
        let live_from = next.event().created_at;
        let denial = |effect| Denial { generation, successor: next.id(), live_from, effect };
        if next.event().taint_previous {
            return Ok(denial(Effect::Tainted).into());
        }
        let (since, end) = (self.keeper.trusted_now()?.to_millis(), self.end_of(next));
        let known = self.keeper.ledger().stated().await?.denied;
        if !known.iter().any(|entry| entry.subject == generation) {
            if end <= since {
                return Ok(denial(Effect::Ended).into());
            }
            let (denied, entry) = (denial(Effect::Denied), Entry { subject: generation, since, end });
            let lines = Box::new(move |_: &Stated| lines(&denied));
            self.keeper.ledger().declare(Declaration::Deny(entry), lines).await?;
            tracing::warn!(%generation, "denied a generation");
        }
        Ok(self.declared(denial(Effect::Denied)).await)
    }

    /// Has keys of services revoked; answers when the last of their endorsements can have ended. They are
    /// durable, and a head that revokes them is signed, when this answers; saying it again does no harm.
    pub async fn revoke_keys(&self, keys: &[PublicKey]) -> Result<Timestamp, Error> {
        self.revoke_keys_with(keys, |_| Vec::new()).await?.stated()
    }

    /// The same with lines for the audit trail, which are durable together with the revocation.
    pub async fn revoke_keys_with(
        &self,
        keys: &[PublicKey],
        lines: impl Fn(Timestamp) -> Vec<Record> + Send + Sync + 'static,
    ) -> Result<Declared<Timestamp>, Error> {
        let since = self.keeper.trusted_now()?.to_millis();
        let longest = Purpose::Access.longest_lifetime().max(Purpose::Response.longest_lifetime());
        let end = since.plus(longest).plus(self.settings.skew);
        let keys_revoked = Declaration::RevokeKeys { keys: keys.to_vec(), since, end };
        let named = keys.to_vec();
        // Keys that were revoked before keep their ends.
        let last = move |stated: &Stated| {
            let entries = stated.revoked.iter().filter(|entry| named.contains(&entry.subject));
            entries.map(|entry| entry.end).max().unwrap_or(end)
        };
        let lines = {
            let last = last.clone();
            Box::new(move |stated: &Stated| lines(last(stated)))
        };
        let stated = self.keeper.ledger().declare(keys_revoked, lines).await?;
        tracing::warn!(count = keys.len(), "revoked keys of services");
        Ok(self.declared(last(&stated)).await)
    }

    /// Has every endorsement of a service revoked that it may have, and none given to it until [`Self::open_service`].
    /// Both are durable, and a head that revokes them is signed, when this answers. Repeated, it counts in what was
    /// given out meanwhile.
    pub async fn revoke_service(&self, service: &str) -> Result<RevokedService, Error> {
        self.revoke_service_with(service, |_| Vec::new()).await?.stated()
    }

    /// The same with lines for the audit trail, which are durable together with the revocation.
    pub async fn revoke_service_with(
        &self,
        service: &str,
        lines: impl Fn(&RevokedService) -> Vec<Record> + Send + Sync + 'static,
    ) -> Result<Declared<RevokedService>, Error> {
        let since = self.keeper.trusted_now()?.to_millis();
        let longest = Purpose::Access.longest_lifetime().max(Purpose::Response.longest_lifetime());
        let end = since.plus(longest).plus(self.settings.skew);
        // The ledger takes the highest number that may have been given out, and voids the rest of the block.
        let service_revoked =
            Declaration::RevokeService { service: service.to_owned(), up_to: 0, since, end };
        let stated = self.keeper.ledger().declare(service_revoked, of_service(service, lines)).await?;
        tracing::warn!(service, "revoked a service");
        Ok(self.declared(find(&stated, service)?).await)
    }

    /// Orders a service to replace every key that it may have endorsed by now; those stay good. The order is durable, and
    /// in a signed head, when this answers. Repeated, it counts in what was given out meanwhile.
    pub async fn roll_service_with(
        &self,
        service: &str,
        lines: impl Fn(&RolledService) -> Vec<Record> + Send + Sync + 'static,
    ) -> Result<Declared<RolledService>, Error> {
        let since = self.keeper.trusted_now()?.to_millis();
        let longest = Purpose::Access.longest_lifetime().max(Purpose::Response.longest_lifetime());
        let end = since.plus(longest).plus(self.settings.skew);
        let order = Declaration::RollService { service: service.to_owned(), since, end };
        let name = service.to_owned();
        let find = move |stated: &Stated| stated.rolls.iter().find(|row| row.service == name).cloned();
        let lines: Compose = {
            let find = find.clone();
            Box::new(move |stated| find(stated).map(|row| lines(&row)).unwrap_or_default())
        };
        let stated = self.keeper.ledger().declare(order, lines).await?;
        tracing::info!(service, "ordered a service to replace its keys");
        let rolled = find(&stated).ok_or(Error::Conflict("the order is not in the ledger"))?;
        Ok(self.declared(rolled).await)
    }

    /// Lets a revoked service have endorsements again. Those that were revoked stay so.
    pub async fn open_service(&self, service: &str) -> Result<RevokedService, Error> {
        self.open_service_with(service, |_| Vec::new()).await
    }

    /// The same with lines for the audit trail, which are durable together with the opening.
    pub async fn open_service_with(
        &self,
        service: &str,
        lines: impl Fn(&RevokedService) -> Vec<Record> + Send + Sync + 'static,
    ) -> Result<RevokedService, Error> {
        let known = find(&self.keeper.ledger().stated().await?, service)?;
        if known.closed {
            let opened = Declaration::OpenService { service: service.to_owned() };
            self.keeper.ledger().declare(opened, of_service(service, lines)).await?;
            tracing::warn!(service, "opened a service");
        }
        find(&self.read().await?, service)
    }

    /// Has a head list what is durable by now.
    async fn declared<T>(&self, done: T) -> Declared<T> {
        Declared { done, head: self.issue().await.map(drop) }
    }

    /// When no verifier's window reaches the generation before `next` any more.
    fn end_of(&self, next: &SignedEvent) -> Timestamp {
        next.event().created_at.plus(windows::AUTHD).plus(self.settings.skew)
    }

    /// The problem, if the newest head is too old.
    fn staleness(&self) -> Option<String> {
        let age = self.age();
        (age > STALE).then(|| {
            let why = self.problem().unwrap_or_else(|| "none is being made".to_owned());
            format!("the newest head is {} min old: {why}", age.as_secs() / 60)
        })
    }

    fn age(&self) -> Duration {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    fn until_due(&self) -> Duration {
        self.settings.head_interval.saturating_sub(self.age())
    }
}
