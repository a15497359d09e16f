//! TLS on a socket: a certificate with its key, which can be renewed while it is in use, and bounds on handshakes.

mod handshake;

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::{self, PemObject};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use serde::Deserialize;
use zeroize::Zeroize as _;

use crate::{config, credential};
pub use handshake::{Bounded, Handshakes};

/// Longest key file: the largest RSA key has some 6 KiB of PEM.
const KEY_MAX: usize = 16 * 1024;

/// Where a certificate and its key come from, as a table `tls` says it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// The certificate, with those that lead to an authority that clients know; PEM.
    pub certificate: PathBuf,
    /// Its key: a credential's name, or the absolute path of a private file; PEM.
    pub key: String,
}

/// What is wrong with such files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read, or others can write to it.
    #[error(transparent)]
    File(#[from] config::Error),
    /// The key cannot be read, or others can read it.
    #[error(transparent)]
    Key(#[from] credential::Error),
    /// The certificate is another key's.
    #[error("the certificate in `{}` is not that of the key `{key}`: give both of one issue", certificate.display())]
    Mismatch {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The name or path of the key.
        key: String,
        /// What the TLS library said.
        source: rustls::Error,
    },
    /// What is in the file is not what ought to be.
    #[error("`{path}` holds no usable {what}: give it as PEM")]
    Unusable {
        /// The file, or the credential.
        path: String,
        /// The kind of file.
        what: &'static str,
        /// What the TLS library said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// What is in the file at `path` is no usable `what`.
    pub fn unusable(
        path: &Path,
        what: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Unusable { path: path.display().to_string(), what, source: source.into() }
    }
}

impl Files {
    /// Reads certificate and key, and checks that they belong together. The key last: a check by hand has no
    /// credentials.
    pub fn read(&self) -> Result<CertifiedKey, Error> {
        const WHAT: &str = "certificate";
        let chain = read_pem(&self.certificate, WHAT)?;
        let pem = credential::read(&self.key, KEY_MAX)?;
        let no_key = |source: Box<dyn std::error::Error + Send + Sync>| Error::Unusable {
            path: self.key.clone(),
            what: "private key",
            source,
        };
        let mut key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| no_key(error.into()))?;
        let signing = aws_lc_rs::sign::any_supported_type(&key);
        key.zeroize();
        let own = CertifiedKey::new(chain, signing.map_err(|error| no_key(error.into()))?);
        match own.keys_match() {
            Ok(()) => Ok(own),
            Err(source @ rustls::Error::InconsistentKeys(_)) => {
                Err(Error::Mismatch { certificate: self.certificate.clone(), key: self.key.clone(), source })
            }
            Err(source) => Err(Error::unusable(&self.certificate, WHAT, source)),
        }
    }

    /// Checks them without using them. A key that would be a credential is not looked for where none are passed, as in
    /// a check by hand.
    pub fn check(&self) -> Result<(), Error> {
        match self.read() {
            Ok(_) | Err(Error::Key(credential::Error::NotPassed { .. })) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The one implementation of cryptography.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Everything of one kind in a file that nobody else can write to: at least one.
pub fn read_pem<T: PemObject>(path: &Path, what: &'static str) -> Result<Vec<T>, Error> {
    let text = config::read_protected(path)?;
    let found: Result<Vec<_>, _> = T::pem_slice_iter(text.as_bytes()).collect();
    let found = found.map_err(|source| Error::unusable(path, what, source))?;
    if found.is_empty() {
        return Err(Error::unusable(path, what, pem::Error::NoItemsFound));
    }
    Ok(found)
}

/// The certificate of a socket that everybody may connect to. It can be exchanged while it is in use: handshakes that
/// begin later have the new one, and connections that are open stay.
#[derive(Debug)]
pub struct Certificate {
    files: Files,
    current: RwLock<Arc<CertifiedKey>>,
}

impl Certificate {
    /// Reads and checks the files.
    pub fn open(files: Files) -> Result<Arc<Self>, Error> {
        let current = RwLock::new(Arc::new(files.read()?));
        Ok(Arc::new(Self { files, current }))
    }

    /// Reads the files again. Files that are not right change nothing.
    pub fn renew(&self) -> Result<(), Error> {
        let renewed = Arc::new(self.files.read()?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = renewed;
        Ok(())
    }

    /// How a server does its handshakes: TLS 1.2 and 1.3, no client certificates, no early data; it offers `protocols`
    /// (names of ALPN), the first of them first.
    pub fn server_config(self: &Arc<Self>, protocols: &[&[u8]]) -> Result<ServerConfig, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Current(Arc::clone(self))));
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Ok(config)
    }
}

/// The certificate as it was last read.
#[derive(Debug)]
struct Current(Arc<Certificate>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.current.read().unwrap_or_else(PoisonError::into_inner)))
    }
}
