//! A ledger that is behind its token, brought up to it by the published chain.
//!
//! A ledger restored from an old backup, or lost whole, lacks events that verifiers have accepted. To sign
//! the next event without them would be to fork the chain for good. What was published proves itself, so it
//! can be brought back from anywhere: a keysd, the directory, a file. It is imported only if it begins with
//! every event that the ledger has, and ends with a generation whose two keys are on the token: the token
//! proves that it is the chain, and that none of it is missing but perhaps an event which nobody has seen.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use keychain::{
    Code, Digest, Refusal,
    chain::{Event, SignedEvent, verify_whole},
};
use serde_json::value::RawValue;

use super::{Error, Keeper, reconcile};
use crate::{
    failure_point::{self, Step},
    token::Survey,
    token::backend::Fault,
};

/// A published chain that somebody brought: whole, in order, every rule verified.
pub struct Brought(Vec<SignedEvent>);

/// What is to become of a key on the token that the chain brought does not explain, but a rotation under way
/// when the ledger was lost would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfinished {
    /// It is destroyed: the operator says that nobody has seen an event of that rotation.
    Discard,
    /// The chain is refused: a later event may exist.
    Refuse,
}

/// What came of a recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The chain's identity.
    pub identity: Digest,
    /// The generation that signs now.
    pub generation: Digest,
    /// Its sequence number.
    pub sequence_number: u64,
    /// How many events the ledger lacked.
    pub imported: usize,
}

impl Brought {
    /// Reads a JSON array of published events, as a keysd or `GET /chain` tells it, and verifies the whole.
    /// It takes about 100 µs an event and blocks.
    pub fn parse(text: &[u8]) -> Result<Self, Refusal> {
        let published: Vec<&RawValue> = serde_json::from_slice(text)
            .map_err(|_| Refusal::new(Code::InvalidMessage, "the chain is no JSON array of events"))?;
        let mut events = Vec::with_capacity(published.len());
        for (place, event) in published.into_iter().enumerate() {
            let event = SignedEvent::parse(event.get());
            events.push(event.map_err(|refusal| told(refusal).with("place", place.to_string()))?);
        }
        let (Some(first), Some(newest)) = (events.first(), events.last()) else {
            return Err(told(Refusal::new(Code::BadChain, "the chain has no event")));
        };
        // Whether the clock is right is another question, which a rotation asks.
        verify_whole(&events, &first.event().prefix, newest.event().created_at, Duration::ZERO)
            .map_err(told)?;
        Ok(Self(events))
    }

    /// The events that a ledger lacks which holds `events`; refused if these are not this chain's beginning.
    fn beyond(&self, events: &[SignedEvent]) -> Result<&[SignedEvent], Refusal> {
        for (ours, theirs) in events.iter().zip(&self.0) {
            if ours.event().prefix != theirs.event().prefix {
                return Err(refused("the chain is another identity's"));
            }
            if ours.id() != theirs.id() {
                return Err(refused("the chain has another event than the ledger")
                    .with("ledger", ours.id().to_string()));
            }
        }
        self.0.get(events.len()..).ok_or(refused("the chain ends before the ledger does"))
    }
}

impl Keeper {
    /// Imports what the ledger lacks of the published chain, and reconciles. Whatever is refused leaves ledger
    /// and token as they were. Repeating it is harmless.
    ///
    /// Once begun it is carried through even if the caller goes away.
    pub async fn recover(
        self: &Arc<Self>,
        brought: Brought,
        unfinished: Unfinished,
    ) -> Result<Recovered, Error> {
        let keeper = Arc::clone(self);
        let carried_through = tokio::spawn(async move { keeper.recover_in_turn(&brought, unfinished).await });
        carried_through.await.unwrap_or(Err(Error::Hsm(Fault::Stopped)))
    }

    async fn recover_in_turn(&self, brought: &Brought, unfinished: Unfinished) -> Result<Recovered, Error> {
        let _turn = self.turn.lock().await;
        let imported = self.import(brought, unfinished).await?;
        let settled = self.settled_in_turn().await;
        let view = match settled {
            Err(Error::Behind(_)) if imported == 0 => {
                return Err(unrecoverable("the chain has no event that the ledger lacks"));
            }
            settled => settled?,
        };
        failure_point::pass(Step::Recover, "after-settle");
        let live = view.live().event();
        Ok(Recovered {
            identity: live.prefix,
            generation: live.id,
            sequence_number: live.sequence_number,
            imported,
        })
    }

    /// Adds the events that the ledger lacks; how many they were.
    async fn import(&self, brought: &Brought, unfinished: Unfinished) -> Result<usize, Error> {
        let contents = self.ledger.contents(&[]).await?;
        let lacking = brought.beyond(&contents.events).map_err(Error::Unrecoverable)?;
        let Some(newest) = lacking.last().map(SignedEvent::event) else {
            return Ok(0);
        };
        let survey = self.look_for(newest).await?;
        let key_intent = self.demand_newest(newest, &survey, unfinished).map_err(Error::Unrecoverable)?;
        self.unsettle();
        failure_point::write(Step::Recover, "before-import")?;
        self.ledger.import(lacking, key_intent, Vec::new()).await?;
        failure_point::write(Step::Recover, "after-import")?;
        tracing::warn!(imported = lacking.len(), newest = %newest.id, "the ledger has the published chain");
        Ok(lacking.len())
    }

    /// Refuses a chain that does not end where the token stands. Answers up to which generation keys may have
    /// been made.
    fn demand_newest(&self, newest: &Event, survey: &Survey, unfinished: Unfinished) -> Result<u64, Refusal> {
        let (live, next) = reconcile::find_named(survey, newest);
        match (live, next) {
            (Some(_), Some(_)) => {}
            (Some(_), None) if survey.silent().is_some() => {}
            // Its next key may have become the live one since.
            (None, Some(_)) if survey.silent().is_some() => {
                if unfinished == Unfinished::Refuse {
                    return Err(refused(
                        "the token with the key of the chain's last event does not answer, so that a later event may \
                         exist: bring the newest chain there is; if nobody has seen a newer one, discard what was \
                         unfinished",
                    ));
                }
            }
            (None, Some(_)) => return Err(refused("the token lacks the key of the chain's last event")),
            (Some(_), None) => return Err(refused("the token lacks the key that the last event commits to")),
            (None, None) => return Err(refused("the token has neither key of the chain's last event")),
        }
        let next = newest.sequence_number.saturating_add(1);
        let keys = survey.keys().map(|(_, key)| key.id);
        let ids: BTreeSet<_> = keys.chain(survey.halves().filter_map(|(_, half)| half.id)).collect();
        let ahead = ids.iter().map(|id| self.key_ids.distance(next, *id)).max().unwrap_or(0);
        match (ahead, unfinished) {
            (..=0, _) => Ok(next),
            (1, Unfinished::Discard) => Ok(next.saturating_add(1)),
            (1, Unfinished::Refuse) => Err(refused(
                "the token has a key made for a later event: bring the chain that has it; if nobody has seen one, \
                 discard what was unfinished",
            )),
            _ => Err(refused("the token has keys of later generations: bring the newest chain")),
        }
    }
}

fn unrecoverable(because: &'static str) -> Error {
    Error::Unrecoverable(refused(because))
}

fn refused(because: &'static str) -> Refusal {
    told(Refusal::new(Code::Conflict, because))
}

/// The operator who brings a chain is told why it is refused: all of it is public.
fn told(refusal: Refusal) -> Refusal {
    let because = refusal.because();
    refusal.with("because", because)
}
