//! What is done for the device beside signing: its certificates are fetched, its room is watched.
//!
//! Nothing here keeps hsmd from signing: what fails is a warning, and tried again.

use std::time::Duration;

use crate::{
    chain::{Keeper, with_causes},
    daemon::health::Health,
};

/// How often the device is asked, if no generation begins meanwhile.
const INTERVAL: Duration = Duration::from_mins(10);

/// Free places for objects below which somebody has to see to it: a rotation needs one for a moment, and what
/// hsmd cannot destroy stays.
const FREE_MIN: u32 = 16;

/// Looks after the device, at once and whenever a generation begins; for ever.
pub async fn tend(keeper: &Keeper, health: &Health) {
    let mut head = keeper.watch();
    loop {
        head.mark_unchanged();
        if keeper.view().is_some() {
            let attested = keeper.attest().await;
            health.warn("attestation", attested.err().map(|error| with_causes(&error)));
            let room = match keeper.free_objects().await {
                Ok(free) => free.and_then(room),
                Err(error) => Some(with_causes(&error)),
            };
            health.warn("objects", room);
        }
        // Late or not: it is looked at again.
        drop(tokio::time::timeout(INTERVAL, head.changed()).await);
    }
}

/// Notes how much room there is; a warning if it is little.
fn room(free: u32) -> Option<String> {
    metrics::gauge!("hsmd_token_objects_free").set(free);
    (free < FREE_MIN)
        .then(|| format!("the device has room for {free} more objects; remove what is not hsmd's"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_room_is_told() {
        for (free, warned) in [(256, false), (16, false), (15, true), (0, true)] {
            assert_eq!(room(free).is_some(), warned, "{free}");
        }
    }
}
