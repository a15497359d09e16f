//! Token and ledger made to agree: at start, and whenever the outcome of a step is not known.
//!
//! The ledger decides. A key is chosen only because its digest is what the ledger names; what the ledger
//! does not name is destroyed only where an interrupted step explains it. A token that has moved on
//! further than its ledger (restored from an old backup, or another one's) is left untouched.

use keychain::{
    PublicKey,
    chain::{Event, SignedEvent, verify_whole},
};

use super::{Error, Keeper, View, to_gauge};
use crate::{
    failure_point::{self, Step},
    ledger::Contents,
    token::backend::{Fault, Half, Key, KeyId},
    token::{Slot, Survey},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::Ordering,
    time::Duration,
};

impl Keeper {
    /// Finishes or undoes what was interrupted, and answers the chain as it then stands.
    pub(super) async fn reconcile(&self) -> Result<View, Error> {
        self.prepare_first().await?;
        let known = self.verified();
        let known: Vec<_> = known.iter().flat_map(|view| view.events()).collect();
        let contents = self.ledger.contents(&known).await?;
        demand_all_of(&known, &contents.events)?;
        self.compare_clock(contents.events.last().map(|newest| newest.event().created_at));
        if contents.events.is_empty() {
            return self.make_first(&contents).await;
        }
        verify(&contents.events)?;
        self.settle(contents).await
    }

    /// Finds the two keys that the ledger names, and clears the rest away. The turn is held throughout, so
    /// that no other hsmd is making a key meanwhile.
    async fn settle(&self, contents: Contents) -> Result<View, Error> {
        let Contents { events, key_intent, .. } = contents;
        let newest = events.last().ok_or(Error::Unsettled)?.event().clone();
        let survey = self.look_for(&newest).await?;
        let (live, next) = find_named(&survey, &newest);
        // What is not found may be on the token that is silent.
        if survey.silent().is_none() && (live.is_none() || next.is_none()) {
            return Err(Error::Behind(missing(newest.sequence_number, live, next)));
        }
        let surplus = Surplus::of(&survey, &events);
        for id in surplus.unknown_ids() {
            self.demand_explained(newest.sequence_number, key_intent, id)?;
        }
        match survey.silent() {
            // Not even what an interrupted step explains is destroyed: the ledger may be older than it looks.
            Some(fault) if live.is_none() && next.is_none() => return Err(Error::Hsm(fault.clone())),
            Some(_) => {}
            None => self.clear_away(&surplus).await,
        }
        if self.tokens.are_mirrored() {
            for slot in [Slot::First, Slot::Second] {
                self.tokens.set_aside(slot, surplus.foreign.contains(&slot));
            }
        }
        self.tokens.note_surveyed(&survey);
        self.carry(&survey, [live, next]).await;
        View::new(events, next).ok_or(Error::Unsettled)
    }

    /// Copies the keys that the newest event names to the token that lacks them. A failure is the mirror's, and health
    /// says so; the chain goes on.
    async fn carry(&self, survey: &Survey, named: [Option<PublicKey>; 2]) {
        for key in named.into_iter().flatten().filter(|key| survey.wants_carrying(key)) {
            if let Err(fault) = self.tokens.carry(key).await {
                tracing::warn!(%fault, %key, "a key cannot be carried to the other token yet");
            }
        }
    }

    /// Destroys what the newest event does not name.
    async fn clear_away(&self, surplus: &Surplus<'_>) {
        failure_point::pass(Step::Settle, "before-sweep");
        // Nothing is destroyed that another hsmd on this ledger may just be committing to.
        let digests: Vec<_> = surplus.keys.iter().map(|(_, key)| key.public_key.digest()).collect();
        if let Err(error) = self.ledger.condemn(&digests).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the token is not swept yet");
            return;
        }
        let mut left_over = 0_u32;
        let keys: BTreeMap<_, _> = surplus.keys.iter().map(|(_, key)| (key.public_key, key.id)).collect();
        for (key, id) in keys {
            tracing::info!(%id, %key, "destroying a key that the ledger does not name");
            left_over += note_destroyed(Some(id), self.tokens.retire(key).await);
            failure_point::pass(Step::Settle, "amid-sweep");
        }
        for (slot, half) in &surplus.halves {
            tracing::info!(id = ?half.id, "destroying half a key");
            left_over += note_destroyed(half.id, self.tokens.destroy(*slot, half.handle).await);
        }
        failure_point::pass(Step::Settle, "after-sweep");
        self.strays.store(left_over > 0, Ordering::Relaxed);
        metrics::gauge!("hsmd_token_objects", "state" => "retired").set(left_over);
    }

    /// What is on the token. That it lacks a key which `newest` names is believed only at a second look: another
    /// hsmd may have made that key a moment ago.
    pub(super) async fn look_for(&self, newest: &Event) -> Result<Survey, Error> {
        let survey = self.tokens.survey().await?;
        if let (Some(_), Some(_)) = find_named(&survey, newest) {
            return Ok(survey);
        }
        Ok(self.tokens.survey_afresh().await?)
    }

    /// Refuses to touch anything if the key under `id` is from a generation that this ledger has never
    /// heard of: the ledger is older than its token.
    fn demand_explained(&self, newest: u64, key_intent: Option<u64>, id: KeyId) -> Result<(), Error> {
        let next = newest.saturating_add(1);
        let distance = self.key_ids.distance(next, id);
        let half_made = distance == 1 && key_intent >= Some(next.saturating_add(1));
        if distance <= 0 || half_made {
            return Ok(());
        }
        Err(Error::Behind(format!(
            "the token has a key under id {id}, which generation {} would have, but the ledger ends with {newest} \
             and never meant to make it: the ledger is older than its token; import the published chain (`opsctl \
             hsm recover --chain FILE`) or bring back the newest ledger",
            next.saturating_add_signed(i64::from(distance))
        )))
    }
}

