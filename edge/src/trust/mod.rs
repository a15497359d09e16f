//! What this process trusts: the HSM chain, what the HSM's heads deny and revoke (`PROTOCOL.md#head`), and who is
//! denied, as one immutable value behind one swap.
//!
//! One task merges what sources tell into what was accepted before, and puts the result in the place of the last one.
//! The sources are the key directory, any keysd that is configured and, for a service that hsmd endorses, hsmd itself over the
//! road by which it does. Events and heads are merged as sets, so trust only moves forward: an emptied or rolled-back
//! directory changes nothing, and un-denies nothing. The highest event accepted and the heads that count are kept on
//! disk, so that a restart does not forget them either (`PROTOCOL.md#contested`); so are the events, which a start
//! verifies again and goes by while no source answers. They are in force before they are written: a denial waits for no
//! disk.
//!
//! A head also shows that nothing newer exists. Once none has shown it for `head_max_age`, nothing that rests on an
//! endorsement is answered any more (`PROTOCOL.md#head-fresh`).
//!
//! Readers take no lock and wait for nobody.

mod denied;
mod entries;
mod follower;
mod keysd;
pub mod memory;
mod source;
mod state;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use keychain::chain::{self, Chain, SignedEvent};
use keychain::directory::Directory;
use keychain::statement::HeadPlace;
use keychain::{Digest, Timestamp};
use systemd::config::Span;
use tokio::sync::{mpsc, watch};

use crate::endorser::Endorser;
use crate::health::{self, Condition, Dependencies};
use crate::state_file::StateFile;
use crate::task::Task;
use crate::updates::Updates;
pub use denied::{Confirmation, Currency, Denied};
pub use entries::Entries;
use follower::Follower;
pub use keysd::{Keysd, NoClient as NoKeysdClient, Unusable as KeysdUnusable};
use memory::{Memory, Remembered};
use source::{DirectorySource, HsmdSource, KeysdSource};
pub use state::{Freshness, TrustState};

/// The file in a daemon's state directory that has the accepted events.
const CHAIN_FILE: &str = "chain.json";

/// Longest chain read: a rotation every hour for ten years.
const CHAIN_LENGTH_MAX: u64 = 64 * 1024 * 1024;

/// What sources may tell ahead of the task that merges it.
const TOLD_MAX: usize = 4;

/// What a feed follows, and where it keeps its memory.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The pinned prefix: the HSM identity.
    pub identity: Digest,
    /// How far clocks may differ.
    pub clock_skew: Duration,
    /// The event that resolves a contested chain, if configuration names one.
    pub pin: Option<Digest>,
    /// The daemon's state directory; `trust.json` in it is this feed's.
    pub state: PathBuf,
    /// How long a head's word that nothing newer exists counts; none is without limit.
    pub head_max_age: Option<Duration>,
    /// Each keysd that is asked too.
    pub keysd: Vec<Keysd>,
}

/// The trust of this process, always the newest. Cloning shares it.
#[derive(Debug, Clone)]
pub struct TrustFeed {
    shared: Arc<Shared>,
    kept_head: watch::Receiver<Option<HeadPlace>>,
    _tasks: Arc<[Task]>,
}

#[derive(Debug)]
struct Shared {
    state: ArcSwap<TrustState>,
    version: watch::Sender<u64>,
    /// The number of the last update whose changes are all in `state`.
    read_up_to: watch::Sender<u64>,
    /// Told whether sources can be followed.
    dependencies: Dependencies,
    /// Each keysd that is asked, and whether it follows hsmd over a road of its own.
    independent: Mutex<BTreeMap<&'static str, bool>>,
}

impl Shared {
    /// Notes of a keysd whether it is independent of the key directory.
    fn note_source(&self, name: &'static str, is_independent: bool) {
        metrics::gauge!("verifier_source_independent", "source" => name).set(if is_independent {
            1.0
        } else {
            0.0
        });
        let mut known = self.independent.lock().unwrap_or_else(PoisonError::into_inner);
        if known.insert(name, is_independent) == Some(is_independent) {
            return;
        }
        if is_independent {
            tracing::info!(source = name, "it follows hsmd over a road of its own");
        } else {
            tracing::warn!(
                source = name,
                "it follows the key directory alone, so it tells nothing that the directory withholds; give it `endorse`"
            );
        }
    }

    fn now(&self) -> Timestamp {
        self.dependencies.clock().now()
    }
}

