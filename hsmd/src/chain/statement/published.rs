//! What is published, held against what this hsmd made (`PROTOCOL.md#contested`).
//!
//! A report proves itself: only what keys of this chain have signed counts, whoever brings it. Only what stands beside
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

/// Most events in a report that hsmd did not tell, and most heads. A copy that ran for longer shows by the first.
pub const REPORTED_MAX: usize = 64;

/// What a publisher found in the directory: each text proves itself, or counts for nothing.
#[derive(Debug, Default)]
pub struct Report {
    /// Events of the chain that hsmd did not tell the publisher.
    pub events: Vec<SignedEvent>,
    /// Heads of the newest event that hsmd told.
    pub heads: Vec<Head>,
    /// How many of the events that hsmd told were found.
    pub held: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written<'a> {
    #[serde(borrow)]
    events: Vec<&'a RawValue>,
    #[serde(borrow)]
    heads: Vec<&'a RawValue>,
    held: u64,
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

/// What a comparison found.
#[derive(Clone, Debug)]
pub enum Finding {
    /// Nothing speaks against what this hsmd knows.
    Agrees,
    /// Nothing of the chain is published: nothing was compared.
    Nothing,
    /// The published chain goes on where the ledger ends.
    Ahead(Vec<SignedEvent>),
    /// Somebody else signs with the keys of this chain.
    Rival(String),
    /// A head from before this process knows what the ledger does not: the ledger was restored.
    Restored(Box<Restored>),
}

impl Finding {
    /// The name in answers and metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Agrees => "agrees",
            Self::Nothing => "nothing",
            Self::Ahead(_) => "ahead",
            Self::Rival(_) => "rival",
            Self::Restored(_) => "restored",
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

/// Compares. The worst comes first: whoever holds the keys can also make a ledger seem restored.
pub(super) fn compare(own: Own<'_>, report: &Report) -> Finding {
    let newest = own.view.live();
    if let Some(rival) = report.events.iter().find(|event| is_beside(own.view, event)) {
        return Finding::Rival(format!("event {} stands beside the newest, {}", rival.id(), newest.id()));
    }
    let beyond = beyond(newest, &report.events);
    if !beyond.is_empty() {
        return Finding::Ahead(beyond);
    }
    let heads: Vec<_> = report.heads.iter().filter(|head| head.verify_signature(newest).is_ok()).collect();
    if let Some(evidence) = heads.iter().find_map(|head| rival_head(own, head)) {
        return Finding::Rival(evidence);
    }
    if let Some(restored) = heads.iter().find_map(|head| restored(own, head)) {
        return Finding::Restored(Box::new(restored));
    }
    if report.held == 0 && heads.is_empty() { Finding::Nothing } else { Finding::Agrees }
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

/// How a head of the newest event shows that somebody else signed it.
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

    fn report(events: &[&SignedEvent], heads: &[&Head], held: u64) -> Report {
        Report {
            events: events.iter().map(|event| (*event).clone()).collect(),
            heads: heads.iter().map(|head| (*head).clone()).collect(),
            held,
        }
    }

    /// This hsmd has three events, whose keys are 1, 2 and 3, and signs heads since 4 h; key 2 is stated as revoked.
    #[test]
    fn only_what_stands_beside_or_beyond_the_newest_event_says_anything() {
        let zero = event(None, 1, 2, false);
        let one = event(Some(&zero), 2, 3, false);
        let two = event(Some(&one), 3, 4, false);
        let view = View::new(vec![zero.clone(), one.clone(), two.clone()], None).unwrap();
        let mut stated = Stated::default();
        let (revoked, until) = (key(22).public_key(), at(20 * HOUR));
        stated.revoked.push(Entry { subject: revoked, since: at(0), end: until });
        let known = Entries { keys: [(revoked, until)].into(), ..Entries::default() };
        let more = |entries: Entries| {
            let mut all = known.clone();
            all.join(&entries);
            all
        };
        let other_key = more(Entries { keys: [(key(23).public_key(), until)].into(), ..Entries::default() });
        let ended =
            more(Entries { keys: [(key(23).public_key(), at(5 * HOUR))].into(), ..Entries::default() });
        let denial = more(Entries { denied: [zero.id()].into(), ..Entries::default() });
        let revocation = ServiceRevocation { endorsed_up_to: 7, until };
        let service =
            more(Entries { services: [("edge:a".to_owned(), revocation)].into(), ..Entries::default() });

        let ours = head(&two, 3, 5, 4 * HOUR + 60, &known);
        let made = |number, issued: i64, entries: &Entries| head(&two, 3, number, issued * HOUR, entries);
        let below = event(Some(&zero), 2, 99, false);
        let beside = event(Some(&one), 3, 99, true);
        let beyond = [event(Some(&two), 4, 5, true)];
        let further = event(Some(&beyond[0]), 5, 6, false);
        let stranger = head(&two, 9, 9, 3 * HOUR, &denial);
        let of_older = head(&one, 2, 99, 3 * HOUR, &denial);
        for (events, heads, held, expected) in [
            (vec![], vec![], 0, "nothing"),
            (vec![], vec![], 3, "agrees"),
            (vec![], vec![ours.clone()], 3, "agrees"),
            (vec![], vec![made(4, 3, &known)], 3, "agrees"),
            // A thief of the second key may sign below for ever.
            (vec![&below], vec![ours.clone()], 3, "agrees"),
            (vec![&further], vec![], 3, "agrees"),
            (vec![], vec![stranger], 3, "agrees"),
            (vec![], vec![of_older], 3, "agrees"),
            (vec![&beyond[0]], vec![], 3, "ahead"),
            (vec![&further, &beyond[0]], vec![], 0, "ahead"),
            (vec![&beside], vec![], 3, "rival"),
            (vec![&beyond[0], &beside], vec![], 3, "rival"),
            (vec![], vec![made(5, 5, &known)], 3, "rival"),
            (vec![], vec![made(6, 5, &known)], 3, "rival"),
            // No ledger comes so far: a thief leaves no number after it.
            (vec![], vec![made(1 << 52, 3, &known)], 3, "rival"),
            // Of before this process: the ledger was restored.
            (vec![], vec![made(5, 3, &known)], 3, "restored"),
            (vec![], vec![made(6, 3, &known)], 0, "restored"),
            (vec![], vec![made(4, 3, &other_key)], 3, "restored"),
            (vec![], vec![made(4, 3, &ended)], 3, "agrees"),
            (vec![], vec![made(4, 3, &denial)], 3, "restored"),
            (vec![], vec![made(4, 3, &service)], 3, "restored"),
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
            let heads: Vec<_> = heads.iter().collect();
            let finding = compare(own, &report(&events, &heads, held));
            assert_eq!(finding.label(), expected, "{finding:?}");
            if let Finding::Restored(restored) = finding {
                assert!(!restored.lacking.keys.contains_key(&revoked), "what is known is not lacking");
            }
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
