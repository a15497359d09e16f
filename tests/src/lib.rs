//! The test kit: real servers and the whole system on free ports, a device made by hand, and what
//! the suites in `tests/tests/` share.
//!
//! What it is not: a mock of anything. redis-server, PostgreSQL, SoftHSM and every daemon are the
//! real ones; a missing program fails the test that needs it and is never a reason to skip it.
//!
//! Invariants:
//! - No fixed port and no shared path: two runs at once do not meet.
//! - Nothing outlives the test process, however it ends (the kernel sees to it).
//! - Waiting is polling with a deadline; what was waited for, and the logs, are in the failure.
//! - It reports by panicking, as the assertions of a test do.
#![expect(clippy::missing_panics_doc, reason = "every function of the kit panics when the test has failed")]
#![expect(clippy::unwrap_used, reason = "the kit reports by panicking, as assertions do")]
#![expect(clippy::expect_used, reason = "the kit reports by panicking, as assertions do")]
#![expect(clippy::panic, reason = "the kit reports by panicking, as assertions do")]

pub mod certificate;
pub mod craft;
pub mod cutting_proxy;
pub mod damage;
pub mod fleet;
pub mod http;
pub mod interface;
pub mod machine;
pub mod name;
pub mod port;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod public_app;
pub mod redis_server;
pub mod service_manager;
pub mod token;
pub mod until;
pub mod wire;
pub mod world;

pub use until::until;
pub use world::World;
