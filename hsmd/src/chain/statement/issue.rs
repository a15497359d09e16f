//! One issue: the ledger read, a head signed if one is due, and shown.

use std::{
    sync::{Arc, PoisonError},
    time::Instant,
};

use keychain::{
    Code, Digest, Refusal, Timestamp,
    limits::HEAD_LIFETIME,
    statement::{Head, LastLine, NewHead},
};

use super::{Issued, Refused, Statements, listed};
use crate::{
    chain::{Error, to_gauge},
    ledger::{HeadBasis, Stated},
};

impl Statements {
    /// Reads what is stated in the ledger and signs a head if one is due; answers what was read.
    pub(super) async fn issue(&self) -> Result<Stated, Error> {
        let _turn = self.issuing.lock().await;
        let outcome = self.issue_in_turn().await;
        let problem = outcome.as_ref().err().map(ToString::to_string);
        let mut before = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = &outcome
            && *before != problem
        {
            tracing::error!(error = error as &dyn std::error::Error, "cannot make a head");
        }
        *before = problem;
        drop(before);
        outcome
    }

    /// Reads what is stated in the ledger, and takes in what is refused endorsements.
    pub(super) async fn read(&self) -> Result<Stated, Error> {
        let stated = self.keeper.ledger().stated().await?;
        let keys = stated.revoked.iter().map(|entry| entry.subject).collect();
        let closed = stated.services.iter().filter(|row| row.closed);
        let services = closed.map(|row| row.service.clone()).collect();
        *self.refused.write().unwrap_or_else(PoisonError::into_inner) = Refused { keys, services };
        Ok(stated)
    }

    async fn issue_in_turn(&self) -> Result<Stated, Error> {
        let stated = self.read().await?;
        let after = match self.newest().head.as_ref() {
            Some(head) => Some((head.event_id(), head.number())),
            // Boxed: it is rare, and as large as a reconciliation.
            None => Box::pin(self.compare_with_kept(&stated)).await?,
        };
        // Whether token and ledger agree is found out elsewhere; here it is only waited for.
        let view = self.keeper.settled()?;
        let (live, created_at) = (view.live().id(), view.live().event().created_at);
        let now = self.keeper.clock().date_head(created_at)?.to_millis();
        let newest = self.newest();
        // Numbers that this process, or one before it on this host, has shown are never used again, whatever the ledger
        // has lost.
        let after = after.filter(|(event, _)| *event == live).map_or(0, |(_, number)| number);
        let due = listed::entries(&stated, now, self.settings.skew);
        let lists_the_same = newest.head.as_ref().is_some_and(|head| listed::is_same(head.entries(), &due));
        let is_left_behind = newest.head.as_ref().is_some_and(|head| self.is_left_behind(head));
        let is_newest = newest.generation() == Some(live) && lists_the_same && !is_left_behind;
        if is_newest && !self.until_due().is_zero() {
            return Ok(stated);
        }
        // Number and content come from one transaction: a head with a higher number never says less.
        let basis = self.keeper.ledger().begin_head(&live, after, now).await?;
        let head = self.sign(&live, &basis, now, newest.head.as_ref()).await?;
        // Before the head leaves: what a ledger that is restored later is held against. A disk that fails does not keep
        // a denial back.
        if let Err(error) = self.keeper.ledger().keep_head(&live, basis.number, head.text()).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the head is not kept beside the chain copy"
            );
        }
        *self.made.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.show(head, &newest, now);
        Ok(basis.stated)
    }

    /// Whether the number of a head was given out before the ledger was restored.
    pub(super) fn is_left_behind(&self, head: &Head) -> bool {
        let left = self.judged().left_behind;
        left.is_some_and(|(event, up_to)| head.event_id() == event && head.number() <= up_to)
    }

    async fn sign(
        &self,
        event: &Digest,
        basis: &HeadBasis,
        issued_at: Timestamp,
        earlier: Option<&Head>,
    ) -> Result<Head, Error> {
        let HeadBasis { number, stated, audit, .. } = basis;
        let entries = listed::entries(stated, issued_at, self.settings.skew);
        let number = *number;
        let audit = audit.map(|line| LastLine { number: line.number, digest: line.digest });
        let expiration = issued_at.plus(HEAD_LIFETIME);
        let (view, text) = self
            .keeper
            .state(|view| {
                // The number is that event's: another one has come between.
                if view.live().id() != *event {
                    return Err(Refusal::new(Code::Unavailable, "another event is the newest by now"));
                }
                let (event, entries) = (view.live().event(), &entries);
                NewHead { event, number, issued_at, expiration, entries, audit }.draft()
            })
            .await?;
        let head = Head::parse(&text)?;
        head.verify_signature(view.live())?;
        listed::demand_nothing_lost(earlier, &head, stated)?;
        metrics::counter!("hsmd_statements_total", "kind" => "head").increment(1);
        metrics::gauge!("hsmd_head_issued_timestamp_seconds")
            .set(to_gauge(u64::try_from(issued_at.unix_millis() / 1000).unwrap_or(0)));
        Ok(head)
    }

    fn show(&self, head: Head, newest: &Issued, now: Timestamp) {
        let millis = u64::try_from(now.unix_millis()).unwrap_or(0);
        let issued = Issued { version: newest.version.saturating_add(1).max(millis), head: Some(head) };
        let names = ["hsmd_denied_generations", "hsmd_revoked_keys", "hsmd_revoked_services"];
        for (name, count) in names.into_iter().zip(issued.counts()) {
            metrics::gauge!(name).set(to_gauge(u64::try_from(count).unwrap_or(u64::MAX)));
        }
        self.newest.send_replace(Arc::new(issued));
    }
}
