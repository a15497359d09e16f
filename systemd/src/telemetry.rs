//! Logs and metrics, alike for all daemons.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

pub use journal::Priority;
pub use metrics::{Error, Health, Metrics};
pub use quota::Quota;

mod journal;
mod metrics;
mod quota;

pub(crate) use journal::is_stderr as is_journal;

/// What is logged when `RUST_LOG` says nothing. `actix_http` writes an error for each request that is no HTTP: a line
/// that strangers cause as often as they like.
const DEFAULT: &str = "info,actix_http=off,actix_server=warn,sea_orm_migration=warn";

/// Sends the log of `daemon` to standard error: with a priority per line when that is the journal,
/// for a person otherwise. `RUST_LOG` filters it; the default is `info`, and `warn` for libraries that
/// tell every start in detail.
///
/// A second call in one process changes nothing.
pub fn init(daemon: &'static str) {
    let wanted = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|filter| !filter.is_empty());
    let parsed = wanted.as_deref().map(EnvFilter::try_new);
    let mistake = parsed.as_ref().and_then(|parsed| parsed.as_ref().err().map(ToString::to_string));
    let filter = parsed.and_then(Result::ok).unwrap_or_else(|| EnvFilter::new(DEFAULT));

    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let first = if journal::is_stderr() {
        registry.with(lines.with_ansi(false).event_format(journal::Lines)).try_init()
    } else {
        registry.with(lines.with_ansi(io::stderr().is_terminal())).try_init()
    };
    if let (Ok(()), Some(mistake)) = (first, mistake) {
        tracing::warn!(
            daemon,
            mistake,
            "RUST_LOG is no filter and is ignored; write for example info,{daemon}=debug"
        );
    }
}
