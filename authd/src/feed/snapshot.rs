//! Snapshots of all denials.

use std::collections::BTreeSet;
use std::sync::Arc;

use edge::own_key::Endorsed;
use keychain::Digest;
use keychain::directory::{self, Directory};
use keychain::feed::{Chunks, Content, Message, Position};

use super::{Halted, identity, seal};
use crate::service::Service;

/// A snapshot in the directory.
#[derive(Clone, Debug)]
pub(super) struct Published {
    pub(super) text: String,
    pub(super) position: Position,
    pub(super) chunks: Vec<Digest>,
}

/// Reads all denials, and publishes them with one signature.
pub(super) async fn publish(
    service: Arc<Service>,
    access: Arc<Endorsed>,
    response: Arc<Endorsed>,
) -> Result<Published, Halted> {
    // Made when it is read: a batch that is told meanwhile is made later, as its position is.
    let now = service.now();
    let (position, entries) = service.store.feed_state(now).await?;
    let chunks = Chunks::of(&entries)?;
    let text = seal(&service, (&access, &response), (position, &chunks.content), now)?;
    service.directory.publish_chunks(&chunks.texts).await?;
    let before = service.directory.snapshot().await?;
    service.directory.publish_snapshot(&identity(&service), &text).await?;
    let chunks: Vec<Digest> = chunks.texts.into_iter().map(|(digest, _)| digest).collect();
    retire(&service.directory, before, &chunks).await?;
    Ok(Published { text, position, chunks })
}

/// Lets go the chunks of a former snapshot. Readers in the middle of it have a moment.
async fn retire(
    directory: &Directory,
    before: Option<String>,
    kept: &[Digest],
) -> Result<(), directory::Error> {
    let Some(before) = before.and_then(|text| Message::parse(&text).ok()) else { return Ok(()) };
    let Content::Snapshot { chunks, .. } = before.content() else { return Ok(()) };
    let kept: BTreeSet<_> = kept.iter().collect();
    let gone: Vec<Digest> = chunks.iter().filter(|chunk| !kept.contains(chunk)).copied().collect();
    directory.retire_chunks(&gone).await
}
