//! The first report after a boot: a ledger that was restored with its whole disk shows by what is published alone.

use std::time::{Duration, Instant};

use super::Statements;
use crate::chain::Error;

/// How long a report is waited for. hsm-publisher, where it runs, reports within seconds.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The name under which the ledger keeps in which boot, and when, something was compared last.
const NOTE: &str = "compared";

/// How often that is kept anew.
const KEEP_EVERY: Duration = Duration::from_mins(10);

/// Linux's name of a boot.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

impl Statements {
    /// Has the chain wait for the first report, if there is a publisher and none was compared since this boot.
    pub(super) async fn await_first_report(&self) -> Result<(), Error> {
        let Some(patience) = self.settings.report_patience else { return Ok(()) };
        self.keeper.expect_reports(patience);
        let kept = self.keeper.ledger().note(NOTE).await?;
        let kept = kept.as_deref().and_then(|kept| kept.split_once(' '));
        self.judged().compared_at = kept.map(|(_, at)| at.to_owned());
        // Without a note no publisher has ever reported to this ledger.
        match kept {
            Some((boot, _)) if boot != this_boot() => self.keeper.await_report().await,
            _ => Ok(()),
        }
    }

    /// What is published was compared: the chain waits no longer, and the next start knows.
    pub(super) async fn note_compared(&self) -> Result<(), Error> {
        self.keeper.note_compared().await?;
        if self.judged().kept.is_some_and(|kept| kept.elapsed() < KEEP_EVERY) {
            return Ok(());
        }
        let at = self.keeper.now().to_string();
        let note = format!("{} {at}", this_boot());
        if let Err(error) = self.keeper.ledger().keep_note(NOTE, Some(note), Vec::new()).await {
            // The next start waits for a report once more than it has to.
            tracing::warn!(error = &error as &dyn std::error::Error, "the comparison is not kept");
            return Ok(());
        }
        let mut judged = self.judged();
        (judged.compared_at, judged.kept) = (Some(at), Some(Instant::now()));
        Ok(())
    }
}

/// The name of this boot; empty, as no note has it, where it cannot be read.
fn this_boot() -> String {
    std::fs::read_to_string(BOOT).unwrap_or_default().trim().to_owned()
}
