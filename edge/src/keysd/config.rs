//! `keysd.toml`: what keysd is told.

use std::path::PathBuf;

use keychain::Digest;
use serde::Deserialize;
use systemd::config::Span;
use systemd::listen::Address;

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
}

const fn clock_skew() -> Span {
    Span::seconds(5)
}
