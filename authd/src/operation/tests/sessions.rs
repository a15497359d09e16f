//! Every rule of sessions that the rows decide.

use std::time::Duration;

use keychain::token::{Attributes, Claims};
use keychain::{Code, Digest, Timestamp};

use super::book::{self, access, at, delete, hash, public, unlink};
use super::{account, couple};
use crate::operation::session::{
    self, Decision, Lifetimes, Refresh, RefreshView, SessionView, check_token, create, refresh,
};

const LIFETIMES: Lifetimes = Lifetimes {
    access: Duration::from_mins(15),
    refresh: Duration::from_hours(12),
    skew: Duration::from_secs(5),
};

fn standing() -> SessionView {
    let (book, phone) = account();
    let (account, device) = (book.account(&phone.identity).cloned(), book.device(&phone).cloned());
    SessionView { account, device, ..SessionView::default() }
}

/// Claims of a token whose successor key has this seed.
fn claims(next: u8, issued_at: Timestamp) -> Claims {
    let view = standing();
    let device = view.device.unwrap();
    Claims {
        server_identity: public(1),
        device: device.device,
        identity: device.identity,
        public_key: public(next - 1),
        rotation_hash: hash(next),
        issued_at,
        expiry: issued_at.plus(LIFETIMES.access),
        refresh_expiry: issued_at.plus(LIFETIMES.refresh),
        attributes: Attributes::default(),
    }
}

fn code<T>(result: Result<T, keychain::Refusal>) -> Option<Code> {
    result.err().map(|refusal| refusal.code())
}

#[test]
fn a_grant_has_the_protocols_times() {
    let grant = create(&standing(), &access(30), &LIFETIMES, at(7)).unwrap();
    assert_eq!((grant.public_key, grant.rotation_hash), (public(30), hash(31)));
    assert_eq!(grant.issued_at, at(7));
    assert_eq!(grant.expiry, at(7 + 900));
    assert_eq!(grant.refresh_expiry, at(7 + 43_200));
}

#[test]
fn unknown_revoked_and_deleted_are_one_refusal() {
    let (mut gone, phone, other) = couple();
    gone.take(&unlink(&phone.next(), &other.device), at(3)).unwrap();
    let revoked = SessionView {
        account: gone.account(&phone.identity).cloned(),
        device: gone.device(&other).cloned(),
        ..SessionView::default()
    };
    let (mut gone, phone) = account();
    gone.take(&delete(&phone.next()), at(3)).unwrap();
    let deleted = SessionView {
        account: gone.account(&phone.identity).cloned(),
        device: gone.device(&phone).cloned(),
        ..SessionView::default()
    };
    let unknown = session::device(&SessionView::default()).unwrap_err();
    assert_eq!(unknown.code(), Code::UnknownDevice);
    for view in [revoked, deleted] {
        assert_eq!(session::device(&view).unwrap_err(), unknown);
        assert_eq!(create(&view, &access(30), &LIFETIMES, at(4)).unwrap_err(), unknown);
        let view = RefreshView { session: view, ..RefreshView::default() };
        let refused = refresh(Digest::of("c"), &access(31), &claims(31, at(0)), &view, &LIFETIMES, at(4));
        assert_eq!(refused.unwrap_err(), unknown);
    }
    let owner = standing().device.unwrap().identity;
    let banned = SessionView { ban: Some(book::ban(owner)), ..standing() };
    assert_eq!(code(create(&banned, &access(30), &LIFETIMES, at(4))), Some(Code::Revoked));
    let banned = RefreshView { session: banned, ..RefreshView::default() };
    let refused = refresh(Digest::of("c"), &access(31), &claims(31, at(0)), &banned, &LIFETIMES, at(4));
    assert_eq!(code(refused), Some(Code::Revoked));
}

