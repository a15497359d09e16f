//! Where events and heads come from. What any source tells proves itself, so sources are merged as a set, and one
//! that withholds, lags or lies takes nothing from what another tells.

mod directory;
mod hsmd;
mod keysd;

use std::error::Error;
use std::sync::Arc;

use super::Shared;
pub(super) use directory::DirectorySource;
pub(super) use hsmd::HsmdSource;
pub(super) use keysd::KeysdSource;

/// What a source holds that may be new, unverified.
#[derive(Debug, Default)]
pub(super) struct Texts {
    pub(super) events: Vec<String>,
    pub(super) heads: Vec<String>,
}

/// What a source tells.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) texts: Texts,
    /// The number of the directory's last update that these texts follow, if they are the directory's.
    pub(super) read_up_to: Option<u64>,
}

/// Whether a source can be followed, for metrics, health and log.
struct Link {
    source: &'static str,
    dependency: &'static str,
    shared: Arc<Shared>,
}

impl Link {
    const fn new(source: &'static str, dependency: &'static str, shared: Arc<Shared>) -> Self {
        Self { source, dependency, shared }
    }

    fn is_up(&self) {
        metrics::gauge!("verifier_source_up", "source" => self.source).set(1.0);
        self.shared.dependencies.good(self.dependency);
    }

    fn is_down(&self, error: &(dyn Error + 'static)) {
        metrics::gauge!("verifier_source_up", "source" => self.source).set(0.0);
        self.shared.dependencies.lost(self.dependency, error);
    }
}
