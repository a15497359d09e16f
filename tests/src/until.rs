//! Waiting for something to become true, with a deadline and a name for it.

use std::time::{Duration, Instant};

/// How often it is looked at.
const INTERVAL: Duration = Duration::from_millis(10);

/// Asks `look` again and again until it gives something, and returns that.
///
/// Panics after `deadline` with `what` was waited for.
pub async fn until<T>(what: &str, deadline: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(start.elapsed() < deadline, "waited {deadline:?} in vain for: {what}");
        tokio::time::sleep(INTERVAL).await;
    }
}
