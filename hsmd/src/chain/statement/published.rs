//! What is published, held against what this hsmd made (`PROTOCOL.md#contested`): the chain as it was found, and what its
//! heads show. What follows from either is the chain's [plan](crate::chain).
//!
//! A report proves itself: only what keys of this chain have signed counts, whichever client brings it. Only what stands beside
//! or beyond the newest event says anything: with the key of a tainted generation a thief signs branches for ever, so
//! that what branches off below is counted and changes nothing.

use std::time::Duration;

use keychain::{
    Code, Digest, Refusal, Timestamp,
    chain::SignedEvent,
    statement::{Entries, Head},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::listed;
use crate::{
    chain::View,
    ledger::{Stated, highest_head_number},
};

/// Longest report, in bytes.
pub const REPORT_MAX: usize = 1 << 20;

/// Most events in a report that hsmd did not serve, and most heads. A copy that ran for longer shows by the first.
pub const REPORTED_MAX: usize = 64;

/// What a publisher found in the directory: each text proves itself, or counts for nothing.
#[derive(Debug, Default)]
pub struct Report {
    /// Events of the chain that hsmd did not serve to the publisher.
    pub events: Vec<SignedEvent>,
    /// Heads of the newest event that hsmd served.
    pub heads: Vec<Head>,
    /// How many of the events that hsmd served were found.
    pub held: u64,
    /// The newest event that hsmd served, if it was found.
    pub newest: Option<Digest>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written<'a> {
    #[serde(borrow)]
    events: Vec<&'a RawValue>,
    #[serde(borrow)]
    heads: Vec<&'a RawValue>,
    held: u64,
    newest: Option<String>,
}

impl Report {
    /// Reads a report. What is no event and no head in it is left out: others write to the directory too.
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let bad = |_| Refusal::new(Code::InvalidMessage, "not a report of what is published");
        let written: Written<'_> = serde_json::from_slice(body).map_err(bad)?;
        if written.events.len() > REPORTED_MAX || written.heads.len() > REPORTED_MAX {
            return Err(Refusal::new(Code::TooLarge, "the report lists too many"));
        }
        Ok(Self {
            events: written.events.into_iter().filter_map(|it| SignedEvent::parse(it.get()).ok()).collect(),
            heads: written.heads.into_iter().filter_map(|it| Head::parse(it.get()).ok()).collect(),
            held: written.held,
            newest: written.newest.and_then(|id| Digest::parse(&id).ok()),
        })
    }
}

/// What this hsmd knows of itself, for the comparison.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own<'a> {
    /// The chain as this hsmd has it.
    pub(super) view: &'a View,
    /// The newest head of the newest event that this process signed.
    pub(super) head: Option<&'a Head>,
    /// The highest number that the ledger has given to a head of the newest event.
    pub(super) number: u64,
    /// What the ledger states.
    pub(super) stated: &'a Stated,
    /// When this process began to sign heads.
    pub(super) since: Timestamp,
    /// The time of day.
    pub(super) now: Timestamp,
    /// How far other clocks may be off.
    pub(super) skew: Duration,
}

/// What a comparison came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Nothing speaks against what this hsmd knows.
    Agrees,
    /// Nothing of the chain is published: nothing was compared.
    Nothing,
    /// The published chain goes on where the ledger ends.
    Ahead,
    /// Another holder of this chain's keys signs.
    Rival,
    /// A head from before this process knows what the ledger does not: the ledger was restored.
    Restored,
}

impl Finding {
    /// The name in answers and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Agrees => "agrees",
            Self::Nothing => "nothing",
            Self::Ahead => "ahead",
            Self::Rival => "rival",
            Self::Restored => "restored",
        }
    }
}

/// The head that proves that a ledger was restored, and what it lists that the ledger lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The head, as published.
    pub head: String,
    /// What the ledger lacks.
    pub lacking: Entries,
}

/// The end of the published chain, and its position: what stands beside the ledger's newest event or goes on from it, or else
/// that event, if it was found.
pub(super) fn chain_end(view: &View, report: &Report) -> (usize, Vec<SignedEvent>) {
    let newest = view.live();
    let position = usize::try_from(newest.event().sequence_number).unwrap_or(usize::MAX);
    if let Some(rival) = report.events.iter().find(|event| is_beside(view, event)) {
        let beyond = beyond(rival, &report.events);
        return (position, std::iter::once(rival.clone()).chain(beyond).collect());
    }
    let beyond = beyond(newest, &report.events);
    if beyond.is_empty() && report.newest != Some(newest.id()) {
        return (position, Vec::new());
    }
    (position, std::iter::once(newest.clone()).chain(beyond).collect())
}

/// What heads of the newest event show.
#[derive(Clone, Debug)]
pub(super) enum Shown {
    /// How another holder of the key has signed one.
    Rival(String),
    /// That the ledger was restored.
    Restored(Box<Restored>),
}

/// The published heads of the newest event: who signed another proves nothing.
pub(super) fn own_heads<'a>(view: &View, report: &'a Report) -> Vec<&'a Head> {
    report.heads.iter().filter(|head| head.verify_signature(view.live()).is_ok()).collect()
}

