//! What one reading of the files gave.

use std::sync::Arc;

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, CertificateRevocationListDer},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
};
use systemd::tls::{provider, read_pem};

use super::{Error, Files};

#[derive(Debug)]
pub(super) struct Material {
    /// hsmd's certificate with its key.
    pub(super) own: Arc<CertifiedKey>,
    /// Whose client certificates count.
    pub(super) clients: Arc<dyn ClientCertVerifier>,
}

impl Material {
    /// Reads and checks everything; the key last, because a check by hand has no credentials.
    pub(super) fn read(files: &Files) -> Result<Self, Error> {
        let clients = clients(files)?;
        let own = Arc::new(files.own().read()?);
        Ok(Self { own, clients })
    }
}

/// Trust: what these files say decides who a caller is.
fn clients(files: &Files) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    const WHAT: &str = "certificate of an authority";
    let mut roots = RootCertStore::empty();
    for certificate in read_pem::<CertificateDer<'_>>(&files.client_ca, WHAT)? {
        roots.add(certificate).map_err(|source| Error::unusable(&files.client_ca, WHAT, source))?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
    if let Some(crl) = &files.crl {
        builder = builder.with_crls(read_pem::<CertificateRevocationListDer<'_>>(crl, "revocation list")?);
    }
    let path = files.crl.as_deref().unwrap_or(&files.client_ca);
    builder.build().map_err(|source| Error::unusable(path, WHAT, source))
}
