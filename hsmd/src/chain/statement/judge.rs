//! What a report of the published chain changes: endorsements, heads and rotations stop, until an operator or another
//! event ends that. A taint is never stopped.

use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

use keychain::{Digest, audit::Record, chain::SignedEvent, statement::Head};

use super::{
    Statements,
    published::{Finding, Own, Report, Restored, Shown, chain_end, judge_heads, own_heads, restored},
};
use crate::{
    chain::{Error, State, View},
    clock::Source,
    health::Health,
    ledger::{Kept, Stated, highest_head_number},
};

/// How long nothing may have been compared before health says so: three reports.
const UNCOMPARED_MAX: Duration = Duration::from_mins(3);

/// The name under which the ledger keeps the proof that it was restored.
const NOTE: &str = "restored";

/// What the comparisons with the published chain came to.
#[derive(Debug)]
pub(super) struct Judged {
    /// When something was compared last; the start of the process before.
    compared: Instant,
    /// The same as a date that outlives the process, once something was compared.
    pub(super) compared_at: Option<String>,
    /// When that was kept for the next start.
    pub(super) kept: Option<Instant>,
    /// Whether this process has had a report.
    is_reported: bool,
    /// What the newest comparison found.
    finding: Finding,
    /// What proves that the ledger was restored, until an operator took it over.
    pub(super) restored: Option<Restored>,
    /// The event and the number of the head that proved it, once it was taken over: this process's own head with that
    /// number, or a lower one, is replaced.
    pub(super) left_behind: Option<(Digest, u64)>,
}

impl Default for Judged {
    fn default() -> Self {
        Self {
            compared: Instant::now(),
            compared_at: None,
            kept: None,
            is_reported: false,
            finding: Finding::Nothing,
            restored: None,
            left_behind: None,
        }
    }
}

impl Statements {
    /// Holds what is published against what this hsmd made; answers what that came to. The chain enters the state that
    /// follows before this returns.
    pub async fn judge(&self, report: &Report) -> Result<Finding, Error> {
        let view = self.keeper.seen().ok_or(Error::Unsettled)?;
        let stated = self.keeper.ledger().stated().await?;
        let (newest, heads) = (self.newest(), own_heads(&view, report));
        let is_own = |head: &&Head| head.event_id() == view.live().id() && !self.is_left_behind(head);
        let head = newest.head.as_ref().filter(is_own);
        let own = Own {
            view: &view,
            head,
            // Before the first head of this process nothing is known of numbers; what heads list is compared all the same.
            number: head.map_or(u64::MAX, Head::number),
            stated: &stated,
            since: self.since,
            now: self.keeper.now(),
            skew: self.settings.skew,
        };
        let shown = judge_heads(own, &heads);
        let is_rival = matches!(shown, Some(Shown::Rival(_)));
        let (position, end) = chain_end(&view, report);
        self.compare_chain(&view, position, end.clone()).await?;
        match shown {
            Some(Shown::Rival(evidence)) => self.keeper.note_rival(view.live().id(), evidence).await?,
            Some(Shown::Restored(restored)) => self.note_restored(&restored).await?,
            None => {}
        }
        // What another holder of the keys has signed says nothing of the time.
        if !is_rival && self.keeper.rival().is_none() {
            let dates = heads.iter().map(|head| head.issued_at());
            let dates = dates.chain(end.iter().map(|event| event.event().created_at));
            if let Some(newest) = dates.max() {
                self.keeper.clock().learn(Source::Published, newest);
            }
        }
        let finding = self.finding(report.held == 0 && heads.is_empty());
        if finding != Finding::Nothing {
            self.note_compared().await?;
        }
        metrics::counter!("hsmd_published_reports_total", "finding" => finding.label()).increment(1);
        let mut judged = self.judged();
        judged.finding = finding;
        if finding != Finding::Nothing {
            judged.compared = Instant::now();
        }
        Ok(finding)
    }

    /// Has the keeper hold the ledger against the published chain.
    async fn compare_chain(&self, view: &View, position: usize, end: Vec<SignedEvent>) -> Result<(), Error> {
        let is_first = !std::mem::replace(&mut self.judged().is_reported, true);
        let differs = end.iter().any(|event| event.id() != view.live().id());
        // Later on the publisher finds what it has carried there itself: that it ends there proves nothing.
        if is_first || differs { self.keeper.compare(position, end).await } else { Ok(()) }
    }

    fn finding(&self, is_nothing: bool) -> Finding {
        match self.keeper.chain_state() {
            State::LedgerBehind { .. } => Finding::Ahead,
            State::LedgerRestored(_) => Finding::Restored,
            _ if self.keeper.rival().is_some() => Finding::Rival,
            _ if is_nothing => Finding::Nothing,
            _ => Finding::Agrees,
        }
    }

    /// What proves that the ledger was restored, if something does.
    pub fn restored(&self) -> Option<Restored> {
        self.judged().restored.clone()
    }

