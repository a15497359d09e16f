//! The daemons' configuration files, as `opsctl dev` writes them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::layout::write_private;
use crate::failure::{Exit, Failure, OrFail};

/// The token's label and the service name of the socket that tests and people use.
pub(crate) const TOKEN_LABEL: &str = "keelson";
const LABORATORY: &str = "edge:dev";

/// `hsmd.toml`.
#[derive(Debug, Serialize)]
pub(crate) struct Hsmd {
    pub(crate) ledger: String,
    pub(crate) metrics: String,
    pub(crate) insecure_plain_http_endorse: SocketAddr,
    pub(crate) insecure_plain_http_service: &'static str,
    pub(crate) hsm: Hsm,
    pub(crate) listen: Vec<Listen>,
}

/// The token.
#[derive(Debug, Serialize)]
pub(crate) struct Hsm {
    pub(crate) module: PathBuf,
    pub(crate) token_label: &'static str,
    pub(crate) pin: PathBuf,
}

/// One of hsmd's sockets and who may do what there.
#[derive(Debug, Serialize)]
pub(crate) struct Listen {
    address: String,
    role: &'static str,
    mode: &'static str,
    allow: Vec<Allow>,
}

#[derive(Debug, Serialize)]
struct Allow {
    user: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    purposes: Option<&'static [&'static str]>,
}

impl Hsmd {
    pub(crate) fn new(folder: &Path, module: &Path, plain_http: SocketAddr, listen: Vec<Listen>) -> Self {
        Self {
            ledger: sqlite(&folder.join("ledger.db")),
            metrics: unix(&folder.join("metrics.sock")),
            insecure_plain_http_endorse: plain_http,
            insecure_plain_http_service: LABORATORY,
            hsm: Hsm { module: module.to_owned(), token_label: TOKEN_LABEL, pin: folder.join("pin") },
            listen,
        }
    }
}

impl Listen {
    /// Everything runs as one user here, so each service is told apart by a socket of its own.
    pub(crate) fn endorse(socket: &Path, user: u32, service: Service<'_>) -> Self {
        let (service, purposes): (_, &[_]) = match service {
            Service::Authd => ("authd".to_owned(), &["access", "response"]),
            Service::Edge(name) => (format!("edge:{name}"), &["response"]),
            Service::Laboratory => (LABORATORY.to_owned(), &["response"]),
        };
        let allow = Allow { user, service: Some(service), purposes: Some(purposes) };
        Self { address: unix(socket), role: "endorse", mode: "0600", allow: vec![allow] }
    }

    pub(crate) fn admin(socket: &Path, user: u32) -> Self {
        let allow = Allow { user, service: None, purposes: None };
        Self { address: unix(socket), role: "admin", mode: "0600", allow: vec![allow] }
    }
}

/// Whose endorsements a socket gives.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Service<'a> {
    Authd,
    Edge(&'a str),
    Laboratory,
}

/// `hsm-publisher.toml`.
#[derive(Debug, Serialize)]
pub(crate) struct Publisher {
    pub(crate) endorse: String,
    pub(crate) redis: String,
    pub(crate) metrics: SocketAddr,
}

/// What authd, edge and keysd have in common: they verify.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Verifier {
    pub(crate) identity: String,
    pub(crate) listen: SocketAddr,
    pub(crate) redis: String,
    pub(crate) metrics: SocketAddr,
    pub(crate) state: PathBuf,
}

/// `authd.toml`.
#[derive(Debug, Serialize)]
pub(crate) struct Authd {
    #[serde(flatten)]
    pub(crate) verifier: Verifier,
    pub(crate) endorse: String,
    pub(crate) database: String,
}

/// `edge.toml`.
#[derive(Debug, Serialize)]
pub(crate) struct Edge {
    #[serde(flatten)]
    pub(crate) verifier: Verifier,
    pub(crate) endorse: String,
    pub(crate) name: String,
    pub(crate) app: String,
    pub(crate) app_secret: PathBuf,
    pub(crate) route: Vec<Route>,
}

/// What a path of an app requires.
#[derive(Debug, Serialize)]
pub(crate) struct Route {
    pub(crate) path: &'static str,
    pub(crate) role: &'static str,
    pub(crate) permission: &'static str,
}

/// The one path that the sample apps serve.
pub(crate) const SAMPLE_ROUTE: Route = Route { path: "/foo/bar", role: "user", permission: "read" };

/// Writes a configuration file.
pub(crate) fn write(path: &Path, configuration: &impl Serialize) -> Result<(), Failure> {
    let text = toml::to_string(configuration)
        .or_fail(Exit::Software, || format!("cannot write `{}` as TOML", path.display()))?;
    write_private(path, text.as_bytes())
}

/// A Unix socket's address in a configuration.
pub(crate) fn unix(path: &Path) -> String {
    format!("unix:{}", path.display())
}

/// A SQLite file's URL in a configuration.
pub(crate) fn sqlite(path: &Path) -> String {
    format!("sqlite://{}", path.display())
}
