//! placeholder

pub mod chain_feed;
pub mod clock;
pub mod ecma;
pub mod endorser;
pub mod gate;
pub mod highest;
pub mod http;
pub mod issuer_feed;
pub mod keysd;
pub mod nonces;
pub mod own_key;
pub mod peer;
pub mod proxy;
pub mod revocations;
mod task;
pub mod updates;
pub mod verifier;
