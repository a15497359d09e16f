//! The one task that changes what is trusted.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use keychain::chain::{Chain, Highest, SignedEvent, windows};
use keychain::directory::{self, Directory};
use keychain::statement::{Entries, Head, Order};
use keychain::{Code, Digest, Refusal, Timestamp};

use super::highest::HighestFile;
use super::{Shared, TrustState};
use crate::clock;
use crate::updates::{Subscription, Update};

/// Names in one update above which reading the whole chain is cheaper than reading each.
const SINGLE_READS_MAX: usize = 16;

/// Pause before another attempt when the directory does not answer.
const RETRY: Duration = Duration::from_secs(1);

/// Chain and heads are read in full this often, whatever was announced: a safety net, not the way.
const RESYNC: Duration = Duration::from_mins(1);

/// Texts remembered as not acceptable, so that junk in the directory is judged once.
const REJECTED_MAX: usize = 4_096;

/// Heads kept whose events have not come yet. More only somebody makes who invents events.
const WAITING_MAX: usize = 64;

/// Heads are heard from every generation that any verifier still accepts.
const WINDOW: Duration = windows::AUTHD;

/// What a source holds that may be new, unverified.
#[derive(Debug, Default)]
struct Texts {
    events: Vec<String>,
    heads: Vec<String>,
}

/// Merges what the directory holds into what is trusted.
pub(super) struct Follower {
    directory: Directory,
    shared: Arc<Shared>,
    file: HighestFile,
    /// Texts that will never be acceptable.
    rejected: HashSet<Digest>,
    /// The newest head heard of each event: what need not be proved again.
    heard: BTreeMap<Digest, String>,
    /// Heads of events that are not accepted yet, by event.
    waiting: BTreeMap<Digest, Head>,
    /// When an event from the future can be accepted.
    held_until: Option<Timestamp>,
}

impl Follower {
    pub(super) fn new(directory: Directory, shared: Arc<Shared>, file: HighestFile) -> Self {
        Self {
            directory,
            shared,
            file,
            rejected: HashSet::new(),
            heard: BTreeMap::new(),
            waiting: BTreeMap::new(),
            held_until: None,
        }
    }

