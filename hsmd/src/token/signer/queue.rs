//! What waits for a token: four bounded lanes, served in strict order, equal signatures joined.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use keychain::{PublicKey, Signature};
use tokio::sync::oneshot;

use super::actor::Actor;
use crate::token::backend::Fault;

/// What a request is for: the token serves the first class that has any waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Steps of the chain: a taint must not stand behind a thousand endorsements.
    Chain,
    /// Statements about the chain: heads, and revocations of service keys.
    Statement,
    /// Endorsements of service keys.
    Endorsement,
    /// Signatures that only show that the token signs. Last, but after [`PROBE_PATIENCE`] before the
    /// endorsements: a token that is merely busy must not seem dead.
    Probe,
}

impl Class {
    /// Every class, first served first.
    pub const ALL: [Self; 4] = [Self::Chain, Self::Statement, Self::Endorsement, Self::Probe];

    /// The class's name in metrics and in `GET /health`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chain => "chain",
            Self::Statement => "statement",
            Self::Endorsement => "endorsement",
            Self::Probe => "probe",
        }
    }

    /// Requests of the class that may wait.
    pub const fn capacity(self) -> usize {
        match self {
            // A chain takes one step at a time, and each waits for the one before it.
            Self::Chain => 8,
            // A handful of operators and one timer ask, and equal requests share an entry.
            Self::Statement => 16,
            // A YubiHSM signs about 14 times a second and a caller waits `DEADLINE` at most, so what stands
            // further back could not be answered in time. A SoftHSM empties this in a fiftieth of a second.
            Self::Endorsement => 128,
            // One loop asks, and asks again only once it was answered.
            Self::Probe => 4,
        }
    }

    const fn lane(self) -> usize {
        self as usize
    }
}

/// How long a probe stands behind endorsements.
pub const PROBE_PATIENCE: Duration = Duration::from_secs(1);

/// Callers that one signature is shared by: as many as a socket serves connections.
pub const SHARED_MAX: usize = 256;

/// Where a signature goes.
pub(super) type Waiter = oneshot::Sender<Result<Signature, Fault>>;

/// Work of any other kind.
pub(super) type Job = Box<dyn FnOnce(&mut Actor) + Send>;

/// A signature that one or more callers wait for.
pub(super) struct Wanted {
    pub(super) public_key: PublicKey,
    pub(super) digest: [u8; 32],
    waiters: Vec<Waiter>,
}

impl Wanted {
    pub(super) fn new(public_key: PublicKey, digest: [u8; 32], waiter: Waiter) -> Self {
        Self { public_key, digest, waiters: vec![waiter] }
    }

    fn is_same(&self, other: &Self) -> bool {
        self.digest == other.digest && self.public_key == other.public_key
    }

    /// Takes over the other's callers; errs if there are too many.
    fn join(&mut self, other: Self) -> Result<(), Fault> {
        if self.waiters.len() >= SHARED_MAX {
            return Err(Fault::Busy { capacity: SHARED_MAX });
        }
        self.waiters.extend(other.waiters);
        Ok(())
    }

    fn is_abandoned(&self) -> bool {
        self.waiters.iter().all(oneshot::Sender::is_closed)
    }
}

pub(super) enum Work {
    Job(Job),
    Sign(Wanted),
}

struct Entry {
    work: Work,
    since: Instant,
}

/// What the thread does next.
pub(super) enum Next {
    Job(Job),
    /// Sign this; [`Queue::signed`] takes the result.
    Sign(PublicKey, [u8; 32]),
}

#[derive(Default)]
struct State {
    lanes: [VecDeque<Entry>; 4],
    /// The class that is at the token.
    running: Option<Class>,
    /// The signature that is at the token, for others to join.
    signing: Option<Wanted>,
    /// Nobody can ask any more.
    closed: bool,
    /// The thread is gone.
    ended: bool,
}

/// The queue of one token, between its callers and its thread.
pub(super) struct Queue {
    state: Mutex<State>,
    more: Condvar,
    depths: [metrics::Gauge; 4],
}

impl Queue {
    pub(super) fn new() -> Self {
        let depths = Class::ALL.map(|class| metrics::gauge!("hsmd_queue_depth", "class" => class.as_str()));
        Self { state: Mutex::default(), more: Condvar::new(), depths }
    }

    /// Puts work into its class's lane, or has it share a signature that is waiting or being made.
    pub(super) fn push(&self, class: Class, work: Work) -> Result<(), Fault> {
        let mut state = self.lock();
        if state.ended {
            return Err(Fault::Stopped);
        }
        let work = match work {
            Work::Sign(wanted) => match state.share(class, wanted)? {
                Some(wanted) => Work::Sign(wanted),
                None => return Ok(()),
            },
            work @ Work::Job(_) => work,
        };
        let Some(lane) = state.lanes.get_mut(class.lane()) else { return Err(Fault::Stopped) };
        if lane.len() >= class.capacity() {
            return Err(Fault::Busy { capacity: class.capacity() });
        }
        lane.push_back(Entry { work, since: Instant::now() });
        drop(state);
        self.count(class, 1.0);
        self.more.notify_one();
        Ok(())
    }

