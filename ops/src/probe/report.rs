//! What a probe tells: each step as it is done, with what was checked and how long it took.

use std::time::Instant;

use serde::Serialize;

use crate::chain::print_json;
use crate::failure::Failure;
use crate::out;

/// The version of what `--json` prints.
const JSON_VERSION: u32 = 1;

/// The steps so far.
#[derive(Debug)]
pub(crate) struct Report {
    json: bool,
    steps: Vec<Step>,
}

#[derive(Debug, Serialize)]
struct Step {
    name: String,
    ok: bool,
    milliseconds: u128,
    /// What was checked, or what went wrong.
    checks: Vec<String>,
}

#[derive(Serialize)]
struct Whole<'a> {
    version: u32,
    ok: bool,
    steps: &'a [Step],
}

/// What a step found to be so.
pub(crate) type Checks = Vec<String>;

impl Report {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, steps: Vec::new() }
    }

    /// Does one step and records how it went.
    pub(crate) async fn step(
        &mut self,
        name: impl Into<String>,
        work: impl Future<Output = Result<Checks, Failure>>,
    ) -> Result<(), Failure> {
        let began = Instant::now();
        let done = work.await;
        let (ok, checks) = match &done {
            Ok(checks) => (true, checks.clone()),
            Err(failure) => (false, vec![failure.to_string()]),
        };
        let step = Step { name: name.into(), ok, milliseconds: began.elapsed().as_millis(), checks };
        if !self.json {
            step.print();
        }
        self.steps.push(step);
        done.map(drop)
    }

    /// Ends the report.
    pub(crate) fn finish(&self, ok: bool) -> Result<(), Failure> {
        if self.json {
            return print_json(&Whole { version: JSON_VERSION, ok, steps: &self.steps });
        }
        out::line(format_args!(
            "{} of {} steps held",
            self.steps.iter().filter(|step| step.ok).count(),
            self.steps.len()
        ));
        Ok(())
    }
}

impl Step {
    fn print(&self) {
        out::line(format_args!(
            "{:6} {:>6} ms  {}",
            if self.ok { "ok" } else { "FAILED" },
            self.milliseconds,
            self.name
        ));
        for check in &self.checks {
            out::line(format_args!("                  - {check}"));
        }
    }
}