    pub(super) async fn run(mut self, mut updates: Subscription) {
        let mut pending = Update::default();
        loop {
            tokio::select! {
                update = updates.next() => pending.merge(&update),
                () = tokio::time::sleep(self.pause(&pending)) => pending.everything = true,
            }
            match self.read(&pending).await {
                Ok(texts) => {
                    self.accept(texts).await;
                    self.shared.read_up_to.send_replace(pending.number);
                    pending = Update { number: pending.number, ..Update::default() };
                }
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "cannot read the chain and its heads"
                    );
                    pending.everything = true;
                    // An event that was held back comes into force whether or not the directory answers.
                    self.accept(Texts::default()).await;
                }
            }
        }
    }

    /// How long to wait for an update before acting without one.
    fn pause(&self, pending: &Update) -> Duration {
        if !pending.is_nothing() {
            return RETRY;
        }
        // A held-back event comes into force at its time, a moment later rather than earlier.
        let held = self.held_until.map(|time| time.since(clock::now()) + Duration::from_millis(1));
        held.map_or(RESYNC, |held| held.min(RESYNC))
    }

    /// The texts that may hold something new. Heads are read after events: one of an event not read yet waits.
    async fn read(&self, update: &Update) -> Result<Texts, directory::Error> {
        let names: Vec<Digest> = update.names.iter().filter_map(|name| Digest::parse(name).ok()).collect();
        if update.everything || names.len() > SINGLE_READS_MAX {
            let events = self.directory.events().await?;
            return Ok(Texts { events, heads: self.directory.heads().await? });
        }
        let state = self.shared.state.load_full();
        let mut texts = Texts::default();
        for name in names {
            // Most names are of other databases, and have no entry in these: only those of events have heads.
            let event = self.directory.event(&name).await?;
            if event.is_some() || state.chain().events().any(|known| known.id() == name) {
                texts.heads.extend(self.directory.head(&name).await?);
            }
            texts.events.extend(event);
        }
        Ok(texts)
    }

    /// Merges texts into what is trusted. The result is in force before anything is written to disk.
    async fn accept(&mut self, texts: Texts) {
        let now = clock::now();
        let old = self.shared.state.load_full();
        let events = self.unknown_events(old.chain(), &texts.events);
        let heads = self.unknown_heads(&texts.heads);
        if events.is_empty() && heads.is_empty() && self.held_until.is_none() {
            return;
        }
        let mut chain = Chain::clone(old.chain());
        let merged = chain.merge(events, now);
        self.held_until = merged.held_until;
        for rival in &merged.rivals {
            tracing::error!(event = %rival, "the chain is contested: a second event was signed by a key that already signed one");
        }
        self.hear(&mut chain, heads, now);
        if merged.accepted > 0 {
            tell_growth(&chain);
        }
        if chain.stated() != old.chain().stated() {
            tell_entries(chain.stated());
        }
        let highest = chain.highest();
        self.shared.state.store(Arc::new(TrustState::new(chain)));
        self.shared.version.send_modify(|version| *version += 1);
        self.remember(highest).await;
    }

    /// Reads what is not known yet. What fails is reported once and passed over: one bad entry must not hide the good
    /// ones.
    fn unknown_events(&mut self, chain: &Chain, texts: &[String]) -> Vec<SignedEvent> {
        let known: HashSet<&str> = chain.events().map(SignedEvent::text).collect();
        let mut events = Vec::new();
        for text in texts.iter().filter(|text| !known.contains(text.as_str())) {
            let fingerprint = Digest::of(text);
            if self.rejected.contains(&fingerprint) {
                continue;
            }
            match SignedEvent::parse(text) {
                Ok(event) => events.push(event),
                Err(refusal) => {
                    self.reject(fingerprint);
                    tracing::warn!(%refusal, "an entry among the published events is not one; passed over");
                }
            }
        }
        events
    }

    /// The same for heads.
    fn unknown_heads(&mut self, texts: &[String]) -> Vec<Head> {
        let mut heads = Vec::new();
        for text in texts {
            let fingerprint = Digest::of(text);
            let is_heard = self.heard.values().any(|heard| heard == text);
            if is_heard || self.rejected.contains(&fingerprint) {
                continue;
            }
            match Head::parse(text) {
                Ok(head) => heads.push(head),
                Err(refusal) => {
                    self.reject(fingerprint);
                    refused_head(&refusal);
                }
            }
        }
        heads
    }

    /// Hears heads, and those that waited for their event.
    fn hear(&mut self, chain: &mut Chain, heads: Vec<Head>, now: Timestamp) {
        let waiting = std::mem::take(&mut self.waiting);
        for head in waiting.into_values().chain(heads) {
            if chain.events().any(|event| event.id() == head.event_id()) {
                self.hear_one(chain, &head, now);
            } else if self.waiting.len() < WAITING_MAX {
                self.waiting.insert(head.event_id(), head);
            }
        }
        let is_live = |id: &Digest| {
            chain.live_until(id, WINDOW).is_ok_and(|until| until.is_none_or(|until| until > now))
        };
        self.heard.retain(|id, _| is_live(id));
    }

    fn hear_one(&mut self, chain: &mut Chain, head: &Head, now: Timestamp) {
        let fingerprint = Digest::of(head.text());
        let proven = match head.verify(chain, WINDOW, now) {
            Ok(proven) => proven,
            Err(refusal) => {
                // The last head of a tainted generation stays in the directory for hours, and whether a generation is
                // live can change: such a head is no fault, and is judged again when it is read again.
                if refusal.code() != Code::DeadKey {
                    self.reject(fingerprint);
                    refused_head(&refusal);
                }
                return;
            }
        };
        let heard = chain.hear(&proven, now);
        if heard.order == Order::Newer {
            self.heard.insert(head.event_id(), head.text().to_owned());
        } else {
            self.reject(fingerprint); // heard once is enough
        }
        let (event, number) = (head.event_id(), head.number());
        if heard.order == Order::Theft {
            metrics::counter!("verifier_heads_irregular_total", "kind" => "theft").increment(1);
            tracing::error!(%event, number, "two heads of one number: somebody else holds the generation's key; taint it");
        }
        if !heard.lost.is_empty() {
            metrics::counter!("verifier_heads_irregular_total", "kind" => "lost").increment(1);
            tracing::error!(%event, number, lost = heard.lost.to_json(), "a head lacks what an earlier one denies or revokes; it goes on counting");
        }
    }

    fn reject(&mut self, fingerprint: Digest) {
        if self.rejected.len() < REJECTED_MAX {
            self.rejected.insert(fingerprint);
        }
    }

    /// Keeps the highest event on disk. If that fails it is tried again with the next change.
    async fn remember(&mut self, highest: Option<Highest>) {
        let Some(highest) = highest else { return };
        if let Err(error) = self.file.keep(highest).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "cannot keep the highest event: a rollback would go unnoticed after a restart"
            );
        }
    }
}

fn tell_growth(chain: &Chain) {
    if let Some(head) = chain.head() {
        let sequence = head.event().sequence_number;
        tracing::info!(sequence, event = %head.id(), "the chain grew");
    }
}

/// Says what is denied and revoked, for the log and for metrics.
fn tell_entries(stated: &Entries) {
    let counts =
        [("generation", stated.denied.len()), ("key", stated.keys.len()), ("service", stated.services.len())];
    for (kind, count) in counts {
        metrics::gauge!("verifier_head_entries", "kind" => kind)
            .set(u32::try_from(count).unwrap_or(u32::MAX));
    }
    tracing::warn!(entries = stated.to_json(), "the HSM's heads deny or revoke otherwise than before");
}

fn refused_head(refusal: &Refusal) {
    metrics::counter!("verifier_heads_refused_total", "code" => refusal.code().as_str()).increment(1);
    tracing::warn!(%refusal, "an entry among the published heads is not one that counts; passed over");
}
