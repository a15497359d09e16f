//! Looks at a daemon's state at an interval, and says what it sees: pages, metrics, and the service manager's line.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keychain::Timestamp;
use systemd::notify;
use systemd::swap::Swap;
use systemd::telemetry::Health;
use tokio::time::MissedTickBehavior;

use super::{Budget, Condition, Dependencies, End, Limit, State, budget, page};
use crate::clock::Clock;
use crate::trust::{TrustFeed, TrustState};

/// How often a daemon is looked at. A loss is to be seen within 2 s.
const LOOK: Duration = Duration::from_millis(500);

/// How often it is looked at this host's swap: some can be added while a daemon runs.
const LOOK_AT_SWAP: Duration = Duration::from_secs(15);

/// How much time a start asks for at a time, and how often.
const EXTENSION: Duration = Duration::from_mins(2);
const EXTEND_EVERY: Duration = Duration::from_secs(30);

/// What is seen at one moment.
#[derive(Debug, Clone)]
pub struct Report {
    /// The dependencies by name.
    pub states: BTreeMap<&'static str, State>,
    /// Whether requests are decided.
    pub serving: bool,
    /// How long they are if nothing comes back.
    pub budget: Option<Budget>,
    /// More lines for `/readyz`.
    pub detail: Vec<(String, String)>,
}

impl Report {
    /// A report whose budget is the earliest of `ends`, which metrics show.
    pub fn new(states: BTreeMap<&'static str, State>, serving: bool, ends: &[End], now: Timestamp) -> Self {
        let mut detail = Vec::new();
        for limit in Limit::ALL {
            let of_limit = ends.iter().filter(|end| end.limit == limit);
            // A limit that no longer applies would otherwise go on counting down in metrics.
            let at = of_limit.filter_map(|end| end.at).min();
            let left = at.map_or(f64::INFINITY, |at| at.since(now).as_secs_f64());
            metrics::gauge!("verifier_outage_seconds_left", "limit" => limit.as_str()).set(left);
            if let Some(at) = at {
                let name = format!("{}_seconds_left", limit.as_str().replace(' ', "_"));
                detail.push((name, at.since(now).as_secs().to_string()));
            }
        }
        Self { states, serving, budget: budget(ends, now), detail }
    }

    /// The same with more lines for `/readyz`.
    #[must_use]
    pub fn with(mut self, detail: Vec<(String, String)>) -> Self {
        self.detail.extend(detail);
        self
    }

    /// Whether nothing is missing.
    pub fn is_ready(&self) -> bool {
        self.serving && self.states.values().all(|state| state.condition == Condition::Good)
    }
}

/// How a start is that waits for what its dependencies say, and once it follows the chain, for what that shows.
pub fn starting(
    dependencies: Dependencies,
    trust: Option<TrustFeed>,
) -> impl Fn(Timestamp) -> Report + Send + Sync {
    move |now| {
        if let Some(trust) = &trust {
            dependencies.judge(&trust.state(), now);
        }
        Report::new(dependencies.all(), false, &[], now)
    }
}

/// How far the chain and the denial feed are known, for pages.
pub fn trust_detail(trust: &TrustState) -> Vec<(String, String)> {
    let text = |value: Option<u64>| value.map_or("none".to_owned(), |value| value.to_string());
    let feed = &trust.denied().feed;
    let position = feed.position();
    [
        ("chain_sequence", text(trust.chain().head().map(|head| head.event().sequence_number))),
        ("denial_feed_epoch", text(position.map(|position| position.epoch))),
        ("denial_feed_position", text(position.map(|position| position.number))),
        ("denial_feed_entries", feed.denials().count().to_string()),
        ("denial_feed_spoke", feed.issued_at().map_or("never".to_owned(), |spoke| spoke.to_string())),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

type Look = Arc<dyn Fn(Timestamp) -> Report + Send + Sync>;

/// Watches over a daemon, from the first moment of its process. Cloning shares it.
#[derive(Clone)]
pub struct Watcher {
    daemon: Arc<str>,
    clock: Clock,
    swap: Arc<Mutex<Swap>>,
    look: Arc<Mutex<Look>>,
}

impl Watcher {
    /// Watches over `daemon` by `look`, which must not block, at the times of `clock`.
    pub fn new(
        daemon: &str,
        clock: Clock,
        look: impl Fn(Timestamp) -> Report + Send + Sync + 'static,
    ) -> Self {
        let swap = Swap::look();
        warn_of(swap);
        let swap = Arc::new(Mutex::new(swap));
        Self { daemon: daemon.into(), clock, swap, look: Arc::new(Mutex::new(Arc::new(look))) }
    }

    /// From now on `look` sees more: the daemon has come further in its start.
    pub fn replace(&self, look: impl Fn(Timestamp) -> Report + Send + Sync + 'static) {
        *self.look.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(look);
    }

    /// Does the work of a start, however long it takes: a service manager that would end a start that waits for others
    /// is asked for more time.
    pub async fn start<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            notify::extend(EXTENSION);
            if let Ok(done) = tokio::time::timeout(EXTEND_EVERY, &mut work).await {
                return done;
            }
        }
    }

    /// Says that the daemon serves now.
    pub fn ready(&self) {
        notify::ready(&page::status(&self.report(self.clock.now()), &self.daemon));
    }

    /// Says that the daemon ends: nobody is to ask it any more.
    pub fn stopping(&self) {
        let look = Arc::clone(&self.look.lock().unwrap_or_else(PoisonError::into_inner));
        self.replace(move |now| {
            let ending = ("ending".to_owned(), "requests under way are answered".to_owned());
            Report { serving: false, ..look(now) }.with(vec![ending])
        });
        notify::stopping();
    }

    /// How the daemon is now, for `/readyz`.
    pub fn health(&self) -> Health {
        let now = self.clock.now();
        page::health(&self.report(now), now)
    }

    /// Tells the service manager what changes, and keeps metrics and ages current, for as long as it is polled.
    pub async fn run(self) {
        let mut interval = tokio::time::interval(LOOK);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut at_swap = tokio::time::interval(LOOK_AT_SWAP);
        at_swap.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = String::new();
        loop {
            tokio::select! {
                _ = interval.tick() => {}
                _ = at_swap.tick() => self.look_at_swap(),
            }
            let status = page::status(&self.report(self.clock.now()), &self.daemon);
            if status != told {
                notify::status(&status);
                told = status;
            }
        }
    }

    fn look_at_swap(&self) {
        let swap = Swap::look();
        let gauge = |holds: bool| if holds { 1.0 } else { 0.0 };
        metrics::gauge!("verifier_swap_unencrypted").set(gauge(swap == Swap::Plain));
        metrics::gauge!("verifier_swap_unknown").set(gauge(swap == Swap::Unknown));
        let before = std::mem::replace(&mut *self.swap.lock().unwrap_or_else(PoisonError::into_inner), swap);
        if before != swap {
            warn_of(swap);
        }
    }

    fn report(&self, now: Timestamp) -> Report {
        let look = Arc::clone(&self.look.lock().unwrap_or_else(PoisonError::into_inner));
        let swap = *self.swap.lock().unwrap_or_else(PoisonError::into_inner);
        look(now).with(vec![("swap".to_owned(), swap.as_str().to_owned())])
    }
}

fn warn_of(swap: Swap) {
    if matches!(swap, Swap::Plain | Swap::Unknown) {
        tracing::warn!(
            swap = swap.as_str(),
            "keys in memory may be written to a disk: encrypt this host's swap, or turn it off"
        );
    }
}
