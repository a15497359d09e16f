//! The last trusted time: what a clock is held against at the next start.

use std::sync::PoisonError;

use keychain::Timestamp;
use sea_orm::{EntityTrait as _, sea_query::Expr};

use super::{Error, Ledger, entity::keeper};

impl Ledger {
    /// Keeps the last trusted time. It may be earlier than the one before: an operator accepts a clock that was set
    /// back.
    pub async fn note_trusted_time(&self, at: Timestamp) -> Result<(), Error> {
        keeper::Entity::update_many()
            .col_expr(keeper::Column::TrustedTime, Expr::val(at.unix_millis()))
            .exec(&self.database)
            .await?;
        *self.trusted_time.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
        Ok(())
    }

    /// The last trusted time; `None` before the first.
    pub fn trusted_time(&self) -> Option<Timestamp> {
        *self.trusted_time.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn read_trusted_time(&self) -> Result<(), Error> {
        let row = keeper::Entity::find().one(&self.database).await?;
        let kept = row.and_then(|row| row.trusted_time).map(Timestamp::from_unix_millis);
        *self.trusted_time.lock().unwrap_or_else(PoisonError::into_inner) = kept;
        Ok(())
    }
}