    /// What is to be said of the comparisons, for an operator.
    pub(super) fn uncompared(&self) -> Option<String> {
        let judged = self.judged();
        let age = judged.compared.elapsed();
        let is_late = age > UNCOMPARED_MAX || self.keeper.has_awaited_in_vain();
        let since = judged.compared_at.as_ref().map_or_else(String::new, |at| format!(" since {at}"));
        is_late.then(|| {
            format!(
                "what is published was not compared with the ledger for {} min{since} (last finding: {}): see \
                 hsm-publisher's health",
                age.as_secs() / 60,
                judged.finding.label()
            )
        })
    }

    pub(super) fn judged(&self) -> std::sync::MutexGuard<'_, Judged> {
        self.judged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the state of a chain with a rival, on an operator's word that the copy is stopped.
    pub async fn end_rival(&self) -> Result<(), Error> {
        if self.judged().restored.is_some() {
            return Err(Error::Conflict("the ledger was restored: decide about that first"));
        }
        self.keeper.forget_rival().await
    }

    /// Notes in `health` and the metrics what an operator has to act on, with its cure: a restored ledger, a rival.
    pub fn note_health(&self, health: &Health) {
        let restored = self.judged().restored.as_ref().map(|restored| {
            format!("the ledger was restored: {restored}; nothing but a taint is signed until `opsctl hsm recover`")
        });
        let rival = self.keeper.rival().map(|evidence| {
            format!(
                "another holder of this chain's keys has signed: {evidence}; rotations stop: stop the copy of this host \
                 or token, then `opsctl hsm recover --copy-stopped` and rotate twice"
            )
        });
        for (name, state) in [("hsmd_ledger_restored", &restored), ("hsmd_chain_rival", &rival)] {
            metrics::gauge!(name).set(f64::from(u8::from(state.is_some())));
        }
        health.note("restored", restored);
        health.warn("rival", rival);
    }

    /// Enters the state of a restored ledger, for the next starts too.
    pub(super) async fn note_restored(&self, restored: &Restored) -> Result<(), Error> {
        if self.judged().restored.as_ref() == Some(restored) {
            return Ok(());
        }
        tracing::error!(%restored, "the ledger was restored from an old backup");
        self.judged().restored = Some(restored.clone());
        self.keeper.ledger().keep_note(NOTE, Some(restored.head.clone()), Vec::new()).await?;
        self.keeper.note_restored(restored.to_string()).await
    }

    /// Leaves the state of a restored ledger.
    pub(super) async fn forget_restored(&self, lines: Vec<Record>) -> Result<(), Error> {
        self.keeper.ledger().keep_note(NOTE, None, lines).await?;
        self.judged().restored = None;
        self.keeper.forget_restored().await
    }

    /// Before the first head of this process: whether the ledger was found restored before, or what is kept beside the
    /// chain copy proves it. Answers the event and the number of the head that is kept there. To be called in turn with
    /// issues.
    pub(super) async fn compare_with_kept(&self, stated: &Stated) -> Result<Option<(Digest, u64)>, Error> {
        let view = self.keeper.seen().ok_or(Error::Unsettled)?;
        let Kept { event, head_number, head, .. } = self.keeper.ledger().kept().await.unwrap_or_default();
        let number = head_number.min(highest_head_number(self.keeper.now()));
        if let Some(head) = self.keeper.ledger().note(NOTE).await? {
            // Found at an earlier start: any number is beyond.
            self.find_restored(&view, stated, &head, 0).await?;
        } else if let Some(head) = head {
            // Numbers that are kept there are left behind.
            self.find_restored(&view, stated, &head, u64::MAX).await?;
        }
        Ok(event.map(|event| (event, number)))
    }

    async fn find_restored(
        &self,
        view: &View,
        stated: &Stated,
        head: &str,
        number: u64,
    ) -> Result<(), Error> {
        let Ok(head) = Head::parse(head) else { return Ok(()) };
        // A head of an older event counts only if the ledger was found restored by it.
        let is_newest = head.event_id() == view.live().id();
        let Some(event) = view.find(&head.event_id()).filter(|_| is_newest || number == 0) else {
            return Ok(());
        };
        if head.verify_signature(event).is_err() {
            return Ok(());
        }
        let own = Own {
            view,
            head: None,
            number,
            stated,
            since: self.since,
            now: self.keeper.now(),
            skew: self.settings.skew,
        };
        match restored(own, &head) {
            Some(found) => self.note_restored(&found).await,
            None => Ok(()),
        }
    }
}

impl Restored {
    /// What names the proof, so that an operator takes over what was shown and nothing else.
    pub fn id(&self) -> Digest {
        Digest::of(&self.head)
    }
}

impl std::fmt::Display for Restored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(head) = Head::parse(&self.head).ok() else { return f.write_str("a head proves it") };
        let (number, lacking) = (head.number(), &self.lacking);
        write!(
            f,
            "head {number} of its newest event is not its own, and lists {} denials, {} keys and {} services that the \
             ledger lacks",
            lacking.denied.len(),
            lacking.keys.len(),
            lacking.services.len()
        )
    }
}
