//! From an order to its answer: decided, committed with its lines, and told.

use std::time::Duration;

use keychain::audit::{Kind, Record};
use keychain::feed::Position;
use keychain::{Digest, Refusal, Timestamp, json};

use super::policy::Authority;
use crate::operation::order::{self, Carried, Order, Which};
use crate::record::{BanEnd, Mandate};
use crate::service::Service;
use crate::store::{Failure, Lines, Ordered, Ordering};

/// How long an answer waits until the directory and the denial feed have it.
pub(super) const HEARD_WITHIN: Duration = Duration::from_secs(5);

/// Pause before the store is asked again whether it was.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What came of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Done {
    /// Whether anything was changed; if not, all was as ordered.
    pub(super) changed: bool,
    /// How many devices and identities are denied, or not any more.
    pub(super) subjects: usize,
    /// Who has heard of it.
    pub(super) heard: Heard,
}

/// Whether what an account denies and lifts has left this store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// Database 3 has all of it.
    pub(super) sent: bool,
    /// The denial feed has all of it with this position; nothing while it has not.
    pub(super) feed: Option<Position>,
}

/// Carries out an order about `identity`. When this returns it is committed, or refused, with its lines.
pub(super) async fn carry_out(
    service: &Service,
    authority: &Authority,
    (identity, order, reason): (Digest, &Order, &str),
    now: Timestamp,
) -> Result<Done, Failure> {
    let signer = service.access.usable(now)?;
    let operator = authority.operator();
    let key = signer.signing_key();
    let mandate = Mandate { action: order.action(), operator: &operator, reason, key };
    let ordering = Ordering { identity, signer: signer.endorsement() };
    let intent = intent(authority, identity, order, reason);
    let judge = |standing: &_| {
        let carried = order::decide(identity, order, standing, &mandate, (service.denial, now))?;
        let changed = carried.is_some();
        let subjects = carried.as_ref().map_or(0, subjects);
        let outcome = outcome(authority, "ok").raw("details", &details(changed, subjects));
        let lines = Lines { intent: intent.clone(), outcome };
        Ok((Ordered { carried, lines }, (changed, subjects)))
    };
    match service.store.carry_out(&ordering, now, judge).await {
        Ok((changed, subjects)) => {
            service.tell_denials();
            Ok(Done { changed, subjects, heard: heard(service, &identity).await? })
        }
        Err(Failure::Refused(refusal)) => {
            let outcome = outcome(authority, refusal.code().as_str()).text("because", refusal.because());
            service.store.note(&Lines { intent, outcome }, now).await?;
            Err(refusal.into())
        }
        failed => failed.map(|_| Done { changed: false, subjects: 0, heard: Heard::default() }),
    }
}

/// Waits until the directory and the denial feed have it, for so long.
async fn heard(service: &Service, identity: &Digest) -> Result<Heard, Failure> {
    let mut heard = Heard::default();
    let wait = async {
        loop {
            let now = service.now();
            heard.sent = service.store.count_untold(identity, now).await? == 0;
            heard.feed = service.store.fed_up_to(identity, now).await?;
            if heard.sent && heard.feed.is_some() {
                return Ok(());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    match tokio::time::timeout(HEARD_WITHIN, wait).await {
        Ok(asked) => asked.map(|()| heard),
        Err(_late) => Ok(heard),
    }
}

fn subjects(carried: &Carried) -> usize {
    let names = carried.lifted.iter().map(|(subject, _)| *subject);
    let names = names.chain(carried.denied.iter().map(|(subject, _, _)| *subject));
    names.collect::<std::collections::BTreeSet<_>>().len()
}

fn intent(authority: &Authority, identity: Digest, order: &Order, reason: &str) -> Record {
    let more = match order {
        Order::Ban(BanEnd::At(end)) => format!(r#","until":"{end}""#),
        Order::DeviceRevoke(Which::One(device)) => format!(r#","device":"{device}""#),
        Order::DeviceRevoke(Which::AllBut(device)) => format!(r#","allBut":"{device}""#),
        Order::RoleGrant(role) | Order::RoleRevoke(role) => format!(r#","role":{}"#, json::string(role)),
        _ => String::new(),
    };
    Record::new(Kind::Intent)
        .text("caller", &authority.operator())
        .plain("operation", authority.operation().as_str())
        .text("reason", reason)
        .raw("details", &format!(r#"{{"identity":"{identity}"{more}}}"#))
}

/// The lines of an order that is about no identity.
pub(super) fn lines(authority: &Authority, reason: &str, (asked, done): (&str, &str)) -> Lines {
    let intent = Record::new(Kind::Intent)
        .text("caller", &authority.operator())
        .plain("operation", authority.operation().as_str())
        .text("reason", reason)
        .raw("details", asked);
    Lines { intent, outcome: outcome(authority, "ok").raw("details", done) }
}

fn outcome(authority: &Authority, outcome: &str) -> Record {
    Record::new(Kind::Outcome).plain("operation", authority.operation().as_str()).plain("outcome", outcome)
}

fn details(changed: bool, subjects: usize) -> String {
    format!(r#"{{"changed":"{changed}","subjects":"{subjects}"}}"#)
}

/// A refusal of the same form for an order that cannot be read.
pub(super) fn malformed(because: &'static str) -> Refusal {
    Refusal::new(keychain::Code::InvalidMessage, because)
}
