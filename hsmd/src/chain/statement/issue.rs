//! One issue: the ledger read, a head signed if one is due, and shown.

use std::{
    sync::{Arc, PoisonError},
    time::Instant,
};

use keychain::{
    Timestamp,
    limits::HEAD_LIFETIME,
    statement::{Entries, Head, NewHead},
};

use super::{Issued, Statements, listed};
use crate::{
    chain::{Error, to_gauge},
    ledger::Stated,
};

impl Statements {
    /// Reads what is stated in the ledger and signs a head if one is due; answers what was read.
    pub(super) async fn issue(&self) -> Result<Stated, Error> {
        let _turn = self.issuing.lock().await;
        let outcome = self.issue_in_turn().await;
        let problem = outcome.as_ref().err().map(|error| {
            tracing::error!(error = error as &dyn std::error::Error, "cannot make a head");
            error.to_string()
        });
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
        outcome
    }

    /// Reads what is stated in the ledger, and takes in which keys are revoked.
    pub(super) async fn read(&self) -> Result<Stated, Error> {
        let stated = self.keeper.ledger().stated().await?;
        let keys = stated.revoked.iter().map(|entry| entry.subject).collect();
        *self.revoked.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(stated)
    }

    async fn issue_in_turn(&self) -> Result<Stated, Error> {
        let stated = self.read().await?;
        // Whether token and ledger agree is found out elsewhere; here it is only waited for.
        let view = self.keeper.view().ok_or(Error::Unsettled)?;
        let (live, created_at) = (view.live().id(), view.live().event().created_at);
        let now = self.keeper.clock().date_head(created_at)?.to_millis();
        let entries = listed::entries(&stated, now, self.settings.skew);
        let newest = self.newest();
        let lists_the_same = newest.head.as_ref().is_some_and(|head| *head.entries() == entries);
        if newest.generation() != Some(live) || !lists_the_same || self.until_due().is_zero() {
            let head = self.sign(&entries, now, &newest).await?;
            listed::demand_nothing_lost(newest.head.as_ref(), &head, &stated)?;
            *self.made.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            self.show(head, &newest, now);
        }
        Ok(stated)
    }

    async fn sign(&self, entries: &Entries, issued_at: Timestamp, newest: &Issued) -> Result<Head, Error> {
        let expiration = issued_at.plus(HEAD_LIFETIME);
        let number = next_number(newest, issued_at);
        let (view, text) = self
            .keeper
            .state(|view| {
                NewHead { event: view.live().event(), number, issued_at, expiration, entries, audit: None }
                    .draft()
            })
            .await?;
        let head = Head::parse(&text)?;
        head.verify_signature(view.live())?;
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

/// The number after the newest head's, which no head of the generation had before.
fn next_number(newest: &Issued, now: Timestamp) -> u64 {
    let last = newest.head.as_ref().map_or(0, Head::number);
    last.saturating_add(1).max(u64::try_from(now.unix_millis()).unwrap_or(0))
}
