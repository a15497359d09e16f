//! `opsctl watch`: the table of verifiers, each time something in it changed.

use std::time::Duration;

use super::judge::Row;
use super::{survey, table};
use crate::clock;
use crate::deployment::Deployment;
use crate::failure::Failure;
use crate::out;
use crate::talk::Talk;

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Options of `opsctl watch`.
#[derive(Debug, clap::Args)]
pub(crate) struct Watch {
    #[command(flatten)]
    deployment: Deployment,
}

/// `opsctl watch`: until it is interrupted, or its output is read no more.
pub(crate) async fn watch(options: &Watch, talk: Talk) -> Result<(), Failure> {
    let mut shown = None;
    let mut problem = None;
    loop {
        match survey(&options.deployment).await {
            Ok(rows) => {
                problem = None;
                let states: Vec<_> = rows.iter().map(state).collect();
                if shown.as_ref() != Some(&states) {
                    print(&rows);
                    shown = Some(states);
                }
            }
            Err(failure) => {
                let failure = failure.to_string();
                if problem.as_ref() != Some(&failure) {
                    talk.say(&failure);
                }
                problem = Some(failure);
            }
        }
        out::check()?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What is worth a new table: not each number that counts down.
fn state(row: &Row) -> String {
    let detail = row.detail.as_ref();
    let detail = detail.map(|detail| (&detail.generation, detail.head.number, detail.feed, &detail.keys));
    format!("{} {:?} {} {detail:?}", table::name(row), row.verdict, row.silent_for.is_some())
}

fn print(rows: &[Row]) {
    let now = clock::now();
    out::line(now);
    for line in table::print(rows, now) {
        out::line(line);
    }
}
