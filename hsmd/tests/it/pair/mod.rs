//! Two tokens: the live key on one, the next on the other, and the chain goes on past the loss of either.

mod calls;
mod drill;
mod hang;
mod rules;
mod stale;
mod tokens;
