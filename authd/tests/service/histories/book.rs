//! The rows as the pure decisions leave them: what authd would hold if it carried out one request after the other.
//!
//! Rows are only appended here, so a step is taken back by cutting the book to its length before.

use std::collections::BTreeSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use authd::operation::order::{Carried, Standing};
use authd::operation::session::{Refresh, RefreshView, SessionView};
use authd::operation::{Change, Listed, Needs, View};
use authd::record::{AccountRecord, BanRecord, Cause, DeviceRecord, RoleRecord};
use keychain::feed::Place;
use keychain::message::Operation;
use keychain::{Digest, Nonce, PublicKey};

use super::call::{Call, Rows};

/// All rows, in the order of their commits.
#[derive(Clone, Default)]
pub(super) struct Book {
    rows: Vec<Row>,
    /// Two books with one sum have the same rows in each chain.
    sum: u64,
}

/// A row, or what is done to the outbox.
#[derive(Clone)]
pub(super) enum Row {
    Account(AccountRecord),
    Ban(BanRecord),
    Challenge(Nonce),
    Denied(Place),
    Device(DeviceRecord),
    Lifted(Place),
    Refresh(Refresh),
    Roles(RoleRecord),
}

impl Book {
    /// Appends a row that the request `label` leads to.
    pub(super) fn push(&mut self, row: Row, label: usize) {
        let chain = row.chain();
        let place = self.rows.iter().filter(|known| known.chain() == chain).count();
        let mut hasher = DefaultHasher::new();
        (chain, place, label).hash(&mut hasher);
        self.sum = self.sum.wrapping_add(hasher.finish());
        self.rows.push(row);
    }

    /// Where the book stands.
    pub(super) fn mark(&self) -> (usize, u64) {
        (self.rows.len(), self.sum)
    }

    /// Takes back all that came after `mark`.
    pub(super) fn cut(&mut self, (length, sum): (usize, u64)) {
        self.rows.truncate(length);
        self.sum = sum;
    }

    /// The same for books whose chains are the same, whatever the order of their commits.
    pub(super) fn sum(&self) -> u64 {
        self.sum
    }

    /// How many rows the chain of `row` has.
    pub(super) fn length_of(&self, row: &Row) -> usize {
        let chain = row.chain();
        self.rows.iter().filter(|known| known.chain() == chain).count()
    }

    /// The same without some rows.
    pub(super) fn without(&self, is_left_out: impl Fn(&Row) -> bool) -> Self {
        let rows = self.rows.iter().filter(|row| !is_left_out(row)).cloned().collect();
        Self { rows, sum: self.sum }
    }

    /// The records that a call caused.
    pub(super) fn caused_by(&self, call: &Call) -> Vec<Row> {
        let is_cause = |cause: &Cause| call.cause().is_some_and(|digest| cause.is_request(&digest));
        let is_caused = |row: &&Row| match row {
            Row::Account(record) => is_cause(&record.cause),
            Row::Device(record) => is_cause(&record.cause),
            _ => false,
        };
        self.rows.iter().filter(is_caused).cloned().collect()
    }

    /// The rows that a database would hold.
    pub(super) fn lines(&self) -> Rows {
        let mut lines = Rows::new();
        for row in &self.rows {
            match row {
                // A lift deletes the denials that it takes back.
                Row::Lifted(place) => {
                    let told = lines.entry(row.chain()).or_default();
                    told.retain(|line| *line != told_line(place, false) && *line != told_line(place, true));
                    told.push(row.line());
                }
                _ => lines.entry(row.chain()).or_default().push(row.line()),
            }
        }
        lines
    }

    /// What a request is judged by.
    pub(super) fn view(&self, needs: &Needs) -> View {
        let identity = &needs.identity;
        let newest = |device: &Digest| self.device(identity, device).cloned();
        let elsewhere: Vec<_> = self
            .devices_ever()
            .filter(|record| Some(record.device) == needs.newcomer && record.identity != *identity)
            .collect();
        let revealed: BTreeSet<Digest> =
            self.accounts(identity).filter_map(|record| record.revealed).collect();
        let is_spent = |key: Option<Digest>| key.is_some_and(|key| revealed.contains(&key));
        let intact = self.devices(identity);
        View {
            account: self.account(identity).cloned(),
            ban: self.ban(identity).cloned(),
            device: newest(&needs.device),
            key_spent: self.has_revealed(needs, |key| *key == needs.public_key),
            next_spent: self.has_revealed(needs, |key| key.digest() == needs.next),
            other: needs.other.and_then(|other| newest(&other)),
            held_elsewhere: !elsewhere.is_empty(),
            recovered_elsewhere: elsewhere.iter().any(|record| is_by_recovery(&record.cause)),
            recovery_spent: is_spent(needs.recovery),
            committed_spent: is_spent(needs.committed),
            device_count: Some(self.registered(identity)),
            devices: Some(Listed { intact, damaged: Vec::new() }),
        }
    }

