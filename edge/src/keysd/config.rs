//! `keysd.toml`: what keysd is told.

use std::path::{Path, PathBuf};

use keychain::Digest;
use serde::Deserialize;
use systemd::config::{self, Span};
use systemd::listen::Address;

use crate::trust;

/// The file as it stands.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The HSM identity: the prefix of the key chain that everything is verified against.
    pub identity: Digest,
    /// Where devices reach it.
    pub listen: Address,
    /// The key directory.
    pub redis: String,
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
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, config::Error> {
        let config: Self = config::load(path)?;
        match trust::head_max_age(config.head_max_age, config.insecure_any_head_age) {
            Ok(_) => Ok(config),
            Err(error) => Err(config::Error::value(path, "head_max_age", error.to_string())),
        }
    }
}

const fn head_max_age() -> Span {
    Span::seconds(trust::HEAD_MAX_AGE.as_secs())
}

const fn clock_skew() -> Span {
    Span::seconds(5)
}
