//! `opsctl audit verify` and `opsctl audit show`: hsmd's audit trail, read without hsmd.

mod show;
#[cfg(test)]
mod tests;
mod verify;
mod walk;

use std::path::PathBuf;

pub(crate) use show::{Show, show};
pub(crate) use verify::{Verify, verify};

/// Which trail.
#[derive(Debug, clap::Args)]
pub(crate) struct Place {
    /// The trail's folder, `audit` in hsmd.toml; whoever reads it must be root or hsmd
    #[arg(long, value_name = "DIR", default_value = "/var/lib/hsmd/audit")]
    dir: PathBuf,
    /// Begin with the oldest file that is there: those before it were moved away
    #[arg(long)]
    partial: bool,
}