    /// What a session is judged by.
    pub(super) fn session(&self, identity: &Digest, device: &Digest) -> SessionView {
        SessionView {
            account: self.account(identity).cloned(),
            ban: self.ban(identity).cloned(),
            device: self.device(identity, device).cloned(),
            roles: self.roles(identity).cloned(),
            ended: None,
        }
    }

    /// What a refresh is judged by: `digest` is of the revealed key, `next` of the one after it.
    pub(super) fn refresh(&self, owner: (&Digest, &Digest), digest: &Digest, next: &Digest) -> RefreshView {
        let find = |digest: &Digest| {
            self.rows.iter().find_map(|row| match row {
                Row::Refresh(refresh) if refresh.digest == *digest => Some(refresh.clone()),
                _ => None,
            })
        };
        let superseded = find(next).is_some();
        RefreshView { session: self.session(owner.0, owner.1), spent: find(digest), superseded }
    }

    /// What an order is judged by.
    pub(super) fn standing(&self, identity: &Digest) -> Standing {
        Standing {
            account: self.account(identity).cloned(),
            ban: self.ban(identity).cloned(),
            devices: self.devices(identity),
            roles: self.roles(identity).cloned(),
        }
    }

    /// Whether a challenge was answered.
    pub(super) fn is_answered(&self, challenge: &Nonce) -> bool {
        self.rows.iter().any(|row| matches!(row, Row::Challenge(nonce) if nonce == challenge))
    }

    /// Whether an account ever had a device.
    pub(super) fn had(&self, identity: &Digest, device: &Digest) -> bool {
        self.device(identity, device).is_some()
    }

    fn accounts(&self, identity: &Digest) -> impl Iterator<Item = &AccountRecord> {
        self.rows.iter().rev().filter_map(move |row| match row {
            Row::Account(record) if record.identity == *identity => Some(record),
            _ => None,
        })
    }

    fn account(&self, identity: &Digest) -> Option<&AccountRecord> {
        self.accounts(identity).next()
    }

    fn device(&self, identity: &Digest, device: &Digest) -> Option<&DeviceRecord> {
        self.rows.iter().rev().find_map(|row| match row {
            Row::Device(record) if record.identity == *identity && record.device == *device => Some(record),
            _ => None,
        })
    }

    /// Whether the acting device ever revealed such a key.
    fn has_revealed(&self, needs: &Needs, is_meant: impl Fn(&PublicKey) -> bool) -> bool {
        self.rows.iter().any(|row| {
            matches!(row, Row::Device(record) if record.identity == needs.identity
                && record.device == needs.device && is_meant(&record.public_key))
        })
    }

    /// How many devices were registered for an account since it was created or last recovered.
    fn registered(&self, identity: &Digest) -> usize {
        let since = self.rows.iter().rposition(
            |row| matches!(row, Row::Account(record) if record.identity == *identity && record.revealed.is_some()),
        );
        let rows = self.rows.iter().skip(since.unwrap_or(0));
        rows.filter(|row| {
            matches!(row, Row::Device(record) if record.identity == *identity && record.version.sequence_number == 0)
        })
        .count()
    }

    /// The first record of each device of each account.
    fn devices_ever(&self) -> impl Iterator<Item = &DeviceRecord> {
        self.rows.iter().filter_map(|row| match row {
            Row::Device(record) if record.version.sequence_number == 0 => Some(record),
            _ => None,
        })
    }

    /// The newest record of each device of an account, in the order of their names.
    fn devices(&self, identity: &Digest) -> Vec<DeviceRecord> {
        let firsts = self.devices_ever().filter(|record| record.identity == *identity);
        let mut names: Vec<String> = firsts.map(|record| record.device.to_string()).collect();
        names.sort();
        let names = names.iter().map(|name| Digest::parse(name).unwrap());
        names.filter_map(|name| self.device(identity, &name).cloned()).collect()
    }

