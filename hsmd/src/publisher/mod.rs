//! hsm-publisher: carries the chain from hsmd into the key directory, and keeps it there.
//!
//! It holds no key and decides nothing: what it carries proves itself, so the worst that it can do is to
//! withhold. It publishes everything at start and after every reconnection, each new event
//! and head as it comes, and whatever disappears or changes in the directory again, byte for byte. It
//! deletes nothing but endorsements that a taint, a denial or a revocation killed (`PROTOCOL.md#directory-dead`), and events
//! that stand beside the chain (`PROTOCOL.md#contested-published`). At its start, and every minute, it reports to hsmd what
//! was published before it writes: so hsmd learns that its ledger was restored, or that a copy of it signs.

mod carrier;
mod config;
mod dead;
mod source;
mod statements;

pub use carrier::{Carrier, Found};
pub use config::Config;
pub use dead::DeadEntries;
pub use source::{Source, follow, follow_statements};
pub use statements::{Received, StatementCarrier};
