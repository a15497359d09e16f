//! Follows the entries of database 3 (`PROTOCOL.md#directory`): a denial by whoever can write there, such as a public
//! auth server. They add to what the denial feed says, and their deletion lifts only themselves.
//!
//! An entry that is gone was lifted only if it is certain that somebody deleted it
//! (`PROTOCOL.md#directory-revocation-gone`). So the server is asked what it has been through: before the entries are read
//! in full, and again once one is found gone.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use keychain::directory::{self, Directory, Following, History, Server, Stands};
use keychain::{Digest, Timestamp};
use tokio::sync::watch;

use crate::health::{self, Dependencies};
use crate::state_file::{Content, StateFile, content};
use crate::task::Task;
use crate::trust::{Confirmation, Currency, TrustFeed};
use crate::updates::{Subscription, Update, Updates};

/// Names in one update above which reading all of them is cheaper than asking for each.
const SINGLE_READS_MAX: usize = 256;

/// Pause before another attempt when the directory does not answer.
const RETRY: Duration = Duration::from_secs(1);

/// The file in a daemon's state directory that has who is denied by entries alone, and the longest read: the most that
/// database 3 may have.
const FILE: &str = "revocations.json";
const FILE_MAX: u64 = 128 * 1_024 * 1_024;

/// How often it is kept on disk that the entries are known, while nothing changes.
const REMEMBER_EVERY: Duration = Duration::from_mins(1);

/// How often it is noted that the entries are known, while nothing changes.
const CONFIRM_EVERY: Duration = Duration::from_secs(5);

/// Least age of revocations that an edge can be told to demand: authd signs something every 5 minutes.
const MAX_AGE_LEAST: Duration = Duration::from_mins(10);

/// The age unless configured: as long as an edge goes on in an outage, which its own key ends.
pub const MAX_AGE: Duration = Duration::from_hours(12);

/// Largest age: authd's keys live no longer.
const MAX_AGE_MOST: Duration = Duration::from_hours(24);

/// `revocations_max_age` is not one that can be kept.
#[derive(Debug, thiserror::Error)]
#[error(
    "must lie between 10m and 24h: authd signs its denials every 5m, and no key of its own lasts longer than 24h"
)]
pub struct MaxAgeOutOfBounds;

/// What an edge is told of the age of revocations: `revocations_max_age`.
pub fn max_age(age: systemd::config::Span) -> Result<Duration, MaxAgeOutOfBounds> {
    let age = age.duration();
    if (MAX_AGE_LEAST..=MAX_AGE_MOST).contains(&age) { Ok(age) } else { Err(MaxAgeOutOfBounds) }
}

/// Keeps the entries current in the trust of this process. Cloning shares it.
#[derive(Debug, Clone)]
pub struct RevocationFeed {
    loaded: watch::Receiver<bool>,
    /// Whether it is known from before a restart who was denied then.
    recalled: bool,
    _tasks: Arc<[Task]>,
}

impl RevocationFeed {
    /// Begins to follow the directory, and to demand that revocations be known.
    ///
    /// Who was denied before a restart is denied at once.
    pub fn start(
        directory: &Directory,
        updates: &Updates,
        trust: TrustFeed,
        demand: Confirmation,
        state: &Path,
    ) -> Self {
        let file = StateFile::new(state, FILE, FILE_MAX);
        let texts = file.read();
        let mut recalled = false;
        trust.deny(|denied| {
            denied.demand = Some(demand);
            recalled = denied.entries.recall(&texts);
        });
        let (remember, wanted) = watch::channel(None);
        let (loaded, is_loaded) = watch::channel(false);
        let follower = Follower {
            directory: directory.clone(),
            dependencies: updates.dependencies().clone(),
            trust,
            following: updates.following(),
            loaded,
            history: None,
            currency: None,
            remember,
            remembered: None,
        };
        let tasks = [Task::spawn(file.keep_up(wanted)), Task::spawn(follower.run(updates.subscribe()))];
        Self { loaded: is_loaded, recalled, _tasks: Arc::new(tasks) }
    }

    /// Whether it is known from before a restart who was denied then.
    pub const fn recalled(&self) -> bool {
        self.recalled
    }

    /// Waits until the whole list was read once: before that nobody can be said not to be on it.
    pub async fn loaded(&self) {
        let mut loaded = self.loaded.clone();
        if loaded.wait_for(|loaded| *loaded).await.is_err() {
            std::future::pending::<()>().await; // the feed never ends before its owner
        }
    }
}

