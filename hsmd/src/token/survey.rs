//! What is on the tokens, all of them or those that answer.

use keychain::PublicKey;

use super::{Slot, Tokens, member::Member};
use crate::token::backend::{Fault, Half, Inventory, Key};

/// What was listed. Nothing that is not in it is believed absent while a token is silent.
#[derive(Debug, Default)]
pub struct Survey {
    listed: Vec<(Slot, Inventory)>,
    silent: Option<Fault>,
    slots: usize,
}

impl Survey {
    /// The whole keys, and where they are: a mirrored key once for each slot.
    pub fn keys(&self) -> impl Iterator<Item = (Slot, &Key)> {
        self.listed.iter().flat_map(|(slot, inventory)| inventory.keys.iter().map(|key| (*slot, key)))
    }

    /// The halves of keys, and where they are.
    pub fn halves(&self) -> impl Iterator<Item = (Slot, &Half)> {
        self.listed.iter().flat_map(|(slot, inventory)| inventory.halves.iter().map(|half| (*slot, half)))
    }

    /// The token that could not be listed, if there is one, as the fault that names it.
    pub fn silent(&self) -> Option<&Fault> {
        self.silent.as_ref()
    }

    /// Whether every configured slot is known to hold the key.
    pub fn is_mirrored(&self, public_key: &PublicKey) -> bool {
        self.slots_of(public_key).count() == self.slots
    }

    /// Whether a slot that was listed lacks the key, and another holds it so that it can be carried there.
    pub fn wants_carrying(&self, public_key: &PublicKey) -> bool {
        let lacking = self.slots_of(public_key).count() < self.listed.len();
        lacking && self.keys().any(|(_, key)| key.public_key == *public_key && key.carriable)
    }

    fn slots_of(&self, public_key: &PublicKey) -> impl Iterator<Item = Slot> {
        let holds = |inventory: &Inventory| inventory.keys.iter().any(|key| key.public_key == *public_key);
        self.listed.iter().filter(move |(_, inventory)| holds(inventory)).map(|(slot, _)| *slot)
    }
}

impl Tokens {
    /// Lists what is on the tokens. Errs only if none can be listed.
    pub async fn survey(&self) -> Result<Survey, Fault> {
        self.survey_by(false).await
    }

    /// The same through connections made wholly anew: what a module remembers of a token, another process may
    /// have changed.
    pub async fn survey_afresh(&self) -> Result<Survey, Fault> {
        self.survey_by(true).await
    }

    /// Notes that what was listed was reconciled with the ledger.
    pub fn note_surveyed(&self, survey: &Survey) {
        for (slot, _) in &survey.listed {
            self.member(*slot).note_surveyed();
        }
    }

    async fn survey_by(&self, afresh: bool) -> Result<Survey, Fault> {
        self.ask_if_all_silent().await;
        let first = one(&self.first, afresh);
        // Both at once: a silent one costs no more than its own patience.
        let outcomes = match &self.second {
            Some(second) => <[_; 2]>::from(tokio::join!(first, one(second, afresh))).into(),
            None => vec![first.await],
        };
        let mut survey = Survey { slots: outcomes.len(), ..Survey::default() };
        for outcome in outcomes {
            match outcome {
                Ok(listed) => survey.listed.push(listed),
                Err(fault @ Fault::Silent { .. }) => drop(survey.silent.get_or_insert(fault)),
                // Of a queue that is full nothing is known, nor noted.
                Err(fault) => return Err(fault),
            }
        }
        match &survey.silent {
            Some(fault) if survey.listed.is_empty() => Err(fault.clone()),
            _ => Ok(survey),
        }
    }
}

async fn one(member: &Member, afresh: bool) -> Result<(Slot, Inventory), Fault> {
    Ok((member.slot, member.list(afresh).await?))
}
