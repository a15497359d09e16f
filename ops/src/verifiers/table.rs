//! The table of verifiers, for people and as JSON.

use std::time::Duration;

use keychain::Timestamp;
use keychain::acknowledgement::Applied;
use keychain::feed::Position;
use serde::Serialize;
use systemd::config::Span;

use super::judge::{Row, Verdict};

/// One verifier, as `--json` prints it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RowStatus {
    service: String,
    instance: String,
    /// `acknowledged`, `lagging`, `dead-key`, `unproven`, `unheard`, or `revoked`.
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    because: Option<String>,
    /// How long it has acknowledged nothing, once that is too long. It may be running all the same.
    silent_seconds: Option<u64>,
    generation: Option<String>,
    head_number: Option<u64>,
    /// How far it has applied authd's denial feed; edges alone follow it.
    feed: Option<FeedPosition>,
    keys: Vec<String>,
    key_seconds_left: Option<u64>,
    budget_seconds: Option<u64>,
    budget_ended_by: Option<&'static str>,
    version: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FeedPosition {
    epoch: u64,
    position: u64,
    /// Whether authd has spoken from an earlier position since: `opsctl feed show`.
    went_back: bool,
}

impl RowStatus {
    pub(crate) fn new(row: &Row, now: Timestamp) -> Self {
        let detail = row.detail.as_ref();
        let because = match &row.verdict {
            Verdict::DeadKey(because) | Verdict::Unproven(because) => Some(because.clone()),
            _ => None,
        };
        Self {
            service: row.expected.service.clone(),
            instance: row.expected.instance.as_str().to_owned(),
            state: state(&row.verdict),
            because,
            silent_seconds: row.silent_for.map(|silent| silent.as_secs()),
            generation: detail.map(|detail| detail.generation.clone()),
            head_number: detail.map(|detail| detail.head.number),
            feed: row.applied().map(|Applied { position: Position { epoch, number }, went_back }| {
                FeedPosition { epoch, position: number, went_back }
            }),
            keys: detail.map(|detail| detail.keys.clone()).unwrap_or_default(),
            key_seconds_left: detail.map(|detail| detail.keys_end.since(now).as_secs()),
            budget_seconds: detail.map(|detail| detail.budget.until.since(now).as_secs()),
            budget_ended_by: detail.map(|detail| detail.budget.ended_by.as_str()),
            version: detail.map(|detail| detail.version.clone()),
        }
    }
}

const fn state(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Acknowledged => "acknowledged",
        Verdict::Closed => "revoked",
        Verdict::DeadKey(_) => "dead-key",
        Verdict::Lagging(_) => "lagging",
        Verdict::Unheard => "unheard",
        Verdict::Unproven(_) => "unproven",
    }
}

/// The name of a verifier: its service, and its instance unless that is the only one.
pub(crate) fn name(row: &Row) -> String {
    let (service, instance) = (&row.expected.service, row.expected.instance.as_str());
    if instance == "main" { service.clone() } else { format!("{service}/{instance}") }
}

/// Why a verifier does not count, as a message names it.
pub(crate) fn laggard(row: &Row) -> String {
    let why = match &row.verdict {
        Verdict::DeadKey(because) | Verdict::Lagging(because) | Verdict::Unproven(because) => {
            because.as_str()
        }
        Verdict::Unheard => "the directory holds no acknowledgement of it",
        Verdict::Acknowledged | Verdict::Closed => "it is not waited for",
    };
    match row.silent_for {
        Some(silent) => format!("{} (silent for {}; {why})", name(row), whole(silent)),
        None => format!("{} ({why})", name(row)),
    }
}

/// The lines of the table.
pub(crate) fn print(rows: &[Row], now: Timestamp) -> Vec<String> {
    let title = [
        "verifier",
        "state",
        "head",
        "denial feed",
        "generation",
        "key ends in",
        "goes on alone",
        "silent for",
    ];
    let mut cells = vec![title.map(str::to_owned)];
    for row in rows {
        let detail = row.detail.as_ref();
        let dash = || "-".to_owned();
        cells.push([
            name(row),
            state(&row.verdict).to_owned(),
            detail.map_or_else(dash, |detail| {
                format!("{}.{}", detail.head.sequence_number, detail.head.number)
            }),
            row.applied().map_or_else(dash, position),
            detail.map_or_else(dash, |detail| detail.generation.chars().take(8).collect()),
            detail.map_or_else(dash, |detail| whole(detail.keys_end.since(now))),
            detail.map_or_else(dash, |detail| whole(detail.budget.until.since(now))),
            row.silent_for.map_or_else(dash, whole),
        ]);
    }
    let width = |column: usize| {
        cells.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..title.len()).map(width).collect();
    cells
        .iter()
        .map(|row| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        })
        .collect()
}

fn position(Applied { position: Position { epoch, number }, went_back }: Applied) -> String {
    let went_back = if went_back { " (authd went back)" } else { "" };
    format!("{epoch}:{number}{went_back}")
}

fn whole(span: Duration) -> String {
    Span::from(Duration::from_secs(span.as_secs())).to_string()
}
