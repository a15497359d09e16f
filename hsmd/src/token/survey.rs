//! What is on the tokens, all of them or those that answer.

use super::{Tokens, Which, place::Place};
use crate::token::backend::{Fault, Half, Inventory, Key};

/// What was listed. Nothing that is not in it is believed absent while a token is silent.
#[derive(Debug, Default)]
pub struct Survey {
    listed: Vec<(Which, Inventory)>,
    silent: Option<Fault>,
}

impl Survey {
    /// The whole keys, and where they are.
    pub fn keys(&self) -> impl Iterator<Item = (Which, &Key)> {
        self.listed.iter().flat_map(|(which, inventory)| inventory.keys.iter().map(|key| (*which, key)))
    }

    /// The halves of keys, and where they are.
    pub fn halves(&self) -> impl Iterator<Item = (Which, &Half)> {
        self.listed.iter().flat_map(|(which, inventory)| inventory.halves.iter().map(|half| (*which, half)))
    }

    /// The token that could not be listed, if there is one, as the fault that names it.
    pub fn silent(&self) -> Option<&Fault> {
        self.silent.as_ref()
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
        for (which, _) in &survey.listed {
            self.place(*which).note_surveyed();
        }
    }

    async fn survey_by(&self, afresh: bool) -> Result<Survey, Fault> {
        if let Some(signer) = self.alone() {
            let listed = if afresh { signer.inventory_afresh().await? } else { signer.inventory().await? };
            return Ok(Survey { listed: vec![(Which::First, listed)], silent: None });
        }
        // Both at once: a silent one costs no more than its own patience.
        let second = self.place(Which::Second);
        let (first, second) = tokio::join!(one(&self.first, afresh), one(second, afresh));
        match (first, second) {
            (Err(fault), Err(_)) => Err(fault),
            (first, second) => {
                let mut survey = Survey::default();
                for outcome in [first, second] {
                    match outcome {
                        Ok(listed) => survey.listed.push(listed),
                        Err(fault @ Fault::Silent { .. }) => survey.silent = Some(fault),
                        // Of a queue that is full nothing is known, nor noted.
                        Err(fault) => return Err(fault),
                    }
                }
                Ok(survey)
            }
        }
    }
}

async fn one(place: &Place, afresh: bool) -> Result<(Which, Inventory), Fault> {
    Ok((place.which, place.list(afresh).await?))
}
