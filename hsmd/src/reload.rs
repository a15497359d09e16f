//! SIGHUP: what is read again without a restart, and what becomes of a file that is not right.

use std::{io, sync::Arc};

use systemd::exit::Failure;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    config::Socket,
    health::Health,
    policy::{Change, PolicyFile},
    tls::Tls,
};

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

    /// Waits for the next SIGHUP and reads everything again. What is wrong is noted in `health`.
    pub async fn next(&mut self, health: &Health) {
        if self.hangups.recv().await.is_none() {
            // Nothing can ask any more: there is nothing to wait for.
            std::future::pending::<()>().await;
        }
        health.warn("policy", self.read_policy().err());
        health.warn("tls", self.tls.iter().find_map(|tls| read_tls(tls).err()));
    }

    fn read_policy(&self) -> Result<(), String> {
        let kept = |error: systemd::config::Error| {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the policy is not right; the last good one stays"
            );
            format!("{error}; the last good policy stays")
        };
        let policy = self.policy.read().map_err(kept)?;
        match self.policy.change(&policy) {
            None => tracing::info!(digest = %policy.digest(), "the policy is unchanged"),
            Some(change) => record(&change),
        }
        // An unchanged text is adopted too: it may name a user that was made since.
        self.policy.adopt(policy);
        Ok(())
    }
}

fn read_tls(tls: &Tls) -> Result<(), String> {
    match tls.reload() {
        Ok(()) => {
            tracing::info!("read certificate, key and client authorities again");
            Ok(())
        }
        Err(error) => {
            let error = Failure::config(error);
            tracing::error!(%error, "TLS cannot be renewed; what it had stays");
            Err(format!("{error}; certificate, key and client authorities stay as they were"))
        }
    }
}

/// Notes that another policy comes into force, before it does. The one place to do so.
fn record(change: &Change) {
    tracing::info!(before = %change.before, after = %change.after, rows = change.rows, "another policy comes into force");
}
