//! Mutual TLS on a socket that systemd passed: who a caller on another host is.
//!
//! TLS 1.3 only; a client without a certificate of the configured authority gets no further than the
//! handshake. No session is resumed, because a resumed one would bring the trust of an earlier day with it.
//! Certificate, key, authority and revocation list are read again at SIGHUP: new handshakes use the new
//! ones, and on connections that are open the client's certificate is verified again at each request, so
//! that one which has ended, or was revoked, asks for nothing more.

mod material;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use keychain::Timestamp;
use rustls::{
    DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, UnixTime},
    server::{
        ClientHello, NoServerSessionStorage, ResolvesServerCert,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};
use serde::Deserialize;
pub use systemd::tls::Error;
use webpki::EndEntityCert;

use crate::policy::{Caller, San};
use material::Material;

/// Names that a client certificate may have. One with more is refused.
const NAMES_MAX: usize = 16;

/// Where certificate, key and trust come from, as `[listen.tls]` says it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// hsmd's own certificate, with those that lead to an authority its clients know; PEM.
    pub certificate: PathBuf,
    /// Its key: a credential's name, or the absolute path of a private file; PEM.
    pub key: String,
    /// The authorities whose client certificates count; PEM.
    pub client_ca: PathBuf,
    /// Their revocation lists, if they keep any; PEM.
    pub crl: Option<PathBuf>,
}

impl Files {
    /// Those of hsmd itself.
    fn own(&self) -> systemd::tls::Files {
        systemd::tls::Files { certificate: self.certificate.clone(), key: self.key.clone() }
    }

    /// Those that are named by a path and nothing else.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        [Some(&self.certificate), Some(&self.client_ca), self.crl.as_ref()]
            .into_iter()
            .flatten()
            .map(PathBuf::as_path)
    }
}

/// The TLS side of one socket. Its parts can be exchanged while it serves.
#[derive(Debug)]
pub struct Tls {
    files: Files,
    material: RwLock<Arc<Material>>,
}

/// The certificates that a client presented, its own first.
#[derive(Clone, Debug)]
pub struct Presented(Vec<CertificateDer<'static>>);

impl Tls {
    /// Reads and checks the files.
    pub fn open(files: Files) -> Result<Arc<Self>, Error> {
        let material = RwLock::new(Arc::new(Material::read(&files)?));
        Ok(Arc::new(Self { files, material }))
    }

    /// Reads the files again; what is not right changes nothing.
    pub fn reload(&self) -> Result<(), Error> {
        let material = Arc::new(Material::read(&self.files)?);
        *self.material.write().unwrap_or_else(PoisonError::into_inner) = material;
        Ok(())
    }

    /// How a server does its handshakes.
    pub fn server_config(self: &Arc<Self>) -> io::Result<ServerConfig> {
        let mut config = ServerConfig::builder_with_provider(systemd::tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)?
            .with_client_cert_verifier(Arc::new(Current(Arc::clone(self))))
            .with_cert_resolver(Arc::new(Current(Arc::clone(self))));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// Whether the certificates hold at `now`, by what is trusted now.
    pub fn trusts(&self, presented: &Presented, now: Timestamp) -> bool {
        let seconds = u64::try_from(now.unix_millis() / 1000).unwrap_or(0);
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        let Some((own, others)) = presented.0.split_first() else { return false };
        match self.material().clients.verify_client_cert(own, others, now) {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(%error, "the certificate of an open connection does not hold any more");
                false
            }
        }
    }

    fn material(&self) -> Arc<Material> {
        Arc::clone(&self.material.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Presented {
    /// What a client presented, and who it is: the holder of its names.
    pub fn new(chain: &[CertificateDer<'_>]) -> (Self, Caller) {
        let own = chain.first().and_then(|own| EndEntityCert::try_from(own).ok());
        let names = own.map(|own| names(&own)).unwrap_or_default();
        let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        (Self(chain), Caller::Named(names.into()))
    }
}

fn names(own: &EndEntityCert<'_>) -> Vec<San> {
    let names = own.valid_uri_names().map(San::uri).chain(own.valid_dns_names().map(San::dns));
    let names: Vec<_> = names.take(NAMES_MAX + 1).collect();
    if names.len() > NAMES_MAX { Vec::new() } else { names }
}

/// Whatever the files gave when they were last read.
#[derive(Debug)]
struct Current(Arc<Tls>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.material().own))
    }
}

impl ClientCertVerifier for Current {
    /// No hints: a client knows which certificate it has for this host.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.0.material().clients.verify_client_cert(own, others, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.material().clients.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.material().clients.supported_verify_schemes()
    }
}
