//! What a restored ledger lacks, taken over from the head that proves it: on an operator's word alone.

use keychain::{
    Digest, Timestamp,
    audit::Record,
    statement::{Entries, Head},
};

use super::{Restored, Statements, listed};
use crate::{
    chain::{Error, View},
    ledger::{Compose, Declaration, Entry, Kept},
};

/// What an operator decided about the difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// All of it is taken over, also if the generation that listed it was tainted since.
    All,
    /// What the chain itself speaks for: all of it, or the denials alone if the generation that listed them was tainted
    /// since. A thief can have listed the rest.
    Sound,
    /// Nothing is taken over.
    Nothing,
}

/// What was taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenOver {
    /// What the ledger has now that it lacked.
    pub entries: Entries,
}

impl Statements {
    /// Takes over what the head named by `proof` lists and the ledger lacks, and leaves the state of a restored ledger.
    /// It errs if another difference stands there by now.
    ///
    /// The lines for the audit trail are durable together with the end of that state.
    pub async fn take_over(
        &self,
        proof: &Digest,
        choice: Choice,
        lines: impl Fn(&TakenOver) -> Vec<Record> + Send,
    ) -> Result<TakenOver, Error> {
        let restored =
            self.restored().ok_or(Error::Conflict("the ledger lacks nothing that a head proves"))?;
        if restored.id() != *proof {
            return Err(Error::Conflict("the difference is another one by now: see it first"));
        }
        let view = self.keeper.seen().ok_or(Error::Unsettled)?;
        let entries = chosen(&view, &restored, choice);
        let now = self.keeper.trusted_now()?.to_millis();
        self.declare_all(&view, &restored, &entries, now).await?;
        let taken = TakenOver { entries };
        self.forget_restored(lines(&taken)).await?;
        let entries = &taken.entries;
        let (denied, keys, services) = (entries.denied.len(), entries.keys.len(), entries.services.len());
        tracing::warn!(denied, keys, services, "took over what the restored ledger lacked");
        // The head that lists it. Whether it can be signed is a matter of the chain's state.
        if let Err(error) = self.issue().await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the head that lists it is not signed yet"
            );
        }
        Ok(taken)
    }

    async fn declare_all(
        &self,
        view: &View,
        restored: &Restored,
        entries: &Entries,
        now: Timestamp,
    ) -> Result<(), Error> {
        let ledger = self.keeper.ledger();
        for id in &entries.denied {
            let end = listed::denial_end(view, id, self.settings.skew).unwrap_or(now);
            ledger.declare(Declaration::Deny(Entry { subject: *id, since: now, end }), no_lines()).await?;
        }
        for (name, until) in &entries.keys {
            // A name that is no key's has no endorsement to refuse.
            let Ok(key) = name.key() else { continue };
            let revocation = Declaration::RevokeKeys { keys: vec![key], since: now, end: *until };
            ledger.declare(revocation, no_lines()).await?;
        }
        for (service, revocation) in &entries.services {
            let (service, up_to, end) = (service.clone(), revocation.endorsed_up_to, revocation.until);
            ledger
                .declare(Declaration::RevokeService { service, up_to, since: now, end }, no_lines())
                .await?;
        }
        // Numbers that the lost part of the ledger gave out are left behind, whatever was chosen.
        if let Ok(head) = Head::parse(&restored.head) {
            let marks = head.entries().services.values().map(|revocation| revocation.endorsed_up_to);
            let endorsement_mark = marks.max().unwrap_or(0);
            let (event, head_number) = (Some(head.event_id()), head.number());
            let known = Kept { event, head_number, endorsement_mark, ..Kept::default() };
            ledger.leap(known, Vec::new()).await?;
            self.judged().left_behind = Some((head.event_id(), head_number));
        }
        Ok(())
    }
}

/// One line at the end lists all that is taken over.
fn no_lines() -> Compose {
    Box::new(|_| Vec::new())
}

/// What is taken over.
fn chosen(view: &View, restored: &Restored, choice: Choice) -> Entries {
    let denials = Entries { denied: restored.lacking.denied.clone(), ..Entries::default() };
    match choice {
        Choice::Nothing => Entries::default(),
        Choice::Sound if is_tainted(view, restored) => denials,
        Choice::All | Choice::Sound => restored.lacking.clone(),
    }
}

/// Whether the generation that signed the head was tainted since.
fn is_tainted(view: &View, restored: &Restored) -> bool {
    let event = Head::parse(&restored.head).ok().map(|head| head.event_id());
    let next = event.and_then(|event| view.after(view.find(&event)?));
    next.is_some_and(|next| next.event().taint_previous)
}
