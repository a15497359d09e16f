//! The three kinds of requests that write: what they read, which locks they need, what they append.
//!
//! A refresh and a sign-in append one row of their own, and need no lock: the row is unique by the digest of the
//! revealed key, or by the challenge, so of two that race one is appended. What they are judged by besides are the
//! newest records of account, ban, device and roles, and which sessions were ended; the statement that appends the row appends it only while these
//! still are the newest ones. What is decided beside that statement (a ban, a recovery, a revocation) does not read
//! the row, and so decides as it would have decided after it: each is as if the refresh had been before it. The token
//! of such a refresh is denied with all others, for denials outlast every token that was asked for before they were
//! committed ([`crate::config::Config::denial`]). A refresh that begins later reads what was decided.
//!
//! An account operation reads more than it can name in a statement, and holds the locks of account and newcomer until
//! it is committed: see [`super`].

use keychain::feed::Place;
use keychain::{Code, Digest, Refusal, Timestamp};
use sea_orm::ConnectionTrait;

use super::append::{Guard, append};
use super::mac::MacKeys;
use super::outbox::NewRow;
use super::view::Damaged;
use super::{Fault, outbox, rows, view};
use crate::challenge::Challenge;
use crate::operation::session::{Refresh, RefreshView, SessionView};
use crate::operation::{self, Change, Devices, Listed, Needs, View};
use crate::record::DeviceRecord;

/// What a judge wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<W, A> {
    /// Write this, then answer.
    Write(W, A),
    /// Answer; nothing is to be written.
    Answer(A),
    /// The request's proof holds: judge again with what [`Case::complete`] reads.
    Incomplete,
}

/// Whom a request must be alone with while it is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locks {
    /// The account.
    pub identity: Digest,
    /// The device that it registers and that other accounts might be registering too.
    pub newcomer: Option<Digest>,
}

/// A request as the store sees it.
#[expect(async_fn_in_trait, reason = "its futures stay on the worker that polls them")]
pub trait Case {
    /// What it is judged by.
    type View;
    /// What it may write.
    type Write;

    /// The locks that it needs; none if it appends one row, which its key and its guard decide.
    fn locks(&self) -> Option<Locks>;

    /// Reads what it is judged by, as of one moment, in one statement.
    async fn load(&self, on: &impl ConnectionTrait, macs: &MacKeys) -> Result<Self::View, Fault>;

    /// Reads the rest. Under the locks.
    async fn complete(
        &self,
        _on: &impl ConnectionTrait,
        _macs: &MacKeys,
        _view: &mut Self::View,
    ) -> Result<(), Fault> {
        Ok(())
    }

    /// Appends what was decided on `view`. False, and nothing is appended, if what was loaded does not stand any more.
    async fn write(
        &self,
        on: &impl ConnectionTrait,
        macs: &MacKeys,
        view: &Self::View,
        write: &Self::Write,
        now: Timestamp,
    ) -> Result<bool, Fault>;
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
pub struct SessionOpening<F> {
    /// The device.
    pub device: Digest,
    /// The challenge that it spends.
    pub challenge: Challenge,
    /// Whether the challenge was issued for an identity.
    pub is_for: F,
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

    fn locks(&self) -> Option<Locks> {
        Some(Locks { identity: self.needs.identity, newcomer: self.needs.newcomer })
    }

    async fn load(&self, on: &impl ConnectionTrait, macs: &MacKeys) -> Result<View, Fault> {
        view::heads(on, macs, &self.needs).await
    }

    async fn complete(
        &self,
        on: &impl ConnectionTrait,
        macs: &MacKeys,
        view: &mut View,
    ) -> Result<(), Fault> {
        let identity = &self.needs.identity;
        match self.needs.devices {
            Devices::Unneeded => {}
            Devices::Counted => view.device_count = Some(view::device_count(on, identity).await?),
            Devices::Listed => view.devices = Some(listed(view::devices(on, macs, identity).await?)),
        }
        Ok(())
    }

