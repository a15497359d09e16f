//! Device and auth server joined in one process, on a clock of their own, with losses.

mod heads;
mod losses;
mod refusals;
mod server;
mod world;
