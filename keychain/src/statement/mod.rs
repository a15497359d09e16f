//! What the HSM's newest generation says beside endorsements, in one statement: the head
//! (`PROTOCOL.md#statements`).
//!
//! It has the shape of an endorsement and is told apart by its purpose, which is signed: no reader takes
//! another's texts. What heads list is joined in [`Entries`]; which heads count is for
//! [`crate::chain::Chain::hear`], which knows what is tainted.

mod entries;
mod head;
mod joined;

use crate::cesr::{Digest, Signature};

pub use entries::{Entries, ServiceRevocation};
pub use head::{Head, LastLine, NewHead, ProvenHead};
pub use joined::{HeadPlace, Heard, Joined, Order};

/// A statement to be signed by the chain's newest generation.
#[derive(Clone, Debug)]
pub struct Draft {
    body: String,
}

impl Draft {
    pub(crate) fn new(payload: &str, identity: &Digest, generation_id: &Digest) -> Self {
        Self {
            body: format!(
                "{{\"payload\":{payload},\"hsm\":{{\"identity\":\"{identity}\",\"generationId\":\"{generation_id}\"}}}}"
            ),
        }
    }

    /// The bytes to sign.
    pub fn body(&self) -> &str {
        &self.body
    }

    /// Puts the signature to it: what is published.
    pub fn seal(&self, signature: &Signature) -> String {
        format!("{{\"body\":{},\"signature\":\"{signature}\"}}", self.body)
    }
}

#[cfg(test)]
mod tests;
