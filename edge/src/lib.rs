//! The verifier that stands beside app servers.
//!
//! A device signs each request to an app; this crate says whether the request is genuine, allowed and
//! fresh, in microseconds and without a network call, and signs the app's answer. It is a library
//! ([`gate::Gate`] is its front door) and two daemons: `edge`, a reverse proxy before an app in any
//! language ([`proxy`]), and `keysd`, which tells devices which keys sign answers ([`keysd`]). authd uses
//! the library too: it follows the same chain and keeps keys of its own.
//!
//! # How it hangs together
//!
//! ```text
//!              ┌ trust ──────────┐
//!  directory ──┼ issuer_feed ────┼─▶ verifier ◀── gate ◀── proxy ◀── devices
//!  (updates)   ├ denials ────────┤                           │
//!              ├ revocations ────┘                           │
//!              └ own_key ◀── endorser ◀── hsmd               ├─▶ app
//!                   └────────────── signs ───────────────────┘ (answers, respelt by ecma)
//! ```
//!
//! One connection hears of every change in the key directory ([`updates`]). Feeds keep what follows from it
//! in memory: the chain and what the HSM's heads deny and revoke ([`trust`], which asks hsmd itself too), the
//! keys that issue tokens, who is denied. [`verifier::AccessVerifier`] decides from memory alone, in the order that
//! `PROTOCOL.md#access-request` fixes; time and trust are its arguments. What it must remember besides (tokens that verified, [`nonces`] seen) is bounded.
//!
//! # What it is not
//!
//! No session store, no policy engine, no TLS terminator yet; it does not read what the app is asked. It does
//! not look anything up for a request, with one exception that is capped: a token of an issuer never heard
//! of.
//!
//! # Invariants
//!
//! - A cached verdict saves signature checks and nothing else: expiry, endorsement, generation and
//!   revocation are judged for every request, so a taint, a denied generation, a revoked key or a ban bites at
//!   once.
//! - What is trusted is one immutable value behind one swap: a request judges by one moment, and takes no lock.
//! - A service that finds its own key revoked signs no more with it, asks for another at once, and never puts
//!   the entry back that was taken out of the directory.
//! - The nonce is taken last: no refused request burns one. A full nonce store refuses; it never forgets.
//! - Feeds only move forward. An emptied, rolled-back or unreachable directory stops nobody who was
//!   verified, un-bans nobody and hides no taint. The highest event accepted and the heads that count survive a
//!   restart; they are in force before they are on disk.
//! - Once no head has shown for `head_max_age` that nothing newer exists, nothing is admitted (BA607): whoever
//!   withholds a denial gains no more than that.
//! - "Cannot know" is 503, "denied" is 401 or 403, and the two are never confused.
//! - Whatever strangers send, the directory is read at most once a second on their behalf.
//! - Nothing that a device says about itself in headers reaches the app, but for an allow-list; `keelson-*`
//!   headers are the edge's alone.
//! - What is signed is what every JavaScript client prints again; what would change is a 502.
//!
//! # Known limits
//!
//! Nonces are remembered by one process: a request that was accepted less than 30 seconds before a restart
//! could be sent again after it, or to another edge before the same app. Path and query are not signed
//! unless the request names an `audience`.

pub mod acknowledger;
pub mod clock;
pub mod denials;
pub mod ecma;
pub mod endorser;
pub mod eviction;
pub mod gate;
pub mod health;
pub mod http;
pub mod issuer_feed;
pub mod keysd;
pub mod nonces;
pub mod own_key;
pub mod peer;
pub mod proxy;
pub mod revocations;
pub mod roll;
mod state_file;
mod task;
pub mod trust;
pub mod updates;
pub mod verifier;
