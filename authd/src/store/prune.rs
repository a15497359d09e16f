//! Rows that have ended, and their removal.

use keychain::Timestamp;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};

use super::tables::{challenge, endorsement, outbox, refresh, session_end};
use super::{Fault, Store};

impl Store {
    /// Removes rows that have ended: challenges, refreshes of ended sessions, revocations of ended tokens, endorsements.
    pub async fn prune(&self, now: Timestamp) -> Result<(), Fault> {
        let now = now.unix_millis();
        let challenge = challenge::Column::ForgottenAt.lt(now);
        challenge::Entity::delete_many().filter(challenge).exec(&self.writer).await?;
        // An hour longer than the session: instances' clocks may differ, and a repeat must find its row.
        let ended = now.saturating_sub(3_600_000);
        let refresh = refresh::Column::RefreshExpiry.lt(ended);
        refresh::Entity::delete_many().filter(refresh).exec(&self.writer).await?;
        let sent = outbox::Column::ExpiresAt.lt(now);
        outbox::Entity::delete_many().filter(sent).exec(&self.writer).await?;
        let ended = endorsement::Column::EndsAt.lte(now);
        endorsement::Entity::delete_many().filter(ended).exec(&self.writer).await?;
        let ended = session_end::Column::ForgottenAt.lt(now);
        session_end::Entity::delete_many().filter(ended).exec(&self.writer).await?;
        Ok(())
    }
}
