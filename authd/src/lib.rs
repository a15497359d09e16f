//! authd: accounts, their devices, and sessions. It carries out the ten operations of the protocol
//! (`keychain/PROTOCOL.md#operations`), keeps what they leave behind, and issues the access tokens that
//! edges believe.
//!
//! # What it is not
//!
//! It knows no passwords, e-mail addresses or names: an identity is a digest, and whoever holds the keys is
//! it. It verifies no access request but those to itself ([`owner`]; the edge before each app does) and signs nothing with
//! the HSM's key: its own access and response keys are made in memory, live hours, and are believed because the HSM
//! endorsed them. It has no way to recover an account without the recovery key committed to.
//!
//! # The way of a request
//!
//! | step | where | may cost |
//! |---|---|---|
//! | size, route, a free place | [`http`] | nothing |
//! | shape, signatures, all rules that need no store | [`keychain::message`] | one to three verifications |
//! | the token that an owner asks with | [`owner`], by the edge's library | at most one read of the directory |
//! | the issuer of a token that is refreshed | [`issuer`] | at most one read of the directory |
//! | what the newest rows say | [`operation`] over [`store`] | one statement, a few indexed reads |
//! | the rows that follow, if those still are the newest | the same, under the account's lock if need be | one transaction |
//! | the answer, signed | [`edge::http`] | one signature |
//!
//! # Invariants
//!
//! - *Decisions are pure.* [`operation`] has no clock, store or socket; every rule has a row in its tests.
//! - *One operation, one transaction.* A refused request, and any failure on the way, leaves every table as
//!   it was. A link, unlink or recovery change whose rotation step fails changes nothing.
//! - *Records are appended, never changed*; each has its own address and its cause: the signed request of a device,
//!   or an operator's order, signed by this authd ([`record`]). A row that is not what its address says is an error,
//!   never an input.
//! - *The database is not believed*: each row carries a MAC by a key outside of it, verified on each reading ([`store`],
//!   `STORE.md`).
//! - *A lost answer strands nobody*: an exact repeat is answered again and changes nothing. Everything else
//!   that reveals a spent key is refused.
//! - *A refresh key is spent once*, by a unique row in the store; the copy in the directory decides nothing.
//! - *A revocation is never lost*: it is written to the outbox in the transaction that decided it ([`outbox`]).
//! - *A denial is signed*: the feed that edges follow ([`feed`]) has a position from the transaction that marks what it
//!   tells, and one authd writes it at a time. Database 3 is a copy for public app servers.
//! - *No endorsement, no service*: nothing is decided while the answer could not be checked.
//! - *A session outlives the process that opened it and the directory*: what the HSM said of authd's keys is in the
//!   store until they end, and is put back unless it was revoked ([`endorsements`]).
//! - *The unsigned operation costs no memory*: challenges are recognised, not remembered ([`challenge`]).
//! - *Proven before paid for*: what a request has read before its key is proven does not grow with the account, and
//!   what it has written is counted by device and account ([`throttle`]).
//! - *Unknown, revoked and deleted look alike*, byte for byte. A ban is told only to those who prove a key.
//! - *A lift takes back one denial*: that of one account for one cause. All other denials stay.
//! - *No key outlives the process*, none is written, and no log line holds a key, token or payload.
//!
//! - *An order is written down before it is answered*: its records, its denials and its lines of the audit trail are
//!   one transaction ([`admin`]). Who may order what is decided by the kernel's word for the caller and one file.
//!
//! Several authd may run on one PostgreSQL; a SQLite file belongs to one.

pub mod admin;
pub mod challenge;
pub mod command;
pub mod config;
pub mod daemon;
pub mod endorsements;
pub mod feed;
pub mod http;
pub mod issuer;
pub mod operation;
pub mod outbox;
pub mod owner;
pub mod pruning;
pub mod record;
pub mod roles;
pub mod service;
pub mod store;
pub mod throttle;