    async fn write(
        &self,
        on: &impl ConnectionTrait,
        macs: &MacKeys,
        view: &View,
        change: &Change,
        now: Timestamp,
    ) -> Result<bool, Fault> {
        let guard = &mut Some(self.guard(view));
        let accounts: Vec<_> = change.account.iter().map(|record| rows::account_row(macs, record)).collect();
        let devices: Vec<_> = change.devices.iter().map(|record| rows::device_row(macs, record)).collect();
        if !append(on, &accounts, guard).await? || !append(on, &devices, guard).await? {
            return Ok(false);
        }
        let place = |subject: &Digest| Place {
            subject: *subject,
            account: self.needs.identity,
            cause: change.denial_cause(),
        };
        let end = Some(now.plus(self.denial));
        let denials = change.revoked.iter().map(|subject| NewRow::denial(place(subject), end));
        let denials = outbox::rows(on, macs, denials.collect()).await?;
        append(on, &denials, guard).await
    }
}

impl Account {
    fn guard(&self, view: &View) -> Guard {
        let Needs { identity, device, other, newcomer, .. } = self.needs;
        let mut guard = Guard::default()
            .account(identity, view.account.as_ref())
            .ban(identity, view.ban.as_ref())
            .device(identity, device, view.device.as_ref());
        if let Some(other) = other {
            guard = guard.device(identity, other, view.other.as_ref());
        }
        if let Some(newcomer) = newcomer {
            guard = guard.elsewhere(identity, newcomer, view.held_elsewhere, view.recovered_elsewhere);
        }
        guard
    }
}

impl<F: Fn(&Digest) -> bool> Case for SessionOpening<F> {
    /// The rows, or why there are none to judge by.
    type View = Result<SessionView, Refusal>;
    /// The account.
    type Write = Digest;

    fn locks(&self) -> Option<Locks> {
        None
    }

    async fn load(&self, on: &impl ConnectionTrait, macs: &MacKeys) -> Result<Self::View, Fault> {
        let nonce = self.challenge.nonce();
        let (session, is_spent) = view::opening(on, macs, &self.device, &nonce, &self.is_for).await?;
        let session = session.ok_or_else(operation::unknown_device);
        if session.is_ok() && is_spent {
            return Ok(Err(Refusal::new(Code::UnknownChallenge, "the challenge was answered before")));
        }
        Ok(session)
    }

    async fn write(
        &self,
        on: &impl ConnectionTrait,
        macs: &MacKeys,
        view: &Self::View,
        identity: &Digest,
        _: Timestamp,
    ) -> Result<bool, Fault> {
        let Ok(view) = view else { return Ok(false) };
        let row = rows::spent_row(macs, &self.challenge.nonce(), self.challenge.forgotten_at());
        append(on, &[row], &mut Some(session_guard(*identity, self.device, view))).await
    }
}

impl Case for Refreshing {
    type View = RefreshView;
    type Write = Refresh;

    fn locks(&self) -> Option<Locks> {
        None
    }

    async fn load(&self, on: &impl ConnectionTrait, macs: &MacKeys) -> Result<RefreshView, Fault> {
        view::refresh(on, macs, (&self.identity, &self.device), &self.digest, &self.next).await
    }

    async fn write(
        &self,
        on: &impl ConnectionTrait,
        macs: &MacKeys,
        view: &RefreshView,
        refresh: &Refresh,
        _: Timestamp,
    ) -> Result<bool, Fault> {
        let guard = session_guard(self.identity, self.device, &view.session);
        append(on, &[rows::refresh_row(macs, refresh)], &mut Some(guard)).await
    }
}

pub(super) fn session_guard(identity: Digest, device: Digest, view: &SessionView) -> Guard {
    Guard::default()
        .account(identity, view.account.as_ref())
        .ban(identity, view.ban.as_ref())
        .device(identity, device, view.device.as_ref())
        .roles(identity, view.roles.as_ref())
        .ended(identity, device, view.ended)
}

/// Says in the log and the metrics which devices are damaged, and goes on with what is left of them.
pub(super) fn listed(devices: Vec<Result<DeviceRecord, Damaged>>) -> Listed {
    let mut listed = Listed::default();
    for device in devices {
        match device {
            Ok(record) => listed.intact.push(record),
            Err(Damaged { remains, fault }) => {
                let device = remains.as_ref().map_or_else(|| "?".to_owned(), |it| it.device.to_string());
                tell_damage(&device, &fault, "it is cut off");
                listed.damaged.extend(remains.map(|remains| *remains));
            }
        }
    }
    listed
}

/// Says in the log and the metrics that a device is damaged, and what becomes of it.
pub(super) fn tell_damage(device: &str, fault: &Fault, what_follows: &str) {
    metrics::counter!("authd_damaged_devices_total").increment(1);
    let error = fault as &dyn std::error::Error;
    tracing::error!(device, error, what_follows, "a device of the account is damaged");
}
