//! What readers count.

use std::collections::BTreeMap;

use tests::World;
use tests::http::Http;

use super::cells::Reader;

/// Entries that no reader can read, by those who met them.
pub(super) const UNREADABLE: &str = "verifier_directory_unreadable_total";

/// How the counters of refusals begin.
const KINDS: [&str; 6] = [
    "verifier_events_refused",
    "verifier_heads_",
    "verifier_endorsements_refused",
    "verifier_denial_feed_",
    "authd_feed_",
    UNREADABLE,
];

/// The metrics of an edge, of authd and of keysd.
pub(super) struct Counters([(Reader, Http); 3]);

impl Counters {
    pub(super) fn of(world: &World) -> Self {
        let readers = [(Reader::Edge, "edge-rust"), (Reader::Authd, "authd"), (Reader::Keysd, "keysd")];
        Self(readers.map(|(reader, daemon)| {
            let at = world.endpoints().metrics[daemon].trim_end_matches("/metrics").to_owned();
            (reader, Http::to(&at))
        }))
    }

    /// Every counter of refusals, by reader; those of entries that cannot be read are counted as often as they are met.
    pub(super) async fn refusals(&self) -> BTreeMap<String, u64> {
        let mut all = self.all().await;
        all.retain(|line, _| !line.ends_with(UNREADABLE));
        all
    }

    pub(super) async fn unreadable(&self) -> BTreeMap<String, u64> {
        let mut all = self.all().await;
        all.retain(|line, _| line.ends_with(UNREADABLE));
        all
    }

    /// What hsm-publisher counts of what it takes out of the directory.
    pub(super) async fn of_publisher(&self, world: &World) -> BTreeMap<String, u64> {
        let at = world.endpoints().metrics["hsm-publisher"].trim_end_matches("/metrics").to_owned();
        let page = Http::to(&at).get("/metrics").await.body;
        let counts = ["hsm_publisher_rivals_total", "hsm_publisher_withdrawn_total"];
        let lines = page.lines().filter(|line| counts.iter().any(|count| line.starts_with(count)));
        let read = |line: &str| {
            let (metric, value) = line.rsplit_once(' ').unwrap();
            (format!("{} {metric}", Reader::Publisher.name()), value.parse().unwrap())
        };
        lines.map(read).collect()
    }

    /// How often a reader has refused a request with that code.
    pub(super) async fn answered(&self, reader: Reader, code: &str) -> u64 {
        let (_, metrics) = self.0.iter().find(|(one, _)| *one == reader).unwrap();
        let page = metrics.get("/metrics").await.body;
        let label = format!("code=\"{code}\"");
        let counted = ["edge_decisions_total", "authd_operations_total"];
        let lines = page.lines().filter(|line| counted.iter().any(|metric| line.starts_with(metric)));
        let lines = lines.filter(|line| line.contains(&label));
        lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
    }

    async fn all(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for (reader, metrics) in &self.0 {
            let page = metrics.get("/metrics").await.body;
            for line in page.lines().filter(|line| KINDS.iter().any(|kind| line.starts_with(kind))) {
                let (metric, value) = line.rsplit_once(' ').unwrap();
                if metric.contains("_total")
                    && let Ok(value) = value.parse()
                {
                    all.insert(format!("{} {metric}", reader.name()), value);
                }
            }
        }
        all
    }
}