    fn ban(&self, identity: &Digest) -> Option<&BanRecord> {
        self.rows.iter().rev().find_map(|row| match row {
            Row::Ban(record) if record.identity == *identity => Some(record),
            _ => None,
        })
    }

    fn roles(&self, identity: &Digest) -> Option<&RoleRecord> {
        self.rows.iter().rev().find_map(|row| match row {
            Row::Roles(record) if record.identity == *identity => Some(record),
            _ => None,
        })
    }
}

impl Row {
    /// The rows of a change of `account`.
    pub(super) fn of_change(account: Digest, change: &Change) -> Vec<Self> {
        let cause = change.denial_cause();
        let denied = change.revoked.iter().map(|subject| Place { subject: *subject, account, cause });
        let records = change.account.iter().cloned().map(Self::Account);
        let devices = change.devices.iter().cloned().map(Self::Device);
        records.chain(devices).chain(denied.map(Self::Denied)).collect()
    }

    /// The rows of an order about `account`.
    pub(super) fn of_order(account: Digest, carried: &Carried) -> Vec<Self> {
        let Carried { account: record, ban, devices, roles, lifted, denied } = carried;
        let place = |subject, cause| Place { subject, account, cause };
        let mut rows: Vec<Self> = record.iter().cloned().map(Self::Account).collect();
        rows.extend(ban.iter().cloned().map(Self::Ban));
        rows.extend(devices.iter().cloned().map(Self::Device));
        rows.extend(roles.iter().cloned().map(Self::Roles));
        rows.extend(lifted.iter().map(|(subject, cause)| Self::Lifted(place(*subject, *cause))));
        rows.extend(denied.iter().map(|(subject, cause, _)| Self::Denied(place(*subject, *cause))));
        rows
    }

    /// The chain that it stands in.
    pub(super) fn chain(&self) -> String {
        match self {
            Self::Account(record) => format!("account {}", record.identity),
            Self::Ban(record) => format!("ban {}", record.identity),
            Self::Challenge(nonce) => format!("challenge {nonce}"),
            Self::Denied(place) | Self::Lifted(place) => format!("outbox {}", place.account),
            Self::Device(record) => format!("device {} {}", record.identity, record.device),
            Self::Refresh(refresh) => format!("refresh {}", refresh.digest),
            Self::Roles(record) => format!("roles {}", record.identity),
        }
    }

    /// What it says, but for times, addresses and signatures.
    pub(super) fn line(&self) -> String {
        match self {
            Self::Account(record) => {
                let revealed = record.revealed.map_or_else(|| "-".to_owned(), |digest| digest.to_string());
                let (number, state) = (record.version.sequence_number, record.state.as_str());
                format!("{number} {state} {} {revealed} {}", record.recovery_hash, because(&record.cause))
            }
            Self::Ban(record) => {
                let state = if record.banned { "banned" } else { "lifted" };
                format!("{} {state} {}", record.version.sequence_number, record.order.reason)
            }
            Self::Challenge(_) => "answered".to_owned(),
            Self::Denied(place) => told_line(place, false),
            Self::Device(record) => {
                let (number, state) = (record.version.sequence_number, record.state.as_str());
                let keys = format!("{} {}", record.public_key, record.rotation_hash);
                format!("{number} {state} {keys} {}", because(&record.cause))
            }
            Self::Lifted(place) => told_line(place, true),
            Self::Refresh(refresh) => {
                let grant = &refresh.grant;
                let owner = format!("{} {}", grant.identity, grant.device);
                format!("{} {owner} {} {}", refresh.cause, grant.public_key, grant.rotation_hash)
            }
            Self::Roles(record) => {
                format!("{} {} {}", record.version.sequence_number, record.text(), record.order.reason)
            }
        }
    }

    /// Whether the rows of its chain are never deleted.
    pub(super) const fn is_kept(&self) -> bool {
        !matches!(self, Self::Denied(_) | Self::Lifted(_))
    }
}

fn told_line(place: &Place, lifted: bool) -> String {
    let state = if lifted { "lifted" } else { "denied" };
    format!("{state} {} {}", place.subject, place.cause.as_str())
}

fn because(cause: &Cause) -> String {
    match cause {
        Cause::Device(request) => format!("{} {}", request.operation, request.digest),
        Cause::Operator(order) => format!("{} {}", order.action.as_str(), order.reason),
    }
}

fn is_by_recovery(cause: &Cause) -> bool {
    matches!(cause, Cause::Device(request) if request.operation == Operation::AccountRecover)
}
