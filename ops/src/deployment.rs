//! Which deployment a command talks to.

use std::path::PathBuf;
use std::time::Duration;

use crate::dev::Endpoints;
use crate::door::{Address, Door};
use crate::failure::Failure;

/// Where hsmd's admin socket is when its unit runs.
const ADMIN: &str = "/run/hsmd/admin.sock";

/// Where the key directory is when all daemons run on one host with their defaults.
const DIRECTORY: &str = "redis://127.0.0.1:6379";

/// Names a deployment: the one on this machine unless told otherwise.
#[derive(Debug, clap::Args)]
pub(crate) struct Deployment {
    /// The endpoints file of an `opsctl dev`
    #[arg(long, value_name = "FILE")]
    pub(crate) endpoints: Option<PathBuf>,
    /// hsmd's admin socket [default: /run/hsmd/admin.sock, or as in the endpoints file]
    #[arg(long, value_name = "SOCKET")]
    pub(crate) admin: Option<Address>,
    /// The key directory, where verifiers acknowledge [default: redis://127.0.0.1:6379, or as in the endpoints file]
    #[arg(long, value_name = "URL")]
    pub(crate) directory: Option<String>,
    /// Seconds that each exchange may take
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) timeout: u64,
}

impl Deployment {
    /// The endpoints file's content, when one was named.
    pub(crate) fn endpoints(&self) -> Result<Option<Endpoints>, Failure> {
        self.endpoints.as_deref().map(Endpoints::read).transpose()
    }

    pub(crate) fn admin(&self) -> Result<Door, Failure> {
        let address = match (&self.admin, self.endpoints()?) {
            (Some(address), _) => address.clone(),
            (None, Some(endpoints)) => Address::Socket(endpoints.admin),
            (None, None) => Address::Socket(ADMIN.into()),
        };
        self.open(&address)
    }

    /// The key directory's address.
    pub(crate) fn directory(&self) -> Result<String, Failure> {
        Ok(match (&self.directory, self.endpoints()?) {
            (Some(url), _) => url.clone(),
            (None, Some(endpoints)) => endpoints.redis,
            (None, None) => DIRECTORY.to_owned(),
        })
    }

    pub(crate) fn open(&self, address: &Address) -> Result<Door, Failure> {
        Door::open(address, Duration::from_secs(self.timeout))
    }
}
