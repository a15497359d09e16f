//! `hsm-publisher.toml`.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use systemd::{
    config::{self, Error},
    listen::Address,
};

/// What `hsm-publisher.toml` says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// hsmd's socket for endorsements, which tells the chain too.
    #[serde(default = "default_endorse")]
    endorse: Address,
    /// hsmd's socket for the publisher's reports of what is published.
    #[serde(default = "default_publish")]
    publish: Address,
    /// The key directory.
    #[serde(default = "default_redis")]
    pub redis: String,
    /// Where metrics are served.
    #[serde(default = "default_metrics")]
    pub metrics: Address,
}

impl Config {
    /// Reads and checks the file.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let config: Self = config::load(path)?;
        match (&config.endorse, &config.publish) {
            (Address::Unix(_), Address::Unix(_)) => Ok(config),
            (Address::Unix(_), _) => {
                Err(Error::value(path, "publish", "is no Unix socket: write unix:/run/hsmd/publish.sock"))
            }
            _ => Err(Error::value(path, "endorse", "is no Unix socket: write unix:/run/hsmd/endorse.sock")),
        }
    }

    /// hsmd's socket that tells the chain.
    pub fn socket(&self) -> PathBuf {
        unix(&self.endorse)
    }

    /// hsmd's socket that takes reports of what is published.
    pub fn report_socket(&self) -> PathBuf {
        unix(&self.publish)
    }
}

fn unix(address: &Address) -> PathBuf {
    match address {
        Address::Unix(path) => path.clone(),
        _ => PathBuf::new(),
    }
}

fn default_publish() -> Address {
    Address::Unix(PathBuf::from("/run/hsmd/publish.sock"))
}

fn default_endorse() -> Address {
    Address::Unix(PathBuf::from("/run/hsmd/endorse.sock"))
}

fn default_redis() -> String {
    "redis://127.0.0.1:6379".to_owned()
}

fn default_metrics() -> Address {
    Address::Tcp(([127, 0, 0, 1], 9105).into())
}
