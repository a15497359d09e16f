//! SIGHUP: what is read again without a restart, and what becomes of a file that is not right.

use std::{io, sync::Arc};

use keychain::{Code, Refusal};
use systemd::exit::Failure;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    audit::{
        Audit,
        operation::{Intent, Outcome},
    },
    daemon::config::Socket,
    health::Health,
    http::tls::Tls,
    policy::{Change, PolicyFile},
};

/// The caller in the audit trail: every process that may send the signal is one.
const ASKED_BY: &str = "SIGHUP";

/// What can be read again while hsmd runs. Whatever is not right keeps its last good state, and says so in
/// the log, in the unit's status and in `GET /health`, until it is read again and is.
pub struct Reload {
    hangups: Signal,
    policy: Arc<PolicyFile>,
    tls: Vec<Arc<Tls>>,
}

impl Reload {
    /// Listens for SIGHUP from now on: before, it would end the process.
    pub fn on_hangup(policy: Arc<PolicyFile>, sockets: &[Socket]) -> io::Result<Self> {
        let tls = sockets.iter().filter_map(|socket| socket.tls.clone()).collect();
        Ok(Self { hangups: signal(SignalKind::hangup())?, policy, tls })
    }

    /// Reads again what each SIGHUP asks for, for ever, and calls `done` after each.
    pub async fn run(mut self, audit: &Audit, health: &Health, done: impl Fn()) {
        loop {
            self.next(audit, health).await;
            done();
        }
    }

    /// Waits for the next SIGHUP and reads everything again. What is wrong is noted in `health`.
    async fn next(&mut self, audit: &Audit, health: &Health) {
        if self.hangups.recv().await.is_none() {
            // Nothing can ask any more: there is nothing to wait for.
            std::future::pending::<()>().await;
        }
        health.warn("policy", self.read_policy(audit).await.err());
        let mut tls = None;
        for each in &self.tls {
            tls = read_tls(audit, each).await.err().or(tls);
        }
        health.warn("tls", tls);
    }

    async fn read_policy(&self, audit: &Audit) -> Result<(), String> {
        let kept = |error: systemd::config::Error| {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the policy is not right; the last good one stays"
            );
            format!("{error}; the last good policy stays")
        };
        let policy = self.policy.read().map_err(kept)?;
        let Some(change) = self.policy.change(&policy) else {
            tracing::info!(digest = %policy.digest(), "the policy is unchanged");
            return Ok(());
        };
        let intent = Intent::by(ASKED_BY, "policy")
            .with("before", &change.before.to_string())
            .with("after", &change.after.to_string());
        let file = Arc::clone(&self.policy);
        let adopted = audit.operation(intent, move |_| async move {
            file.adopt(policy);
            Ok(change)
        });
        adopted.await.map(drop).map_err(|refusal| format!("{}; reload once it can", refusal.because()))
    }
}

async fn read_tls(audit: &Audit, tls: &Arc<Tls>) -> Result<(), String> {
    let read = Arc::clone(tls);
    let done = audit.operation(Intent::by(ASKED_BY, "tls"), move |_| async move {
        read.reload().map_err(|error| {
            let error = Failure::config(error);
            tracing::error!(%error, "TLS cannot be renewed; what it had stays");
            Refusal::new(Code::Unavailable, "certificate, key and client authorities stay as they were")
                .with("because", error.to_string())
        })?;
        Ok(Renewed)
    });
    match done.await {
        Ok(Renewed) => Ok(()),
        Err(refusal) => {
            let because = refusal.context("because").unwrap_or("reload once it can");
            Err(format!("{because}; {}", refusal.because()))
        }
    }
}

/// Certificate, key and client authorities were read anew.
struct Renewed;

impl Outcome for Renewed {
    fn details(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

impl Outcome for Change {
    fn details(&self) -> Vec<(&'static str, String)> {
        vec![("rows", self.rows.to_string())]
    }
}
