//! The bench of the fleet (`tests/benches/fleet.rs`) in small: one of each declaration, so that it does not rot.

use std::time::Duration;

use tests::fleet::{Declaration, Fleet};

/// The four edges and two simulated followers.
const FOLLOWERS: usize = 6;

#[tokio::test(flavor = "multi_thread")]
async fn every_declaration_is_refused_everywhere_and_its_cost_counted() {
    let mut fleet = Fleet::start(FOLLOWERS).await;
    let rest = fleet.rest(Duration::from_secs(2)).await;
    // Each follower asks every 0.7 s whether its connection lives.
    assert!(rest.all_commands() > 1.0, "{rest:?}");
    for declaration in Declaration::ALL {
        let measured = fleet.declare(declaration).await;
        let name = declaration.name();
        assert_eq!((measured.refused.len(), measured.denied.len()), (FOLLOWERS, FOLLOWERS), "{name}");
        assert!(measured.cost.all_commands() > 0.0 && measured.cost.bytes_out > 0.0, "{name}: {measured:?}");
        if declaration == Declaration::Ban {
            let (refused, admitted) = measured.bystander;
            assert_eq!(refused, 0, "a device that is not banned");
            assert!(admitted > 0);
        }
    }
}
