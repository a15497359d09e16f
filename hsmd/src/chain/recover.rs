//! A ledger that is behind its token, brought up to it by the published chain.
//!
//! A ledger restored from an old backup, or lost whole, lacks events that verifiers have accepted. To sign
//! the next event without them would be to fork the chain for good. What was published proves itself, so it
//! can be brought back from anywhere: a keysd, the directory, a file. It is imported only if it begins with
//! every event that the ledger has, and ends with a generation whose two keys are on the token: the token
//! proves that it is the chain, and that none of it is missing but perhaps an event which was never published.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use keychain::{
    Code, Digest, Refusal,
    audit::Record,
    chain::{Event, SignedEvent, verify_whole},
};
use serde_json::value::RawValue;

use super::{Error, Keeper, State, plan::Found, turn::Waiting};
use crate::{
    failure_point::{self, Step},
    token::backend::Fault,
};

/// A published chain that an operator brought: whole, in order, every rule verified.
pub struct Brought(Vec<SignedEvent>);

/// What the operator says of a key on the token that the chain brought does not explain, but a rotation under way
/// when the ledger was lost would; and of one that it names and the token lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfinished {
    /// It is destroyed: no event of that rotation was published.
    Discard,
    /// The chain brought is the newest that anybody has, and the key of its last event is lost.
    LiveKeyLost,
    /// Nothing: the chain is refused, because a later event may exist.
    Refuse,
}

impl Unfinished {
    /// The name in a query and in the audit trail.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Discard => "discard",
            Self::LiveKeyLost => "live-key-lost",
            Self::Refuse => "refuse",
        }
    }

    /// Whether the operator says that the chain brought is the newest.
    const fn is_newest(self) -> bool {
        matches!(self, Self::Discard | Self::LiveKeyLost)
    }
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
    /// The state of the chain now.
    pub state: &'static str,
    /// How many events the ledger lacked.
    pub imported: usize,
}

/// Composes the lines of the audit trail that tell of an import.
type Lines<'a> = &'a (dyn Fn(&Recovered) -> Vec<Record> + Send + Sync);

impl Brought {
    /// Reads a JSON array of published events, as a keysd or `GET /chain` answers it, and verifies the whole.
    /// It takes about 100 µs an event and blocks.
    pub fn parse(text: &[u8]) -> Result<Self, Refusal> {
        let published: Vec<&RawValue> = serde_json::from_slice(text)
            .map_err(|_| Refusal::new(Code::InvalidMessage, "the chain is no JSON array of events"))?;
        let mut events = Vec::with_capacity(published.len());
        for (position, event) in published.into_iter().enumerate() {
            let event = SignedEvent::parse(event.get());
            events
                .push(event.map_err(|refusal| with_reason(refusal).with("position", position.to_string()))?);
        }
        let (Some(first), Some(newest)) = (events.first(), events.last()) else {
            return Err(with_reason(Refusal::new(Code::BadChain, "the chain has no event")));
        };
        // Whether the clock is right is another question, which a rotation asks.
        verify_whole(&events, &first.event().prefix, newest.event().created_at, Duration::ZERO)
            .map_err(with_reason)?;
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
        self.recover_with(brought, unfinished, |_| Vec::new()).await
    }

    /// The same with lines for the audit trail, which are durable together with the import. Of what `lines` is given the
    /// state is still the one before.
    pub async fn recover_with(
        self: &Arc<Self>,
        brought: Brought,
        unfinished: Unfinished,
        lines: impl Fn(&Recovered) -> Vec<Record> + Send + Sync + 'static,
    ) -> Result<Recovered, Error> {
        let keeper = Arc::clone(self);
        let carried_through =
            tokio::spawn(async move { keeper.recover_in_turn(&brought, unfinished, &lines).await });
        carried_through.await.unwrap_or(Err(Error::Hsm(Fault::Stopped)))
    }

