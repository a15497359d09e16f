//! The verifier with everything that keeps it informed: what an app server puts before its app.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use keychain::directory::Directory;
use keychain::{Refusal, Timestamp};

use crate::denials::DenialFeed;
use crate::issuer_feed::IssuerFeed;
use crate::revocations::RevocationFeed;
use crate::trust::{Confirmation, TrustFeed, TrustState};
use crate::updates::Updates;
use crate::verifier::{AccessVerifier, Admitted, Demand, Held, Settings};

/// How long a restart waits for the directory before it goes by its own state.
const DIRECTORY_WAIT: Duration = Duration::from_secs(2);

/// Admits access requests. Cloning shares everything.
#[derive(Debug, Clone)]
pub struct Gate {
    verifier: Arc<AccessVerifier>,
    trust: TrustFeed,
    issuers: IssuerFeed,
    denials: DenialFeed,
    revocations: RevocationFeed,
}

impl Gate {
    /// A gate that learns from the directory, and admits nobody without knowing of revocations what `demand` asks for.
    pub fn start(
        directory: &Directory,
        updates: &Updates,
        trust: TrustFeed,
        denials: DenialFeed,
        demand: Confirmation,
        settings: Settings,
        state: &Path,
    ) -> Self {
        let revocations = RevocationFeed::start(directory, updates, trust.clone(), demand, state);
        let verifier = Arc::new(AccessVerifier::new(settings));
        let issuers = IssuerFeed::start(directory, updates, trust.clone(), Arc::clone(&verifier), state);
        Self { verifier, trust, issuers, denials, revocations }
    }

    /// Waits until nothing is missing for a verdict: revocations and issuing keys are read. If the directory does not
    /// answer, what was known before a restart is enough, as long as it is not too old for a verdict.
    pub async fn ready(&self) {
        tokio::select! {
            () = self.read() => {}
            () = self.recalled() => {
                tracing::warn!("the key directory does not answer: going on with what was known before the restart");
            }
        }
    }

    async fn read(&self) {
        self.denials.loaded().await;
        self.revocations.loaded().await;
        self.issuers.loaded().await;
    }

    async fn recalled(&self) {
        // What was declared while this process was away is worth a moment.
        tokio::time::sleep(DIRECTORY_WAIT).await;
        if !self.revocations.recalled() {
            std::future::pending::<()>().await; // a first start: who is denied is not known
        }
        self.denials.loaded().await;
        self.issuers.some().await;
    }

    /// Judges one request now. Only a token of an issuer never heard of costs IO, and of all of those
    /// together at most one reading a second.
    pub async fn admit<'a>(&self, body: &'a [u8], demand: Demand<'_>) -> Result<Admitted<'a>, Refusal> {
        let started = Instant::now();
        let check = |trust: &TrustState, now| self.verifier.check(body, demand, trust, now);
        let verdict = self.judge(check).await;
        record(&verdict, started);
        verdict
    }

    /// Refuses what would not be admitted, and spends no nonce: for requests that have to wait before they are.
    pub async fn would_admit(&self, body: &[u8], demand: Demand<'_>) -> Result<(), Refusal> {
        let started = Instant::now();
        let check = |trust: &TrustState, now| self.verifier.would_admit(body, demand, trust, now);
        self.judge(check).await.inspect_err(|refusal| record(&Err(refusal.clone()), started))
    }

    async fn judge<T>(
        &self,
        check: impl Fn(&TrustState, Timestamp) -> Result<T, Held>,
    ) -> Result<T, Refusal> {
        let verdict = match check(&self.trust.state(), self.trust.now()) {
            Err(Held::UnknownIssuer(key)) => match self.issuers.learn(key).await {
                Ok(()) => check(&self.trust.state(), self.trust.now()),
                Err(refusal) => Err(refusal.into()),
            },
            verdict => verdict,
        };
        verdict.map_err(Held::into_refusal)
    }

    /// The time by which it judges.
    pub fn now(&self) -> Timestamp {
        self.trust.now()
    }

    /// The verifier inside.
    pub fn verifier(&self) -> &AccessVerifier {
        &self.verifier
    }

    /// Sets the gauges of what is held, and gives memory back.
    pub fn tidy(&self) {
        self.verifier.nonces().forget(self.trust.now());
        let held = |kind, count: u64| {
            metrics::gauge!("edge_cache_entries", "kind" => kind)
                .set(u32::try_from(count).unwrap_or(u32::MAX));
        };
        if let Some(head) = self.trust.state().chain().head() {
            let sequence = head.event().sequence_number;
            metrics::gauge!("edge_chain_sequence").set(u32::try_from(sequence).unwrap_or(u32::MAX));
        }
        held("token", self.verifier.tokens_held());
        held("issuer", self.verifier.issuers().held());
        held("nonce", self.verifier.nonces().held() as u64);
        let trust = self.trust.state();
        held("denial", trust.denied().feed.denials().count() as u64);
        held("revocation", trust.denied().entries.count() as u64);
    }
}

fn record(verdict: &Result<Admitted<'_>, Refusal>, started: Instant) {
    let (decision, code, path) = match verdict {
        Ok(admitted) => ("admitted", "", if admitted.warm() { "warm" } else { "cold" }),
        Err(refusal) => ("refused", refusal.code().as_str(), "refused"),
    };
    metrics::counter!("edge_decisions_total", "decision" => decision, "code" => code).increment(1);
    metrics::histogram!("edge_verify_duration_seconds", "path" => path).record(started.elapsed());
}
