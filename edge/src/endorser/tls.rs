//! Mutual TLS to an hsmd on another host.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::tls::Version;
use reqwest::{Certificate, Identity};
use serde::Deserialize;
use systemd::{config, credential};
use zeroize::Zeroizing;

/// How long a connection to another host may take to open, its handshake included.
const CONNECT_DEADLINE: Duration = Duration::from_secs(4);

/// Longest key file: the largest RSA key has some 6 KiB of PEM.
const KEY_MAX: usize = 16 * 1024;

/// What this service and an hsmd on another host know each other by: `endorse_tls`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The authorities that hsmd's certificate must come from, and no others; PEM.
    pub ca: PathBuf,
    /// This service's certificate; a name in it is what hsmd's policy knows. PEM.
    pub certificate: PathBuf,
    /// Its key: a credential's name or the absolute path of a private file; PEM.
    pub key: String,
}

/// Why there is no TLS to speak.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or others can write to it.
    #[error(transparent)]
    File(#[from] config::Error),
    /// The key cannot be read, or others can read it.
    #[error(transparent)]
    Key(#[from] credential::Error),
    /// An https address without certificates.
    #[error(
        "https takes `endorse_tls`, with `ca`, `certificate` and `key`: hsmd lets nobody in without a certificate"
    )]
    Missing,
    /// Certificates for an address that does not use them.
    #[error("`endorse_tls` is for `https://host:port`: on this host hsmd knows a service by its user")]
    Unasked,
    /// What the files hold is not what ought to be there.
    #[error("`endorse_tls`: what is in {what} cannot be used: give PEM, as `opsctl tls` writes it")]
    Unusable {
        /// The key of the configuration.
        what: &'static str,
        /// What the TLS library says.
        source: reqwest::Error,
    },
}

impl Tls {
    /// A client that trusts this authority alone and says who it is: TLS 1.3, no proxy, no redirects.
    pub(super) fn client(&self, deadline: Duration) -> Result<reqwest::Client, TlsError> {
        let unusable = |what| move |source| TlsError::Unusable { what, source };
        let authorities = config::read_protected(&self.ca)?;
        let authorities = Certificate::from_pem_bundle(authorities.as_bytes()).map_err(unusable("`ca`"))?;
        let certificate = config::read_protected(&self.certificate)?;
        let key = credential::read(&self.key, KEY_MAX)?;
        // Of its final length from the start, so that no copy of the key is left behind.
        let mut both = Zeroizing::new(Vec::with_capacity(certificate.len() + key.len() + 1));
        both.extend_from_slice(certificate.as_bytes());
        both.push(b'\n');
        both.extend_from_slice(&key);
        let identity = Identity::from_pem(&both).map_err(unusable("`certificate` and `key`"))?;
        reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .https_only(true)
            .tls_version_min(Version::TLS_1_3)
            .tls_certs_only(authorities)
            .identity(identity)
            .connect_timeout(CONNECT_DEADLINE)
            .timeout(deadline)
            .build()
            .map_err(unusable("`certificate` and `key`"))
    }
}

/// The address without a slash at its end, if it is `https://host:port` and nothing more.
pub(crate) fn origin(address: &str) -> Option<&str> {
    let origin = address.strip_suffix('/').unwrap_or(address);
    let url = reqwest::Url::parse(origin).ok()?;
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    let anonymous = url.username().is_empty() && url.password().is_none();
    (url.scheme() == "https" && bare && anonymous && url.has_host()).then_some(origin)
}

#[cfg(test)]
mod tests {
    use super::super::{Endorser, Error};
    use super::*;

    #[test]
    fn certificates_go_with_https_and_with_nothing_else() {
        let tls = Tls { ca: "/a".into(), certificate: "/c".into(), key: "key".into() };
        for address in ["https://hsm:7443", "https://10.0.0.1:7443/", "https://[::1]:7443"] {
            assert!(Endorser::new(address, Some(&tls)).is_ok(), "{address}");
            assert!(matches!(Endorser::new(address, None), Err(Error::Tls(TlsError::Missing))), "{address}");
        }
        for address in ["unix:/run/hsmd/endorse.sock", "http://127.0.0.1:8082"] {
            assert!(Endorser::new(address, None).is_ok(), "{address}");
            assert!(matches!(Endorser::new(address, Some(&tls)), Err(Error::Tls(TlsError::Unasked))));
        }
        for address in [
            "https://hsm/x",
            "https://hsm?x",
            "https://u@hsm",
            "https://u:p@hsm",
            "https://hsm#x",
            "https://",
        ] {
            assert!(matches!(Endorser::new(address, None), Err(Error::Address(_))), "{address}");
        }
    }
}
