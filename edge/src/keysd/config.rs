//! `keysd.toml`: what keysd is told.

use std::path::{Path, PathBuf};

use keychain::Digest;
use keychain::acknowledgement::Instance;
use serde::Deserialize;
use systemd::config::{self, Span};
use systemd::exit::Failure;
use systemd::listen::Address;
use systemd::tls;

use crate::endorser::{self, Endorser};
use crate::http::{Proxies, server};
use crate::trust::{self, Keysd, KeysdUnusable};
use crate::updates;

/// The file as it stands.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The HSM identity: the prefix of the key chain that everything is verified against.
    pub identity: Digest,
    /// hsmd's endorsement socket: `unix:/path`, or `https://host:port`. With it keysd follows hsmd beside the directory,
    /// and acknowledges what it applied with a key of its own; without it neither.
    pub endorse: Option<String>,
    /// The certificates for an hsmd on another host.
    pub endorse_tls: Option<endorser::Tls>,
    /// Which of several processes of one keysd this is, as hsmd's policy names it.
    #[serde(default = "Instance::only")]
    pub instance: Instance,
    /// Where devices reach it.
    pub listen: Address,
    /// TLS of its own; without it, a reverse proxy has it.
    pub tls: Option<tls::Files>,
    /// Whose word counts for the id of a request.
    #[serde(default)]
    pub trusted_proxies: Proxies,
    /// How long requests under way may take once keysd is asked to stop.
    #[serde(default = "drain")]
    pub drain: Span,
    /// The key directory.
    pub redis: String,
    /// Where operators of this host order new keys: a Unix socket; none if unset.
    pub admin: Option<Address>,
    /// Where `/metrics`, `/livez` and `/readyz` are served.
    pub metrics: Address,
    /// The directory that remembers the highest event of the chain.
    pub state: PathBuf,
    /// How far clocks may differ.
    #[serde(default = "clock_skew")]
    pub clock_skew: Span,
    /// The event that resolves a contested chain.
    pub chain_pin: Option<Digest>,
    /// How long ago a head of hsmd may have shown at most that nothing newer exists; beyond it, requests are
    /// answered with BA607.
    #[serde(default = "head_max_age")]
    pub head_max_age: Span,
    /// Whether heads may be of any age: a directory that withholds denials is then believed for ever.
    #[serde(default)]
    pub insecure_any_head_age: bool,
    /// How often everything in the key directory is read again, whatever it announced.
    #[serde(default = "reread_every")]
    pub reread_every: Span,
    /// Each other keysd that is asked for chain and heads: `unix:/path`, `http://host:port` or `https://host`.
    #[serde(default)]
    pub keysd: Vec<String>,
    /// The authorities that the certificates of those over https must come from: a PEM file.
    pub keysd_ca: Option<PathBuf>,
}

impl Config {
    /// The way to hsmd, if there is to be one.
    pub fn endorser(&self) -> Result<Option<Endorser>, endorser::Error> {
        match (&self.endorse, &self.endorse_tls) {
            (Some(address), tls) => Endorser::new(address, tls.as_ref()).map(Some),
            (None, Some(_)) => Err(endorser::TlsError::Unasked.into()),
            (None, None) => Ok(None),
        }
    }

    /// Each other keysd that is asked.
    pub fn keysd(&self) -> Result<Vec<Keysd>, KeysdUnusable> {
        Keysd::list(&self.keysd, self.keysd_ca.as_deref())
    }

    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, config::Error> {
        let config: Self = config::load(path)?;
        config.endorser().map_err(|error| config::Error::value(path, "endorse", error.to_string()))?;
        if matches!(config.admin, Some(Address::Tcp(_))) {
            let because = "over TCP nobody knows who calls; give unix:/PATH";
            return Err(config::Error::value(path, "admin", because));
        }
        server::drain(config.drain)
            .map_err(|error| config::Error::value(path, "drain", error.to_string()))?;
        server::check_tls(&config.listen, config.tls.as_ref())
            .map_err(|error| config::Error::value(path, "tls", error.to_string()))?;
        let tls = config.tls.as_ref().map_or(Ok(()), tls::Files::check);
        tls.map_err(|error| config::Error::value(path, "tls", Failure::config(error).to_string()))?;
        config.keysd().map_err(|error| config::Error::value(path, "keysd", error.to_string()))?;
        updates::reread_every(config.reread_every)
            .map_err(|error| config::Error::value(path, "reread_every", error.to_string()))?;
        match trust::head_max_age(config.head_max_age, config.insecure_any_head_age) {
            Ok(_) => Ok(config),
            Err(error) => Err(config::Error::value(path, "head_max_age", error.to_string())),
        }
    }
}

const fn head_max_age() -> Span {
    Span::seconds(trust::HEAD_MAX_AGE.as_secs())
}

const fn reread_every() -> Span {
    updates::REREAD_EVERY
}

const fn clock_skew() -> Span {
    Span::seconds(5)
}

const fn drain() -> Span {
    Span::seconds(5)
}
