//! What one reading of the files gave.

use std::{path::Path, sync::Arc};

use rustls::{
    RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{
        CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
};
use systemd::{config, credential};
use zeroize::Zeroize as _;

use super::{Error, Files};

/// Longest key file: the largest RSA key has some 6 KiB of PEM.
const KEY_MAX: usize = 16 * 1024;

#[derive(Debug)]
pub(super) struct Material {
    /// hsmd's certificate with its key.
    pub(super) own: Arc<CertifiedKey>,
    /// Whose client certificates count.
    pub(super) clients: Arc<dyn ClientCertVerifier>,
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

impl Material {
    /// Reads and checks everything; the key last, because a check by hand has no credentials.
    pub(super) fn read(files: &Files) -> Result<Self, Error> {
        let clients = clients(files)?;
        let own = Arc::new(own(files)?);
        Ok(Self { own, clients })
    }
}

/// Trust: what these files say decides who a caller is.
fn clients(files: &Files) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    const WHAT: &str = "certificate of an authority";
    let mut roots = RootCertStore::empty();
    for certificate in read::<CertificateDer<'_>>(&files.client_ca, WHAT)? {
        roots.add(certificate).map_err(|source| unusable(&files.client_ca, WHAT, source))?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
    if let Some(crl) = &files.crl {
        builder = builder.with_crls(read::<CertificateRevocationListDer<'_>>(crl, "revocation list")?);
    }
    builder.build().map_err(|source| unusable(files.crl.as_deref().unwrap_or(&files.client_ca), WHAT, source))
}

fn own(files: &Files) -> Result<CertifiedKey, Error> {
    const WHAT: &str = "certificate";
    let chain = read::<CertificateDer<'_>>(&files.certificate, WHAT)?;
    let pem = credential::read(&files.key, KEY_MAX)?;
    let no_key = |source: Box<dyn std::error::Error + Send + Sync>| Error::Unusable {
        path: files.key.clone(),
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
            Err(Error::Mismatch { certificate: files.certificate.clone(), key: files.key.clone(), source })
        }
        Err(source) => Err(unusable(&files.certificate, WHAT, source)),
    }
}

/// Everything of one kind in a file: at least one.
fn read<T: PemObject>(path: &Path, what: &'static str) -> Result<Vec<T>, Error> {
    let text = config::read_protected(path)?;
    let found: Result<Vec<_>, _> = T::pem_slice_iter(text.as_bytes()).collect();
    let found = found.map_err(|source| unusable(path, what, source))?;
    if found.is_empty() {
        return Err(unusable(path, what, pem::Error::NoItemsFound));
    }
    Ok(found)
}

fn unusable(
    path: &Path,
    what: &'static str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::Unusable { path: path.display().to_string(), what, source: source.into() }
}