/// Judges the published heads. The worst comes first: a holder of the keys can also make a ledger seem restored.
pub(super) fn judge_heads(own: Own<'_>, heads: &[&Head]) -> Option<Shown> {
    let rival = heads.iter().find_map(|head| rival_head(own, head)).map(Shown::Rival);
    rival.or_else(|| heads.iter().find_map(|head| restored(own, head)).map(Box::new).map(Shown::Restored))
}

/// Whether the event satisfies the same commitment as the newest one.
fn is_beside(view: &View, event: &SignedEvent) -> bool {
    let newest = view.live();
    let before = newest.event().previous.and_then(|previous| view.find(&previous));
    let follows = before.is_some_and(|before| event.event().follows(before.event()).is_ok());
    follows && event.id() != newest.id()
}

/// The events that follow the newest one, each the one before.
fn beyond(newest: &SignedEvent, events: &[SignedEvent]) -> Vec<SignedEvent> {
    let mut found: Vec<SignedEvent> = Vec::new();
    loop {
        let last = found.last().unwrap_or(newest).event();
        let Some(next) = events.iter().find(|event| event.event().follows(last).is_ok()) else {
            return found;
        };
        found.push(next.clone());
    }
}

/// How a head of the newest event shows that another holder of the key signed it.
fn rival_head(own: Own<'_>, head: &Head) -> Option<String> {
    let newest = own.view.live();
    // A number is durable in the ledger before its head is signed: one beyond the newest, or another with the same
    // number, made while this process signs, is not of this ledger. One made before may be, if the ledger has lost it.
    let is_not_ours = head.number() > own.number || is_another(own, head);
    let is_made_beside = is_not_ours && head.issued_at() > own.since;
    let is_unreachable = head.number() > highest_head_number(own.now.max(newest.event().created_at));
    (is_made_beside || is_unreachable)
        .then(|| format!("head {} of event {} was made elsewhere", head.number(), newest.id()))
}

/// Whether the head has the number of this process's newest one, and another body.
fn is_another(own: Own<'_>, head: &Head) -> bool {
    own.head.is_some_and(|ours| head.number() == ours.number() && head.body() != ours.body())
}

/// What a head of the newest event knows that the ledger does not; `None` if nothing.
pub(super) fn restored(own: Own<'_>, head: &Head) -> Option<Restored> {
    let ours = listed::all(own.stated);
    let denial_ended =
        |id: &Digest| listed::denial_end(own.view, id, own.skew).is_none_or(|end| end <= own.now);
    let lacking = head.entries().missing_from(&ours, own.now, denial_ended);
    let knows_more = head.number() > own.number || is_another(own, head) || !lacking.is_empty();
    knows_more.then(|| Restored { head: head.text().to_owned(), lacking })
}

#[cfg(test)]
mod tests {
    use keychain::{
        SigningKey, chain,
        statement::{NewHead, ServiceRevocation},
    };

    use super::*;
    use crate::ledger::Entry;

    const HOUR: i64 = 3600;

    fn key(number: u8) -> SigningKey {
        SigningKey::from_seed(&[number; 32]).unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_millis(seconds * 1000)
    }

    /// An event by key `own`, which commits to key `next`.
    fn event(after: Option<&SignedEvent>, own: u8, next: u8, taint: bool) -> SignedEvent {
        let (key, commitment) = (key(own), key(next).public_key().digest());
        let created = at(i64::from(own) * HOUR + i64::from(next));
        let draft = match after {
            None => chain::Draft::first(&key.public_key(), &commitment, created),
            Some(last) => chain::Draft::next(last.event(), &key.public_key(), &commitment, created, taint),
        };
        let signature = key.sign(draft.payload().as_bytes()).unwrap();
        draft.seal(&signature).unwrap()
    }

    fn head(event: &SignedEvent, signer: u8, number: u64, issued: i64, entries: &Entries) -> Head {
        let (issued_at, expiration) = (at(issued), at(issued + 12 * HOUR));
        let new = NewHead { event: event.event(), number, issued_at, expiration, entries, audit: None };
        let draft = new.draft().unwrap();
        Head::parse(&draft.seal(&key(signer).sign(draft.body().as_bytes()).unwrap())).unwrap()
    }

    /// Only what stands beside or beyond the newest event says anything.
    #[test]
    fn the_published_chain_ends_where_the_newest_event_stands() {
        let zero = event(None, 1, 2, false);
        let one = event(Some(&zero), 2, 3, false);
        let two = event(Some(&one), 3, 4, false);
        let view = View::new(vec![zero.clone(), one.clone(), two.clone()], None).unwrap();
        let below = event(Some(&zero), 2, 99, false);
        let beside = event(Some(&one), 3, 99, true);
        let its_next = event(Some(&beside), 99, 100, false);
        let beyond = event(Some(&two), 4, 5, true);
        let further = event(Some(&beyond), 5, 6, false);
        for (events, newest, end) in [
            (vec![], None, vec![]),
            (vec![], Some(&one), vec![]),
            (vec![], Some(&two), vec![&two]),
            // A thief of the second key may sign below for ever; a hole hides what follows it.
            (vec![&below], Some(&two), vec![&two]),
            (vec![&further], None, vec![]),
            (vec![&beyond], None, vec![&two, &beyond]),
            (vec![&further, &beyond], Some(&two), vec![&two, &beyond, &further]),
            (vec![&beside], Some(&two), vec![&beside]),
            (vec![&beyond, &its_next, &beside], Some(&two), vec![&beside, &its_next]),
        ] {
            let events = events.into_iter().cloned().collect();
            let report = Report { events, newest: newest.map(SignedEvent::id), ..Report::default() };
            let (position, found) = chain_end(&view, &report);
            let ids = |events: Vec<&SignedEvent>| events.into_iter().map(SignedEvent::id).collect::<Vec<_>>();
            assert_eq!((position, ids(found.iter().collect())), (2, ids(end)));
        }
    }

