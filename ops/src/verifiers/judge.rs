//! Which verifiers have acknowledged a head, decided from what hsmd says and what the directory holds: no IO, no clock.

use std::collections::BTreeSet;
use std::time::Duration;

use keychain::Timestamp;
use keychain::acknowledgement::{Acknowledgement, Applied, Instance};
use keychain::chain::{Chain, windows};
use keychain::endorsement::Purpose;
use keychain::feed::Position;
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
#[derive(Clone, Debug)]
pub(crate) enum Goal {
    /// That every verifier applies a declaration of hsmd.
    Head {
        /// The heads that state it: an acknowledgement of any of them counts.
        stating: Vec<HeadPlace>,
        /// Whose keys must be later endorsements than these numbers.
        above: Vec<(String, u64)>,
    },
    /// That every edge applies authd's denial feed. authd judges by its store, and keysd admits nobody.
    Feed {
        /// Up to this position.
        up_to: Position,
        /// How far authd has written it since: an edge that is beyond knows a feed that authd does not.
        written: Position,
    },
}

impl Goal {
    /// The heads that hsmd makes from now on.
    pub(crate) fn next_head() -> Self {
        Self::above(Vec::new())
    }

    /// The same, with keys of these services that are later endorsements than these numbers.
    pub(crate) fn above(above: Vec<(String, u64)>) -> Self {
        Self::Head { stating: Vec::new(), above }
    }

    /// The denial feed up to where it stands.
    pub(crate) fn feed(up_to: Position) -> Self {
        Self::Feed { up_to, written: up_to }
    }

    /// Takes note of how far authd has written the feed by now.
    pub(super) fn note_written(&mut self, position: Position) {
        if let Self::Feed { written, .. } = self {
            *written = position;
        }
    }

    /// Takes note of hsmd's newest head: made after the declaration, it states it.
    pub(super) fn note(&mut self, head: HeadPlace) {
        if let Self::Head { stating, .. } = self
            && !stating.contains(&head)
        {
            stating.push(head);
        }
    }

    /// Whether it is waited for this verifier.
    pub(super) fn concerns(&self, one: &Expected) -> bool {
        match self {
            Self::Head { .. } => true,
            Self::Feed { .. } => one.service.starts_with("edge:"),
        }
    }
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
    /// It has acknowledged less than what is waited for.
    Lagging(String),
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
    /// How much of the denial feed it applies.
    pub(crate) feed: Option<Applied>,
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

impl Row {
    /// Whether it has seen authd speak from an earlier position than it had: authd's database was put back.
    pub(crate) fn went_back(&self) -> bool {
        self.applied().is_some_and(|applied| applied.went_back)
    }

    /// Whether what the directory holds of it was signed by a live key of its own.
    pub(crate) fn is_proven(&self) -> bool {
        matches!(self.verdict, Verdict::Acknowledged | Verdict::Lagging(_))
    }

    /// How much of the denial feed it applies.
    pub(crate) fn applied(&self) -> Option<Applied> {
        self.detail.as_ref().and_then(|detail| detail.feed)
    }
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
    match goal {
        Goal::Head { stating, above } => {
            let above = above.iter().find(|(name, _)| name == service).map_or(0, |(_, number)| *number);
            if above > 0 && read.endorsements().iter().any(|one| one.number.unwrap_or(0) <= above) {
                return Verdict::DeadKey("it has not replaced its keys".to_owned());
            }
            // The digest of a head is known to nobody before it was made: whoever names it has had it.
            if stating.contains(&read.head()) {
                return Verdict::Acknowledged;
            }
            Verdict::Lagging("its acknowledgement is of an older head".to_owned())
        }
        Goal::Feed { up_to, written } => match behind(read.feed(), *up_to, *written) {
            None => Verdict::Acknowledged,
            Some(because) => Verdict::Lagging(because),
        },
    }
}

/// Why an edge does not apply the feed up to a position; nothing if it does.
fn behind(feed: Option<Applied>, up_to: Position, written: Position) -> Option<String> {
    let unknown = "it states no position in the denial feed: `denial_feed` of its edge.toml is \"absent\", or it has \
                   read nothing of the feed yet";
    let Some(Applied { position, went_back }) = feed else { return Some(unknown.to_owned()) };
    let Position { epoch, number } = position;
    // What authd says at positions that it gave before, and otherwise, proves nothing.
    if position > written || went_back && up_to.epoch <= epoch {
        return Some(format!(
            "authd's database went back behind {epoch}:{number}, which it has applied: see `opsctl feed show`, then \
             `opsctl feed reopen`"
        ));
    }
    // Positions only grow: one of before the declaration is smaller.
    let applied_less = || format!("it has applied the denial feed up to {epoch}:{number} only");
    (position < up_to).then(applied_less)
}

fn detail(read: &Acknowledgement) -> Option<Detail> {
    let signer = read.endorsements().first()?;
    Some(Detail {
        head: read.head(),
        feed: read.feed(),
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