    async fn recover_in_turn(
        &self,
        brought: &Brought,
        unfinished: Unfinished,
        lines: Lines<'_>,
    ) -> Result<Recovered, Error> {
        let _turn = self.turns.take(Waiting::Other).await;
        let imported = self.import(brought, unfinished, lines).await?;
        if imported > 0 {
            // The ledger lacks what was denied and revoked: published heads may list it.
            self.evidence().await_report();
        }
        if unfinished.is_newest() {
            // The ledger has all of the chain brought now, so that both end with one event.
            *self.proven() = brought.0.last().map(SignedEvent::id);
        }
        self.reconcile().await?;
        let state = self.chain_state();
        if imported == 0 && matches!(state, State::LedgerBehind { .. } | State::LiveKeyMissing { .. }) {
            return Err(unrecoverable("the chain has no event that the ledger lacks"));
        }
        let view = self.demand(|powers| powers.signs || powers.rotates || powers.taints)?;
        failure_point::pass(Step::Recover, "after-settle");
        let live = view.live().event();
        Ok(Recovered {
            identity: live.prefix,
            generation: live.id,
            sequence_number: live.sequence_number,
            state: state.label(),
            imported,
        })
    }

    /// Adds the events that the ledger lacks; how many they were.
    async fn import(
        &self,
        brought: &Brought,
        unfinished: Unfinished,
        lines: Lines<'_>,
    ) -> Result<usize, Error> {
        let contents = self.ledger.contents(&[]).await?;
        let lacking = brought.beyond(&contents.events).map_err(Error::Unrecoverable)?;
        let Some(newest) = lacking.last().map(SignedEvent::event) else {
            return Ok(0);
        };
        let found = Found::from(&self.survey(Some(newest)).await?);
        let key_intent = self.demand_newest(newest, &found, unfinished).map_err(Error::Unrecoverable)?;
        self.interrupt("a chain is imported");
        failure_point::write(Step::Recover, "before-import")?;
        let recovered = Recovered {
            identity: newest.prefix,
            generation: newest.id,
            sequence_number: newest.sequence_number,
            state: self.chain_state().label(),
            imported: lacking.len(),
        };
        self.ledger.import(lacking, key_intent, lines(&recovered)).await?;
        failure_point::write(Step::Recover, "after-import")?;
        tracing::warn!(imported = lacking.len(), newest = %newest.id, "the ledger has the published chain");
        Ok(lacking.len())
    }

    /// Refuses a chain that does not end where the token stands. Answers up to which generation keys may have
    /// been made.
    fn demand_newest(&self, newest: &Event, found: &Found, unfinished: Unfinished) -> Result<u64, Refusal> {
        match (found.named_by(newest), &found.silent, unfinished) {
            ((Some(_), Some(_)), ..)
            | ((Some(_), None), Some(_), _)
            | ((None, Some(_)), _, Unfinished::LiveKeyLost)
            | ((None, Some(_)), Some(_), Unfinished::Discard) => {}
            // Its next key may have become the live one since.
            ((None, Some(_)), Some(_), Unfinished::Refuse) => {
                return Err(refused(
                    "the token with the key of the chain's last event does not answer, so that a later event may \
                     exist: bring the newest chain there is; if nobody has seen a newer one, discard what was \
                     unfinished",
                ));
            }
            ((None, Some(_)), None, _) => {
                return Err(refused("the token lacks the key of the chain's last event"));
            }
            // To go on from it would end the chain: a copy of the token may have made it.
            ((Some(_), None), None, _) => {
                return Err(refused("the token lacks the key that the last event commits to"));
            }
            ((None, None), ..) => return Err(refused("the token has neither key of the chain's last event")),
        }
        let next = newest.sequence_number.saturating_add(1);
        let ids: BTreeSet<_> = found.ids().collect();
        let ahead = ids.iter().map(|id| self.key_ids.distance(next, *id)).max().unwrap_or(0);
        match (ahead, unfinished) {
            (..=0, _) => Ok(next),
            (1, Unfinished::Discard | Unfinished::LiveKeyLost) => Ok(next.saturating_add(1)),
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
    with_reason(Refusal::new(Code::Conflict, because))
}

/// The operator who brings a chain learns why it is refused: all of it is public.
fn with_reason(refusal: Refusal) -> Refusal {
    let because = refusal.because();
    refusal.with("because", because)
}
