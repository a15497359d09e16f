//! The one task that changes what is trusted.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use keychain::chain::{Chain, SignedEvent, windows};
use keychain::statement::{Entries, Head, Heard, Order};
use keychain::{Code, Digest, Refusal, Timestamp, limits};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::memory::Remembered;
use super::source::{Texts, Told};
use super::{Freshness, Shared, TrustState};
use crate::state_file::{Content, content};

/// Texts remembered as not acceptable, so that junk in the directory is judged once.
const REJECTED_MAX: usize = 4_096;

/// Heads kept whose events have not come yet. More only somebody makes who invents events.
const WAITING_MAX: usize = 64;

/// Heads kept on disk, those of the newest events first.
const REMEMBERED_MAX: usize = 64;

/// Heads kept of one event besides the newest: there is none while the HSM keeps to the rules.
const OTHERS_MAX: usize = 8;

/// Heads are heard from every generation that any verifier still accepts.
const WINDOW: Duration = windows::AUTHD;

/// How often the age of the newest head is looked at.
const LOOK: Duration = Duration::from_secs(15);

/// Merges what sources tell into what is trusted.
pub(super) struct Follower {
    shared: Arc<Shared>,
    remember: watch::Sender<Remembered>,
    /// Has the events kept on disk.
    remember_chain: watch::Sender<Content>,
    /// Texts that will never be acceptable.
    rejected: HashSet<Digest>,
    /// The heads heard of each event that is live.
    heard: BTreeMap<Digest, Spoken>,
    /// Heads of events that are not accepted yet.
    waiting: Vec<Head>,
    /// When an event from the future can be accepted.
    held_until: Option<Timestamp>,
    /// How fresh the chain was said to be.
    freshness: Option<&'static str>,
}

impl Follower {
    /// A follower that has `remembered` heads to prove again, as soon as it knows their events.
    pub(super) fn new(
        shared: Arc<Shared>,
        (remember, remember_chain): (watch::Sender<Remembered>, watch::Sender<Content>),
        remembered: &[String],
    ) -> Self {
        let mut follower = Self {
            shared,
            remember,
            remember_chain,
            rejected: HashSet::new(),
            heard: BTreeMap::new(),
            waiting: Vec::new(),
            held_until: None,
            freshness: None,
        };
        follower.waiting = follower.unknown_heads(remembered);
        follower
    }

