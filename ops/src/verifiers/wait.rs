//! Waiting until every verifier has acknowledged a declaration, and naming those that have not.

use std::time::{Duration, Instant};

use systemd::config::Span;

use super::judge::{Goal, Row};
use super::{Acknowledgements, Follow, table};
use crate::account::Given;
use crate::clock;
use crate::deployment::Deployment;
use crate::door::Door;
use crate::failure::{Exit, Failure, OrFail};
use crate::talk::Talk;

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Longest time that may be waited for.
const WAIT_MAX: Duration = Duration::from_hours(1);

/// Whether a command waits for the verifiers.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Wait {
    /// How long the verifiers may take to acknowledge before those that have not are named (exit code 2)
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = span)]
    wait: Span,
    /// Do not wait: nothing is said about what arrived
    #[arg(long, conflicts_with = "wait")]
    no_wait: bool,
}

fn span(text: &str) -> Result<Span, String> {
    let span: Span = text.parse()?;
    if span.duration().is_zero() || span.duration() > WAIT_MAX {
        return Err(format!("give more than zero and at most {}", Span::from(WAIT_MAX)));
    }
    Ok(span)
}

impl Wait {
    /// How long is waited at most; nothing if not at all.
    pub(crate) fn limit(&self) -> Option<Duration> {
        (!self.no_wait).then(|| self.wait.duration())
    }

    /// Waits until every verifier that the goal concerns has acknowledged it. Of the denial feed, `authd` is asked how far
    /// it is written.
    pub(crate) async fn until(
        &self,
        deployment: &Deployment,
        (hsmd, authd): (&Door, Option<&Door>),
        mut goal: Goal,
        talk: Talk,
    ) -> Result<(), Failure> {
        if self.no_wait {
            talk.say("declared; not waited for: `opsctl status` says who has acknowledged it");
            return Ok(());
        }
        let begun = Instant::now();
        let mut seen: Result<Vec<Row>, Failure> = Ok(Vec::new());
        let (limit, mut follow) = (self.wait.duration(), None);
        let directory = match Acknowledgements::of(deployment) {
            Ok(directory) => directory,
            Err(failure) => return Err(self.laggards(Err(failure), talk)),
        };
        loop {
            let left = limit.saturating_sub(begun.elapsed());
            // A look that fails at once never meets its deadline.
            if left.is_zero() {
                return Err(self.laggards(seen, talk));
            }
            let look = look(&directory, (hsmd, authd), &mut follow, &mut goal);
            match tokio::time::timeout(left, look).await {
                Ok(rows) => seen = rows,
                Err(_late) => return Err(self.laggards(seen, talk)),
            }
            let all = seen.as_ref().is_ok_and(|rows| rows.iter().all(|row| row.verdict.is_settled()));
            if all {
                let rows = seen?;
                say(&rows, talk);
                talk.say(format!("acknowledged by all after {:.1} s", begun.elapsed().as_secs_f32()));
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY.min(limit.saturating_sub(begun.elapsed()))).await;
        }
    }

    /// Who has not acknowledged it, as a failure.
    fn laggards(&self, seen: Result<Vec<Row>, Failure>, talk: Talk) -> Failure {
        let rows = match seen {
            Ok(rows) if !rows.is_empty() => rows,
            Ok(_) => {
                return Failure::new(Exit::Partial, "declared, but it is not known who has acknowledged it");
            }
            Err(failure) => {
                let what = "declared, but it is not known who has acknowledged it";
                return Failure::new(Exit::Partial, format!("{what}: {failure}"));
            }
        };
        say(&rows, talk);
        let late: Vec<_> = rows.iter().filter(|row| !row.verdict.is_settled()).map(table::laggard).collect();
        let what = format!(
            "declared, but {} of {} verifiers have not acknowledged it within {}: {}",
            late.len(),
            rows.len(),
            self.wait,
            late.join(", ")
        );
        Failure::new(Exit::Partial, what)
    }
}

async fn look<'a>(
    directory: &Acknowledgements,
    (hsmd, authd): (&'a Door, Option<&Door>),
    follow: &mut Option<Follow<'a>>,
    goal: &mut Goal,
) -> Result<Vec<Row>, Failure> {
    let follow = match follow {
        Some(follow) => follow,
        None => follow.insert(Follow::start(hsmd).await?),
    };
    let view = follow.view().await?;
    goal.note(view.head);
    let texts = directory.read(&view).await?;
    if let Some(authd) = authd {
        // Afterwards: no edge has applied more by then than authd had written.
        let answer = authd.get("/feed/position").await?.ok(authd)?;
        let written: Given = serde_json::from_str(&answer)
            .or_fail(Exit::Data, || "authd's answer is no position in the denial feed")?;
        goal.note_written(written.into());
    }
    Ok(Acknowledgements::judge_texts(&view, &texts, goal))
}

fn say(rows: &[Row], talk: Talk) {
    for line in table::print(rows, clock::now()) {
        talk.say(line);
    }
}