struct Follower {
    directory: Directory,
    dependencies: Dependencies,
    trust: TrustFeed,
    following: watch::Receiver<Following>,
    loaded: watch::Sender<bool>,
    /// What the server had been through before the entries that are known were read.
    history: Option<History>,
    /// How current the revocations were said to be.
    currency: Option<&'static str>,
    /// Has kept on disk what a restart is to know.
    remember: watch::Sender<Content>,
    /// As of which change and which confirmation that was.
    remembered: Option<(u64, Timestamp)>,
}

impl Follower {
    async fn run(mut self, mut updates: Subscription) {
        let mut pending = Update::default();
        let mut confirm = tokio::time::interval(CONFIRM_EVERY);
        loop {
            let patience = if pending.is_nothing() { Duration::MAX } else { RETRY };
            tokio::select! {
                update = updates.next() => pending.merge(&update),
                _ = confirm.tick() => {
                    let is_followed = matches!(*self.following.borrow(), Following::Yes);
                    if is_followed && pending.is_nothing() && *self.loaded.borrow() {
                        self.confirm();
                        self.keep();
                    }
                    self.tell_currency();
                }
                () = tokio::time::sleep(patience) => {}
            }
            if pending.is_nothing() {
                continue;
            }
            match self.read(&pending).await {
                Ok(rest) => {
                    self.dependencies.good(health::DIRECTORY_REVOCATIONS);
                    pending = rest;
                    self.tell_currency();
                    self.keep();
                }
                Err(error) => {
                    self.dependencies.lost(health::DIRECTORY_REVOCATIONS, &error);
                    pending.everything = true;
                }
            }
        }
    }

    /// Reads what an update is about; what is to be read after that.
    async fn read(&mut self, update: &Update) -> Result<Update, directory::Error> {
        let feed = keychain::feed::name(&self.trust.state().chain().prefix());
        let names = update.names.iter().filter_map(|name| Digest::parse(name).ok());
        let mut names: Vec<Digest> = names.filter(|name| *name != feed).collect();
        if names.len() > SINGLE_READS_MAX {
            // authd writes its copy of the feed: what the feed denies is denied already.
            let state = self.trust.state();
            let (denied, now) = (state.denied(), self.trust.now());
            names.retain(|who| !denied.feed.denials().denies(who, now) || denied.entries.denies(who, now));
        }
        if update.is_everything() || names.len() > SINGLE_READS_MAX {
            self.read_all(update.everything).await?;
            return Ok(Update::default());
        }
        let is_certain = self.read_some(&names).await?;
        // What the server has been through since may have taken more than what is known to be gone.
        Ok(Update { reread: !is_certain, ..Update::default() })
    }

    /// Reads all entries. How long each stands is asked of those that are new, and of all if changes were missed.
    async fn read_all(&mut self, changes_missed: bool) -> Result<(), directory::Error> {
        let before = self.server().await?;
        let all: HashSet<Digest> = self.directory.all_revoked().await?.into_iter().collect();
        let state = self.trust.state();
        let entries = &state.denied().entries;
        let is_asked = |who: &&Digest| changes_missed || !entries.holds(who);
        let asked: Vec<Digest> = all.iter().filter(is_asked).copied().collect();
        let gone: Vec<Digest> = entries.held().filter(|who| !all.contains(who)).copied().collect();
        let found = self.directory.denials(&asked).await?;
        self.hold(&asked, &found);
        self.miss(&gone).await?;
        // The entries are of the server that was asked only if it still answers the same.
        let after = self.server().await?;
        self.history = before
            .and_then(|before| before.history)
            .filter(|before| after.and_then(|after| after.history).as_ref() == Some(before));
        self.trust.deny(|denied| denied.review(self.trust.now()));
        self.loaded.send_replace(true);
        let is_detached = matches!(&*self.following.borrow(), Following::Lost(error)
            if matches!(**error, directory::Error::Detached { .. }));
        if !is_detached {
            self.confirm();
        }
        Ok(())
    }

    /// Reads the entries of these names. False if the server may have lost others.
    async fn read_some(&mut self, names: &[Digest]) -> Result<bool, directory::Error> {
        let found = self.directory.denials(names).await?;
        let state = self.trust.state();
        let is_gone = |(who, found): (&Digest, &Option<Stands>)| {
            Some(*who).filter(|who| found.is_none() && state.denied().entries.holds(who))
        };
        let gone: Vec<Digest> = names.iter().zip(&found).filter_map(is_gone).collect();
        self.hold(names, &found);
        self.miss(&gone).await
    }

