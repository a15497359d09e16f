//! Which verifiers have acknowledged a head, decided from what hsmd says and what the directory holds: no IO, no clock.

use std::collections::BTreeSet;
use std::time::Duration;

use keychain::Timestamp;
use keychain::acknowledgement::{Acknowledgement, Instance};
use keychain::chain::{Chain, windows};
use keychain::endorsement::Purpose;
use keychain::statement::HeadPlace;

/// After this time without an acknowledgement a verifier is silent: three of its intervals.
pub(crate) const SILENT_AFTER: Duration = Duration::from_secs(30);

/// One process that hsmd's policy says ought to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) service: String,
    pub(crate) instance: Instance,
    /// What it has keys for.
    pub(crate) purposes: BTreeSet<Purpose>,
    /// Whether the service is revoked and not open again: it can have no key, and is not waited for.
    pub(crate) closed: bool,
}

/// What is waited for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Goal {
    /// The heads that state the declaration: an acknowledgement of any of them counts.
    pub(crate) heads: Vec<HeadPlace>,
    /// Whose keys must be later endorsements than these numbers.
    pub(crate) above: Vec<(String, u64)>,
}

/// How one verifier stands to the goal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It has applied the head, and its keys are live under it.
    Acknowledged,
    /// Its service is revoked: it can acknowledge nothing.
    Closed,
    /// Its keys are not live under the head, or not new enough, or not all there.
    DeadKey(String),
    /// It has acknowledged an older head.
    Lagging,
    /// The directory holds nothing of it.
    Unheard,
    /// What the directory holds of it does not verify.
    Unproven(String),
}

impl Verdict {
    pub(crate) fn is_settled(&self) -> bool {
        matches!(self, Self::Acknowledged | Self::Closed)
    }
}

/// What an acknowledgement that verifies says besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Detail {
    pub(crate) head: HeadPlace,
    pub(crate) issued_at: Timestamp,
    /// The generation that endorsed the key that signed.
    pub(crate) generation: String,
    pub(crate) keys: Vec<String>,
    /// When the first of its keys ends.
    pub(crate) keys_end: Timestamp,
    pub(crate) budget: keychain::acknowledgement::Budget,
    pub(crate) version: String,
}

/// One verifier, judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) expected: Expected,
    pub(crate) verdict: Verdict,
    /// How long it has acknowledged nothing, once that is too long.
    pub(crate) silent_for: Option<Duration>,
    pub(crate) detail: Option<Detail>,
}

/// Judges what the directory holds of one verifier. `chain` is hsmd's, with its newest head heard.
pub(crate) fn judge(
    expected: &Expected,
    text: Option<&str>,
    goal: &Goal,
    chain: &Chain,
    now: Timestamp,
) -> Row {
    let row = |verdict| Row { expected: expected.clone(), verdict, silent_for: None, detail: None };
    if expected.closed {
        return row(Verdict::Closed);
    }
    let Some(text) = text else { return row(Verdict::Unheard) };
    let read = match Acknowledgement::parse(text) {
        Ok(read) => read,
        Err(refusal) => return row(Verdict::Unproven(refusal.because().to_owned())),
    };
    // Its time is its own word: it says since when it is silent, and nothing counts for it.
    let age = now.since(read.issued_at());
    Row {
        verdict: verdict(expected, &read, goal, chain, now),
        silent_for: (age >= SILENT_AFTER).then_some(age),
        detail: detail(&read),
        ..row(Verdict::Unheard)
    }
}

fn verdict(
    expected: &Expected,
    read: &Acknowledgement,
    goal: &Goal,
    chain: &Chain,
    now: Timestamp,
) -> Verdict {
    use keychain::Code::{DeadKey, Revoked};
    let Expected { service, instance, purposes, .. } = expected;
    if let Err(refusal) = read.verify(service, instance, chain, windows::DEVICE, now) {
        let because = refusal.because().to_owned();
        let is_dead = matches!(refusal.code(), DeadKey | Revoked);
        return if is_dead { Verdict::DeadKey(because) } else { Verdict::Unproven(because) };
    }
    let has = |purpose: &Purpose| read.endorsements().iter().any(|one| one.subject.purpose == *purpose);
    if let Some(missing) = purposes.iter().find(|purpose| !has(purpose)) {
        return Verdict::DeadKey(format!("it names no {} key", missing.as_str()));
    }
    let above = goal.above.iter().find(|(name, _)| name == service).map_or(0, |(_, number)| *number);
    if above > 0 && read.endorsements().iter().any(|one| one.number.unwrap_or(0) <= above) {
        return Verdict::DeadKey("it has not replaced its keys".to_owned());
    }
    // The digest of a head is known to nobody before it was made: whoever names it has had it.
    if goal.heads.contains(&read.head()) { Verdict::Acknowledged } else { Verdict::Lagging }
}

fn detail(read: &Acknowledgement) -> Option<Detail> {
    let signer = read.endorsements().first()?;
    Some(Detail {
        head: read.head(),
        issued_at: read.issued_at(),
        generation: signer.generation_id.to_string(),
        keys: read.endorsements().iter().map(|one| one.subject.public_key.to_string()).collect(),
        keys_end: read.endorsements().iter().map(|one| one.subject.expiration).min()?,
        budget: read.budget(),
        version: read.version().to_owned(),
    })
}

#[cfg(test)]
mod tests;
