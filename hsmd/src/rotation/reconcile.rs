//! Token and ledger made to agree: at start, and whenever the outcome of a step is not known.
//!
//! The ledger decides. A key is chosen only because its digest is what the ledger names; what the ledger
//! does not name is destroyed only where an interrupted step explains it. A token that has moved on
//! further than its ledger (restored from an old backup, or another one's) is left untouched.

use keychain::{
    PublicKey,
    chain::{SignedEvent, verify_whole},
};

use super::{Error, Keeper, View, to_gauge};
use crate::{
    backend::{Fault, Inventory, KeyId},
    ledger::{Contents, Turn},
};
use std::time::Duration;

impl Keeper {
    /// Finishes or undoes what was interrupted, and answers the chain as it then stands.
    pub(super) async fn reconcile(&self) -> Result<View, Error> {
        self.prepare_first().await?;
        let turn = self.ledger.turn().await?;
        let contents = turn.read().await?;
        if contents.events.is_empty() {
            return self.make_first(turn, &contents).await;
        }
        verify(&contents.events)?;
        self.settle(turn, contents).await
    }

    /// Finds the two keys that the ledger names, and clears the rest away. The turn is held throughout, so
    /// that no other hsmd is making a key meanwhile.
    async fn settle(&self, turn: Turn, contents: Contents) -> Result<View, Error> {
        let Contents { events, key_intent } = contents;
        let newest = events.last().ok_or(Error::Unsettled)?.event().clone();
        let inventory = self.signer.inventory().await?;
        let live = find(&inventory, |key| *key == newest.public_key);
        let next = find(&inventory, |key| key.digest() == newest.rotation_hash);
        let (Some(live), Some(next)) = (live, next) else {
            return Err(Error::Contradiction(missing(newest.sequence_number, live, next)));
        };
        let strays: Vec<_> =
            inventory.keys.iter().filter(|key| key.public_key != live && key.public_key != next).collect();
        let ids = strays.iter().map(|key| key.id).chain(inventory.halves.iter().filter_map(|half| half.id));
        for id in ids {
            self.demand_explained(newest.sequence_number, key_intent, id)?;
        }
        let mut left_over = 0_u32;
        for key in strays {
            tracing::info!(id = %key.id, key = %key.public_key, "destroying a key that the ledger does not name");
            left_over += note_destroyed(Some(key.id), self.signer.retire(key.public_key).await);
        }
        for half in &inventory.halves {
            tracing::info!(id = ?half.id, "destroying half a key");
            left_over += note_destroyed(half.id, self.signer.destroy(half.handle).await);
        }
        turn.release().await?;
        metrics::gauge!("hsmd_token_objects", "state" => "retired").set(left_over);
        View::new(events, next).ok_or(Error::Unsettled)
    }

    /// Refuses to touch anything if the key under `id` is from a generation that this ledger has never
    /// heard of: the ledger is older than its token.
    fn demand_explained(&self, newest: u64, key_intent: Option<u64>, id: KeyId) -> Result<(), Error> {
        let next = newest.saturating_add(1);
        let distance = self.key_ids.distance(next, id);
        let half_made = distance == 1 && key_intent >= Some(next.saturating_add(1));
        if distance <= 0 || half_made {
            return Ok(());
        }
        Err(Error::Contradiction(format!(
            "the token has a key under id {id}, which generation {} would have, but the ledger ends with {newest} \
             and never meant to make it: the ledger is older than its token; bring back the newest ledger",
            next.saturating_add_signed(i64::from(distance))
        )))
    }
}

/// How many are left of one that was to be destroyed: a token that cannot destroy can still sign.
fn note_destroyed(id: Option<KeyId>, outcome: Result<(), Fault>) -> u32 {
    match outcome {
        Ok(()) => 0,
        Err(fault) => {
            tracing::error!(?id, %fault, "a key that nothing needs is left on the token");
            1
        }
    }
}

/// Verifies the whole chain. The newest event's own date stands for the time: whether the clock is right
/// is another question, which a rotation asks.
pub(super) fn verify(events: &[SignedEvent]) -> Result<(), Error> {
    let (Some(first), Some(newest)) = (events.first(), events.last()) else { return Ok(()) };
    metrics::gauge!("hsmd_chain_sequence").set(to_gauge(newest.event().sequence_number));
    verify_whole(events, &first.event().prefix, newest.event().created_at, Duration::ZERO)
        .map_err(|refusal| Error::Contradiction(format!("the ledger's chain does not verify: {refusal}")))
}

fn find(inventory: &Inventory, is_it: impl Fn(&PublicKey) -> bool) -> Option<PublicKey> {
    inventory.keys.iter().map(|key| key.public_key).find(|key| is_it(key))
}

fn missing(newest: u64, live: Option<PublicKey>, next: Option<PublicKey>) -> String {
    let what = match (live, next) {
        (None, None) => "neither the signing key nor the next one",
        (None, Some(_)) => "not the signing key",
        _ => "not the key that comes next",
    };
    format!(
        "the ledger ends with generation {newest}, and of its keys the token holds {what}: it is another token, \
         or the ledger is older than its token; nothing was changed"
    )
}
