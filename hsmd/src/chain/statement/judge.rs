//! What a report of the published chain changes: endorsements, heads and rotations stop, until an operator or another
//! event ends that. A taint is never stopped.

use std::{
    sync::PoisonError,
    time::{Duration, Instant},
};

use keychain::{Code, Digest, Refusal, audit::Record, statement::Head};

use super::{
    Statements,
    published::{Finding, Own, Report, Restored, compare, restored},
};
use crate::{
    chain::{Error, View},
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
    /// What the newest comparison found.
    finding: &'static str,
    /// What proves that the ledger was restored, until an operator took it over.
    pub(super) restored: Option<Restored>,
    /// The event and the number of the head that proved it, once it was taken over: this process's own head with that
    /// number, or a lower one, is replaced.
    pub(super) left_behind: Option<(Digest, u64)>,
    /// Which newest event somebody else has signed beside or beyond, and how that shows.
    rival: Option<(Digest, String)>,
}

impl Default for Judged {
    fn default() -> Self {
        Self { compared: Instant::now(), finding: "nothing", restored: None, left_behind: None, rival: None }
    }
}

impl Statements {
    /// Holds what is published against what this hsmd made; answers what that came to. The chain enters the state that
    /// follows before this returns.
    pub async fn judge(&self, report: &Report) -> Result<Finding, Error> {
        let view = self.keeper.seen().ok_or(Error::Unsettled)?;
        let stated = self.keeper.ledger().stated().await?;
        let newest = self.newest();
        let head = newest.head.as_ref().filter(|head| head.event_id() == view.live().id());
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
        let finding = compare(own, report);
        self.act_on(&finding, &view).await?;
        metrics::counter!("hsmd_published_reports_total", "finding" => finding.label()).increment(1);
        let mut judged = self.judged();
        judged.finding = finding.label();
        if !matches!(finding, Finding::Nothing) {
            judged.compared = Instant::now();
        }
        Ok(finding)
    }

    /// What proves that the ledger was restored, if something does.
    pub fn restored(&self) -> Option<Restored> {
        self.judged().restored.clone()
    }

    /// What is to be said of the comparisons, for an operator.
    pub(super) fn uncompared(&self) -> Option<String> {
        let judged = self.judged();
        let age = judged.compared.elapsed();
        (age > UNCOMPARED_MAX).then(|| {
            format!(
                "what is published was not compared with the ledger for {} min (last finding: {}): see hsm-publisher's \
                 health",
                age.as_secs() / 60,
                judged.finding
            )
        })
    }

    pub(super) fn judged(&self) -> std::sync::MutexGuard<'_, Judged> {
        self.judged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses to sign endorsements and heads from a ledger that was restored.
    pub fn demand_signing(&self) -> Result<(), Refusal> {
        let restored = self.judged().restored.is_some();
        let because = "the ledger was restored from an old backup: `opsctl hsm recover` shows what it lacks";
        if restored { Err(Refusal::new(Code::Unavailable, because)) } else { Ok(()) }
    }

    /// Refuses to rotate from a ledger that was restored, or beside a copy that signs with the same keys.
    pub fn demand_rotating(&self) -> Result<(), Refusal> {
        self.demand_signing()?;
        let because = "another holder of this chain's keys has signed: stop the copy of this host or token";
        if self.rival().is_some() { Err(Refusal::new(Code::Unavailable, because)) } else { Ok(()) }
    }

    /// How it shows that somebody else signs with the keys of the newest event.
    pub fn rival(&self) -> Option<String> {
        let newest = self.keeper.seen()?.live().id();
        let judged = self.judged();
        // Once another event follows, what stood beside the one before is a branch that was left.
        judged.rival.as_ref().filter(|(of, _)| *of == newest).map(|(_, evidence)| evidence.clone())
    }

    /// Ends the state of a chain with a rival, on an operator's word that the copy is stopped. What is published is
    /// compared again at the next report.
    pub fn end_rival(&self) -> Result<(), Error> {
        let mut judged = self.judged();
        if judged.restored.is_some() {
            return Err(Error::Conflict("the ledger was restored: decide about that first"));
        }
        judged.rival = None;
        Ok(())
    }

    /// Tells `health` and the metrics what an operator has to act on, with its cure: a restored ledger, a rival.
    pub fn tell(&self, health: &Health) {
        let restored = self.judged().restored.as_ref().map(|restored| {
            format!("the ledger was restored: {restored}; nothing but a taint is signed until `opsctl hsm recover`")
        });
        let rival = self.rival().map(|evidence| {
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

    async fn act_on(&self, finding: &Finding, view: &View) -> Result<(), Error> {
        match finding {
            // With both keys of the newest event at hand it is not this ledger that is behind: a copy went on.
            Finding::Ahead(beyond) if self.keeper.view().is_some() => {
                let number = beyond.last().map_or(0, |event| event.event().sequence_number);
                self.note_rival(view, format!("the published chain goes on to generation {number}"));
            }
            // A ledger that is behind its token says so itself.
            Finding::Agrees | Finding::Nothing | Finding::Ahead(_) => {}
            Finding::Rival(evidence) => self.note_rival(view, evidence.clone()),
            Finding::Restored(restored) => self.note_restored(restored).await?,
        }
        Ok(())
    }

    fn note_rival(&self, view: &View, evidence: String) {
        tracing::error!(evidence, "another holder of this chain's keys has signed");
        self.judged().rival = Some((view.live().id(), evidence));
    }

    /// Enters the state of a restored ledger, for the next starts too.
    pub(super) async fn note_restored(&self, restored: &Restored) -> Result<(), Error> {
        tracing::error!(%restored, "the ledger was restored from an old backup");
        self.judged().restored = Some(restored.clone());
        self.keeper.ledger().keep_note(NOTE, Some(restored.head.clone()), Vec::new()).await?;
        Ok(())
    }

    /// Leaves the state of a restored ledger.
    pub(super) async fn forget_restored(&self, lines: Vec<Record>) -> Result<(), Error> {
        self.keeper.ledger().keep_note(NOTE, None, lines).await?;
        self.judged().restored = None;
        Ok(())
    }

    /// Before the first head of this process: whether the ledger was found restored before, or what is kept beside the
    /// chain copy proves it. Answers the newest event's highest number that is kept there. To be called in turn with
    /// issues.
    pub(super) async fn compare_with_kept(&self, view: &View, stated: &Stated) -> Result<u64, Error> {
        let Kept { event, head_number, head, .. } = self.keeper.ledger().kept().await.unwrap_or_default();
        let is_newest = event == Some(view.live().id());
        let after = if is_newest { head_number.min(highest_head_number(self.keeper.now())) } else { 0 };
        if let Some(head) = self.keeper.ledger().note(NOTE).await? {
            // Found at an earlier start: any number is beyond.
            self.find_restored(view, stated, &head, 0).await?;
        } else if let Some(head) = head {
            // Numbers that are kept there are left behind.
            self.find_restored(view, stated, &head, u64::MAX).await?;
        }
        Ok(after)
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
