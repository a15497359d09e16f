//! When a verifier ceases to admit: it is asked on and on, each time with another request of the same session.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::verifier::{Requests, Verdict, Verifier};

/// Requests in a second to all verifiers together: what one machine can ask beside everything else that it does here.
const RATE_MAX: u32 = 5_000;

/// Shortest pause between two requests at one verifier.
const PACE_MIN: Duration = Duration::from_millis(10);

/// Requests at one verifier that are not answered yet.
const UNANSWERED_MAX: usize = 64;

/// Longest time until a refusal.
const PATIENCE: Duration = Duration::from_mins(1);

/// How often each of so many verifiers is asked: no moment is known more exactly than this.
pub fn pace(verifiers: usize) -> Duration {
    let verifiers = u32::try_from(verifiers).unwrap();
    PACE_MIN.max(Duration::from_secs(1) * verifiers / RATE_MAX)
}

/// What is to be seen.
#[derive(Clone)]
pub(super) struct Watch {
    pub(super) requests: Arc<Requests>,
    pub(super) pace: Duration,
    /// The code of the refusal that is waited for.
    pub(super) code: &'static str,
    /// All begin at once, when each verifier has admitted.
    pub(super) begin: Arc<Barrier>,
}

/// What was seen.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    /// When it first refused, for whatever reason; it admitted nothing that it was asked after that.
    pub(super) refused: Instant,
    /// When it first refused with the code that is waited for.
    pub(super) denied: Instant,
}

impl Watch {
    /// Asks a verifier until it refuses with the code. It does not wait for an answer before it asks again: during a
    /// taint an edge holds back the answers of requests that it has let in before.
    pub(super) async fn over(self, verifier: Verifier, delay: Duration) -> Seen {
        let first = verifier.ask(&self.requests.number(0)).await;
        assert_eq!(first, Verdict::Admitted, "before the declaration");
        self.begin.wait().await;
        let begun = Instant::now();
        let mut ticks = interval_at(begun + delay, self.pace);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut number, mut refused, mut answers) = (0, None::<Instant>, JoinSet::new());
        loop {
            tokio::select! {
                _ = ticks.tick(), if answers.len() < UNANSWERED_MAX => {
                    assert!(begun.elapsed() < PATIENCE, "not refused within {PATIENCE:?}");
                    // By the time, so that it is fresh at a verifier that is asked late.
                    let due = begun.elapsed().as_nanos() / self.pace.as_nanos();
                    number = (number + 1).max(usize::try_from(due).unwrap());
                    let (request, verifier) = (self.requests.number(number), verifier.clone());
                    let asked = Instant::now();
                    answers.spawn(async move { (asked, verifier.ask(&request).await, Instant::now()) });
                }
                Some(answer) = answers.join_next() => {
                    let (asked, verdict, answered) = answer.unwrap();
                    match verdict {
                        // An app that is overrun answers nothing for a moment: that was no refusal.
                        Verdict::Admitted => refused = refused.filter(|refused| asked < *refused),
                        Verdict::Unknown => drop(refused.get_or_insert(answered)),
                        Verdict::Refused(code) => {
                            assert_eq!(code, self.code);
                            return Seen { refused: *refused.get_or_insert(answered), denied: answered };
                        }
                    }
                }
            }
        }
    }
}
