//! Whom the auth server denies, as a signed feed (`PROTOCOL.md#feed`).
//!
//! Batches of [`Entry`], numbered by [`Position`], change the state; a snapshot states all of it. Both are a
//! [`Message`], signed by the auth server's access key and by its response key: the thief of one of them says nothing
//! here. [`State`] is what a reader has accepted. It decides what counts; whoever carries texts to it decides nothing.

mod entry;
mod message;
mod shards;
mod snapshot;
mod state;

pub use entry::{Cause, Entry, Place, Standing, parse_entries, write_entries};
pub use message::{Content, Draft, Message, Position, Proven, Signers, name};
pub use shards::Shards;
pub use snapshot::{Chunks, Loading};
pub use state::{Denials, State, Taken};

#[cfg(test)]
mod tests;
