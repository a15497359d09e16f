//! Access requests to authd itself: what the owner of an account asks of it (`PROTOCOL.md#owner`).
//!
//! They are judged by the edge's library, in its order, with two differences. Who is denied is what the rows say, which
//! is what edges are told. And a nonce is spent by a row in the store, in the transaction that carries the request out:
//! no other authd on the store takes the same request again.

use edge::verifier::{Admitted, Demand, Held};
use keychain::access::AccessRequest;
use keychain::token::Token;
use keychain::{Code, Digest, Nonce, PublicKey, Refusal, Timestamp};

use crate::operation::owner::{self, Decision, Operation, OwnerView, Request};
use crate::service::{Answer, Service};
use crate::store::{Failure, Owning, Verdict};
use crate::throttle;

/// Separates the names of spent nonces from all other digests.
const SPENT: &str = "keelson owner request nonce\n";

impl Service {
    /// Carries out one request of an owner.
    pub async fn answer_owner(
        &self,
        operation: Operation,
        body: &[u8],
        now: Timestamp,
    ) -> Result<Answer, Failure> {
        let admitted = self.admit(operation, body, now).await?;
        let request = Request::parse(operation, admitted.request())?;
        self.response_key().await?;
        let claims = admitted.claims();
        let (identity, device) = (claims.identity, claims.device);
        let nonce = spent_name(&identity, &device, &admitted.nonce());
        let (other, is_writing) = (request.other(), request != Request::List);
        let case = Owning { identity, device, nonce, asked_at: now, other, is_writing };
        let count = throttle::once(|asking| self.throttles.count_owner(operation, asking, now));
        let judge = |view: &OwnerView| {
            let decision = owner::decide(&request, claims, view, &self.margins, now)?;
            count((identity, device))?;
            Ok(match decision {
                Decision::Write(write) => {
                    let answer = owner::answer(&write);
                    Verdict::Write(write, answer)
                }
                Decision::Incomplete => Verdict::Incomplete,
            })
        };
        let mut response = self.store.decide(&case, now, judge).await?;
        match request {
            Request::List => {
                response = owner::list(&self.store.sightings(&identity).await?, (device, claims.issued_at));
            }
            Request::Name(..) => {}
            Request::End(_) | Request::EndOthers => self.tell_denials(),
        }
        Ok(Answer { nonce: admitted.nonce(), response, repeated: false })
    }

    /// Every step of an access request's proof but who is denied, and the nonce.
    async fn admit<'a>(
        &self,
        operation: Operation,
        body: &'a [u8],
        now: Timestamp,
    ) -> Result<Admitted<'a>, Refusal> {
        let demand = Demand { place: operation.path(), permission: None };
        let prove = || self.owners.prove(body, demand, &self.trust.state(), now);
        let issuer = match prove() {
            Ok((admitted, _)) => return Ok(admitted),
            Err(Held::UnknownIssuer(issuer)) => issuer,
            // The key may have been endorsed again since, as after a taint. (Nobody else is revoked for this verifier.)
            Err(Held::Refused(refusal)) if matches!(refusal.code(), Code::DeadKey | Code::Revoked) => {
                issuer_of(body)?
            }
            Err(Held::Refused(refusal)) => return Err(refusal),
        };
        // Own tokens are judged also while the directory is away.
        if let Ok(key) = self.access.usable(now) {
            self.learn(&key)?;
        }
        let endorsement = self.issuers.endorsement(&issuer, now).await?;
        self.owners.issuers().learn(issuer, &endorsement, &self.trust.state(), now)?;
        prove().map(|(admitted, _)| admitted).map_err(Held::into_refusal)
    }
}

/// Who is said to have issued the token of a request.
fn issuer_of(body: &[u8]) -> Result<PublicKey, Refusal> {
    let request = AccessRequest::parse(body)?;
    Ok(Token::parse(request.token)?.claims().server_identity)
}

/// The name by which a spent nonce is kept. It has the device in it, so that nobody spends another's; and it is no
/// challenge that anybody was given.
fn spent_name(identity: &Digest, device: &Digest, nonce: &Nonce) -> Nonce {
    let digest = Digest::of_parts(&[SPENT, &identity.to_string(), &device.to_string(), &nonce.to_string()]);
    let mut name = [0; 16];
    for (byte, of_digest) in name.iter_mut().zip(digest.bytes()) {
        *byte = *of_digest;
    }
    Nonce::from_bytes(name)
}