impl TrustFeed {
    /// Begins to follow the directory, and `hsmd` if this service may ask it. The chain is empty, and so nothing is live, until the first events are in.
    ///
    /// Fails if the state directory cannot be used, or remembers another chain.
    pub fn start(
        directory: &Directory,
        updates: &Updates,
        hsmd: Option<Endorser>,
        settings: &Settings,
    ) -> Result<Self, memory::Error> {
        let memory = Memory::open(&settings.state, settings.identity)?;
        let remembered = memory.remembered().clone();
        let chain = Chain::new(
            settings.identity,
            chain::Settings { skew: settings.clock_skew, pin: settings.pin, highest: remembered.highest },
        );
        let shared = Arc::new(Shared {
            state: ArcSwap::from_pointee(TrustState::with_heads(chain, None, settings.head_max_age)),
            version: watch::Sender::new(0),
            read_up_to: watch::Sender::new(0),
            dependencies: updates.dependencies().clone(),
            independent: Mutex::default(),
        });
        let (remember, wanted) = watch::channel(Remembered::default());
        let (kept, kept_head) = watch::channel(None);
        let file = StateFile::new(&settings.state, CHAIN_FILE, CHAIN_LENGTH_MAX);
        let events = file.read();
        let (remember_chain, wanted_chain) = watch::channel(None);
        let (to, told) = mpsc::channel(TOLD_MAX);
        let follower = Follower::new(Arc::clone(&shared), (remember, remember_chain), &remembered.heads);
        let source = DirectorySource::new(directory.clone(), Arc::clone(&shared), to.clone());
        let mut tasks = vec![
            Task::spawn(memory.keep_up(wanted, kept)),
            Task::spawn(file.keep_up(wanted_chain)),
            Task::spawn(follower.run(events, told)),
            Task::spawn(source.run(updates.subscribe(), updates.following())),
        ];
        for keysd in &settings.keysd {
            let source = KeysdSource::new(keysd.clone(), Arc::clone(&shared), to.clone());
            tasks.push(Task::spawn(source.run()));
        }
        if let Some(endorser) = hsmd {
            tasks.push(Task::spawn(HsmdSource::new(endorser, Arc::clone(&shared), to).run()));
        }
        Ok(Self { shared, kept_head, _tasks: tasks.into() })
    }

    /// What is trusted now.
    pub fn state(&self) -> Arc<TrustState> {
        self.shared.state.load_full()
    }

    /// Where each keysd that is asked hears from, for `/readyz`.
    pub fn sources(&self) -> Vec<(String, String)> {
        let known = self.shared.independent.lock().unwrap_or_else(PoisonError::into_inner);
        let word = |is_independent| if is_independent { "hsmd" } else { "the directory alone" };
        known
            .iter()
            .map(|(name, is_independent)| (format!("{name} follows"), word(*is_independent).to_owned()))
            .collect()
    }

    /// Whether hsmd itself is heard now.
    pub fn follows_hsmd(&self) -> bool {
        let hsmd = self.shared.dependencies.state(health::HSMD);
        hsmd.is_some_and(|state| state.condition == Condition::Good)
    }

    /// The time by the clock of this process.
    pub fn now(&self) -> Timestamp {
        self.shared.now()
    }

    /// Puts in force what `change` makes of who is denied. Others may change the rest of the trust meanwhile: then
    /// `change` is asked again, on what they left.
    pub fn deny(&self, mut change: impl FnMut(&mut Denied)) {
        self.shared.state.rcu(|state| {
            let mut denied = state.denied().clone();
            change(&mut denied);
            TrustState::clone(state).denying(denied)
        });
    }

    /// A number that grows whenever trust changes, to wait on; not with who is denied.
    pub fn version(&self) -> watch::Receiver<u64> {
        self.shared.version.subscribe()
    }

    /// The newest head that is in force and on disk, so that a crash does not take it back; none before any was kept.
    pub(crate) fn kept_head(&self) -> watch::Receiver<Option<HeadPlace>> {
        self.kept_head.clone()
    }

    /// Waits until the chain satisfies `wanted`.
    pub async fn wait_until(&self, wanted: impl Fn(&Chain) -> bool) {
        let mut version = self.version();
        loop {
            version.mark_unchanged();
            if wanted(self.state().chain()) {
                return;
            }
            if version.changed().await.is_err() {
                std::future::pending::<()>().await; // the feed never ends before its owner
            }
        }
    }

    /// Waits until all that was announced up to the update of that number is taken in.
    ///
    /// Whoever reacts to an update by writing to the directory waits for this: what it would write may have been
    /// revoked by a head that was announced before.
    pub async fn wait_for_update(&self, number: u64) {
        let mut read_up_to = self.shared.read_up_to.subscribe();
        if read_up_to.wait_for(|read| *read >= number).await.is_err() {
            std::future::pending::<()>().await; // the feed never ends before its owner
        }
    }
}

/// The chain as a daemon kept it in its state directory, verified again: for those who judge by it beside that daemon.
/// Nothing is in it if nothing was kept.
pub fn kept_chain(state: &Path, identity: Digest, settings: chain::Settings, now: Timestamp) -> Chain {
    let texts = StateFile::new(state, CHAIN_FILE, CHAIN_LENGTH_MAX).read();
    let mut chain = Chain::new(identity, settings);
    chain.merge(texts.iter().filter_map(|text| SignedEvent::parse(text).ok()), now);
    chain
}

/// Least age of heads that a daemon can be told to demand: hsmd makes one every 5 minutes.
const HEAD_MAX_AGE_MIN: Duration = Duration::from_mins(10);

/// Largest age: a head expires 12 hours after it was made.
pub const HEAD_MAX_AGE: Duration = Duration::from_hours(12);

/// `head_max_age` is not one that can be kept.
#[derive(Debug, thiserror::Error)]
#[error("must lie between 10m and 12h: hsmd makes a head every 5m, and one lasts 12h")]
pub struct HeadAgeOutOfBounds;

/// What a daemon is told of the age of heads: `head_max_age`, and `insecure_any_head_age`, which takes away the limit.
pub fn head_max_age(age: Span, insecure_any_age: bool) -> Result<Option<Duration>, HeadAgeOutOfBounds> {
    if insecure_any_age {
        return Ok(None);
    }
    let age = age.duration();
    if (HEAD_MAX_AGE_MIN..=HEAD_MAX_AGE).contains(&age) { Ok(Some(age)) } else { Err(HeadAgeOutOfBounds) }
}
