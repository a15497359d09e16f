//! The key directory as a source: pushed, and read in full when updates tell to.

use std::sync::Arc;
use std::time::Duration;

use keychain::Digest;
use keychain::directory::{self, Directory, Following};
use tokio::sync::{mpsc, watch};

use super::super::Shared;
use super::{Link, Texts, Told};
use crate::health;
use crate::updates::{Subscription, Update, readable};

/// Names in one update above which reading the whole chain is cheaper than reading each.
const SINGLE_READS_MAX: usize = 16;

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
        let state = self.shared.state.load_full();
        let mut texts = Texts::default();
        for name in names {
            // Most names are of other databases, and have no entry in these: only those of events have heads.
            let event = readable(self.directory.event(&name).await)?;
            if event.is_some() || state.chain().events().any(|known| known.id() == name) {
                texts.heads.extend(readable(self.directory.head(&name).await)?);
            }
            texts.events.extend(event);
        }
        Ok(texts)
    }
}
