//! An HSM that fails: hsmd behind the fault module.

mod cases;
mod fixture;
mod limits;
mod matrix;
mod mirrored;
mod pin;

pub use fixture::{Fixture, SOON, module};
pub use matrix::everything;
