//! Traffic at the edges from a device that no declaration is about.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;

use super::verifier::{Requests, Verdict, Verifier};
use crate::craft::Device;

/// Pause between two requests at one edge.
const PACE: Duration = Duration::from_millis(20);

/// Requests without an end, as long as it is kept.
pub(super) struct Traffic {
    device: Arc<Mutex<Arc<Device>>>,
    refused: Arc<AtomicU64>,
    admitted: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Traffic {
    pub(super) fn start(edges: &[Verifier], device: Device) -> Self {
        let device = Arc::new(Mutex::new(Arc::new(device)));
        let (refused, admitted) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let mut tasks = JoinSet::new();
        for edge in edges {
            let (edge, device) = (edge.clone(), Arc::clone(&device));
            let (refused, admitted) = (Arc::clone(&refused), Arc::clone(&admitted));
            tasks.spawn(async move {
                loop {
                    let device = Arc::clone(&device.lock().unwrap());
                    let verdict = edge.ask(&Requests::of(device).number(0)).await;
                    let counter = if verdict == Verdict::Admitted { &admitted } else { &refused };
                    counter.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(PACE).await;
                }
            });
        }
        Self { device, refused, admitted, _tasks: tasks }
    }

    /// Goes on as another device.
    pub(super) fn replace(&self, device: Device) {
        *self.device.lock().unwrap() = Arc::new(device);
    }

    /// How many requests were not admitted so far, and how many were.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.refused.load(Ordering::Relaxed), self.admitted.load(Ordering::Relaxed))
    }
}
