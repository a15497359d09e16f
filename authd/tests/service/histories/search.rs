//! Whether the pure decisions, asked one after the other in some order, answer what authd answered (linearizability,
//! after Wing and Gong, with the memory of Lowe).
//!
//! The order must keep to time: a request that was answered before another was sent comes before it. A request whose
//! answer nobody read comes anywhere after it was sent, or nowhere, but not twice. At the end of a history the rows
//! themselves are read: that is one more request, whose answer is the rows, so the order must lead to those too.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::time::Duration;

use authd::operation::order;
use authd::operation::session::{self, Decision as Renewal, Grant, Lifetimes};
use authd::operation::{self, Decision};
use authd::record::Mandate;
use authd::roles::Roles;
use keychain::message::Request;
use keychain::{Code, Digest, Refusal, SigningKey, Timestamp};

use super::book::{Book, Row};
use super::call::{Asked, Call, Opening, Outcome, Rows, Said};

/// States that a history may lead to. Honest ones need a few hundred.
const STATES_MAX: usize = 200_000;

/// What decisions depend on besides rows, requests and time.
pub(super) struct Rules {
    pub(super) lifetimes: Lifetimes,
    pub(super) denial: Duration,
    pub(super) roles: Roles,
    pub(super) operator: String,
    /// Stands for authd's access key in the records of operators.
    pub(super) key: SigningKey,
}

impl Rules {
    /// What one call leads to on these rows: its answer, and what it appends.
    pub(super) fn judge(&self, book: &Book, call: &Call, now: Timestamp) -> (Outcome, Vec<Row>) {
        let judged = match &call.asked {
            Asked::Change(request) => {
                let needs = operation::needs(request.request()).unwrap();
                operation::decide(request, &book.view(&needs), now).map(|decision| match decision {
                    Decision::Apply(change) => (Outcome::Done, Row::of_change(needs.identity, &change)),
                    Decision::Incomplete => panic!("the book leaves nothing open"),
                    Decision::Repeat => (Outcome::Done, Vec::new()),
                })
            }
            Asked::Refresh(request) => {
                let Request::SessionRefresh { access, token } = request.request() else { unreachable!() };
                let claims = token.claims();
                let owner = (&claims.identity, &claims.device);
                let view = book.refresh(owner, &claims.rotation_hash, &access.rotation_hash);
                session::check_token(access, claims, &self.lifetimes, now).and_then(|()| {
                    let decision =
                        session::refresh(request.cause(), access, claims, &view, &self.lifetimes, now)?;
                    let (refresh, rows) = match decision {
                        Renewal::Apply(refresh) => (refresh.clone(), vec![Row::Refresh(refresh)]),
                        Renewal::Repeat(refresh) => (refresh, Vec::new()),
                    };
                    Ok((self.token(&refresh.grant, &view.session)?, rows))
                })
            }
            Asked::Open(opening) => self.open(book, opening, now),
            Asked::Order { identity, order, reason } => {
                let (action, operator) = (order.action(), self.operator.as_str());
                let mandate = Mandate { action, operator, reason, key: &self.key };
                let standing = book.standing(identity);
                order::decide(*identity, order, &standing, &mandate, (self.denial, now)).map(|carried| {
                    let rows = carried.as_ref().map_or_else(Vec::new, |it| Row::of_order(*identity, it));
                    (Outcome::Ordered(carried.is_some()), rows)
                })
            }
            Asked::Look => Ok((Outcome::Rows(book.lines()), Vec::new())),
        };
        judged.unwrap_or_else(|refusal| (Outcome::Refused(refusal.code().as_str().to_owned()), Vec::new()))
    }

    fn open(&self, book: &Book, opening: &Opening, now: Timestamp) -> Result<(Outcome, Vec<Row>), Refusal> {
        let Opening { identity, device, challenge, access, signer, .. } = opening;
        if !book.had(identity, device) {
            return Err(Refusal::new(Code::UnknownDevice, "no account of the device"));
        }
        if book.is_answered(challenge) {
            return Err(Refusal::new(Code::UnknownChallenge, "answered before"));
        }
        let view = book.session(identity, device);
        if session::device(&view)?.public_key != *signer {
            return Err(Refusal::new(Code::BadSignature, "signed with another key"));
        }
        let grant = session::create(&view, access, &self.lifetimes, now)?;
        Ok((self.token(&grant, &view)?, vec![Row::Challenge(*challenge)]))
    }

    fn token(&self, grant: &Grant, view: &session::SessionView) -> Result<Outcome, Refusal> {
        let attributes = self.roles.attributes(view.roles.as_ref())?.to_json();
        let Grant { identity, device, public_key, rotation_hash, issued_at, expiry, refresh_expiry } = *grant;
        Ok(Outcome::Token(Box::new(Said {
            owner: (identity, device),
            keys: (public_key, rotation_hash),
            issued_at,
            expiry,
            refresh_expiry,
            attributes,
        })))
    }
}

/// Finds an order, or says how far the longest one goes.
pub(super) fn explain(calls: &[Call], rules: &Rules) -> Result<(), String> {
    check_times(calls)?;
    let mut search = Search::over(calls, rules);
    if search.walk(0) { Ok(()) } else { Err(search.report()) }
}

struct Search<'a> {
    calls: &'a [Call],
    rules: &'a Rules,
    /// The time that each call is decided at.
    times: Vec<Timestamp>,
    /// For each call the first one with the same request: which of them is carried out makes no difference.
    labels: Vec<usize>,
    /// The rows at the end, and the call that read them.
    last: Option<(usize, &'a Rows)>,
    book: Book,
    order: Vec<usize>,
    longest: Vec<usize>,
    seen: HashSet<(u128, u64)>,
}

