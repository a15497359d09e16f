//! The device, watched beside signing: its certificates are fetched, its room is measured.
//!
//! Nothing here keeps hsmd from signing: what fails is a warning, and tried again.

use std::time::Duration;

use crate::{
    chain::{Keeper, with_causes},
    health::Health,
};

/// How often the device is asked, if no generation begins meanwhile.
const INTERVAL: Duration = Duration::from_mins(10);

/// How often it is seen whether the device can be asked.
const UNREADY_INTERVAL: Duration = Duration::from_secs(2);

/// Free places for objects below which somebody has to see to it: a rotation needs one for a moment, and what
/// hsmd cannot destroy stays.
const FREE_MIN: u32 = 16;

/// Asks the device, at once and whenever a generation begins; for ever.
pub async fn watch(keeper: &Keeper, health: &Health) {
    let mut head = keeper.watch();
    loop {
        head.mark_unchanged();
        let is_open = keeper.view().is_some();
        if is_open {
            let attested = keeper.attest().await;
            health.warn("attestation", attested.err().map(|error| with_causes(&error)));
            let room = match keeper.free_objects().await {
                Ok(free) => free.and_then(room),
                Err(error) => Some(with_causes(&error)),
            };
            health.warn("objects", room);
        }
        // Late or not: it is asked again.
        let interval = if is_open { INTERVAL } else { UNREADY_INTERVAL };
        drop(tokio::time::timeout(interval, head.changed()).await);
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
