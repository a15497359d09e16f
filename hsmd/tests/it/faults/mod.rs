//! An HSM that fails: hsmd behind the fault module.

mod cases;
mod limits;
mod matrix;
mod mirrored;
mod pin;
mod place;

pub use matrix::everything;
pub use place::{Place, SOON, module};
