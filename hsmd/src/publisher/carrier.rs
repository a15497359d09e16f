//! What has been told, and what the directory holds of it.

use std::collections::{BTreeMap, BTreeSet};

use keychain::{
    Digest,
    chain::SignedEvent,
    directory::{Change, Directory, Error},
};

use crate::failure_point::{self, Step};

/// Keeps the directory's copy of the chain equal to what hsmd told.
pub struct Carrier {
    directory: Directory,
    /// The published form of each event, by id.
    events: BTreeMap<Digest, String>,
    /// Events that the directory is not known to hold.
    owed: BTreeSet<Digest>,
}

impl Carrier {
    /// Carries into `directory`; nothing is known yet.
    pub fn new(directory: Directory) -> Self {
        Self { directory, events: BTreeMap::new(), owed: BTreeSet::new() }
    }

    /// Takes in events that hsmd told. They are published by the next [`Self::settle`].
    pub fn learn(&mut self, events: Vec<SignedEvent>) {
        for event in events {
            let sequence_number = event.event().sequence_number;
            self.owed.insert(event.id());
            self.events.insert(event.id(), event.text().to_owned());
            metrics::gauge!("hsm_publisher_chain_sequence")
                .set(u32::try_from(sequence_number).map_or(f64::INFINITY, f64::from));
        }
    }

    /// Takes in what changed in the directory.
    pub async fn notice(&mut self, changes: &BTreeSet<Change>) -> Result<(), Error> {
        for change in changes {
            match change {
                Change::Flushed | Change::Reconnected => self.owe_everything(),
                Change::Key(name) => {
                    let id = Digest::parse(name).ok().filter(|id| self.events.contains_key(id));
                    if let Some(id) = id
                        && self.directory.event(&id).await?.as_ref() != self.events.get(&id)
                    {
                        self.owed.insert(id);
                    }
                }
            }
        }
        Ok(())
    }

    /// Compares the whole of the directory's copy.
    pub async fn sweep(&mut self) -> Result<(), Error> {
        let held: BTreeSet<String> = self.directory.events().await?.into_iter().collect();
        self.owed.extend(self.events.iter().filter(|(_, text)| !held.contains(*text)).map(|(id, _)| *id));
        Ok(())
    }

    /// Owes the directory every event.
    pub fn owe_everything(&mut self) {
        self.owed.extend(self.events.keys());
    }

    /// Publishes what is owed, in no particular order; how many that were.
    pub async fn settle(&mut self) -> Result<u64, Error> {
        let mut published = 0;
        while let Some(id) = self.owed.first().copied() {
            if let Some(text) = self.events.get(&id) {
                let failed = |_| Error::Slow { operation: "publish past a failure point" };
                failure_point::write(Step::Publish, "before-write").map_err(failed)?;
                self.directory.publish_event(&id, text).await?;
                failure_point::write(Step::Publish, "after-write").map_err(failed)?;
                published += 1;
                metrics::counter!("hsm_publisher_published_total").increment(1);
            }
            self.owed.remove(&id);
        }
        Ok(published)
    }

    /// Whether hsmd has told anything, and the directory holds all of it as far as is known.
    pub fn is_settled(&self) -> bool {
        !self.events.is_empty() && self.owed.is_empty()
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
