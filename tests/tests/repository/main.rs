//! What holds for the repository itself: its shape, its units, its samples. Needs no server.
#![cfg(test)]

mod alerts;
mod drop_ins;
mod samples;
mod tidy;
mod units;

use std::path::{Path, PathBuf};

/// The workspace's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}
