//! What the tests put around an edge: real Redis and real daemons, an HSM service and an app in this process.

pub(crate) mod app;
pub(crate) mod clock;
pub(crate) mod daemon;
pub(crate) mod feed;
pub(crate) mod fixture;
pub(crate) mod hsm;
pub(crate) mod redis;
pub(crate) mod world;

use std::time::{Duration, Instant};

/// How long anything may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// Waits until `probe` finds something.
pub(crate) async fn until<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(started.elapsed() < DEADLINE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
