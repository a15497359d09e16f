//! `opsctl audit`: hsmd's audit trail, read from hsmd or from a file that was exported.

mod archive;
mod read;
mod show;
#[cfg(test)]
mod tests;
mod verify;

pub(crate) use archive::{Archive, Export, archive, export};
pub(crate) use read::Source;
pub(crate) use show::{Show, show};
pub(crate) use verify::{Verify, verify};
