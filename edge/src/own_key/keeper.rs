//! Keeps a service's key usable: in the directory, endorsed by a live generation, not too old.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use keychain::Timestamp;
use tokio::sync::watch;

use super::{Endorsed, Error, Maker, kept};
use crate::updates::{Subscription, Update};

/// First and longest pause between attempts to get a new key. The longest is short because an outage
/// of hsmd should cost no more than itself.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LONGEST: Duration = Duration::from_secs(3);

/// Longest wait for what was announced before a loss. The same directory is read, which answers or does not.
const HEAD_WAIT: Duration = Duration::from_secs(2);

/// Keys of before whose entries are kept in the directory: what they signed is still on its way. At a
/// cycle of a quarter of an entry's life there are four; more only after taints, which end them.
const FORMER_MAX: usize = 16;

pub(super) struct Keeper {
    maker: Maker,
    current: watch::Sender<Arc<Endorsed>>,
    /// All whose entries are kept, the current one last.
    published: Vec<Arc<Endorsed>>,
    /// A key made but not yet taken by the directory.
    candidate: Option<Endorsed>,
    /// When the current key is to be replaced.
    due: Timestamp,
    pause: Duration,
}

impl Keeper {
    pub(super) fn new(maker: Maker, first: Arc<Endorsed>, current: watch::Sender<Arc<Endorsed>>) -> Self {
        let due = due(&maker, first.made);
        Self { maker, current, published: vec![first], candidate: None, due, pause: PAUSE_FIRST }
    }

    pub(super) async fn run(mut self, mut updates: Subscription, mut orders: watch::Receiver<u64>) {
        let mut chain = self.maker.feed.version();
        let mut lost = Update::default();
        loop {
            let wait = self.due.since(self.maker.feed.now());
            let retry = if lost.is_nothing() { Duration::MAX } else { PAUSE_LONGEST };
            tokio::select! {
                update = updates.next() => lost.merge(&update),
                _ = chain.changed() => self.ask_at_once_if_dead_or_ordered(),
                Ok(()) = orders.changed() => self.due = self.maker.feed.now(),
                () = tokio::time::sleep(wait.min(retry)) => {}
            }
            if self.due <= self.maker.feed.now() {
                self.replace().await;
            }
            lost = self.put_back(lost).await;
        }
    }

    fn is_dead(&self, key: &Endorsed) -> bool {
        self.maker
            .feed
            .state()
            .check(&key.endorsement, self.maker.plan.window(), self.maker.feed.now())
            .is_err()
    }

    /// A taint does not wait for the next cycle, nor does an order of the HSM service.
    fn ask_at_once_if_dead_or_ordered(&mut self) {
        let dead = self.published.last().is_some_and(|key| self.is_dead(key));
        let ordered = !dead && self.published.last().is_some_and(|key| self.is_to_roll(key));
        let soon = self.maker.feed.now().plus(random_part(self.maker.plan.spread));
        if dead && soon < self.due {
            tracing::warn!(
                "this service's key is revoked, or the generation that endorsed it is no longer live; asking for a new key"
            );
            self.due = soon;
        }
        if ordered && soon < self.due {
            tracing::info!("hsmd orders a new key; the old one stays good");
            self.due = soon;
        }
    }

    fn is_to_roll(&self, key: &Endorsed) -> bool {
        self.maker.feed.state().chain().orders_roll(&key.endorsement, self.maker.feed.now())
    }

    async fn replace(&mut self) {
        match self.try_replace().await {
            Ok(key) => {
                tracing::info!(key = %key.public_key(), purpose = key.endorsement.subject.purpose.as_str(), "took a new key into use");
                self.due = due(&self.maker, key.made);
                self.pause = PAUSE_FIRST;
                self.published.push(key);
                if self.published.len() > FORMER_MAX {
                    self.published.remove(0);
                }
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn StdError, "no new key yet; trying again");
                self.due = self.maker.feed.now().plus(self.pause + random_part(self.pause));
                self.pause = (self.pause * 2).min(PAUSE_LONGEST);
            }
        }
    }

    async fn try_replace(&mut self) -> Result<Arc<Endorsed>, Error> {
        let key = match self.candidate.take().filter(|candidate| !self.is_dead(candidate)) {
            Some(candidate) => candidate,
            None => self.maker.make().await?,
        };
        if let Err(error) = self.maker.publish(&key).await {
            self.candidate = Some(key);
            return Err(error.into());
        }
        kept::keep(self.maker.plan, &key);
        let key = Arc::new(key);
        self.current.send_replace(Arc::clone(&key));
        Ok(key)
    }

    /// Publishes again what the directory lost; what remains to be done if it does not answer.
    ///
    /// An entry that a revocation deleted is not put back: its head was published first, and is waited for.
    async fn put_back(&mut self, lost: Update) -> Update {
        let concerns_us = self.published.iter().any(|key| lost.touches(&key.public_key().to_string()));
        let heard = self.maker.feed.wait_for_update(lost.number);
        if concerns_us && tokio::time::timeout(HEAD_WAIT, heard).await.is_err() {
            return lost;
        }
        let current = self.published.last().map(|key| key.public_key());
        let published = std::mem::take(&mut self.published);
        self.published = published
            .into_iter()
            .filter(|key| Some(key.public_key()) == current || !self.is_dead(key))
            .collect();
        for key in &self.published {
            if !lost.touches(&key.public_key().to_string()) || self.is_dead(key) {
                continue;
            }
            let put = match self.maker.is_published(key).await {
                Ok(true) => continue,
                Ok(false) => self.maker.publish(key).await,
                Err(error) => Err(error),
            };
            match put {
                Ok(()) => {
                    tracing::warn!(key = %key.public_key(), "the directory had lost this key; put back");
                }
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn StdError,
                        "cannot look after this service's key in the directory"
                    );
                    return lost;
                }
            }
        }
        Update::default()
    }
}

/// The cycle after `made`, give or take a tenth.
fn due(maker: &Maker, made: Timestamp) -> Timestamp {
    let cycle = maker.plan.cycle;
    made.plus(cycle * 9 / 10 + random_part(cycle / 5))
}

/// A random part of `whole`; all of it if the system gives no random numbers.
fn random_part(whole: Duration) -> Duration {
    let mut byte = [u8::MAX];
    if aws_lc_rs::rand::fill(&mut byte).is_err() {
        return whole;
    }
    whole * byte.iter().map(|byte| u32::from(*byte)).sum::<u32>() / u32::from(u8::MAX)
}
