//! A PKCS#11 v2.40 module that forwards every call to a real one and fails as a control file tells it to.
//!
//! The daemon under test loads the shared library of this crate; a test writes the control file with
//! [`Plan::write`], whose path the module takes from the environment ([`CONTROL`]). The file is read again
//! whenever it was replaced. What was injected, and every login with its answer, goes to the log beside it
//! ([`log_of`]).
//!
//! Not for anything that ships: this crate is the one place of the workspace that has `unsafe`, because a
//! C ABI cannot be met without it.

mod module;
mod plan;
mod shim;

pub use plan::{CALLS, CODES, CONTROL, MIRROR_CALLS, MODULE, Mode, Plan, Rule, log_of};
