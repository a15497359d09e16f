//! A whole chain from one source, checked in one go.

use super::{Event, SignedEvent};
use crate::{
    cesr::Digest,
    error::{Code, Refusal},
    time::Timestamp,
};
use std::time::Duration;

/// Verifies a whole chain given in order, as an auditor reads it from one file: every rule holds for every
/// event, and nothing else is among them. The first broken rule is named.
///
/// Verifiers at work use [`super::Chain`], which copes with sets, rivals and events from the future.
pub fn verify_whole(
    events: &[SignedEvent],
    prefix: &Digest,
    now: Timestamp,
    skew: Duration,
) -> Result<(), Refusal> {
    let bad = |because, event: &Event| {
        Err(Refusal::new(Code::BadChain, because).with("event", event.id.to_string()))
    };
    let mut previous: Option<&Event> = None;
    for event in events.iter().map(SignedEvent::event) {
        match previous {
            None if event.id != *prefix => {
                return bad("the chain does not begin with the pinned identity", event);
            }
            None => {}
            Some(previous) => event.follows(previous)?,
        }
        if event.created_at > now.plus(skew) {
            return bad("the event is from the future", event);
        }
        previous = Some(event);
    }
    match previous {
        Some(_) => Ok(()),
        None => Err(Refusal::new(Code::BadChain, "the chain has no event")),
    }
}