/// What is on the tokens besides the keys that the newest event names.
///
/// A token that has keys, and none of this chain, may be another's, put in the wrong slot: it is set aside, and nothing
/// on it is destroyed. But a key on it that this ledger cannot have made is one that it should know.
struct Surplus<'a> {
    keys: Vec<(Slot, &'a Key)>,
    halves: Vec<(Slot, &'a Half)>,
    /// Ids of what no event explains, on whichever token.
    unknown: Vec<KeyId>,
    /// Slots with another chain's keys alone.
    foreign: BTreeSet<Slot>,
}

impl<'a> Surplus<'a> {
    fn of(survey: &'a Survey, events: &[SignedEvent]) -> Self {
        let of_an_event: BTreeSet<_> = events.iter().map(|event| event.event().public_key).collect();
        let newest = events.last().map(SignedEvent::event);
        let is_named = |key: &Key| newest.is_some_and(|newest| is_named(key, newest));
        let is_ours = |key: &Key| is_named(key) || of_an_event.contains(&key.public_key);
        let ours: Vec<_> = survey.keys().filter(|(_, key)| is_ours(key)).map(|(slot, _)| slot).collect();
        let foreign: BTreeSet<_> =
            survey.keys().map(|(slot, _)| slot).filter(|slot| !ours.contains(slot)).collect();
        let strangers = survey.keys().filter(|(_, key)| !is_ours(key)).map(|(_, key)| key.id);
        let halves = survey.halves().filter_map(|(_, half)| half.id);
        let unknown = strangers.chain(halves).collect();
        let surplus = survey.keys().filter(|(_, key)| !is_named(key));
        let (keys, others): (Vec<_>, Vec<_>) = surplus.partition(|(slot, _)| ours.contains(slot));
        for (slot, key) in others {
            let token = slot.as_str();
            tracing::warn!(token, id = %key.id, "a key is on a token that has none of this chain's; it is left alone");
        }
        let halves =
            survey.halves().filter(|(slot, half)| half.id.is_none() || !foreign.contains(slot)).collect();
        Self { keys, halves, unknown, foreign }
    }

    fn unknown_ids(&self) -> impl Iterator<Item = KeyId> {
        self.unknown.iter().copied()
    }
}

/// Refuses a ledger that lacks what this process has seen in it: it was exchanged for an older one meanwhile.
fn demand_all_of(seen: &[&SignedEvent], events: &[SignedEvent]) -> Result<(), Error> {
    let same = seen.iter().zip(events).all(|(seen, event)| seen.id() == event.id());
    if same && seen.len() <= events.len() {
        return Ok(());
    }
    Err(Error::Behind(format!(
        "the ledger had {} events a moment ago and now has {}, or others: it was exchanged for an older one; import the \
         published chain (`opsctl hsm recover --chain FILE`) or bring back the newest ledger",
        seen.len(),
        events.len()
    )))
}

/// How many are left of one that was to be destroyed: a token that cannot destroy can still sign.
fn note_destroyed(id: Option<KeyId>, outcome: Result<(), Fault>) -> u32 {
    match outcome {
        Ok(()) => 0,
        Err(fault) => {
            tracing::error!(?id, %fault, "a key that nothing needs is left on the token");
            1
        }
    }
}

/// Verifies the whole chain. The newest event's own date stands for the time: whether the clock is right
/// is another question, which a rotation asks.
pub(super) fn verify(events: &[SignedEvent]) -> Result<(), Error> {
    let (Some(first), Some(newest)) = (events.first(), events.last()) else { return Ok(()) };
    metrics::gauge!("hsmd_chain_sequence").set(to_gauge(newest.event().sequence_number));
    verify_whole(events, &first.event().prefix, newest.event().created_at, Duration::ZERO)
        .map_err(|refusal| Error::Contradiction(format!("the ledger's chain does not verify: {refusal}")))
}

/// The keys on the tokens that an event names: its own, and the next one's.
pub(super) fn find_named(survey: &Survey, event: &Event) -> (Option<PublicKey>, Option<PublicKey>) {
    let live = find(survey, |key| *key == event.public_key);
    let next = find(survey, |key| key.digest() == event.rotation_hash);
    (live, next)
}

fn find(survey: &Survey, is_it: impl Fn(&PublicKey) -> bool) -> Option<PublicKey> {
    survey.keys().map(|(_, key)| key.public_key).find(|key| is_it(key))
}

fn is_named(key: &Key, event: &Event) -> bool {
    key.public_key == event.public_key || key.public_key.digest() == event.rotation_hash
}

fn missing(newest: u64, live: Option<PublicKey>, next: Option<PublicKey>) -> String {
    let what = match (live, next) {
        (None, None) => "neither the signing key nor the next one",
        (None, Some(_)) => "not the signing key",
        _ => "not the key that comes next",
    };
    format!(
        "the ledger ends with generation {newest}, and of its keys the token holds {what}: the ledger is older \
         than its token, or it is another token; import the published chain (`opsctl hsm recover --chain FILE`) or \
         bring back the newest ledger, or the token"
    )
}
