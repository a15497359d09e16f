//! What is published of the feed, read by the auth server itself.

use keychain::chain::Chain;
use keychain::directory::{self, Directory};
use keychain::feed::{Entry, Loading, Message, Position, Proven};
use keychain::{Refusal, Timestamp};

/// Batches read at once.
const BATCHES_READ: usize = 16;

/// Where a message stands that an auth server signed.
pub(super) fn position(text: &str, chain: &Chain, now: Timestamp) -> Result<Position, Refusal> {
    verify(&Message::parse(text)?, chain, now).map(Proven::position)
}

/// Whom all that is published up to `shown` denies; nothing if a part of it is missing or does not count.
pub(super) async fn denials(
    directory: &Directory,
    chain: &Chain,
    shown: Position,
    now: Timestamp,
) -> Result<Option<Vec<Entry>>, directory::Error> {
    let Some(text) = directory.snapshot().await? else { return Ok(None) };
    let Ok(message) = Message::parse(&text) else { return Ok(None) };
    let Some(loading) = verify(&message, chain, now).ok().and_then(Loading::begin) else { return Ok(None) };
    let chunks = directory.chunks(loading.chunks()).await?;
    let Some(chunks) = chunks.into_iter().collect::<Option<Vec<String>>>() else { return Ok(None) };
    let Ok(mut state) = loading.finish(&chunks) else { return Ok(None) };
    while let Some(position) = state.position() {
        for text in directory.batches(position.next(), BATCHES_READ).await? {
            let Ok(message) = Message::parse(&text) else { continue };
            if let Ok(proven) = verify(&message, chain, now) {
                state.take(proven);
            }
        }
        if state.position() == Some(position) {
            break;
        }
    }
    let is_whole = state.position().is_some_and(|position| position >= shown);
    Ok(is_whole.then(|| state.denials().entries().collect()))
}

/// As of when it was made: the keys that signed it may have ended since.
fn verify<'a>(message: &'a Message, chain: &Chain, now: Timestamp) -> Result<Proven<'a>, Refusal> {
    let made = message.issued_at().min(now);
    message.verify(chain, made)
}
