//! The chain's clock: what it is held against, and who may date by it.

use keychain::Timestamp;

use super::{Error, Keeper};
use crate::clock::{Accepted, Doubt, NotTheTime, Source, TrustedClock};

impl Keeper {
    /// The time of day for what is signed, if it can be trusted.
    pub fn trusted_now(&self) -> Result<Timestamp, Doubt> {
        self.clock.trusted_now()
    }

    /// The time of day for what is not signed: never that of a clock in doubt.
    pub fn now(&self) -> Timestamp {
        self.clock.estimated_now()
    }

    /// The clock.
    pub fn clock(&self) -> &TrustedClock {
        &self.clock
    }

    /// Holds the clock against what the ledger knows, and the newest event.
    pub(super) fn compare_clock(&self, newest: Option<Timestamp>) {
        if let Some(newest) = newest {
            self.clock.learn(Source::Event, newest);
        }
        if let Some(trusted) = self.ledger.trusted_time() {
            self.clock.learn(Source::Ledger, trusted);
        }
        self.clock.compare();
    }

    /// Has the ledger keep the trusted time, for the next start; does nothing in doubt.
    pub async fn keep_trusted_time(&self) -> Result<(), Error> {
        let Ok(now) = self.trusted_now() else { return Ok(()) };
        self.ledger.note_trusted_time(now).await?;
        self.clock.learn(Source::Ledger, now);
        Ok(())
    }

    /// Trusts the clock on the word of an operator, who names the time that it shows.
    pub async fn accept_clock(&self, time: Timestamp) -> Result<Accepted, NotTheTime> {
        let accepted = self.clock.accept(time)?;
        // A ledger that fails now is written again a little later, as at any other time.
        if let Err(error) = self.keep_trusted_time().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the accepted time is not kept yet");
        }
        Ok(accepted)
    }
}
