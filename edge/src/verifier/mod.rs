//! The verdict on a signed access request (`PROTOCOL.md#access-request`).
//!
//! [`AccessVerifier::check`] is the whole pipeline in one place, in the protocol's fixed order, each step
//! dearer than the one before. It does no IO, and reads no clock: time and trust are arguments. What it
//! has to remember (tokens and issuing keys that verified, nonces seen) it keeps itself, bounded.
//!
//! A cached verdict is never more than a saved signature check: expiry, endorsement, generation and
//! revocation are judged afresh for every request, so a taint, a denial, a revoked key or a ban bites at once.

mod audience;
pub mod issuers;
mod tokens;

use std::sync::Arc;
use std::time::Duration;

use keychain::access::AccessRequest;
use keychain::token::{Claims, Token};
use keychain::{Code, Nonce, PublicKey, Refusal, Timestamp, limits};

use crate::nonces::NonceStore;
use crate::trust::TrustState;
pub use audience::Audience;
use issuers::{Issuer, Issuers, Knowledge};
use tokens::{KnownToken, Tokens};

/// Default room for nonces: at 40 seconds each, 6,500 requests a second; some 30 MiB when full.
pub const NONCES_DEFAULT: usize = 262_144;

/// How the verifier judges.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How far a device's or authd's clock may differ from this one.
    pub clock_skew: Duration,
    /// Where this edge stands, for requests that are bound to a place.
    pub audience: Audience,
    /// Most nonces held at a time.
    pub nonce_capacity: usize,
}

/// What a route asks of a request beyond being genuine.
#[derive(Debug, Clone, Copy)]
pub struct Demand<'a> {
    /// The path, with its query if it has one, at which the request came in.
    pub place: &'a str,
    /// The role and permission that its token must hold, if any.
    pub permission: Option<(&'a str, &'a str)>,
}

/// A request that passed every check. Only the verifier makes one.
#[derive(Debug)]
pub struct Admitted<'a> {
    token: Arc<KnownToken>,
    nonce: Nonce,
    request: &'a str,
    warm: bool,
}

impl<'a> Admitted<'a> {
    /// What authd said of the caller.
    pub fn claims(&self) -> &Claims {
        self.token.claims()
    }

    /// The request's nonce, to be echoed in the answer.
    pub const fn nonce(&self) -> Nonce {
        self.nonce
    }

    /// The inner request, the bytes as they were signed.
    pub const fn request(&self) -> &'a str {
        self.request
    }

    /// Whether the token was known already, so that one signature was checked and no more.
    pub const fn warm(&self) -> bool {
        self.warm
    }
}

/// Why a request was not admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// It is refused.
    Refused(Refusal),
    /// Nothing is known of the key that issued its token. Learn it ([`AccessVerifier::issuers`]), then check
    /// again; nothing was spent.
    UnknownIssuer(PublicKey),
}

impl Held {
    /// The refusal that this comes to when no more can be learnt.
    pub fn into_refusal(self) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal,
            Self::UnknownIssuer(_) => NO_ENDORSEMENT,
        }
    }
}

impl From<Refusal> for Held {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Judges access requests; shared by all workers.
#[derive(Debug)]
pub struct AccessVerifier {
    settings: Settings,
    tokens: Tokens,
    issuers: Issuers,
    nonces: NonceStore,
}

impl AccessVerifier {
    /// A verifier that knows no key yet.
    pub fn new(settings: Settings) -> Self {
        let nonces = NonceStore::new(settings.nonce_capacity);
        Self { settings, tokens: Tokens::new(), issuers: Issuers::new(), nonces }
    }

