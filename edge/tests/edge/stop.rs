//! An edge and a keysd that are asked to stop between being ready and serving: the signal is not lost.
//!
//! That none is lost in the moment between is shown by the unit tests of `systemd::shutdown`, which both go through; this
//! shows that they do.

use crate::keysd::Keysd;
use crate::support::daemon::Daemon;
use crate::support::world::World;

/// How often it is tried: the moment is short.
const TRIES: usize = 5;

async fn stops(mut daemon: Daemon) {
    daemon.terminate_when_ready();
    let status = daemon.ended().await;
    assert_eq!(status.code(), Some(0), "{}", daemon.log());
    assert!(daemon.log().contains("asked to stop"), "{}", daemon.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_is_asked_to_stop_when_it_is_ready_stops() {
    let mut world = World::start().await;
    world.edge.terminate();
    world.edge.ended().await;
    for _ in 0..TRIES {
        stops(world.start_another(Vec::new())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keysd_that_is_asked_to_stop_when_it_is_ready_stops() {
    let mut keysd = Keysd::start().await;
    keysd.stop().await;
    for _ in 0..TRIES {
        stops(keysd.start_another()).await;
    }
}
