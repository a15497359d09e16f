//! Removes from the store the rows that have ended.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use crate::service::Service;

/// How often it looks for them.
const EVERY: Duration = Duration::from_mins(10);

/// Removes them, for as long as it is polled. Nothing waits for it: whether a row has ended is asked of the row.
pub async fn run(service: Arc<Service>) {
    let mut interval = tokio::time::interval(EVERY);
    let mut is_failing = false;
    loop {
        interval.tick().await;
        match service.store.prune(service.now()).await {
            Ok(()) if std::mem::take(&mut is_failing) => tracing::info!("ended rows are removed again"),
            Ok(()) => {}
            Err(fault) if !is_failing => {
                is_failing = true;
                let error = &fault as &dyn Error;
                tracing::warn!(
                    error,
                    "ended rows are not removed, and take room; tried again every 10 minutes"
                );
            }
            Err(_still) => {}
        }
    }
}