    /// Judges one request at `now` by what is trusted.
    ///
    /// In this order: shape, token, issuing key, times, signature, revocation, place, permission, freshness, nonce.
    /// What is denied for certain is told before what cannot be known; the nonce comes last, so that no refused
    /// request burns one.
    pub fn check<'a>(
        &self,
        body: &'a [u8],
        demand: Demand<'_>,
        trust: &TrustState,
        now: Timestamp,
    ) -> Result<Admitted<'a>, Held> {
        let (admitted, until) = self.prove(body, demand, trust, now)?;
        self.nonces.reserve(admitted.nonce, until, now)?;
        Ok(admitted)
    }

    /// The same without spending the nonce: whether the request would be admitted, as far as can be said.
    pub fn would_admit(
        &self,
        body: &[u8],
        demand: Demand<'_>,
        trust: &TrustState,
        now: Timestamp,
    ) -> Result<(), Held> {
        self.prove(body, demand, trust, now).map(drop)
    }

    /// Every step but the last, and until when the nonce must be remembered: for a server that keeps nonces elsewhere,
    /// where others see them too.
    pub fn prove<'a>(
        &self,
        body: &'a [u8],
        demand: Demand<'_>,
        trust: &TrustState,
        now: Timestamp,
    ) -> Result<(Admitted<'a>, Timestamp), Held> {
        let skew = self.settings.clock_skew;
        let request = AccessRequest::parse(body)?;
        let (token, warm) = self.token(request.token, trust, now)?;
        token.claims().check_access_times(now, skew)?;
        request.check_time(now, skew)?;
        request.verify(token.device_key())?;
        trust.denied().check(token.claims(), now)?;
        self.settings.audience.check(request.audience, demand.place)?;
        permit(token.claims(), demand.permission)?;
        trust.demand_fresh(now)?;
        trust.denied().demand_confirmed(now)?;
        // One skew longer than the request can be accepted, for a clock that is set back meanwhile.
        let until = request.timestamp.plus(limits::ACCESS_REQUEST_AGE).plus(skew);
        Ok((Admitted { token, nonce: request.nonce, request: request.request, warm }, until))
    }

    /// The token, verified now or before, by an issuing key that is endorsed now.
    fn token(&self, text: &str, trust: &TrustState, now: Timestamp) -> Result<(Arc<KnownToken>, bool), Held> {
        if let Some(known) = self.tokens.get(text) {
            return self.renewed(text, known, trust, now).map(|known| (known, true));
        }
        let token = Token::parse(text)?;
        let issuer = self.issuer(token.claims().server_identity)?;
        issuer.check(trust, now)?;
        let known = Arc::new(KnownToken::verify(&token, issuer)?);
        self.tokens.keep(text, Arc::clone(&known), now);
        Ok((known, false))
    }

    /// A token verified before, by the endorsement that its issuing key has now: the same key may have been endorsed
    /// again since, and its signature is as good as it was.
    fn renewed(
        &self,
        text: &str,
        known: Arc<KnownToken>,
        trust: &TrustState,
        now: Timestamp,
    ) -> Result<Arc<KnownToken>, Held> {
        let Err(dead) = known.issuer().check(trust, now) else { return Ok(known) };
        let Knowledge::Endorsed(issuer) = self.issuers.look_up(&known.claims().server_identity) else {
            return Err(dead.into());
        };
        issuer.check(trust, now)?;
        let renewed = Arc::new(known.under(issuer));
        self.tokens.keep(text, Arc::clone(&renewed), now);
        Ok(renewed)
    }

    fn issuer(&self, key: PublicKey) -> Result<Arc<Issuer>, Held> {
        match self.issuers.look_up(&key) {
            Knowledge::Absent => Err(NO_ENDORSEMENT.into()),
            Knowledge::Endorsed(issuer) => Ok(issuer),
            Knowledge::Nothing => Err(Held::UnknownIssuer(key)),
        }
    }

    /// The issuing keys known, to be taught more.
    pub const fn issuers(&self) -> &Issuers {
        &self.issuers
    }

    /// The nonces held.
    pub const fn nonces(&self) -> &NonceStore {
        &self.nonces
    }

    /// How many tokens are cached.
    pub fn tokens_held(&self) -> u64 {
        self.tokens.held()
    }
}

const NO_ENDORSEMENT: Refusal =
    Refusal::new(Code::UnknownKey, "the directory has no endorsement of the token's issuer that verifies");

fn permit(claims: &Claims, permission: Option<(&str, &str)>) -> Result<(), Refusal> {
    match permission {
        Some((role, permission)) if !claims.attributes.allows(role, permission) => {
            Err(Refusal::new(Code::Forbidden, "the token lacks the route's permission"))
        }
        _ => Ok(()),
    }
}
