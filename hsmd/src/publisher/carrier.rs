//! The events that hsmd serves, and which of them the directory holds.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use keychain::{
    Digest,
    chain::SignedEvent,
    directory::{Change, Directory, Error},
    statement::Head,
};

use super::statements::whole_life;
use crate::failure_point::{self, Step};

/// How long a new event waits for its first head. Without one, the HSM signs no head: the event goes alone.
const HEAD_WAIT: Duration = Duration::from_millis(200);

/// Most events that are reported to hsmd: it reads no more. A rival that went on for longer shows by the first.
const REPORTED_MAX: usize = 64;

/// Keeps the directory's copy of the chain equal to the chain that hsmd serves.
pub struct Carrier {
    directory: Directory,
    /// The published form of each event, by id.
    events: BTreeMap<Digest, String>,
    /// Events that the directory is not known to hold.
    pending: BTreeSet<Digest>,
    /// The events that hsmd has served since it was last there: one that comes back may have another ledger.
    served: BTreeSet<Digest>,
    /// Whether hsmd was away since.
    is_anew: bool,
    /// The number and the id of the newest event that it served.
    newest: Option<(u64, Digest)>,
    /// When it was first served.
    learnt: Instant,
}

/// What a sweep found.
#[derive(Debug, Default)]
pub struct Found {
    /// Events of the chain that hsmd did not serve.
    pub events: Vec<SignedEvent>,
    /// How many of the events that hsmd served were there.
    pub held: u64,
    /// The newest event that hsmd served, if it was there.
    pub newest: Option<Digest>,
}

impl Carrier {
    /// Carries into `directory`; nothing is known yet.
    pub fn new(directory: Directory) -> Self {
        Self {
            directory,
            events: BTreeMap::new(),
            pending: BTreeSet::new(),
            served: BTreeSet::new(),
            is_anew: false,
            newest: None,
            learnt: Instant::now(),
        }
    }

    /// Takes in events that hsmd served. They are published by the next [`Self::settle`].
    pub fn learn(&mut self, events: Vec<SignedEvent>) {
        if std::mem::take(&mut self.is_anew) {
            self.served.clear();
            self.newest = None;
        }
        for event in events {
            let sequence_number = event.event().sequence_number;
            self.pending.insert(event.id());
            self.served.insert(event.id());
            self.events.insert(event.id(), event.text().to_owned());
            let number = Some((sequence_number, event.id()));
            if number > self.newest {
                (self.newest, self.learnt) = (number, Instant::now());
            }
            metrics::gauge!("hsm_publisher_chain_sequence")
                .set(u32::try_from(sequence_number).map_or(f64::INFINITY, f64::from));
        }
    }

    /// Takes in what changed in the directory.
    pub async fn notice(&mut self, changes: &BTreeSet<Change>) -> Result<(), Error> {
        for change in changes {
            match change {
                Change::Flushed | Change::Reconnected => self.mark_all_pending(),
                Change::Key(name) => {
                    let id = Digest::parse(name).ok().filter(|id| self.events.contains_key(id));
                    if let Some(id) = id
                        && self.directory.event(&id).await?.as_ref() != self.events.get(&id)
                    {
                        self.pending.insert(id);
                    }
                }
            }
        }
        Ok(())
    }

    /// Compares the whole of the directory's copy, and takes out of it what stands beside the chain. Answers what was
    /// found: for hsmd, which alone can judge it.
    pub async fn sweep(&mut self) -> Result<Found, Error> {
        let published: BTreeSet<String> = self.directory.events().await?.into_iter().collect();
        self.pending
            .extend(self.events.iter().filter(|(_, text)| !published.contains(*text)).map(|(id, _)| *id));
        let is_held = |id: &&Digest| self.events.get(*id).is_some_and(|text| published.contains(text));
        let held = self.served.iter().filter(is_held).count();
        let newest = self.newest.map(|(_, id)| id).filter(|id| is_held(&id));
        let foreign = self.foreign(&published);
        for event in &foreign {
            // Public verifiers fail on two events with one number.
            if self.is_beside(event) {
                self.directory.withdraw_event(&event.id()).await?;
                // Also if an hsmd served it that had another ledger.
                self.events.remove(&event.id());
                self.pending.remove(&event.id());
                metrics::counter!("hsm_publisher_rivals_total").increment(1);
                tracing::error!(event = %event.id(), "took an event that stands beside the chain out of the directory");
            }
        }
        Ok(Found { events: foreign, held: u64::try_from(held).unwrap_or(u64::MAX), newest })
    }