    /// Begins with the `events` that were kept, and goes on with what is told.
    pub(super) async fn run(mut self, events: Vec<String>, mut told: mpsc::Receiver<Told>) {
        self.accept(&Texts { events, ..Texts::default() });
        let mut look = tokio::time::interval_at(Instant::now() + LOOK, LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(Told { texts, read_up_to }) = told.recv() => {
                    self.accept(&texts);
                    if let Some(number) = read_up_to {
                        self.shared.read_up_to.send_replace(number);
                    }
                }
                // An event that was held back comes into force whether or not a source answers.
                () = tokio::time::sleep(self.held_for()) => self.accept(&Texts::default()),
                _ = look.tick() => {}
            }
            self.tell_freshness();
        }
    }

    /// How long until a held-back event comes into force: a moment later rather than earlier.
    fn held_for(&self) -> Duration {
        let held = self.held_until.map(|time| time.since(self.shared.now()) + Duration::from_millis(1));
        held.unwrap_or(Duration::MAX)
    }

    /// Merges texts into what is trusted. The result is in force before anything is written to disk.
    fn accept(&mut self, texts: &Texts) {
        let now = self.shared.now();
        let old = self.shared.state.load_full();
        let events = self.unknown_events(old.chain(), &texts.events);
        let heads = self.unknown_heads(&texts.heads);
        let shown = self.shown(old.chain(), old.shown(), now);
        if events.is_empty() && heads.is_empty() && self.held_until.is_none() && shown == old.shown() {
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
            self.remember_chain.send_replace(content(chain.events().map(SignedEvent::text)));
        }
        if chain.stated() != old.chain().stated() {
            tell_entries(chain.stated());
        }
        let shown = self.shown(&chain, old.shown(), now);
        let remembered = self.remembered(&chain);
        let heads = self.heads(&chain).take(limits::HEADS_LISTED_MAX).collect();
        let trust = TrustState::with_heads(chain, shown, old.head_max_age()).hearing(heads);
        // Who is denied changes meanwhile.
        self.shared.state.rcu(|newest| trust.clone().denying(newest.denied().clone()));
        self.shared.version.send_modify(|version| *version += 1);
        self.remember.send_replace(remembered);
    }

    /// Reads what is not known yet. What fails is reported once and passed over: one bad entry must not hide the good
    /// ones.
    fn unknown_events(&mut self, chain: &Chain, texts: &[String]) -> Vec<SignedEvent> {
        if texts.is_empty() {
            return Vec::new();
        }
        let known: HashSet<&str> = chain.events().map(SignedEvent::text).collect();
        let mut events = Vec::new();
        for text in texts.iter().filter(|text| !known.contains(text.as_str())) {
            let fingerprint = Digest::of(text);
            if self.rejected.contains(&fingerprint) {
                continue;
            }
            match read_event(text, chain) {
                Ok(event) => events.push(event),
                Err(refusal) => {
                    self.reject(fingerprint);
                    refused_event(&refusal);
                }
            }
        }
        events
    }

    /// The same for heads.
    fn unknown_heads(&mut self, texts: &[String]) -> Vec<Head> {
        let identity = self.shared.state.load().chain().prefix();
        let mut heads = Vec::new();
        for text in texts {
            let fingerprint = Digest::of(text);
            let is_heard = self.heard.values().any(|spoken| spoken.newest.text() == text);
            let waits = self.waiting.iter().any(|head| head.text() == text);
            if is_heard || waits || self.rejected.contains(&fingerprint) {
                continue;
            }
            match Head::parse(text) {
                Ok(head) if head.identity() == identity => heads.push(head),
                // It would wait for its event for ever, in the room of others.
                Ok(_) => {
                    self.reject(fingerprint);
                    refused_head(&FOREIGN);
                }
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
        for head in waiting.into_iter().chain(heads) {
            if chain.events().any(|event| event.id() == head.event_id()) {
                self.hear_one(chain, head, now);
            } else if self.waiting.len() < WAITING_MAX {
                self.waiting.push(head);
            }
        }
        let is_settled = is_settled(chain);
        self.heard.retain(|id, _| match chain.live_until(id, WINDOW) {
            Ok(until) => until.is_none_or(|until| until > now),
            Err(_dead) => !is_settled,
        });
    }

    fn hear_one(&mut self, chain: &mut Chain, head: Head, now: Timestamp) {
        let fingerprint = Digest::of(head.text());
        let heard = match head.verify(chain, WINDOW, now) {
            Ok(proven) => chain.hear(&proven, now),
            // On a chain that shows too little, or too much, nothing is live: the head waits until it is settled.
            Err(_unsettled) if !is_settled(chain) => {
                if self.waiting.len() < WAITING_MAX {
                    self.waiting.push(head);
                }
                return;
            }
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
        let (event, number) = (head.event_id(), head.number());
        if heard.order == Order::Theft {
            metrics::counter!("verifier_heads_irregular_total", "kind" => "theft").increment(1);
            tracing::error!(%event, number, "two heads of one number: somebody else holds the generation's key; taint it");
        }
        if !heard.lost.is_empty() {
            metrics::counter!("verifier_heads_irregular_total", "kind" => "lost").increment(1);
            tracing::error!(
                %event, number, lost = heard.lost.to_json(),
                "a head lacks what an earlier one denies or revokes, which goes on counting; no head shows freshness \
                 until one lists it again: see hsmd's health, and `opsctl rotate` if the ledger is right"
            );
        }
        if heard.order == Order::Older {
            // Sources are not equally fast; a directory that was rolled back shows older ones too.
            metrics::counter!("verifier_heads_older_total").increment(1);
        }
        if heard.order != Order::Newer {
            self.reject(fingerprint); // heard once is enough
        }
        match self.heard.entry(event) {
            Entry::Vacant(place) => drop(place.insert(Spoken::first(head))),
            Entry::Occupied(mut place) => place.get_mut().add(head, &heard),
        }
    }

    /// When a head showed last that nothing newer than `chain` existed.
    fn shown(&self, chain: &Chain, before: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
        let newest = chain.head().and_then(|event| self.heard.get(&event.id())).and_then(Spoken::complete);
        let is_newer = |head: &&Head| before.is_none_or(|before| head.issued_at() > before);
        let shows = newest.filter(is_newer).filter(|head| {
            head.verify(chain, WINDOW, now).is_ok_and(|proven| proven.age(chain, now).is_ok())
        });
        before.max(shows.map(Head::issued_at))
    }

    /// Says in metrics how fresh the chain is, and in the log when that changes.
    fn tell_freshness(&mut self) {
        let state = self.shared.state.load_full();
        let freshness = state.freshness(self.shared.now());
        let (age, word) = match freshness {
            Freshness::Fresh(age) => (age.as_secs_f64(), "fresh"),
            Freshness::Late(age) => (age.as_secs_f64(), "late"),
            Freshness::Stale(age) => (age.map_or(f64::INFINITY, |age| age.as_secs_f64()), "stale"),
        };
        metrics::gauge!("verifier_head_age_seconds").set(age);
        let most = state.head_max_age().map_or(f64::INFINITY, |most| most.as_secs_f64());
        metrics::gauge!("verifier_head_max_age_seconds").set(most);
        if self.freshness == Some(word) {
            return;
        }
        match freshness {
            Freshness::Fresh(_) if self.freshness.is_none() => {}
            Freshness::Fresh(_) => tracing::info!("a head shows again that nothing newer exists"),
            Freshness::Late(_) => {
                tracing::warn!(
                    age,
                    "no head has come for half of `head_max_age`; see hsmd, hsm-publisher and the directory"
                );
            }
            Freshness::Stale(_) => {
                tracing::error!(
                    age,
                    "no head has come for all of `head_max_age`: refusing with BA607 until one does"
                );
            }
        }
        self.freshness = Some(word);
    }

    /// What is to be kept on disk.
    fn remembered(&self, chain: &Chain) -> Remembered {
        let waiting = self.waiting.iter().map(|head| head.text().to_owned());
        let heads = self.heads(chain).chain(waiting).take(REMEMBERED_MAX).collect();
        Remembered { highest: chain.highest(), heads, newest: chain.newest_head() }
    }

    /// The texts of the heads that were heard, those of the newest event first.
    fn heads(&self, chain: &Chain) -> impl Iterator<Item = String> {
        let newest_first = chain.events().rev().filter_map(|event| self.heard.get(&event.id()));
        newest_first.flat_map(Spoken::texts)
    }

    fn reject(&mut self, fingerprint: Digest) {
        if self.rejected.len() < REJECTED_MAX {
            self.rejected.insert(fingerprint);
        }
    }
}

/// The heads of one event that were heard and count.
struct Spoken {
    newest: Head,
    /// Whether the newest lacks what an earlier one lists and what has not ended.
    lacks: bool,
    /// What the newest does not say alone.
    others: Vec<String>,
}

impl Spoken {
    const fn first(head: Head) -> Self {
        Self { newest: head, lacks: false, others: Vec::new() }
    }

    /// The newest head, unless it lacks something: a signer that forgot a denial cannot say that none is missing.
    fn complete(&self) -> Option<&Head> {
        (!self.lacks).then_some(&self.newest)
    }

    fn add(&mut self, head: Head, heard: &Heard) {
        let lacks = !heard.lost.is_empty();
        self.lacks = if heard.order == Order::Newer { lacks } else { self.lacks || lacks };
        if heard.order == Order::Newer {
            let before = std::mem::replace(&mut self.newest, head);
            if heard.lost.is_empty() {
                self.others.clear();
            } else if self.others.len() < OTHERS_MAX {
                self.others.push(before.text().to_owned());
            }
        } else if heard.changed && self.others.len() < OTHERS_MAX {
            self.others.push(head.text().to_owned());
        }
    }

    fn texts(&self) -> impl Iterator<Item = String> + '_ {
        std::iter::once(self.newest.text()).chain(self.others.iter().map(String::as_str)).map(str::to_owned)
    }
}

/// Whether it is certain which generations are live.
fn is_settled(chain: &Chain) -> bool {
    !chain.contested() && !chain.rolled_back()
}

/// Reads an event of `chain`; those of others change nothing.
fn read_event(text: &str, chain: &Chain) -> Result<SignedEvent, Refusal> {
    let event = SignedEvent::parse(text)?;
    if event.event().prefix == chain.prefix() { Ok(event) } else { Err(FOREIGN) }
}

const FOREIGN: Refusal = Refusal::new(Code::DeadKey, "it is of another HSM identity");

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

fn refused_event(refusal: &Refusal) {
    metrics::counter!("verifier_events_refused_total", "code" => refusal.code().as_str()).increment(1);
    tracing::warn!(%refusal, "an entry among the published events is not one that counts; passed over");
}

fn refused_head(refusal: &Refusal) {
    metrics::counter!("verifier_heads_refused_total", "code" => refusal.code().as_str()).increment(1);
    tracing::warn!(%refusal, "an entry among the published heads is not one that counts; passed over");
}
