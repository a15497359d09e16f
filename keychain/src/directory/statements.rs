//! Database 5: the newest head of each event
//! ([PROTOCOL.md#directory-statements](../../PROTOCOL.md#directory-statements)).
//!
//! A head stands under the id of its event, so that a change is pushed to whoever follows [`super::Changes`].

use std::time::Duration;

use redis::Pipeline;

use super::{CHAIN, Directory, Error, STATEMENTS, millis, read};
use crate::cesr::Digest;

impl Directory {
    /// Publishes the newest head of one event, as it stands. It disappears after `ttl`.
    pub async fn publish_head(&self, event_id: &Digest, text: &str, ttl: Duration) -> Result<(), Error> {
        let name = event_id.to_string();
        read::bounded(&self.lanes.statements, &name, text)?;
        let mut set = redis::pipe();
        set_head(&mut set, &name, text, ttl);
        self.lanes.statements.run("publish a head", &set).await
    }

    /// Publishes an event and its first head at once: nobody sees the event, which may be a taint that voids what
    /// was denied before, without the head that denies it anew.
    pub async fn publish_event_with_head(
        &self,
        event_id: &Digest,
        event: &str,
        head: &str,
        ttl: Duration,
    ) -> Result<(), Error> {
        let name = event_id.to_string();
        read::bounded(&self.lanes.chain, &name, event)?;
        read::bounded(&self.lanes.statements, &name, head)?;
        let mut set = redis::pipe();
        set.atomic();
        // The connection goes back to its own database before anybody else can use it.
        set.cmd("SELECT").arg(STATEMENTS).ignore();
        set_head(&mut set, &name, head, ttl);
        set.cmd("SELECT").arg(CHAIN).ignore();
        set.cmd("SET").arg(&name).arg(event).ignore();
        self.lanes.chain.run("publish an event with its head", &set).await
    }

    /// The newest published head of one event, unverified.
    pub async fn head(&self, event_id: &Digest) -> Result<Option<String>, Error> {
        read::one(&self.lanes.statements, "read a head", &event_id.to_string()).await
    }

    /// The newest published heads of these events, unverified. Those that are not there or cannot be read are left out.
    pub async fn heads_of(&self, event_ids: &[Digest]) -> Result<Vec<String>, Error> {
        let names = event_ids.iter().map(Digest::to_string).collect();
        let found = read::each(&self.lanes.statements, "read heads", names).await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// The newest published head of every event that has one, unverified. Unreadable entries are left out.
    pub async fn heads(&self) -> Result<Vec<String>, Error> {
        let entries = read::all(&self.lanes.statements, "read all heads", read::Name::Digest).await?;
        Ok(entries.into_iter().map(|(_, text)| text).collect())
    }
}

fn set_head(commands: &mut Pipeline, name: &str, text: &str, ttl: Duration) {
    commands.cmd("SET").arg(name).arg(text).arg("PX").arg(millis(ttl)).ignore();
}
