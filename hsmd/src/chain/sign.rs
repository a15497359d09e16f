//! Signatures by the newest generation.

use std::sync::Arc;

use aws_lc_rs::digest;
use keychain::{Digest, PublicKey, Refusal, Signature, endorsement};

use super::{Error, Keeper, State, View, with_causes};
use crate::{
    failure_point::{self, Step},
    policy::Permission,
    token::backend::Fault,
    token::signer::Class,
};

/// How many generations one signature is tried with, each left while it waited, before the caller is asked to try
/// again: rotations follow one another only as fast as the token makes keys.
const GENERATIONS_TRIED_MAX: usize = 8;

/// What is signed to see whether the HSM signs: not shaped like an event or an endorsement, so that it can
/// pass for neither.
const PROBE: &[u8] = b"keelson: proof that the HSM signs";

/// An endorsement that was made.
#[derive(Debug)]
pub struct Endorsed {
    /// The answer: body and signature (`PROTOCOL.md#endorsement`).
    pub text: String,
    /// The generation that signed it.
    pub generation: Digest,
    /// Its number.
    pub number: u64,
}

impl Keeper {
    /// Endorses a service's key, as the permission says, by the live generation.
    pub async fn endorse(&self, permission: &Permission) -> Result<Endorsed, Error> {
        failure_point::pass(Step::Endorse, "before-sign");
        // Whoever is refused for the state takes no number.
        self.settled()?;
        let number = self.ledger.next_endorsement_number().await?;
        let (view, (draft, signature)) = self
            .sign_by_live(Class::Endorsement, |view| {
                let draft = endorsement::Draft::numbered(
                    permission.request(),
                    permission.service(),
                    number,
                    &view.prefix(),
                    &view.live().id(),
                );
                let body = draft.body().as_bytes().to_vec();
                Ok((draft, body))
            })
            .await?;
        failure_point::pass(Step::Endorse, "after-sign");
        Ok(Endorsed { text: draft.seal(&signature), generation: view.live().id(), number })
    }

    /// Tries the whole way once: ledger, queue, token, signature, verification. The watcher's: it reconciles first
    /// if there is a reason to.
    pub async fn probe(&self) -> Result<(), Error> {
        self.check().await?;
        let (view, ((), signature)) = self.sign_by_live(Class::Probe, |_| Ok(((), PROBE.to_vec()))).await?;
        Ok(view.live().key().verify(PROBE, &signature)?)
    }

    /// Has the live generation sign the message that `compose` makes of the view, which names that generation.
    ///
    /// If the generation is left before the signature is there, it is made again by the one that followed:
    /// no caller is given the signature of a generation that may just have been tainted. While the state allows no
    /// signature this answers with the state, and sets off nothing.
    pub(super) async fn sign_by_live<T>(
        &self,
        class: Class,
        compose: impl Fn(&View) -> Result<(T, Vec<u8>), Refusal>,
    ) -> Result<(Arc<View>, (T, Signature)), Error> {
        for _ in 0..GENERATIONS_TRIED_MAX {
            let view = self.settled()?;
            let (composed, message) = compose(&view)?;
            let signed = self.sign(view.live().event().public_key, &message, class).await;
            let still_live = self.view().is_some_and(|now| now.live().id() == view.live().id());
            match signed {
                Ok(signature) if still_live => return Ok((view, (composed, signature))),
                Err(Error::Hsm(fault)) if still_live => return Err(self.note_fault(&view, fault, class)),
                // The generation was left meanwhile.
                Ok(_) | Err(Error::Hsm(Fault::NoSuchKey(_))) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Unsettled)
    }

    pub(super) async fn sign(
        &self,
        public_key: PublicKey,
        message: &[u8],
        class: Class,
    ) -> Result<Signature, Error> {
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest::digest(&digest::SHA256, message).as_ref());
        Ok(self.tokens.sign(public_key, sha256, class).await?)
    }

    /// Notes that the live key did not sign: those who come next are refused at once, until the watcher, who is woken,
    /// has found out more.
    fn note_fault(&self, view: &View, fault: Fault, class: Class) -> Error {
        let state = match fault.root() {
            Fault::Busy { .. } => return Error::Hsm(fault),
            Fault::NoSuchKey(_) => Some(State::Interrupted("the signing key is not where it was".to_owned())),
            Fault::Pin { .. } => Some(State::PinRefused(with_causes(&fault))),
            // The call of another token, behind the same module, may hold this one up for a few seconds; under a flood
            // a caller may wait in vain for a token that answers. Whoever comes next is not refused for that.
            Fault::Hangs | Fault::Timeout { .. } => None,
            _ if fault.is_silence() => Some(State::TokenSilent(with_causes(&fault))),
            _ => None,
        };
        if let Some(state) = state {
            self.doubt(view, state);
        }
        if class != Class::Probe {
            self.suspicion.notify_one();
        }
        Error::Hsm(fault)
    }
}