    /// This hsmd has three events, whose keys are 1, 2 and 3, and signs heads since 4 h; key 2 is stated as revoked.
    #[test]
    fn a_head_shows_a_rival_or_a_restored_ledger_or_nothing() {
        let zero = event(None, 1, 2, false);
        let one = event(Some(&zero), 2, 3, false);
        let two = event(Some(&one), 3, 4, false);
        let view = View::new(vec![zero.clone(), one.clone(), two.clone()], None).unwrap();
        let mut stated = Stated::default();
        let (revoked, until) = (key(22).public_key(), at(20 * HOUR));
        stated.revoked.push(Entry { subject: revoked, since: at(0), end: until });
        let known = Entries { keys: [(revoked.name(), until)].into(), ..Entries::default() };
        let more = |entries: Entries| {
            let mut all = known.clone();
            all.join(&entries);
            all
        };
        let other_key =
            more(Entries { keys: [(key(23).public_key().name(), until)].into(), ..Entries::default() });
        let ended = more(Entries {
            keys: [(key(23).public_key().name(), at(5 * HOUR))].into(),
            ..Entries::default()
        });
        let denial = more(Entries { denied: [zero.id()].into(), ..Entries::default() });
        let revocation = ServiceRevocation { endorsed_up_to: 7, until };
        let service =
            more(Entries { services: [("edge:a".to_owned(), revocation)].into(), ..Entries::default() });

        let ours = head(&two, 3, 5, 4 * HOUR + 60, &known);
        let made = |number, issued: i64, entries: &Entries| head(&two, 3, number, issued * HOUR, entries);
        for (published, expected) in [
            (ours.clone(), "nothing"),
            (made(4, 3, &known), "nothing"),
            (made(5, 5, &known), "rival"),
            (made(6, 5, &known), "rival"),
            // No ledger comes so far: a thief leaves no number after it.
            (made(1 << 52, 3, &known), "rival"),
            // Of before this process: the ledger was restored.
            (made(5, 3, &known), "restored"),
            (made(6, 3, &known), "restored"),
            (made(4, 3, &other_key), "restored"),
            (made(4, 3, &ended), "nothing"),
            (made(4, 3, &denial), "restored"),
            (made(4, 3, &service), "restored"),
            (head(&two, 9, 9, 3 * HOUR, &denial), "nothing"),
            (head(&one, 2, 99, 3 * HOUR, &denial), "nothing"),
        ] {
            let own = Own {
                view: &view,
                head: Some(&ours),
                number: 5,
                stated: &stated,
                since: at(4 * HOUR),
                now: at(6 * HOUR),
                skew: Duration::from_secs(5),
            };
            let report = Report { heads: vec![published], ..Report::default() };
            let shown = judge_heads(own, &own_heads(&view, &report));
            let label = match &shown {
                None => "nothing",
                Some(Shown::Rival(_)) => "rival",
                Some(Shown::Restored(restored)) => {
                    assert!(
                        !restored.lacking.keys.contains_key(&revoked.name()),
                        "what is known is not lacking"
                    );
                    "restored"
                }
            };
            assert_eq!(label, expected, "{shown:?}");
        }
    }

    #[test]
    fn a_report_is_bounded_and_what_proves_nothing_is_left_out() {
        let zero = event(None, 1, 2, false);
        let read = |text: &str| Report::parse(text.as_bytes()).map_err(|refusal| refusal.code());
        let forged = zero.text().replace("0I", "0i");
        let text = format!("{{\"events\":[{},{forged},1],\"heads\":[{{}},null],\"held\":1}}", zero.text());
        let report = read(&text).unwrap();
        assert_eq!((report.events.len(), report.heads.len(), report.held), (1, 0, 1));
        let many = format!("[{}]", vec!["1"; REPORTED_MAX + 1].join(","));
        for text in [
            format!("{{\"events\":{many},\"heads\":[],\"held\":1}}"),
            format!("{{\"events\":[],\"heads\":{many},\"held\":1}}"),
        ] {
            assert_eq!(read(&text).unwrap_err(), Code::TooLarge);
        }
        for text in ["", "[]", "{}", "{\"events\":[],\"heads\":[],\"held\":-1}"] {
            assert_eq!(read(text).unwrap_err(), Code::InvalidMessage, "{text}");
        }
    }
}
