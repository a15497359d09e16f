//! `opsctl hsm`: what keeps the signer alive beyond its disks and tokens.

mod backup;
mod clock;
mod lease;
mod recover;
mod restored;
mod verify;

pub(crate) use backup::{HandedOn, accept_token, backup, pair, replace, restore, retry_pin};
pub(crate) use clock::{Clock, clock};
pub(crate) use lease::{LeaseVerb, lease};
pub(crate) use recover::{Recover, recover};
pub(crate) use verify::{Verify, verify};
