//! The key directory as a source: pushed, and read in full when updates tell to.

use std::sync::Arc;
use std::time::Duration;

use keychain::Digest;
use keychain::directory::{self, Directory, Following, NAMES_PER_PAGE};
use tokio::sync::{mpsc, watch};

use super::super::Shared;
use super::{Link, Texts, Told};
use crate::health;
use crate::updates::{Subscription, Update};

/// Names in one update above which the whole chain is read. Fewer are asked for in one go: most are of other databases,
/// and have no entry in this one.
const SINGLE_READS_MAX: usize = NAMES_PER_PAGE;

/// Pause before another attempt when the directory does not answer.
const RETRY: Duration = Duration::from_secs(1);

/// Reads what the directory announces.
pub(in super::super) struct DirectorySource {
    directory: Directory,
    shared: Arc<Shared>,
    to: mpsc::Sender<Told>,
    link: Link,
}

impl DirectorySource {
    pub(in super::super) fn new(directory: Directory, shared: Arc<Shared>, to: mpsc::Sender<Told>) -> Self {
        let link = Link::new("directory", health::DIRECTORY_CHAIN, Arc::clone(&shared));
        Self { directory, shared, to, link }
    }

    pub(in super::super) async fn run(
        self,
        mut updates: Subscription,
        mut following: watch::Receiver<Following>,
    ) {
        let mut pending = Update::default();
        let mut is_lost = false;
        loop {
            let retry = if pending.is_nothing() { Duration::MAX } else { RETRY };
            tokio::select! {
                update = updates.next() => pending.merge(&update),
                Ok(()) = following.changed() => {
                    let now = following.borrow_and_update().clone();
                    match now {
                        // What cannot be followed may hold something new at any moment.
                        Following::Lost(error) => {
                            self.link.is_down(&*error);
                            is_lost = true;
                        }
                        Following::Yes => pending.everything |= std::mem::take(&mut is_lost),
                        Following::NotYet => {}
                    }
                }
                () = tokio::time::sleep(retry) => {}
            }
            if pending.is_nothing() {
                continue;
            }
            match self.read(&pending).await {
                Ok(texts) => {
                    // What is read without being followed counts, and may be old a moment later.
                    if !is_lost {
                        self.link.is_up();
                    }
                    if self.to.send(Told { texts, read_up_to: Some(pending.number) }).await.is_err() {
                        return;
                    }
                    pending = Update { number: pending.number, ..Update::default() };
                }
                Err(error) => {
                    self.link.is_down(&error);
                    pending.everything = true;
                }
            }
        }
    }

    /// The texts that may hold something new. Heads are read after events: one of an event not read yet waits.
    async fn read(&self, update: &Update) -> Result<Texts, directory::Error> {
        let feed = keychain::feed::name(&self.shared.state.load().chain().prefix());
        let names = update.names.iter().filter_map(|name| Digest::parse(name).ok());
        let names: Vec<Digest> = names.filter(|name| *name != feed).collect();
        if update.is_everything() || names.len() > SINGLE_READS_MAX {
            let events = self.directory.events().await?;
            return Ok(Texts { events, heads: self.directory.heads().await? });
        }
        let events = self.directory.events_of(&names).await?;
        // Only events have heads.
        let state = self.shared.state.load_full();
        let is_event = |name: &Digest| state.chain().events().any(|known| known.id() == *name);
        let of_events = names.iter().zip(&events).filter(|(name, event)| event.is_some() || is_event(name));
        let with_heads: Vec<Digest> = of_events.map(|(name, _)| *name).collect();
        let heads = self.directory.heads_of(&with_heads).await?;
        Ok(Texts { events: events.into_iter().flatten().collect(), heads })
    }
}
