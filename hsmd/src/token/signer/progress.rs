//! What can be seen of a signer's thread from outside it.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// How the thread of one token gets on.
#[derive(Default)]
pub(super) struct Progress {
    recoveries: AtomicUsize,
    attempts: AtomicUsize,
    /// When the call that is at the token now began.
    since: Mutex<Option<Instant>>,
    /// Which token it is.
    identity: Mutex<Option<String>>,
}

impl Progress {
    pub(super) fn recovered(&self) {
        self.recoveries.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn begins(&self) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    pub(super) fn ends(&self) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.attempts.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes which token a connection was made to.
    pub(super) fn connected(&self, identity: Option<String>) {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = identity;
    }

    pub(super) fn identity(&self) -> Option<String> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn recoveries(&self) -> usize {
        self.recoveries.load(Ordering::Relaxed)
    }

    pub(super) fn attempts(&self) -> usize {
        self.attempts.load(Ordering::Relaxed)
    }

    pub(super) fn time_in_call(&self) -> Option<Duration> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner).map(|since| since.elapsed())
    }
}
