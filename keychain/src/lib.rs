//! The protocol of Keelson, without IO.
//!
//! An HSM owns a self-certifying, forward-committed chain of key generations. Each generation endorses
//! the short-lived keys of services; those keys sign tokens and answers; devices sign requests with keys
//! that they committed to beforehand. This crate holds every rule of that protocol and nothing else:
//! what the bytes are ([`cesr`], [`json`], [`signed`]), what makes a chain valid and a generation live
//! ([`chain`]), what an endorsement proves ([`endorsement`]) and what the newest generation
//! states beside ([`statement`]), what verifiers acknowledge of it ([`acknowledgement`]), whom the auth server denies
//! ([`feed`]), what the audit trail of the HSM service is ([`audit`]), what the messages mean ([`message`],
//! [`token`], [`access`]), and how a refusal is spelt ([`error`]). `PROTOCOL.md` beside this crate is the
//! statement that code and tests cite.
//!
//! # What it is not
//!
//! It has no clock, no socket, no file, no thread and no async: time and entropy are arguments, so that a
//! test can play a year in a millisecond and every decision can be replayed. (ECDSA signing draws its
//! per-signature secret inside aws-lc-rs; nothing that a caller can observe depends on it.) The one part
//! with IO is the Redis client behind the feature `directory`, which nothing else here imports.
//!
//! # Invariants
//!
//! - A value exists only checked: a [`chain::SignedEvent`], a [`message::Verified`] request or a
//!   [`cesr::PublicKey`] cannot be obtained without its proof having held.
//! - Signatures and digests are verified over the received bytes, never over a re-serialisation.
//! - Everything that comes from outside is bounded ([`limits`]) before anything is spent on it.
//! - Nothing here panics on any input.

pub mod access;
pub mod acknowledgement;
pub mod audit;
pub mod cesr;
pub mod chain;
pub mod device;
#[cfg(feature = "directory")]
pub mod directory;
pub mod endorsement;
pub mod error;
pub mod feed;
pub mod json;
pub mod key;
pub mod limits;
pub mod message;
mod number;
pub mod recovery;
pub mod said;
pub mod signed;
pub mod statement;
pub mod time;
pub mod token;

pub use cesr::{Digest, KeyName, Nonce, PublicKey, Signature};
pub use error::{Code, Refusal};
pub use key::{SigningKey, VerifyingKey};
pub use time::Timestamp;