impl<'a> Search<'a> {
    fn over(calls: &'a [Call], rules: &'a Rules) -> Self {
        assert!(calls.len() <= 128, "a history of {} calls is too long to be searched", calls.len());
        let (mut firsts, mut issued) = (BTreeMap::new(), BTreeMap::new());
        for (place, call) in calls.iter().enumerate() {
            if let Some(cause) = call.cause() {
                firsts.entry(cause).or_insert(place);
                if let Some(said) = call.said() {
                    issued.entry(cause).or_insert(said.issued_at);
                }
            }
        }
        let label = |(place, call): (usize, &Call)| call.cause().map_or(place, |cause| firsts[&cause]);
        let time =
            |call: &Call| call.cause().and_then(|cause| issued.get(&cause).copied()).unwrap_or(call.at);
        let last = calls.iter().enumerate().find_map(|(place, call)| match call.outcome() {
            Some(Outcome::Rows(rows)) => Some((place, rows)),
            _ => None,
        });
        Self {
            calls,
            rules,
            times: calls.iter().map(time).collect(),
            labels: calls.iter().enumerate().map(label).collect(),
            last,
            book: Book::default(),
            order: Vec::new(),
            longest: Vec::new(),
            seen: HashSet::new(),
        }
    }

    /// Whether all calls besides `done` can follow.
    fn walk(&mut self, done: u128) -> bool {
        let open = |(place, call): (usize, &'a Call)| (done & bit(place) == 0).then_some((place, call));
        let waiting: Vec<_> = self.calls.iter().enumerate().filter_map(open).collect();
        let Some(limit) = waiting.iter().filter_map(|(_, call)| Some(call.answer.as_ref()?.ended)).min()
        else {
            return true;
        };
        if !self.seen.insert((done, self.book.sum())) {
            return false;
        }
        assert!(self.seen.len() <= STATES_MAX, "a history has more than {STATES_MAX} states");
        if self.order.len() > self.longest.len() {
            self.longest.clone_from(&self.order);
        }
        let mut next: Vec<_> = waiting.into_iter().filter(|(_, call)| call.begun < limit).collect();
        // Answers are rarely late: the first to end was most often the first to be decided.
        next.sort_by_key(|(_, call)| call.answer.as_ref().map_or(usize::MAX, |answer| answer.ended));
        for (place, call) in next {
            let (outcome, rows) = self.rules.judge(&self.book, call, self.times[place]);
            let fits = match call.outcome() {
                Some(seen) => *seen == outcome,
                // What changes nothing might as well not have happened.
                None => !rows.is_empty(),
            };
            if !fits {
                continue;
            }
            let mark = self.book.mark();
            self.order.push(place);
            if self.append(rows, place, done) && self.walk(done | bit(place)) {
                return true;
            }
            self.order.pop();
            self.book.cut(mark);
        }
        false
    }

    /// Appends rows, unless they are not those that were read at the end.
    fn append(&mut self, rows: Vec<Row>, place: usize, done: u128) -> bool {
        for row in rows {
            let was_read = |rows: &Rows| {
                let lines = rows.get(&row.chain());
                lines.and_then(|lines| lines.get(self.book.length_of(&row))) == Some(&row.line())
            };
            if let Some((look, rows)) = self.last
                && done & bit(look) == 0
                && row.is_kept()
                && !was_read(rows)
            {
                return false;
            }
            self.book.push(row, self.labels[place]);
        }
        true
    }

    /// The history, the longest order, and what could not follow it.
    fn report(&mut self) -> String {
        let mut text = String::from("no order of these calls is one that the decisions allow:\n");
        for (place, call) in self.calls.iter().enumerate() {
            writeln!(text, "  {place:>3} {call}").unwrap();
        }
        self.book = Book::default();
        let longest = std::mem::take(&mut self.longest);
        let mut done = 0;
        for place in &longest {
            let (_, rows) = self.rules.judge(&self.book, &self.calls[*place], self.times[*place]);
            for row in rows {
                self.book.push(row, self.labels[*place]);
            }
            done |= bit(*place);
        }
        writeln!(text, "the longest order is {longest:?}; what cannot follow:").unwrap();
        for (place, call) in self.calls.iter().enumerate().filter(|(place, _)| done & bit(*place) == 0) {
            let (outcome, rows) = self.rules.judge(&self.book, call, self.times[place]);
            let rows: Vec<_> = rows.iter().map(|row| format!("{}: {}", row.chain(), row.line())).collect();
            writeln!(text, "  {place:>3} would be {outcome:?}, and append {rows:#?}").unwrap();
        }
        text
    }
}

const fn bit(place: usize) -> u128 {
    1 << place
}

/// A token says when it was issued: since the first request that it answers was sent, and before the answer came.
fn check_times(calls: &[Call]) -> Result<(), String> {
    let mut sent: BTreeMap<Digest, Timestamp> = BTreeMap::new();
    for call in calls {
        if let Some(cause) = call.cause() {
            let first = sent.entry(cause).or_insert(call.at);
            *first = call.at.min(*first);
        }
    }
    for call in calls {
        let (Some(said), Some(cause), Some(answer)) = (call.said(), call.cause(), &call.answer) else {
            continue;
        };
        let issued = said.issued_at;
        if issued < sent[&cause].to_millis() || issued > answer.at {
            return Err(format!("a token says that it was issued at {issued}:\n{call}"));
        }
    }
    Ok(())
}
