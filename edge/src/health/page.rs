//! `/readyz`, its verbose form, and the line that the service manager shows.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use keychain::Timestamp;
use serde::Serialize;
use systemd::telemetry::Health;

use super::{Budget, Condition, Report, State};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Page<'a> {
    ready: bool,
    serving: bool,
    dependencies: Vec<Line<'a>>,
    budget: Option<Countdown>,
    /// What else is known, by name.
    detail: BTreeMap<&'a str, &'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    name: &'a str,
    state: &'a str,
    since: String,
    /// Seconds since it was last seen to be good.
    age_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    because: Option<&'a str>,
}

impl<'a> Line<'a> {
    fn of(name: &'a str, state: &'a State, now: Timestamp) -> Self {
        Self {
            name,
            state: state.condition.as_str(),
            since: state.since.to_string(),
            age_seconds: state.confirmed.map(|confirmed| now.since(confirmed).as_secs()),
            because: because(&state.condition),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Countdown {
    seconds_left: u64,
    until: String,
    ends_by: &'static str,
}

impl From<Budget> for Countdown {
    fn from(budget: Budget) -> Self {
        let (until, ends_by) = (budget.until.to_string(), budget.limit.as_str());
        Self { seconds_left: budget.left.as_secs(), until, ends_by }
    }
}

/// The pages of `report` at `now`.
pub(super) fn health(report: &Report, now: Timestamp) -> Health {
    let mut detail: Vec<(String, String)> =
        report.states.iter().map(|(name, state)| ((*name).to_owned(), describe(state))).collect();
    if let Some(budget) = report.budget {
        let left = format!("{}, ended by the {}", budget.left.as_secs(), budget.limit.as_str());
        detail.push(("outage_seconds_left".to_owned(), left));
    }
    detail.extend(report.detail.iter().cloned());
    Health { ready: report.is_ready(), detail, verbose: verbose(report, now) }
}

fn verbose(report: &Report, now: Timestamp) -> Option<String> {
    let page = Page {
        ready: report.is_ready(),
        serving: report.serving,
        dependencies: report.states.iter().map(|(name, state)| Line::of(name, state, now)).collect(),
        budget: report.budget.map(Countdown::from),
        detail: report.detail.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect(),
    };
    serde_json::to_string(&page).ok()
}

/// One line for the service manager. It changes when something changes, not with each second that passes.
pub(super) fn status(report: &Report, daemon: &str) -> String {
    let word = match (report.is_ready(), report.serving) {
        (true, _) => "serving",
        (false, true) => "serving in an outage",
        (false, false) => "not serving",
    };
    let mut text = format!("{daemon}: {word}");
    let missing = report.states.iter().filter(|(_, state)| state.condition != Condition::Good);
    for (name, state) in missing {
        // Writing to a text cannot fail.
        let _infallible = write!(text, "; {name}: {}", describe(state));
    }
    if let Some(budget) = report.budget.filter(|_| !report.is_ready()) {
        let _infallible = write!(text, "; until {} ({})", budget.until, budget.limit.as_str());
    }
    text
}

fn describe(state: &State) -> String {
    let word = state.condition.as_str();
    match (&state.condition, because(&state.condition)) {
        (Condition::Good, _) => word.to_owned(),
        (_, Some(because)) => format!("{word} since {}: {because}", state.since),
        (_, None) => format!("{word} since {}", state.since),
    }
}

fn because(condition: &Condition) -> Option<&str> {
    match condition {
        Condition::Lost(because) => Some(because),
        Condition::Good | Condition::Waiting => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Limit;
    use super::*;

    #[test]
    fn each_page_names_what_is_missing_since_when_and_what_ends() {
        let at = |second: i64| Timestamp::from_unix_millis(second * 1_000);
        let good = State { condition: Condition::Good, since: at(1), confirmed: Some(at(8)) };
        let lost = State {
            condition: Condition::Lost("it refused".to_owned()),
            since: at(5),
            confirmed: Some(at(4)),
        };
        let waiting = State { condition: Condition::Waiting, since: at(1), confirmed: None };
        let budget = Budget { limit: Limit::ResponseKey, until: at(60), left: Duration::from_secs(50) };
        let report = |states: &[(&'static str, &State)], serving| Report {
            states: states.iter().map(|(name, state)| (*name, (*state).clone())).collect::<BTreeMap<_, _>>(),
            serving,
            budget: Some(budget),
            detail: vec![("sequence".to_owned(), "7".to_owned())],
        };
        let outage = report(&[("app", &good), ("directory", &lost)], true);
        assert_eq!(
            status(&outage, "edge a"),
            "edge a: serving in an outage; directory: lost since 1970-01-01T00:00:05.000Z: it refused; \
             until 1970-01-01T00:01:00.000Z (response key)"
        );
        let health = health(&outage, at(10));
        assert!(!health.ready);
        let page: serde_json::Value = serde_json::from_str(&health.verbose.unwrap()).unwrap();
        assert_eq!((&page["ready"], &page["serving"]), (&false.into(), &true.into()));
        let directory = serde_json::json!({
            "name": "directory", "state": "lost", "since": "1970-01-01T00:00:05.000Z", "ageSeconds": 6,
            "because": "it refused"
        });
        assert_eq!(page["dependencies"][1], directory);
        assert_eq!(page["budget"]["secondsLeft"], 50);
        assert_eq!(page["budget"]["endsBy"], "response key");
        assert_eq!(page["detail"]["sequence"], "7");
        assert_eq!(status(&report(&[("app", &good)], true), "edge a"), "edge a: serving");
        let start = report(&[("head", &waiting)], false);
        assert!(status(&start, "keysd").starts_with("keysd: not serving; head: waiting since 1970"));
    }
}
