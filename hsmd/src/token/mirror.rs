//! One key on both tokens.

use keychain::PublicKey;

use super::{Copies, Made, Slot, Tokens, member::Member};
use crate::token::backend::{Fault, KeyId};

/// Why a key was not copied from one slot to the other.
enum Failed {
    /// The slot that holds the key failed: it may be lost with the key.
    Source(Fault),
    /// The other did, or no key can be carried between the two.
    Target(Fault),
}

impl Tokens {
    /// Makes a key under `id`, and mirrors it.
    ///
    /// With one of two tokens silent the key is on the other alone, unless `copies` requires both: then there is none. A
    /// key that cannot be mirrored for any other reason is on one token, too, and health says why.
    pub async fn generate(&self, id: KeyId, copies: Copies) -> Result<Made, Fault> {
        self.ask_if_all_silent().await;
        let mut failed = None;
        for member in self.makers().await {
            let made = match member.generate(id).await {
                Ok(key) => match self.mirror(member, (id, key.public_key), copies).await {
                    Ok(mirror) => {
                        return Ok(Made { key, on: std::iter::once(member.slot).chain(mirror).collect() });
                    }
                    Err(fault) => fault,
                },
                Err(fault) => {
                    // A call that fails may have made the key.
                    member.note_unsurveyed();
                    fault
                }
            };
            // What bears the id is for the chain to judge, whichever token it is on.
            if matches!(made, Fault::IdTaken(_)) {
                return Err(made);
            }
            if self.are_mirrored() {
                tracing::warn!(fault = %made, token = member.slot.as_str(), "no key can be made on a token");
            }
            failed.get_or_insert(made);
        }
        Err(failed.or_else(|| self.silence()).unwrap_or(Fault::Stopped))
    }

    /// Carries a key that one slot holds to the other; nothing to do if both hold it.
    pub async fn carry(&self, public_key: PublicKey) -> Result<(), Fault> {
        let from = self.holders(&public_key).into_iter().find(|member| member.holds(&public_key));
        let from = from.ok_or(Fault::NoSuchKey(public_key))?;
        let id = from.key_id(&public_key).ok_or(Fault::NoSuchKey(public_key))?;
        let Some(to) = self.members().find(|member| !member.is_aside() && !member.holds(&public_key)) else {
            return Ok(());
        };
        let carried = self.copy(from, to, id, public_key).await.map_err(|failed| match failed {
            Failed::Source(fault) | Failed::Target(fault) => fault,
        });
        self.note_copied(to, carried.as_ref().err());
        if carried.is_ok() {
            tracing::info!(key = %public_key, token = to.slot.as_str(), "a key was carried to a token");
        }
        carried
    }

    /// The slots to make a key on, the best first: one that answers, and where the key can be carried away later.
    async fn makers(&self) -> Vec<&Member> {
        let mut makers = Vec::new();
        for member in self.members().filter(|member| !member.is_aside()) {
            let carries = self.are_mirrored() && member.wrap_keys().await.is_ok_and(|keys| !keys.is_empty());
            makers.push((member.is_silent(), !carries, member));
        }
        makers.sort_by_key(|(silent, stays, _)| (*silent, *stays));
        makers.into_iter().map(|(.., member)| member).collect()
    }

    /// Puts a key that was just made on `from` on the other slot, too; which that was. Errs if nothing may commit to
    /// the key.
    async fn mirror(
        &self,
        from: &Member,
        (id, public_key): (KeyId, PublicKey),
        copies: Copies,
    ) -> Result<Option<Slot>, Fault> {
        let Some(to) = self.members().find(|member| member.slot != from.slot) else { return Ok(None) };
        let copied = if to.is_aside() {
            Err(Failed::Target(Fault::NoSuchToken("the other token holds another chain's keys".to_owned())))
        } else {
            self.copy(from, to, id, public_key).await
        };
        let (fault, unusable) = match copied {
            Ok(()) => {
                self.note_copied(to, None);
                return Ok(Some(to.slot));
            }
            Err(Failed::Source(fault)) => (fault, true),
            Err(Failed::Target(fault)) => {
                let both = self.require_both && copies == Copies::AsConfigured;
                let unusable = both || matches!(fault, Fault::IdTaken(_));
                (fault, unusable)
            }
        };
        self.note_copied(to, Some(&fault));
        if unusable {
            // Nothing commits to it yet, and no other attempt would find it.
            if let Err(fault) = from.retire(public_key).await {
                tracing::warn!(%fault, %id, "a key made in vain is left for the reconciliation");
                from.note_unsurveyed();
            }
            return Err(fault);
        }
        tracing::warn!(%fault, %id, token = from.slot.as_str(), "a key is on one token only");
        Ok(None)
    }

    /// Notes how a copy went. One that failed for a reason that may pass is made up for after the next survey.
    fn note_copied(&self, to: &Member, fault: Option<&Fault>) {
        if fault.is_some_and(|fault| !is_lasting(fault)) {
            to.note_unsurveyed();
        }
        self.note_unmirrored(fault.cloned());
    }

    async fn copy(&self, from: &Member, to: &Member, id: KeyId, public_key: PublicKey) -> Result<(), Failed> {
        let source = |fault: Fault| {
            if is_lasting(&fault) { Failed::Target(fault) } else { Failed::Source(fault) }
        };
        let there = to.wrap_keys().await.map_err(Failed::Target)?;
        let here = from.wrap_keys().await.map_err(source)?;
        let under = here.into_iter().find(|id| there.contains(id)).ok_or(Failed::Target(Fault::NoWrapKey))?;
        let wrapped = from.wrap(public_key, under).await.map_err(source)?;
        to.unwrap(id, public_key, wrapped, under).await.map_err(Failed::Target)
    }
}

/// Whether no key can be carried until an operator has done something.
const fn is_lasting(fault: &Fault) -> bool {
    matches!(fault, Fault::NoWrapKey | Fault::NotConfined(_) | Fault::NotExtractable | Fault::NoSuchToken(_))
}
