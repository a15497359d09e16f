//! hsmd: the daemon that owns the HSM, the key chain and every endorsement; and hsm-publisher, which
//! carries the chain into the key directory.
//!
//! # What it is
//!
//! One process that holds the session of an HSM and the chain's [`ledger`], and answers over Unix sockets:
//! `POST /sign` endorses the short-lived key of a service whose name the [`policy`] derives from who
//! connected, and through which socket; `POST /rotate` and `POST /taint` leave a generation for the next;
//! `GET /chain` tells the chain and can wait for its next event; `GET /health` says what works. `PROTOCOL.md`
//! of the crate `keychain` says what the bytes are.
//!
//! ```text
//! http (a server each socket) → policy → audit → chain::Keeper → token (a signer thread each) → HSM
//!                                                     └→ ledger (SQLite or PostgreSQL)
//! ```
//!
//! # What it is not
//!
//! It verifies no request of a device, knows no account, and turns to no other host: it opens no network
//! socket (but for the laboratory's loopback address, whose setting says that it is insecure). Services of
//! other hosts reach it by mutual [`http::tls`] on a TCP socket that systemd passes, if it passes one. It signs no
//! bytes that a caller brings: only events and endorsements that it composed itself.
//!
//! # Invariants
//!
//! - *One event a sequence number.* The ledger's unique index and the fence of its lease see to it: of any number of
//!   hsmd on one ledger one writes, the others stand by.
//! - *No signature leaves before its event is on disk.* A generation signs endorsements only after its event
//!   is committed with its signature, and shown; generation id and key change together, under one lock.
//! - *The ledger decides what a key is for.* A key is used only because the ledger names its digest; a key is
//!   destroyed only because the ledger does not name it and an interrupted step explains it. A token that
//!   knows more than its ledger is left untouched.
//! - *Live and next, nothing else.* After a rotation, and after every start, the token holds those two keys; of
//!   two tokens that answer and are paired, each holds both.
//! - *A token that is silent proves nothing.* Nothing on it is believed absent, and nothing is destroyed on the
//!   other because of what it does not say.
//! - *Default deny.* A caller that no rule names gets nothing signed and changes nothing; purpose `access` is
//!   authd's alone, whatever the configuration says.
//! - *A PIN is presented once.* After a refusal it is not tried again, in later processes either.
//! - *One clock.* Everything that is dated takes its date from [`clock::TrustedClock`]; while that is in doubt, only a
//!   taint and its head are signed.
//! - *Nothing unwritten.* An operation that changes something is in the [`audit`] trail, on disk, before it is
//!   begun, and its outcome before its success is answered; an endorsement is written down before it leaves. While the
//!   trail cannot be written nothing is signed or changed.
//! - *Every queue, body, wait and reason has a bound*, named beside its reason.

pub mod audit;
pub mod chain;
pub mod clock;
pub mod daemon;
pub mod failure_point;
pub mod health;
pub mod http;
pub mod ledger;
pub mod policy;
pub mod publisher;
pub mod token;
