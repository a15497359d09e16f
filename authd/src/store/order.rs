//! An operator's order: the rows that it is judged by, and what it leads to, with its lines of the audit trail.

use keychain::endorsement::Endorsement;
use keychain::feed::{Place, Position};
use keychain::{Digest, Timestamp};
use sea_orm::{ColumnTrait, DatabaseTransaction, EntityTrait, PaginatorTrait, QueryFilter};

use super::audit::{self, Lines};
use super::outbox;
use super::tables::{account, ban, device, outbox as told, role};
use super::{Case, Fault, Store, rows, signers, view};
use crate::operation::order::{Carried, Standing};

/// An order about one identity.
#[derive(Clone, Debug)]
pub struct Ordering<'a> {
    /// The identity.
    pub identity: Digest,
    /// What the HSM says of the key that signs the records.
    pub signer: &'a Endorsement,
}

/// What an order leads to, if anything, and the lines about it.
#[derive(Clone, Debug)]
pub struct Ordered {
    /// The records and denials.
    pub carried: Option<Carried>,
    /// The lines.
    pub lines: Lines,
}

impl Case for Ordering<'_> {
    type View = Standing;
    type Write = Ordered;

    fn identity(&self) -> Digest {
        self.identity
    }

    async fn load(&self, transaction: &DatabaseTransaction) -> Result<Standing, Fault> {
        view::standing(transaction, &self.identity).await
    }

    async fn write(
        &self,
        transaction: &DatabaseTransaction,
        Ordered { carried, lines }: &Ordered,
        now: Timestamp,
    ) -> Result<(), Fault> {
        if let Some(carried) = carried {
            signers::keep(transaction, self.signer).await?;
            self.append(transaction, carried).await?;
            self.tell(transaction, carried, now).await?;
        }
        // The trail's lock is the last that is taken: an order waits for it with all else at hand.
        audit::append(transaction, lines, now).await
    }
}

impl Ordering<'_> {
    async fn append(&self, on: &DatabaseTransaction, carried: &Carried) -> Result<(), Fault> {
        if let Some(record) = &carried.account {
            account::Entity::insert(rows::account_row(record)).exec_without_returning(on).await?;
        }
        if let Some(record) = &carried.ban {
            ban::Entity::insert(rows::ban_row(record)).exec_without_returning(on).await?;
        }
        for record in &carried.devices {
            device::Entity::insert(rows::device_row(record)).exec_without_returning(on).await?;
        }
        if let Some(record) = &carried.roles {
            role::Entity::insert(rows::role_row(record)).exec_without_returning(on).await?;
        }
        Ok(())
    }

    async fn tell(&self, on: &DatabaseTransaction, carried: &Carried, now: Timestamp) -> Result<(), Fault> {
        let place = |subject, cause| Place { subject, account: self.identity, cause };
        for (subject, cause) in &carried.lifted {
            outbox::lift(on, place(*subject, *cause), now).await?;
        }
        for (subject, cause, end) in &carried.denied {
            outbox::deny(on, place(*subject, *cause), end.time()).await?;
        }
        Ok(())
    }
}

impl Store {
    /// What the rows say of an identity.
    pub async fn standing(&self, identity: &Digest) -> Result<Standing, Fault> {
        let snapshot = self.begin_read().await?;
        let standing = view::standing(&snapshot, identity).await?;
        snapshot.rollback().await?;
        Ok(standing)
    }

    /// How far the denial feed goes that has told every denial and lift of an account; nothing while one waits. One that
    /// cannot be read is never told.
    pub async fn fed_up_to(&self, account: &Digest, now: Timestamp) -> Result<Option<Position>, Fault> {
        let waiting = told::Entity::find()
            .filter(told::Column::Account.eq(account.to_string()))
            .filter(super::feed::not_fed())
            .filter(outbox::effective(now));
        if waiting.count(&self.reader).await? > 0 {
            return Ok(None);
        }
        // Read afterwards: it is the position that was given to the last of them, or a later one.
        self.feed_position().await.map(Some)
    }

    /// How many denials and lifts of an account the directory has not been told.
    pub async fn count_untold(&self, account: &Digest, now: Timestamp) -> Result<u64, Fault> {
        let untold = told::Entity::find()
            .filter(told::Column::Account.eq(account.to_string()))
            .filter(told::Column::SentAt.is_null())
            .filter(outbox::effective(now));
        Ok(untold.count(&self.reader).await?)
    }
}
