//! An operator's order: the rows that it is judged by, and what it leads to, with its lines of the audit trail.

use keychain::endorsement::Endorsement;
use keychain::feed::{Place, Position};
use keychain::{Digest, Refusal, Timestamp};
use sea_orm::{ColumnTrait, DatabaseTransaction, EntityTrait, PaginatorTrait, QueryFilter};

use super::append::append;
use super::audit::{self, Lines};
use super::mac::MacKeys;
use super::outbox::{self, NewRow};
use super::tables::outbox as told;
use super::{ATTEMPTS_MAX, Failure, Fault, Store, lock_of, rows, signers, view};
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

impl Ordering<'_> {
    async fn write(
        &self,
        on: &DatabaseTransaction,
        macs: &MacKeys,
        ordered: &Ordered,
        now: Timestamp,
    ) -> Result<(), Fault> {
        let Ordered { carried, lines } = ordered;
        if let Some(carried) = carried {
            signers::keep(on, macs, self.signer).await?;
            append_records(on, macs, carried).await?;
            self.tell(on, macs, carried, now).await?;
        }
        // The trail's lock is the last that is taken: an order waits for it with all else at hand.
        audit::append(on, macs, lines, now).await
    }

    async fn tell(
        &self,
        on: &DatabaseTransaction,
        macs: &MacKeys,
        carried: &Carried,
        now: Timestamp,
    ) -> Result<(), Fault> {
        let place = |subject, cause| Place { subject, account: self.identity, cause };
        let lifted = carried.lifted.iter().map(|(subject, cause)| place(*subject, *cause));
        outbox::lift(on, macs, &lifted.collect::<Vec<_>>(), now).await?;
        let denied = carried.denied.iter();
        let denied = denied.map(|(subject, cause, end)| NewRow::denial(place(*subject, *cause), end.time()));
        outbox::put(on, macs, denied.collect()).await
    }
}

async fn append_records(on: &DatabaseTransaction, macs: &MacKeys, carried: &Carried) -> Result<(), Fault> {
    let Carried { account, ban, devices, roles, .. } = carried;
    append(on, &account.iter().map(|record| rows::account_row(macs, record)).collect::<Vec<_>>(), &mut None)
        .await?;
    append(on, &ban.iter().map(|record| rows::ban_row(macs, record)).collect::<Vec<_>>(), &mut None).await?;
    append(on, &devices.iter().map(|record| rows::device_row(macs, record)).collect::<Vec<_>>(), &mut None)
        .await?;
    append(on, &roles.iter().map(|record| rows::role_row(macs, record)).collect::<Vec<_>>(), &mut None)
        .await?;
    Ok(())
}

impl Store {
    /// Carries out what `judge` decides on the rows, under the account's lock, which operators may wait for.
    pub async fn carry_out<A>(
        &self,
        ordering: &Ordering<'_>,
        now: Timestamp,
        judge: impl Fn(&Standing) -> Result<(Ordered, A), Refusal>,
    ) -> Result<A, Failure> {
        let mut attempt = 1;
        loop {
            match self.try_order(ordering, now, &judge).await {
                Err(Failure::Store(Fault::Lost(_))) if attempt < ATTEMPTS_MAX => attempt += 1,
                done => return done,
            }
        }
    }

    async fn try_order<A>(
        &self,
        ordering: &Ordering<'_>,
        now: Timestamp,
        judge: &impl Fn(&Standing) -> Result<(Ordered, A), Refusal>,
    ) -> Result<A, Failure> {
        let transaction = self.begin_locked(&[lock_of(&ordering.identity)]).await?;
        let standing = view::standing(&transaction, &self.macs, &ordering.identity).await?;
        let (ordered, answer) = judge(&standing)?;
        ordering.write(&transaction, &self.macs, &ordered, now).await?;
        transaction.commit().await?;
        Ok(answer)
    }

    /// What the rows say of an identity.
    pub async fn standing(&self, identity: &Digest) -> Result<Standing, Fault> {
        let snapshot = self.begin_read().await?;
        let standing = view::standing(&snapshot, &self.macs, identity).await?;
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