    /// Published events of this chain that hsmd did not serve, those nearest to the newest event: there a rival says most.
    fn foreign(&self, published: &BTreeSet<String>) -> Vec<SignedEvent> {
        let Some(newest) = self.newest() else { return Vec::new() };
        let (prefix, number) = (newest.event().prefix, newest.event().sequence_number);
        let served: BTreeSet<&String> = self.served.iter().filter_map(|id| self.events.get(id)).collect();
        let unknown = published.iter().filter(|text| !served.contains(text));
        let mut foreign: Vec<_> = unknown
            .filter_map(|text| SignedEvent::parse(text).ok())
            .filter(|event| event.event().prefix == prefix && !self.served.contains(&event.id()))
            .collect();
        foreign.sort_by_key(|event| event.event().sequence_number.abs_diff(number));
        foreign.truncate(REPORTED_MAX);
        foreign
    }

    /// Whether hsmd served another event with the same number. One beyond the newest may be what a restored ledger lacks.
    fn is_beside(&self, event: &SignedEvent) -> bool {
        self.newest.is_some_and(|(number, _)| event.event().sequence_number <= number)
    }

    /// The newest event that hsmd served.
    pub fn newest(&self) -> Option<SignedEvent> {
        self.newest.and_then(|(_, id)| self.event(&id))
    }

    /// hsmd is away: the next that it serves is its whole chain.
    pub const fn begin_anew(&mut self) {
        self.is_anew = true;
    }

    /// The directory is not known to hold anything: every event is written again.
    pub fn mark_all_pending(&mut self) {
        self.pending.extend(self.events.keys());
    }

    /// Publishes what is pending, in no particular order; how many that were.
    ///
    /// An event whose `head` is at hand appears together with it.
    pub async fn settle(&mut self, head: Option<&Head>) -> Result<u64, Error> {
        let mut published = 0;
        let pending: Vec<_> = self.pending.iter().copied().collect();
        for id in pending {
            let own = head.filter(|head| head.event_id() == id);
            if own.is_none() && self.waits_for_head(&id) {
                continue;
            }
            if let Some(text) = self.events.get(&id) {
                let failed = |_| Error::Slow { operation: "publish past a failure point" };
                failure_point::write(Step::Publish, "before-write").map_err(failed)?;
                match own {
                    Some(head) => {
                        let ttl = whole_life(head);
                        self.directory.publish_event_with_head(&id, text, head.text(), ttl).await?;
                    }
                    None => self.directory.publish_event(&id, text).await?,
                }
                failure_point::write(Step::Publish, "after-write").map_err(failed)?;
                published += 1;
                metrics::counter!("hsm_publisher_published_total").increment(1);
            }
            self.pending.remove(&id);
        }
        Ok(published)
    }

    /// Whether an event is so new that its first head, which is served milliseconds later, can still appear together with
    /// it: a taint voids what was denied before.
    fn waits_for_head(&self, id: &Digest) -> bool {
        self.newest.is_some_and(|(_, newest)| newest == *id) && self.learnt.elapsed() < HEAD_WAIT
    }

    /// Whether hsmd has served anything, and the directory holds all of it as far as is known.
    pub fn is_settled(&self) -> bool {
        !self.events.is_empty() && self.pending.is_empty()
    }

    /// One of the events.
    pub fn event(&self, id: &Digest) -> Option<SignedEvent> {
        self.events.get(id).and_then(|text| SignedEvent::parse(text).ok())
    }

    /// How many events there are.
    pub fn events(&self) -> usize {
        self.events.len()
    }
}
