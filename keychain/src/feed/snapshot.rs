//! A snapshot's chunks: made, and put together again.

use super::{
    entry::{Entry, Standing, parse_entries, write_entries},
    message::{Content, Position, Proven},
    state::{Denials, State},
};
use crate::{
    cesr::Digest,
    error::{Code, Refusal},
    limits,
    time::Timestamp,
};

/// The chunks of a snapshot to be signed.
#[derive(Clone, Debug)]
pub struct Chunks {
    /// What the snapshot's message says of them.
    pub content: Content,
    /// Their texts, each with its digest.
    pub texts: Vec<(Digest, String)>,
}

impl Chunks {
    /// Cuts the entries of a state into chunks. It errs for more than a reader takes.
    pub fn of(entries: &[Entry]) -> Result<Self, Refusal> {
        if entries.len() > limits::FEED_DENIALS_MAX {
            return Err(TOO_MANY);
        }
        let texts: Vec<_> = entries.chunks(limits::FEED_ENTRIES_MAX).map(write_entries).collect();
        let texts: Vec<_> = texts.into_iter().map(|text| (Digest::of(&text), text)).collect();
        let count = u64::try_from(entries.len()).unwrap_or(u64::MAX);
        let chunks = texts.iter().map(|(digest, _)| *digest).collect();
        Ok(Self { content: Content::Snapshot { count, chunks }, texts })
    }
}

/// A snapshot whose chunks are being read. Nothing of it counts before all of it is there.
#[derive(Debug)]
pub struct Loading {
    position: Position,
    issued_at: Timestamp,
    count: u64,
    chunks: Vec<Digest>,
}

impl Loading {
    /// Begins with a verified message; nothing if it is no snapshot.
    pub fn begin(snapshot: Proven<'_>) -> Option<Self> {
        let Content::Snapshot { count, chunks } = snapshot.content() else { return None };
        Some(Self {
            position: snapshot.position(),
            issued_at: snapshot.issued_at(),
            count: *count,
            chunks: chunks.clone(),
        })
    }

    /// The chunks that are needed, in their order.
    pub fn chunks(&self) -> &[Digest] {
        &self.chunks
    }

    /// The state that the chunks' texts, in their order, make.
    pub fn finish(self, texts: &[String]) -> Result<State, Refusal> {
        if texts.len() != self.chunks.len() {
            return Err(Refusal::new(Code::InvalidMessage, "a chunk of the snapshot is missing"));
        }
        let mut denials = Denials::default();
        let mut count: usize = 0;
        for (digest, text) in self.chunks.iter().zip(texts) {
            if text.len() > limits::FEED_VALUE_MAX || Digest::of(text) != *digest {
                return Err(Refusal::new(Code::InvalidMessage, "a chunk does not have its digest"));
            }
            let entries = parse_entries(text)?;
            count = count.saturating_add(entries.len());
            if count > limits::FEED_DENIALS_MAX {
                return Err(TOO_MANY);
            }
            for entry in &entries {
                if entry.standing == Standing::Lifted {
                    return Err(Refusal::new(Code::InvalidMessage, "a snapshot lifts nothing"));
                }
                denials.set(entry);
            }
        }
        if u64::try_from(count) != Ok(self.count) {
            return Err(Refusal::new(Code::InvalidMessage, "the snapshot has another count of entries"));
        }
        Ok(State::new(self.position, self.issued_at, denials))
    }
}

const TOO_MANY: Refusal = Refusal::new(Code::TooLarge, "more are denied than a reader holds");
