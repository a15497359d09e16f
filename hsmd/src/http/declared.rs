//! What denies or revokes is durable before the head that lists it is signed: the trail and the caller learn both.

use keychain::Refusal;

use super::border;
use crate::{
    audit::operation::Outcome,
    chain::{statement::Declared, with_causes},
};

/// What the refusal adds if the declaration stands and its head is late.
const STANDS: &str = "it is durable, and needs no repetition: a head lists it as soon as one can be signed";

/// The answer to a declaration, once a head lists it.
pub(super) fn answer<T>(declared: Declared<T>) -> Result<T, Refusal> {
    declared.stated().map_err(|error| border::refuse(&error).with("declared", STANDS))
}

impl<T: Outcome> Outcome for Declared<T> {
    fn details(&self) -> Vec<(&'static str, String)> {
        self.done.details()
    }

    fn late_head(&self) -> Option<String> {
        self.head.as_ref().err().map(|error| with_causes(error))
    }
}
