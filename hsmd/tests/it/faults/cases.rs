//! The cases of a fault matrix, worked off some at a time.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt::Debug,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Mutex,
    time::Instant,
};

use super::fixture::Fixture;
use crate::support::daemon::Daemon;

/// A world and its hsmd, kept for the next case while each fault is survived.
pub(super) type Running = Option<(Fixture, Daemon)>;

/// Tries each case on `workers` worlds at a time: `run` answers whether hsmd came across the fault, and panics if it was
/// not survived. Each of `calls` must have failed in one case at least.
pub(super) fn survive<C: Debug + Send>(
    name: &str,
    (cases, workers): (Vec<C>, usize),
    (calls, call_of): (Vec<&'static str>, fn(&C) -> &'static str),
    run: impl Fn(&C, &mut Running) -> bool + Sync,
) {
    let (queue, outcomes) = (Mutex::new(VecDeque::from(cases)), Mutex::new(Vec::new()));
    let start = Instant::now();
    let work = || {
        let mut running: Running = None;
        loop {
            let Some(case) = queue.lock().unwrap().pop_front() else { return };
            let (met, lost) = match catch_unwind(AssertUnwindSafe(|| run(&case, &mut running))) {
                Ok(met) => (met, None),
                Err(panic) => {
                    running = None;
                    let text = panic.downcast_ref::<String>().cloned();
                    (true, Some(text.unwrap_or_else(|| "a check failed".to_owned())))
                }
            };
            outcomes.lock().unwrap().push((case, met, lost));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(work);
        }
    });
    let outcomes: Vec<(C, bool, Option<String>)> = outcomes.into_inner().unwrap();
    let tried: Vec<_> = outcomes.iter().filter(|(_, met, _)| *met).collect();
    let lost: Vec<_> = tried.iter().filter_map(|(case, _, why)| Some((case, why.as_ref()?))).collect();
    println!(
        "{name}: {} cases in {} s; faults tried: {}, survived: {}",
        outcomes.len(),
        start.elapsed().as_secs(),
        tried.len(),
        tried.len() - lost.len()
    );
    for (case, why) in &lost {
        println!("not survived: {case:?}: {why}");
    }
    assert!(lost.is_empty(), "{} faults were not survived; the first: {:?}", lost.len(), lost[0]);
    let met: BTreeSet<_> = tried.iter().map(|(case, ..)| call_of(case)).collect();
    assert_eq!(met, calls.into_iter().collect(), "each call has failed at least once");
}
