//! What makes a daemon a systemd service: configuration, credentials, sockets, their TLS and who calls there,
//! readiness, logs, metrics and exit codes, done once and alike for all of them.
//!
//! Beside this crate's source stand the units themselves, their sockets, `sysusers.d`,
//! `tmpfiles.d`, a sample configuration for each daemon, and `HARDENING.md`, which says what each
//! sandbox directive is for and which test holds it.
//!
//! What it is not: a wrapper around libsystemd, a service framework, or a place for code that
//! two daemons happen to share. It knows nothing of the protocol, nor of its keys.
//!
//! Invariants:
//! - It never writes to a file but a socket's own path, and never changes the environment.
//!   What it inherits it takes over before any thread exists ([`exit::run`]).
//! - Outside systemd (`NOTIFY_SOCKET`, `LISTEN_FDS`, `JOURNAL_STREAM` absent) everything still
//!   works: readiness calls do nothing and logs are for a person.
//! - A configuration key that it does not know is an error, never ignored.
//! - A secret is read from a credential or from a file that nobody else can read, never from an
//!   argument or the environment, and is wiped when dropped.

pub mod arguments;
pub mod caller;
pub mod config;
pub mod credential;
pub mod exit;
pub mod kept;
pub mod listen;
pub mod notify;
mod passed;
pub mod shutdown;
pub mod swap;
pub mod telemetry;
pub mod tls;
