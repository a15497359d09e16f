//! Certificates are read again at SIGHUP.

use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use systemd::exit::Failure;
use systemd::tls::Certificate;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::task::Task;

/// Renews the certificate of a socket at each SIGHUP, as long as it is kept.
#[derive(Debug)]
pub struct Renewal {
    refused: Refused,
    task: Option<Task>,
}

/// Why the files were not taken in when they were last read, if they were not.
type Refused = Arc<Mutex<Option<String>>>;

impl Renewal {
    /// Listens for SIGHUP from now on, if there is a certificate.
    pub fn on_hangup(certificate: Option<&Arc<Certificate>>) -> io::Result<Self> {
        let refused = Refused::default();
        let Some(certificate) = certificate else { return Ok(Self { refused, task: None }) };
        let follow = follow(signal(SignalKind::hangup())?, Arc::clone(certificate), Arc::clone(&refused));
        Ok(Self { task: Some(Task::spawn(follow)), refused })
    }

    /// For pages: whether the certificate in use is the one in its files, if there is one.
    pub fn detail(&self) -> impl Fn() -> Vec<(String, String)> + Send + Sync + use<> {
        let (is_there, refused) = (self.task.is_some(), Arc::clone(&self.refused));
        move || {
            let refused = refused.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let told =
                refused.map_or("ok".to_owned(), |because| format!("the one of before stays: {because}"));
            if is_there { vec![("tls_certificate".to_owned(), told)] } else { Vec::new() }
        }
    }
}

async fn follow(mut hangups: Signal, certificate: Arc<Certificate>, refused: Refused) {
    while hangups.recv().await.is_some() {
        let because = match certificate.renew() {
            Ok(()) => {
                tracing::info!("the TLS certificate was read again, as SIGHUP asked for");
                None
            }
            Err(error) => {
                let told = "the TLS certificate cannot be renewed: the one of before stays; correct its files and reload";
                tracing::error!(error = &error as &dyn Error, "{told}");
                Some(Failure::config(error).to_string())
            }
        };
        metrics::gauge!("tls_certificate_refused").set(if because.is_some() { 1.0 } else { 0.0 });
        *refused.lock().unwrap_or_else(PoisonError::into_inner) = because;
    }
}