    /// Takes in the entries that were found.
    fn hold(&self, names: &[Digest], found: &[Option<Stands>]) {
        let now = self.trust.now();
        let there = || names.iter().zip(found).filter_map(|(who, found)| Some((who, (*found)?)));
        if there().next().is_none() {
            return; // most names are of other databases
        }
        self.trust.deny(|denied| {
            for (who, stands) in there() {
                denied.hold(who, end(stands, now));
            }
        });
    }

    /// Takes in that these entries are gone, unless they are back. False if the server may have lost others.
    async fn miss(&self, gone: &[Digest]) -> Result<bool, directory::Error> {
        if gone.is_empty() {
            return Ok(true);
        }
        let (found, history) = self.directory.denials_and_history(gone).await?;
        self.hold(gone, &found);
        let is_deleted = history.is_some() && history == self.history;
        let missing = gone.iter().zip(&found).filter(|(_, found)| found.is_none());
        let missing: Vec<&Digest> = missing.map(|(who, _)| who).collect();
        let now = self.trust.now();
        self.trust.deny(|denied| {
            for who in &missing {
                denied.miss(who, is_deleted, now);
            }
        });
        let lost = missing.iter().filter(|who| self.trust.state().denied().entries.denies(who, now)).count();
        if lost > 0 {
            let asked = if history.is_some() { "yes" } else { "no, or it is a replica" };
            tracing::warn!(
                lost,
                server_says = asked,
                "entries of database 3 are gone, and not certainly by deletion: they deny to their end, or until authd lifts \
                 the same denial, or until they are written again and deleted"
            );
        }
        Ok(history.is_none() || is_deleted)
    }

    /// What the server says of itself; it must not be a replica that hears nothing.
    async fn server(&self) -> Result<Option<Server>, directory::Error> {
        let server = self.directory.server().await?;
        match server {
            Some(Server { is_detached: true, .. }) => {
                Err(directory::Error::Detached { operation: "read all revocations" })
            }
            server => Ok(server),
        }
    }

    /// Has kept on disk who is denied, if that is otherwise than before, and from time to time that it is not.
    fn keep(&mut self) {
        let state = self.trust.state();
        let entries = &state.denied().entries;
        let Some(confirmed) = entries.confirmed() else { return };
        let is_known = self.remembered.is_some_and(|(changes, before)| {
            changes == entries.changes() && confirmed.since(before) < REMEMBER_EVERY
        });
        if !is_known && let Some(texts) = entries.remembered() {
            self.remember.send_replace(content(texts.iter().map(String::as_str)));
            self.remembered = Some((entries.changes(), confirmed));
        }
    }

    /// Notes that all entries are known now.
    fn confirm(&self) {
        let now = self.trust.now();
        self.trust.deny(|denied| denied.entries.confirm(now));
    }

    /// Says in metrics how current revocations are, and in the log when that changes.
    fn tell_currency(&mut self) {
        let state = self.trust.state();
        let denied = state.denied();
        let Some(currency) = denied.currency(self.trust.now()) else { return };
        let (age, word) = match currency {
            Currency::Confirmed(age) => (Some(age), "confirmed"),
            Currency::Late(age) => (Some(age), "late"),
            Currency::Unknown(age) => (age, "unknown"),
        };
        let age = age.map_or(f64::INFINITY, |age| age.as_secs_f64());
        metrics::gauge!("verifier_revocations_age_seconds").set(age);
        let most = denied.demand.map_or(f64::INFINITY, |demand| demand.max_age.as_secs_f64());
        metrics::gauge!("verifier_revocations_max_age_seconds").set(most);
        let lost = u32::try_from(denied.entries.lost()).unwrap_or(u32::MAX);
        metrics::gauge!("verifier_revocations_lost").set(lost);
        // At a start nothing is confirmed yet.
        if self.currency == Some(word) || denied.confirmed().is_none() {
            return;
        }
        match currency {
            Currency::Confirmed(_) if self.currency.is_none() => {}
            Currency::Confirmed(_) => tracing::info!("revocations are confirmed again"),
            Currency::Late(_) => tracing::warn!(
                age,
                "revocations were not confirmed for half of `revocations_max_age`; see authd and the directory"
            ),
            Currency::Unknown(_) => tracing::error!(
                age,
                "revocations were not confirmed for all of `revocations_max_age`: refusing with BA608 until they are"
            ),
        }
        self.currency = Some(word);
    }
}

/// When what stands so long ends.
fn end(stands: Stands, now: Timestamp) -> Option<Timestamp> {
    match stands {
        Stands::Forever => None,
        Stands::Millis(left) => Some(now.plus(Duration::from_millis(left))),
    }
}
