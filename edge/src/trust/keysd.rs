//! Each keysd that a daemon asks for chain and heads: `keysd` and `keysd_ca` of its configuration.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Certificate;
use systemd::config;

use crate::endorser;
use crate::peer::{NotAnAddress, Peer};

/// Most keysd that a daemon asks: each is asked every second.
const KEYSD_MAX: usize = 8;

/// How long a connection to another host may take to open, its handshake included.
const CONNECT_DEADLINE: Duration = Duration::from_secs(4);

/// Where a keysd is. What it tells is signed, so TLS is a matter of the network between, not of trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keysd {
    /// `unix:/path` or `http://host:port`.
    Plain(Peer),
    /// `https://host`, behind whatever terminates TLS before it.
    Tls {
        /// The address without a slash at its end.
        origin: String,
        /// The file of the authorities that its certificate must come from, and no others.
        ca: PathBuf,
    },
}

/// `keysd` is no list that can be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// One of them is at no address that is spoken here.
    #[error("{0}, or `https://host` with `keysd_ca`")]
    Address(#[from] NotAnAddress),
    /// The authorities cannot be used.
    #[error(transparent)]
    Authorities(#[from] NoClient),
    /// An https address without authorities.
    #[error(
        "`https://` takes `keysd_ca`, a PEM file of the authorities that the certificate must come from, such as \
         /etc/ssl/certs/ca-certificates.crt"
    )]
    NoAuthority,
    /// There are too many.
    #[error("names more than {KEYSD_MAX}; each is asked every second, and a few that differ are enough")]
    TooMany,
    /// Authorities for addresses that do not use them.
    #[error("`keysd_ca` is for `https://host` in `keysd`: take it out, or name one")]
    Unasked,
}

/// Why there is no client for a keysd.
#[derive(Debug, thiserror::Error)]
pub enum NoClient {
    /// The file of authorities cannot be read, or others can write to it.
    #[error(transparent)]
    File(#[from] config::Error),
    /// What is in it is not what ought to be there.
    #[error("`keysd_ca`: what is in `{path}` cannot be used: give certificates as PEM")]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What the TLS library says, if it was that.
        source: Option<reqwest::Error>,
    },
    /// The HTTP library makes none.
    #[error("no HTTP client can be made")]
    Http(#[from] reqwest::Error),
}

impl Keysd {
    /// What a daemon is told of those whom it asks: their addresses, and the authorities of those over TLS.
    pub fn list(addresses: &[String], ca: Option<&Path>) -> Result<Vec<Self>, Unusable> {
        if addresses.len() > KEYSD_MAX {
            return Err(Unusable::TooMany);
        }
        let all = addresses.iter().map(|address| Self::parse(address, ca)).collect::<Result<Vec<_>, _>>()?;
        if ca.is_some() && !all.iter().any(|one| matches!(one, Self::Tls { .. })) {
            return Err(Unusable::Unasked);
        }
        // What can be known to be wrong is known before the start.
        all.iter().try_for_each(|one| one.client(CONNECT_DEADLINE).map(drop))?;
        Ok(all)
    }

    fn parse(address: &str, ca: Option<&Path>) -> Result<Self, Unusable> {
        match (endorser::origin(address), ca) {
            (Some(origin), Some(ca)) => Ok(Self::Tls { origin: origin.to_owned(), ca: ca.to_owned() }),
            (Some(_), None) => Err(Unusable::NoAuthority),
            (None, _) => Ok(Self::Plain(Peer::parse(address)?)),
        }
    }

    /// Its address, as it is configured.
    pub(super) fn address(&self) -> String {
        match self {
            Self::Plain(peer) => peer.address(),
            Self::Tls { origin, .. } => origin.clone(),
        }
    }

    /// The URL of a path (beginning with `/`) there.
    pub(super) fn url(&self, path: &str) -> String {
        match self {
            Self::Plain(peer) => peer.url(path),
            Self::Tls { origin, .. } => format!("{origin}{path}"),
        }
    }

    /// A client for it, with `deadline` for a whole exchange. The authorities are read from their file.
    pub(super) fn client(&self, deadline: Duration) -> Result<reqwest::Client, NoClient> {
        let ca = match self {
            Self::Plain(peer) => return Ok(peer.client(deadline)?),
            Self::Tls { ca, .. } => ca,
        };
        let unusable = |source| NoClient::Authorities { path: ca.clone(), source };
        let text = config::read_protected(ca)?;
        let authorities =
            Certificate::from_pem_bundle(text.as_bytes()).map_err(|error| unusable(Some(error)))?;
        if authorities.is_empty() {
            return Err(unusable(None));
        }
        reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .https_only(true)
            .tls_certs_only(authorities)
            .connect_timeout(CONNECT_DEADLINE)
            .timeout(deadline)
            .build()
            .map_err(|error| unusable(Some(error)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn https_takes_authorities_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let pem = rcgen::generate_simple_self_signed(["keys.example".to_owned()]).unwrap().cert.pem();
        let file = |name: &str, text: &str, mode: u32| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let good = file("good.crt", &pem, 0o644);
        let list = |addresses: &[&str], ca: Option<&Path>| {
            let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            Keysd::list(&addresses, ca)
        };
        for (addresses, ca) in [
            (&["unix:/run/keysd.sock", "http://127.0.0.1:8081/"][..], None),
            (&["https://keys.example", "http://keys:8081"], Some(&good)),
            (&[], None),
        ] {
            let listed = list(addresses, ca.map(PathBuf::as_path)).unwrap();
            assert_eq!(listed.len(), addresses.len());
        }
        let listed = list(&["https://keys.example/"], Some(&good)).unwrap();
        assert_eq!(listed[0].url("/health"), "https://keys.example/health");
        assert!(matches!(list(&["https://keys.example"], None), Err(Unusable::NoAuthority)));
        assert!(matches!(list(&["http://keys:8081"], Some(&good)), Err(Unusable::Unasked)));
        assert!(matches!(list(&["http://keys:8081"; 9], None), Err(Unusable::TooMany)));
        for address in ["", "keys:8081", "https://keys/x", "https://u:p@keys", "http://keys/x", "ftp://keys"]
        {
            assert!(matches!(list(&[address], Some(&good)), Err(Unusable::Address(_))), "{address}");
        }
        for (name, text, mode) in [
            ("empty.crt", "", 0o644),
            ("junk.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 0o644),
            ("loose.crt", &pem, 0o666),
        ] {
            let refused = list(&["https://keys.example"], Some(&file(name, text, mode)));
            assert!(matches!(refused, Err(Unusable::Authorities(_))), "{name}: {refused:?}");
        }
        let missing = list(&["https://keys.example"], Some(&folder.path().join("none")));
        assert!(matches!(missing, Err(Unusable::Authorities(NoClient::File(_)))), "{missing:?}");
    }
}
