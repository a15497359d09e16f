//! The three kinds of requests that write: which account they lock, what they read, what they append.

use keychain::{Code, Digest, Refusal, Timestamp};
use sea_orm::ActiveValue::Set;
use sea_orm::{DatabaseTransaction, EntityTrait};

use super::outbox;
use super::tables::{account, challenge, device, refresh};
use super::{Fault, rows, view};
use crate::challenge::Challenge;
use crate::operation::session::{Refresh, RefreshView, SessionView};
use crate::operation::{Change, Needs, View};
use keychain::feed::Place;

/// What a judge wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<W, A> {
    /// Write this, then answer.
    Write(W, A),
    /// Answer; nothing is to be written.
    Answer(A),
}

/// A request as the store sees it.
#[expect(async_fn_in_trait, reason = "its futures stay on the worker that polls them")]
pub trait Case {
    /// What it is judged by.
    type View;
    /// What it may write.
    type Write;

    /// The account that it concerns.
    fn identity(&self) -> Digest;

    /// The device that it registers and that other accounts might be registering too.
    fn newcomer(&self) -> Option<Digest> {
        None
    }

    /// Reads what it is judged by.
    async fn load(&self, transaction: &DatabaseTransaction) -> Result<Self::View, Fault>;

    /// Appends what was decided.
    async fn write(
        &self,
        transaction: &DatabaseTransaction,
        write: &Self::Write,
        now: Timestamp,
    ) -> Result<(), Fault>;
}

/// An operation that changes an account or a device.
#[derive(Clone, Copy, Debug)]
pub struct Account {
    /// The rows that it is judged by.
    pub needs: Needs,
    /// How long edges are to deny the devices that it revokes.
    pub denial: std::time::Duration,
}

/// A sign-in whose challenge was recognised.
#[derive(Clone, Copy, Debug)]
pub struct SessionOpening {
    /// The account that the challenge was issued for.
    pub identity: Digest,
    /// The device.
    pub device: Digest,
    /// The challenge that it spends.
    pub challenge: Challenge,
}

/// A refresh whose token was verified.
#[derive(Clone, Copy, Debug)]
pub struct Refreshing {
    /// The token's account.
    pub identity: Digest,
    /// The token's device.
    pub device: Digest,
    /// Digest of the revealed access key.
    pub digest: Digest,
    /// Digest of the access key after it.
    pub next: Digest,
}

impl Case for Account {
    type View = View;
    type Write = Change;

    fn identity(&self) -> Digest {
        self.needs.identity
    }

    fn newcomer(&self) -> Option<Digest> {
        self.needs.newcomer
    }

    async fn load(&self, transaction: &DatabaseTransaction) -> Result<View, Fault> {
        view::load(transaction, &self.needs).await
    }

    async fn write(
        &self,
        transaction: &DatabaseTransaction,
        change: &Change,
        now: Timestamp,
    ) -> Result<(), Fault> {
        if let Some(record) = &change.account {
            account::Entity::insert(rows::account_row(record)).exec_without_returning(transaction).await?;
        }
        for record in &change.devices {
            device::Entity::insert(rows::device_row(record)).exec_without_returning(transaction).await?;
        }
        let (account, cause) = (self.needs.identity, change.denial_cause());
        for subject in &change.revoked {
            let place = Place { subject: *subject, account, cause };
            outbox::deny(transaction, place, Some(now.plus(self.denial))).await?;
        }
        Ok(())
    }
}

impl Case for SessionOpening {
    /// The rows, or that the challenge is spent.
    type View = Result<SessionView, Refusal>;
    type Write = ();

    fn identity(&self) -> Digest {
        self.identity
    }

    async fn load(&self, transaction: &DatabaseTransaction) -> Result<Self::View, Fault> {
        let view = view::session(transaction, &self.identity, &self.device).await?;
        if view::is_spent(transaction, &self.challenge.nonce()).await? {
            return Ok(Err(Refusal::new(Code::UnknownChallenge, "the challenge was answered before")));
        }
        Ok(Ok(view))
    }

    async fn write(&self, transaction: &DatabaseTransaction, (): &(), _: Timestamp) -> Result<(), Fault> {
        let row = challenge::ActiveModel {
            nonce: Set(self.challenge.nonce().to_string()),
            forgotten_at: Set(self.challenge.forgotten_at().unix_millis()),
        };
        challenge::Entity::insert(row).exec_without_returning(transaction).await?;
        Ok(())
    }
}

impl Case for Refreshing {
    type View = RefreshView;
    type Write = Refresh;

    fn identity(&self) -> Digest {
        self.identity
    }

    async fn load(&self, transaction: &DatabaseTransaction) -> Result<RefreshView, Fault> {
        let owner = (&self.identity, &self.device);
        view::refresh(transaction, owner, &self.digest, &self.next).await
    }

    async fn write(
        &self,
        transaction: &DatabaseTransaction,
        refresh: &Refresh,
        _: Timestamp,
    ) -> Result<(), Fault> {
        refresh::Entity::insert(rows::refresh_row(refresh)).exec_without_returning(transaction).await?;
        Ok(())
    }
}
