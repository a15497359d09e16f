//! Two tokens that mirror each other: the loss of either, for good, at any moment, loses nothing.

mod calls;
mod confine;
mod drill;
mod hang;
mod rules;
mod stale;
mod tokens;

pub use drill::gone;
