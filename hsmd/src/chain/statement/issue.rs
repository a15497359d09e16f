//! One issue: the ledger read, what is due signed, and shown.

use std::{
    sync::{Arc, PoisonError},
    time::Instant,
};

use keychain::{
    Digest, PublicKey, Timestamp,
    limits::{HEAD_LIFETIME, REVOKED_KEYS_MAX},
    statement::{Head, KeyRevocation, NewHead, NewKeyRevocation},
};

use super::{Issued, Statements, issued::Page};
use crate::{
    chain::{Error, to_gauge},
    ledger::{Entry, Stated},
};

impl Statements {
    /// Reads what is stated in the ledger and signs what is due; answers what was read.
    pub(super) async fn look(&self) -> Result<Stated, Error> {
        let _turn = self.issuing.lock().await;
        let outcome = self.look_in_turn().await;
        let problem = outcome.as_ref().err().map(|error| {
            tracing::error!(error = error as &dyn std::error::Error, "cannot make statements");
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

    async fn look_in_turn(&self) -> Result<Stated, Error> {
        let stated = self.read().await?;
        // Whether token and ledger agree is looked into elsewhere; here it is only waited for.
        let view = self.keeper.view().ok_or(Error::Unsettled)?;
        let (live, created_at) = (view.live().id(), view.live().event().created_at);
        let now = self.keeper.clock().date_head(created_at)?.to_millis();
        let denied = denied(&stated.denied, now);
        let pages = pages(&stated.revoked, now);
        let newest = self.newest();
        let revocations_due = newest.pages_by != Some(live) || newest.pages != pages;
        let head_due =
            newest.generation() != Some(live) || newest.denied != denied || self.until_due().is_zero();
        let mut issued = Issued::clone(&newest);
        // Revocations first: who has read the head of a generation shall find what else it states.
        if revocations_due {
            issued.key_revocations = Vec::with_capacity(pages.len());
            for page in &pages {
                issued.key_revocations.push(self.revocation(page, now).await?);
            }
            (issued.pages, issued.pages_by) = (pages, Some(live));
        }
        if head_due {
            issued.head = Some(self.head(&denied, now).await?);
            issued.denied = denied;
            *self.made.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
        if revocations_due || head_due {
            self.show(issued, now);
        }
        Ok(stated)
    }

    async fn head(&self, denied: &[Digest], issued_at: Timestamp) -> Result<Head, Error> {
        let expiration = issued_at.plus(HEAD_LIFETIME);
        let (view, text) = self
            .keeper
            .state(|view| NewHead { event: view.live().event(), issued_at, expiration, denied }.draft())
            .await?;
        let head = Head::parse(&text)?;
        head.verify_signature(view.live())?;
        metrics::counter!("hsmd_statements_total", "kind" => "head").increment(1);
        metrics::gauge!("hsmd_head_issued_timestamp_seconds")
            .set(to_gauge(u64::try_from(issued_at.unix_millis() / 1000).unwrap_or(0)));
        Ok(head)
    }

    async fn revocation(&self, page: &Page, issued_at: Timestamp) -> Result<KeyRevocation, Error> {
        let (view, text) = self
            .keeper
            .state(|view| {
                let (event, public_keys, expiration) = (view.live().event(), &page.keys[..], page.end);
                NewKeyRevocation { event, public_keys, issued_at, expiration }.draft()
            })
            .await?;
        let revocation = KeyRevocation::parse(&text)?;
        revocation.verify_signature(view.live())?;
        metrics::counter!("hsmd_statements_total", "kind" => "key-revocation").increment(1);
        Ok(revocation)
    }

    fn show(&self, mut issued: Issued, now: Timestamp) {
        let millis = u64::try_from(now.unix_millis()).unwrap_or(0);
        issued.version = issued.version.saturating_add(1).max(millis);
        let count = |number: usize| to_gauge(u64::try_from(number).unwrap_or(u64::MAX));
        metrics::gauge!("hsmd_denied_generations").set(count(issued.denied.len()));
        metrics::gauge!("hsmd_revoked_keys")
            .set(count(issued.pages.iter().map(|page| page.keys.len()).sum()));
        self.newest.send_replace(Arc::new(issued));
    }
}

/// What heads deny: what some verifier's window still reaches.
fn denied(entries: &[Entry<Digest>], now: Timestamp) -> Vec<Digest> {
    entries.iter().filter(|entry| entry.end > now).map(|entry| entry.subject).collect()
}

/// The keys whose endorsements may still count, in statements' portions.
fn pages(entries: &[Entry<PublicKey>], now: Timestamp) -> Vec<Page> {
    let open: Vec<_> = entries.iter().filter(|entry| entry.end > now).collect();
    let page = |part: &[&Entry<PublicKey>]| {
        let end = part.iter().map(|entry| entry.end).max()?;
        Some(Page { keys: part.iter().map(|entry| entry.subject).collect(), end })
    };
    open.chunks(REVOKED_KEYS_MAX).filter_map(page).collect()
}

#[cfg(test)]
mod tests {
    use keychain::SigningKey;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_millis(seconds * 1000)
    }

    fn entry<T>(subject: T, end: i64) -> Entry<T> {
        Entry { subject, since: at(0), end: at(end) }
    }

    #[test]
    fn what_has_ended_is_left_out() {
        let ids = [Digest::of("a"), Digest::of("b")];
        let entries = [entry(ids[0], 10), entry(ids[1], 20)];
        for (now, left) in [(9, &ids[..]), (10, &ids[1..]), (20, &[])] {
            assert_eq!(denied(&entries, at(now)), left, "{now}");
        }
    }

    #[test]
    fn keys_come_in_portions_that_last_as_long_as_their_last() {
        let keys: Vec<_> =
            (1..=130).map(|number| SigningKey::from_seed(&[number; 32]).unwrap().public_key()).collect();
        let entries: Vec<_> = keys.iter().zip(1..).map(|(key, end)| entry(*key, end)).collect();
        for (now, sizes) in [
            (0, &[(64, 64), (64, 128), (2, 130)][..]),
            (1, &[(64, 65), (64, 129), (1, 130)]),
            (129, &[(1, 130)]),
            (130, &[]),
        ] {
            let pages = pages(&entries, at(now));
            let seen: Vec<_> = pages.iter().map(|page| (page.keys.len(), page.end)).collect();
            let expected: Vec<_> = sizes.iter().map(|(size, end)| (*size, at(*end))).collect();
            assert_eq!(seen, expected, "{now}");
        }
    }
}