#[test]
fn a_token_is_refreshed_by_its_committed_key_in_its_time() {
    let claims = claims(31, at(0));
    let table = [
        (31, at(0), None),
        (31, at(43_199), None),
        (31, at(43_200), Some(Code::RefreshExpired)),
        (31, at(-5), None),
        (31, at(-6), Some(Code::FutureToken)),
        (32, at(0), Some(Code::RotationMismatch)),
    ];
    for (seed, now, expected) in table {
        assert_eq!(code(check_token(&access(seed), &claims, &LIFETIMES, now)), expected, "{seed} at {now}");
    }
}

#[test]
fn a_refresh_keeps_the_sessions_end_and_is_repeated_with_its_own_times() {
    let claims = claims(31, at(0));
    let view = RefreshView { session: standing(), ..RefreshView::default() };
    let cause = Digest::of("cause");
    let Ok(Decision::Apply(row)) = refresh(cause, &access(31), &claims, &view, &LIFETIMES, at(100)) else {
        panic!("was not applied");
    };
    assert_eq!((row.digest, row.cause), (hash(31), cause));
    assert_eq!((row.grant.issued_at, row.grant.expiry), (at(100), at(1_000)));
    assert_eq!(row.grant.refresh_expiry, claims.refresh_expiry);

    let again = |row: &Refresh, cause: Digest, superseded: bool| {
        let view = RefreshView { session: standing(), spent: Some(row.clone()), superseded };
        refresh(cause, &access(31), &claims, &view, &LIFETIMES, at(2_000))
    };
    assert_eq!(again(&row, cause, false), Ok(Decision::Repeat(row.clone())));
    assert_eq!(code(again(&row, cause, true)), Some(Code::RefreshSpent));
    assert_eq!(code(again(&row, Digest::of("other"), false)), Some(Code::RefreshSpent));
    let mut foreign = row.clone();
    foreign.grant.device = Digest::of("another device");
    assert_eq!(code(again(&foreign, cause, false)), Some(Code::RefreshSpent));
}

/// Ended are sessions whose token was issued by then; a later one is good, and is given from then on.
#[test]
fn an_ended_session_is_not_refreshed_and_a_new_one_is_told_when_to_begin() {
    let ended = |seconds| SessionView { ended: Some(at(seconds)), ..standing() };
    for (now, wait) in [(0, Some("21")), (19, Some("2")), (20, Some("1")), (21, None)] {
        let refusal = create(&ended(20), &access(30), &LIFETIMES, at(now)).err();
        let told = refusal.as_ref().and_then(|refusal| refusal.context("retryAfter"));
        assert_eq!(told, wait, "at {now}");
        assert_eq!(refusal.map(|refusal| refusal.code()), wait.map(|_| Code::TooMany), "at {now}");
    }
    for (issued, now, expected) in [
        (19, 30, Some(Code::RefreshExpired)),
        (20, 30, Some(Code::RefreshExpired)),
        (21, 30, None),
        // However early it is tried.
        (20, 20, Some(Code::RefreshExpired)),
    ] {
        let view = RefreshView { session: ended(20), ..RefreshView::default() };
        let refused =
            refresh(Digest::of("c"), &access(31), &claims(31, at(issued)), &view, &LIFETIMES, at(now));
        assert_eq!(code(refused), expected, "issued at {issued}, at {now}");
    }
    // Neither is what it led to repeated.
    let first = RefreshView { session: standing(), ..RefreshView::default() };
    let claims = claims(31, at(10));
    let made = refresh(Digest::of("c"), &access(31), &claims, &first, &LIFETIMES, at(12)).unwrap();
    let Decision::Apply(spent) = made else { panic!("a repeat of nothing") };
    for (cut, expected) in [(9, None), (10, Some(Code::RefreshExpired))] {
        let view = RefreshView { session: ended(cut), spent: Some(spent.clone()), superseded: false };
        let again = refresh(Digest::of("c"), &access(31), &claims, &view, &LIFETIMES, at(13));
        assert_eq!(code(again), expected);
    }
}
