//! The end of every account, by an operator's word.
//!
//! What is kept: the audit trail, which says that it was done; the denial feed's position; and every denial in force,
//! which is held from then on, so that a reset lets nobody in who was shut out.

use keychain::Timestamp;
use sea_orm::{
    ColumnTrait, ConnectionTrait, DatabaseTransaction, DbBackend, EntityTrait, QueryFilter, QueryOrder,
    QuerySelect,
};

use super::audit::{self, Lines};
use super::feed::FEED_LOCK;
use super::outbox::{readable, rewrite};
use super::tables::{account, ban, device, name, outbox, refresh, role, session_end, signer};
use super::{ATTEMPTS_MAX, Fault, Store};

/// Rows read at once.
const PAGE: u64 = 500;

impl Store {
    /// Deletes every account, with devices, roles, bans and sessions, in one transaction with the lines that `lines`
    /// makes of what was done. Answers how many accounts there were.
    pub async fn reset(&self, lines: impl Fn(&str) -> Lines, now: Timestamp) -> Result<u64, Fault> {
        let mut attempt = 1;
        loop {
            match self.try_reset(&lines, now).await {
                // It may have stood in the way of an account's transaction, which holds what this one waits for.
                Err(Fault::Lost(_)) if attempt < ATTEMPTS_MAX => attempt += 1,
                done => return done,
            }
        }
    }

    async fn try_reset(&self, lines: &impl Fn(&str) -> Lines, now: Timestamp) -> Result<u64, Fault> {
        let transaction = self.begin_locked(&[FEED_LOCK]).await?;
        shut_out_others(&transaction).await?;
        let accounts: Vec<String> = account::Entity::find()
            .select_only()
            .column(account::Column::Identity)
            .distinct()
            .into_tuple()
            .all(&transaction)
            .await?;
        name::Entity::delete_many().exec(&transaction).await?;
        session_end::Entity::delete_many().exec(&transaction).await?;
        refresh::Entity::delete_many().exec(&transaction).await?;
        role::Entity::delete_many().exec(&transaction).await?;
        ban::Entity::delete_many().exec(&transaction).await?;
        device::Entity::delete_many().exec(&transaction).await?;
        account::Entity::delete_many().exec(&transaction).await?;
        signer::Entity::delete_many().exec(&transaction).await?;
        self.hold_denials(&transaction, now).await?;
        let count = u64::try_from(accounts.len()).unwrap_or(u64::MAX);
        audit::append(&transaction, &self.macs, &lines(&format!(r#"{{"accounts":"{count}"}}"#)), now).await?;
        transaction.commit().await?;
        Ok(count)
    }

    /// Has every denial held from now on. One that cannot be read stays as it is.
    async fn hold_denials(&self, on: &DatabaseTransaction, now: Timestamp) -> Result<(), Fault> {
        let mut after = 0;
        loop {
            let rows = outbox::Entity::find()
                .filter(outbox::Column::Id.gt(after))
                .filter(outbox::Column::HeldAt.is_null())
                .filter(outbox::Column::Lifted.eq(false))
                .order_by_asc(outbox::Column::Id)
                .limit(PAGE)
                .lock_exclusive()
                .all(on)
                .await?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = last.id;
            let (rows, _) = readable(&self.macs, rows)?;
            let rows = rows.into_iter().map(|(row, _)| row).collect();
            rewrite(on, &self.macs, rows, outbox::Column::HeldAt, now.unix_millis()).await?;
        }
    }
}

/// Waits for every operation under way, and lets none begin: one that had read what is deleted would add a version to a
/// record whose earlier ones are gone. SQLite has one writer anyhow.
async fn shut_out_others(transaction: &DatabaseTransaction) -> Result<(), Fault> {
    if transaction.get_database_backend() == DbBackend::Postgres {
        let tables = "account_records, device_records, ban_records, role_records, device_names, session_ends, \
                      refreshes, signers";
        let lock = format!("LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE");
        transaction.execute_unprepared(&lock).await?;
    }
    Ok(())
}
