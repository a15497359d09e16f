//! An authd that is nothing but the pure decisions and one lock, and that can be told to be wrong: what the checker must
//! accept, and what it must find.

use std::sync::Mutex;

use authd::record::DeviceState;
use keychain::message::Request;
use keychain::token::{Attributes, Claims};
use keychain::{Code, SigningKey};
use tests::craft::{key, now, random};

use super::book::{Book, Row};
use super::call::{Asked, Call, Outcome, Rows, Said};
use super::search::Rules;

/// In which way it is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Defect {
    /// An exact repeat is carried out again.
    AppliesTwice,
    /// Rows that others wrote since a request was read are not seen when it is decided.
    DecidesOnASnapshot,
    /// A revoked device is not denied at the edges.
    ForgetsDenials,
    /// A refresh does not see that the device was revoked.
    ForgetsRevocations,
    /// A refresh is answered again, though the token that it led to was refreshed.
    ForgetsSuccessors,
    /// Every fourth request that is answered is not written.
    ForgetsWrites,
    None,
    /// A refresh key that another request spent is good once more.
    RefreshesTwice,
}

/// The authd.
pub(super) struct Sham {
    rules: Rules,
    defect: Defect,
    book: Mutex<Book>,
    writes: Mutex<usize>,
    key: SigningKey,
}

impl Sham {
    pub(super) fn new(rules: Rules, defect: Defect) -> Self {
        Self { rules, defect, book: Mutex::default(), writes: Mutex::default(), key: key() }
    }

    /// Carries a request out, taking some time before and after. Answers with the token's text, if there is one.
    pub(super) async fn carry_out(&self, asked: Asked) -> (Outcome, Option<String>) {
        let read = self.book.lock().unwrap().clone();
        linger().await;
        let answered = self.decide(&read, asked);
        linger().await;
        answered
    }

    /// The rows.
    pub(super) fn rows(&self) -> Rows {
        self.book.lock().unwrap().lines()
    }

    pub(super) const fn rules(&self) -> &Rules {
        &self.rules
    }

    fn decide(&self, read: &Book, asked: Asked) -> (Outcome, Option<String>) {
        let call = Call { asked, begun: 0, at: now().to_millis(), answer: None };
        let mut book = self.book.lock().unwrap();
        let (outcome, mut rows) = match (self.defect, &call.asked) {
            (Defect::DecidesOnASnapshot, _) => self.rules.judge(read, &call, call.at),
            (Defect::ForgetsRevocations, Asked::Refresh(_)) => {
                let known = book.without(
                    |row| matches!(row, Row::Device(record) if record.state == DeviceState::Revoked),
                );
                self.rules.judge(&known, &call, call.at)
            }
            (Defect::ForgetsSuccessors, Asked::Refresh(request)) => {
                let Request::SessionRefresh { access, .. } = request.request() else { unreachable!() };
                let known = book.without(
                    |row| matches!(row, Row::Refresh(refresh) if refresh.digest == access.rotation_hash),
                );
                self.rules.judge(&known, &call, call.at)
            }
            _ => self.rules.judge(&book, &call, call.at),
        };
        let outcome = match (self.defect, &call.asked, outcome) {
            (Defect::RefreshesTwice, Asked::Refresh(_), Outcome::Refused(code))
                if code == Code::RefreshSpent.as_str() =>
            {
                let known = book.without(|row| matches!(row, Row::Refresh(_)));
                self.rules.judge(&known, &call, call.at).0
            }
            (_, _, outcome) => outcome,
        };
        if self.defect == Defect::AppliesTwice && rows.is_empty() && outcome == Outcome::Done {
            rows = book.caused_by(&call);
        }
        if self.defect == Defect::ForgetsDenials {
            rows.retain(|row| !matches!(row, Row::Denied(_)));
        }
        if !(self.defect == Defect::ForgetsWrites && self.is_fourth(&rows)) {
            for row in rows {
                book.push(row, 0);
            }
        }
        let token = match &outcome {
            Outcome::Token(said) => Some(self.token(said)),
            _ => None,
        };
        (outcome, token)
    }

    fn is_fourth(&self, rows: &[Row]) -> bool {
        let mut writes = self.writes.lock().unwrap();
        *writes += usize::from(!rows.is_empty());
        !rows.is_empty() && writes.is_multiple_of(4)
    }

    /// Attributes are left out: no refresh asks for those of the token before.
    fn token(&self, said: &Said) -> String {
        let claims = Claims {
            server_identity: self.key.public_key(),
            device: said.owner.1,
            identity: said.owner.0,
            public_key: said.keys.0,
            rotation_hash: said.keys.1,
            issued_at: said.issued_at,
            expiry: said.expiry,
            refresh_expiry: said.refresh_expiry,
            attributes: Attributes::default(),
        };
        claims.issue(&self.key).unwrap()
    }
}

/// Lets others come first, a few times.
async fn linger() {
    let [times] = random();
    for _ in 0..times % 8 {
        tokio::task::yield_now().await;
    }
}
