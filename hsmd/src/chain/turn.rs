//! The turn: one step of the chain at a time, and taints before everything else.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Mutex, MutexGuard, Notify};

/// Who waits for the turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// A taint: a thief's key is trusted until it is made.
    Taint,
    /// Everything else.
    Other,
}

/// The queue before the turn.
#[derive(Default)]
pub(super) struct Turns {
    turn: Mutex<()>,
    taints: AtomicUsize,
    no_taint: Notify,
}

/// The turn. Dropping it gives it up.
pub(super) struct Turn<'a>(#[expect(dead_code, reason = "held, not read")] MutexGuard<'a, ()>);

impl Turns {
    /// Waits for the turn, and takes it. Taints that wait stand before all others, however late they come.
    pub(super) async fn take(&self, waiting: Waiting) -> Turn<'_> {
        if waiting == Waiting::Taint {
            let _counted = Counted::new(self);
            return Turn(self.turn.lock().await);
        }
        loop {
            let no_taint = self.no_taint.notified();
            if self.taints.load(Ordering::SeqCst) > 0 {
                no_taint.await;
                continue;
            }
            let turn = self.turn.lock().await;
            // The mutex serves in order of arrival: one that came later may be a taint.
            if self.taints.load(Ordering::SeqCst) == 0 {
                return Turn(turn);
            }
        }
    }
}

/// A taint that waits, counted until it has the turn or its caller is gone.
struct Counted<'a>(&'a Turns);

impl<'a> Counted<'a> {
    fn new(turns: &'a Turns) -> Self {
        turns.taints.fetch_add(1, Ordering::SeqCst);
        Self(turns)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.taints.fetch_sub(1, Ordering::SeqCst);
        self.0.no_taint.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex as Blocking};

    use super::*;

    #[tokio::test]
    async fn taints_come_first_however_late() {
        let turns = Arc::new(Turns::default());
        let held = turns.take(Waiting::Other).await;
        let order = Arc::new(Blocking::new(Vec::new()));
        let mut waiting = Vec::new();
        for (name, kind) in [
            ("first rotation", Waiting::Other),
            ("second rotation", Waiting::Other),
            ("first taint", Waiting::Taint),
            ("second taint", Waiting::Taint),
        ] {
            let (turns, order) = (Arc::clone(&turns), Arc::clone(&order));
            waiting.push(tokio::spawn(async move {
                let _turn = turns.take(kind).await;
                order.lock().unwrap().push(name);
            }));
            tokio::task::yield_now().await;
        }
        drop(held);
        for each in waiting {
            each.await.unwrap();
        }
        let order = order.lock().unwrap().clone();
        assert_eq!(order[..2], ["first taint", "second taint"], "{order:?}");
        assert_eq!(order.len(), 4);
    }

    #[tokio::test]
    async fn a_taint_whose_caller_is_gone_holds_up_nobody() {
        let turns = Arc::new(Turns::default());
        let held = turns.take(Waiting::Other).await;
        let taint = tokio::spawn({
            let turns = Arc::clone(&turns);
            async move { drop(turns.take(Waiting::Taint).await) }
        });
        tokio::task::yield_now().await;
        taint.abort();
        drop(taint.await);
        drop(held);
        drop(turns.take(Waiting::Other).await);
    }
}
