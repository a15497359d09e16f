//! What operators order, on rows in memory.

use std::time::Duration;

use keychain::{Code, Digest, Timestamp};

use super::book::{Book, at, key, unlink};
use super::couple;
use crate::operation::order::{Carried, Order, Standing, Which, decide};
use crate::record::proof::{self, Open};
use crate::record::{AccountState, BanEnd, DeviceState, Mandate};
use keychain::feed::Cause;

const DENIAL: Duration = Duration::from_mins(16);

fn standing(book: &Book, identity: &Digest) -> Standing {
    let mut devices = book.devices.clone();
    devices.reverse();
    devices.sort_by_key(|record| record.device);
    devices.dedup_by_key(|record| record.device);
    Standing { account: book.account(identity).cloned(), devices, ..Standing::default() }
}

fn ordered(standing: &mut Standing, identity: Digest, order: &Order, now: Timestamp) -> Option<Carried> {
    let key = key(9);
    let mandate = Mandate { action: order.action(), operator: "uid 0", reason: "test", key: &key };
    let carried = decide(identity, order, standing, &mandate, (DENIAL, now)).unwrap()?;
    assert_proven(standing, &carried);
    standing.account = carried.account.clone().or(standing.account.take());
    standing.ban = carried.ban.clone().or(standing.ban.take());
    standing.roles = carried.roles.clone().or(standing.roles.take());
    for record in &carried.devices {
        *standing.devices.iter_mut().find(|known| known.device == record.device).unwrap() = record.clone();
    }
    Some(carried)
}

/// Whatever an order leads to, `authd check` finds that it follows.
fn assert_proven(standing: &Standing, carried: &Carried) {
    if let Some(record) = &carried.account {
        proof::account(standing.account.as_ref(), record).unwrap();
    }
    if let Some(record) = &carried.ban {
        proof::ban(standing.ban.as_ref(), record).unwrap();
    }
    if let Some(record) = &carried.roles {
        proof::roles(standing.roles.as_ref(), record).unwrap();
    }
    for record in &carried.devices {
        let before = standing.devices.iter().find(|known| known.device == record.device);
        assert!(matches!(proof::device(before, record), Ok(Open::Endorsed(_))));
    }
}

fn code(standing: &Standing, order: &Order) -> Option<Code> {
    let key = key(9);
    let mandate = Mandate { action: order.action(), operator: "uid 0", reason: "test", key: &key };
    let refused = decide(Digest::of("nobody"), order, standing, &mandate, (DENIAL, at(0)));
    refused.err().map(|refusal| refusal.code())
}

#[test]
fn an_order_that_finds_all_as_ordered_changes_nothing() {
    let (book, phone, _) = couple();
    let mut rows = standing(&book, &phone.identity);
    let (week, day) = (BanEnd::At(at(604_800)), BanEnd::At(at(86_400)));
    let steps = [
        (Order::Unban, false),
        (Order::Ban(week), true),
        (Order::Ban(week), false),
        (Order::Ban(day), true),
        (Order::Ban(BanEnd::Never), true),
        (Order::Unban, true),
        (Order::Unban, false),
        (Order::AccountRestore, false),
        (Order::AccountDelete, true),
        (Order::AccountDelete, false),
        (Order::AccountRestore, true),
        (Order::RoleRevoke("a".to_owned()), false),
        (Order::RoleGrant("a".to_owned()), true),
        (Order::RoleGrant("a".to_owned()), false),
        (Order::RoleRevoke("a".to_owned()), true),
        (Order::DeviceRevoke(Which::One(phone.device)), true),
        (Order::DeviceRevoke(Which::One(phone.device)), false),
        (Order::DeviceRevoke(Which::All), true),
        (Order::DeviceRevoke(Which::All), false),
    ];
    for (number, (order, changes)) in steps.into_iter().enumerate() {
        let carried = ordered(&mut rows, phone.identity, &order, at(1));
        assert_eq!(carried.is_some(), changes, "step {number}: {order:?}");
    }
    assert!(rows.devices.iter().all(|device| device.state == DeviceState::Revoked && device.is_intact()));
    assert_eq!(rows.account.unwrap().state, AccountState::Active);
}

#[test]
fn a_ban_that_has_ended_is_none() {
    let (book, phone, _) = couple();
    let mut rows = standing(&book, &phone.identity);
    let end = BanEnd::At(at(60));
    assert!(ordered(&mut rows, phone.identity, &Order::Ban(end), at(0)).is_some());
    assert!(ordered(&mut rows.clone(), phone.identity, &Order::Unban, at(59)).is_some());
    assert!(ordered(&mut rows.clone(), phone.identity, &Order::Unban, at(60)).is_none());
    let again = ordered(&mut rows, phone.identity, &Order::Ban(BanEnd::Never), at(61)).unwrap();
    assert_eq!(again.denied.len(), 3, "the identity and both devices");
}

#[test]
fn denials_begin_and_end_with_what_caused_them() {
    let (book, phone, other) = couple();
    let mut rows = standing(&book, &phone.identity);
    let deleted = ordered(&mut rows, phone.identity, &Order::AccountDelete, at(0)).unwrap();
    let end = BanEnd::At(at(0).plus(DENIAL));
    assert!(deleted.denied.contains(&(other.device, Cause::Deletion, end)));
    let restored = ordered(&mut rows, phone.identity, &Order::AccountRestore, at(1)).unwrap();
    assert!(restored.lifted.contains(&(other.device, Cause::Deletion)) && restored.denied.is_empty());
    let kept = Order::DeviceRevoke(Which::AllBut(phone.device));
    let revoked = ordered(&mut rows, phone.identity, &kept, at(2)).unwrap();
    assert_eq!((revoked.devices.len(), revoked.devices[0].device), (1, other.device));
    assert_eq!(revoked.lifted, []);
}

#[test]
fn what_does_not_exist_is_refused_but_may_be_banned() {
    let (mut book, phone, other) = couple();
    let nobody = Standing::default();
    for order in [
        Order::AccountDelete,
        Order::AccountRestore,
        Order::DeviceRevoke(Which::All),
        Order::RoleGrant("a".to_owned()),
    ] {
        assert_eq!(code(&nobody, &order), Some(Code::Conflict), "{order:?}");
    }
    assert_eq!(code(&nobody, &Order::Ban(BanEnd::Never)), None);
    book.take(&unlink(&phone.next(), &other.device), at(1)).unwrap();
    let rows = standing(&book, &phone.identity);
    for which in [Which::One(Digest::of("x")), Which::AllBut(Digest::of("x")), Which::AllBut(other.device)] {
        assert_eq!(code(&rows, &Order::DeviceRevoke(which)), Some(Code::Conflict), "{which:?}");
    }
}
