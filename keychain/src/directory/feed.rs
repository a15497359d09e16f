//! Database 6: the denial feed ([PROTOCOL.md#feed-directory](../../PROTOCOL.md#feed-directory)).
//!
//! Only the newest message stands under a name whose changes are pushed: one push a batch, whatever else is written.

use std::time::Duration;

use super::{Directory, Error, NAMES_PER_PAGE, millis, read};
use crate::cesr::Digest;
use crate::feed::{Position, name};

/// How long everything of the feed is kept: longer than any key lives whose word it is.
const KEPT: Duration = Duration::from_hours(25);

/// How long a former snapshot can still be read.
const RETIRED: Duration = Duration::from_mins(1);

/// The name of the newest snapshot.
const SNAPSHOT: &str = "snapshot";

/// Chunks in one pipeline: at most 4 MiB.
const CHUNKS_PER_PAGE: usize = 16;

impl Directory {
    /// Publishes a batch, and pushes it as the newest message.
    pub async fn publish_batch(
        &self,
        identity: &Digest,
        position: Position,
        text: &str,
    ) -> Result<(), Error> {
        let name = batch(position);
        read::bounded(&self.lanes.denials, &name, text)?;
        let mut set = redis::pipe();
        set.atomic();
        for name in [name, newest(identity)] {
            set.cmd("SET").arg(name).arg(text).arg("PX").arg(millis(KEPT)).ignore();
        }
        self.lanes.denials.run("publish a batch of the denial feed", &set).await
    }

    /// Publishes chunks of a snapshot.
    pub async fn publish_chunks(&self, chunks: &[(Digest, String)]) -> Result<(), Error> {
        for page in chunks.chunks(CHUNKS_PER_PAGE) {
            let mut set = redis::pipe();
            for (digest, text) in page {
                let name = chunk(digest);
                read::bounded(&self.lanes.denials, &name, text)?;
                set.cmd("SET").arg(name).arg(text).arg("PX").arg(millis(KEPT)).ignore();
            }
            self.lanes.denials.run::<()>("publish a part of the denial feed", &set).await?;
        }
        Ok(())
    }

    /// Publishes a snapshot, whose chunks are there, and pushes it as the newest message.
    pub async fn publish_snapshot(&self, identity: &Digest, text: &str) -> Result<(), Error> {
        read::bounded(&self.lanes.denials, SNAPSHOT, text)?;
        let mut set = redis::pipe();
        set.atomic();
        for name in [SNAPSHOT.to_owned(), newest(identity)] {
            set.cmd("SET").arg(name).arg(text).arg("PX").arg(millis(KEPT)).ignore();
        }
        self.lanes.denials.run("publish a snapshot of the denial feed", &set).await
    }

    /// Lets chunks of a former snapshot go, once those who are reading it have had the time.
    pub async fn retire_chunks(&self, digests: &[Digest]) -> Result<(), Error> {
        for page in digests.chunks(NAMES_PER_PAGE) {
            let mut expire = redis::pipe();
            for digest in page {
                expire.cmd("PEXPIRE").arg(chunk(digest)).arg(millis(RETIRED)).ignore();
            }
            self.lanes.denials.run::<()>("retire a snapshot's parts", &expire).await?;
        }
        Ok(())
    }

    /// The newest message, unverified.
    pub async fn newest_of_feed(&self, identity: &Digest) -> Result<Option<String>, Error> {
        self.readable("read the denial feed", newest(identity)).await
    }

    /// The newest snapshot, unverified.
    pub async fn snapshot(&self) -> Result<Option<String>, Error> {
        self.readable("read the denial feed's snapshot", SNAPSHOT.to_owned()).await
    }

    /// A value; one that cannot be read is as if it were not there, and stops nothing else of the feed.
    async fn readable(&self, operation: &'static str, name: String) -> Result<Option<String>, Error> {
        let found = read::each(&self.lanes.denials, operation, vec![name]).await?;
        Ok(found.into_iter().next().flatten())
    }

    /// The batches at `first` and the positions that follow it, as far as they are there without a hole, at most
    /// `most` of them. Unverified.
    pub async fn batches(&self, first: Position, most: usize) -> Result<Vec<String>, Error> {
        let places = std::iter::successors(Some(first), |position| Some(position.next()));
        let names: Vec<String> = places.take(most).map(batch).collect();
        let mut found = read::each(&self.lanes.denials, "read batches of the denial feed", names).await?;
        let whole = found.iter().take_while(|text| text.is_some()).count();
        found.truncate(whole);
        Ok(found.into_iter().flatten().collect())
    }

    /// Chunks of a snapshot, in their order; nothing for one that is not there. Unverified.
    pub async fn chunks(&self, digests: &[Digest]) -> Result<Vec<Option<String>>, Error> {
        let mut found = Vec::with_capacity(digests.len());
        for page in digests.chunks(CHUNKS_PER_PAGE) {
            let names: Vec<String> = page.iter().map(chunk).collect();
            found.extend(read::each(&self.lanes.denials, "read the denial feed's snapshot", names).await?);
        }
        Ok(found)
    }

    /// Whether every batch from `first` to `last`, of one epoch, is there.
    pub async fn has_batches(&self, first: Position, last: Position) -> Result<bool, Error> {
        let positions = std::iter::successors(Some(first), |position| Some(position.next()));
        let names: Vec<String> = positions.take_while(|position| *position <= last).map(batch).collect();
        for page in names.chunks(NAMES_PER_PAGE) {
            let mut exists = redis::pipe();
            exists.cmd("EXISTS").arg(page);
            let (count,): (usize,) =
                self.lanes.denials.run("look for batches of the denial feed", &exists).await?;
            if count != page.len() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a snapshot's chunks are all there.
    pub async fn has_chunks(&self, digests: &[Digest]) -> Result<bool, Error> {
        let mut exists = redis::pipe();
        let command = exists.cmd("EXISTS");
        for digest in digests {
            command.arg(chunk(digest));
        }
        if digests.is_empty() {
            return Ok(true);
        }
        let (count,): (usize,) = self.lanes.denials.run("look for a snapshot's parts", &exists).await?;
        Ok(count == digests.len())
    }
}

fn newest(identity: &Digest) -> String {
    name(identity).to_string()
}

fn batch(position: Position) -> String {
    format!("batch:{}:{}", position.epoch, position.number)
}

fn chunk(digest: &Digest) -> String {
    format!("chunk:{digest}")
}