    /// Waits for work; `None` once every sender is dropped. Requests whose caller is gone are skipped: it
    /// would only make the others wait.
    pub(super) fn next(&self) -> Option<Next> {
        let mut state = self.lock();
        loop {
            let Some((class, entry)) = state.pop() else {
                if state.closed {
                    return None;
                }
                state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            match entry.work {
                Work::Sign(wanted) if wanted.is_abandoned() => self.count(class, -1.0),
                Work::Sign(wanted) => {
                    let next = Next::Sign(wanted.public_key, wanted.digest);
                    state.running = Some(class);
                    state.signing = Some(wanted);
                    return Some(next);
                }
                Work::Job(job) => {
                    state.running = Some(class);
                    return Some(Next::Job(job));
                }
            }
        }
    }

    /// Answers everybody who waits for the signature that was being made.
    pub(super) fn signed(&self, outcome: Result<Signature, Fault>) {
        let wanted = self.lock().signing.take();
        let mut waiters = wanted.map(|wanted| wanted.waiters).unwrap_or_default().into_iter();
        let Some(first) = waiters.next() else { return };
        for waiter in waiters {
            drop(waiter.send(outcome.clone()));
        }
        drop(first.send(outcome));
    }

    /// Says that the work which was at the token is done.
    pub(super) fn done(&self) {
        let class = self.lock().running.take();
        if let Some(class) = class {
            self.count(class, -1.0);
        }
    }

    /// Says that no sender is left.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.more.notify_one();
    }

    /// Says that the thread is gone; each caller that waits is answered, because its sender is dropped.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        let left = std::mem::take(&mut *state);
        state.ended = true;
        drop(state);
        let waiting = Class::ALL.into_iter().zip(&left.lanes);
        let waiting = waiting.flat_map(|(class, lane)| lane.iter().map(move |_| class));
        waiting.chain(left.running).for_each(|class| self.count(class, -1.0));
    }

    pub(super) fn has_ended(&self) -> bool {
        self.lock().ended
    }

    /// Requests of each class that wait or are at the token.
    pub(super) fn depths(&self) -> [(Class, usize); 4] {
        let state = self.lock();
        Class::ALL.map(|class| {
            let waiting = state.lanes.get(class.lane()).map_or(0, VecDeque::len);
            (class, waiting + usize::from(state.running == Some(class)))
        })
    }

    /// Counted up and down, not set: several tokens share the gauges.
    fn count(&self, class: Class, by: f64) {
        if let Some(gauge) = self.depths.get(class.lane()) {
            gauge.increment(by);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Joins an equal signature of the class; answers the signature itself if there is none.
    fn share(&mut self, class: Class, wanted: Wanted) -> Result<Option<Wanted>, Fault> {
        let running = self.signing.as_mut().filter(|_| self.running == Some(class));
        let lane = self.lanes.get_mut(class.lane()).into_iter().flatten();
        let waiting = lane.filter_map(|entry| match &mut entry.work {
            Work::Sign(waiting) => Some(waiting),
            Work::Job(_) => None,
        });
        match running.into_iter().chain(waiting).find(|other| other.is_same(&wanted)) {
            Some(other) => other.join(wanted).map(|()| None),
            None => Ok(Some(wanted)),
        }
    }

    fn pop(&mut self) -> Option<(Class, Entry)> {
        let probe = self.lanes.get(Class::Probe.lane()).and_then(VecDeque::front);
        let impatient = probe.is_some_and(|probe| probe.since.elapsed() >= PROBE_PATIENCE);
        let order = if impatient {
            [Class::Chain, Class::Statement, Class::Probe, Class::Endorsement]
        } else {
            Class::ALL
        };
        order.into_iter().find_map(|class| Some((class, self.lanes.get_mut(class.lane())?.pop_front()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_waits_for_endorsements_but_not_for_ever() {
        let entry = |since| Entry { work: Work::Job(Box::new(|_| {})), since };
        let now = Instant::now();
        let long_ago = now.checked_sub(PROBE_PATIENCE).unwrap();
        for (since, order) in [
            (now, [Class::Chain, Class::Statement, Class::Endorsement, Class::Probe]),
            (long_ago, [Class::Chain, Class::Statement, Class::Probe, Class::Endorsement]),
        ] {
            let mut state = State::default();
            for lane in &mut state.lanes {
                lane.push_back(entry(since));
            }
            let popped: Vec<_> = std::iter::from_fn(|| state.pop()).map(|(class, _)| class).collect();
            assert_eq!(popped, order);
        }
    }
}
