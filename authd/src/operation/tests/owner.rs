//! What an account's owner asks, on rows in memory.

use keychain::{Code, Digest};

use super::book::{Book, at, ban, unlink};
use super::couple;
use crate::operation::owner::{Operation, OwnerView, Request, Sighting, Sightings, admit, list};
use crate::operation::session::SessionView;
use crate::record::AccountState;

fn view() -> OwnerView {
    let (book, phone, _) = couple();
    let (account, device) = (book.account(&phone.identity).cloned(), book.device(&phone).cloned());
    OwnerView { session: SessionView { account, device, ..SessionView::default() }, ..OwnerView::default() }
}

#[test]
fn who_is_not_denied_is_admitted_once() {
    let (mut book, phone, other) = couple();
    book.take(&unlink(&phone.next(), &other.device), at(3)).unwrap();
    let revoked = book.device(&other).cloned();
    let with = |change: &dyn Fn(&mut OwnerView)| {
        let mut view = view();
        change(&mut view);
        view
    };
    let table = [
        (with(&|_| {}), None),
        (with(&|view| view.is_spent = true), Some(Code::Replay)),
        (with(&|view| view.is_denied = true), Some(Code::Revoked)),
        (with(&|view| view.session.ban = Some(ban(phone.identity))), Some(Code::Revoked)),
        (with(&|view| view.session.device = revoked.clone()), Some(Code::Revoked)),
        (with(&|view| view.session.device = None), Some(Code::Revoked)),
        (with(&|view| view.session.account = None), Some(Code::Revoked)),
        (
            with(&|view| {
                if let Some(account) = &mut view.session.account {
                    account.state = AccountState::Deleted;
                }
            }),
            Some(Code::Revoked),
        ),
        // What is denied is told before what was spent.
        (
            with(&|view| {
                view.is_denied = true;
                view.is_spent = true;
            }),
            Some(Code::Revoked),
        ),
    ];
    for (number, (view, code)) in table.into_iter().enumerate() {
        assert_eq!(admit(&view, at(9)).err().map(|refusal| refusal.code()), code, "case {number}");
    }
}

#[test]
fn a_request_names_its_operation_and_nothing_that_it_does_not_have() {
    let good = r#"{"operation":"/owner/devices/list"}"#;
    assert_eq!(Request::parse(Operation::DevicesList, good), Ok(Request::List));
    for bad in [
        "{}",
        "null",
        r#"{"operation":"/device/rotate"}"#,
        r#"{"operation":1}"#,
        r#"{"operation":"/owner/devices/list","operation":"/owner/devices/list"}"#,
        r#"{"operation":"/owner/devices/list","more":1}"#,
        r#"{"authentication":{}}"#,
    ] {
        let code = Request::parse(Operation::DevicesList, bad).map_err(|refusal| refusal.code());
        assert_eq!(code, Err(Code::InvalidMessage), "{bad}");
    }
}

#[test]
fn active_devices_are_listed_with_the_last_that_is_known_of_them() {
    let (mut book, phone, other) = couple();
    let sighting = |book: &Book, phone, first, refreshed| Sighting {
        newest: book.device(phone).unwrap().clone(),
        first: at(first),
        refreshed,
    };
    // The phone's newest record is of the link at 1.
    let both = |book: &Book| Sightings {
        devices: vec![sighting(book, &other, 1, Some(at(700))), sighting(book, &phone, 0, None)],
        unreadable: 0,
    };
    let entry = |device: Digest, is_current, first, last| {
        format!(
            r#"{{"current":{is_current},"device":"{device}","firstSeen":"{}","lastSeen":"{}"}}"#,
            at(first),
            at(last)
        )
    };
    let expected = [entry(phone.device, true, 0, 5), entry(other.device, false, 1, 700)].join(",");
    assert_eq!(list(&both(&book), (phone.device, at(5))), format!(r#"{{"devices":[{expected}]}}"#));
    // Its token is older than its record.
    let expected = [entry(phone.device, true, 0, 1), entry(other.device, false, 1, 700)].join(",");
    assert_eq!(list(&both(&book), (phone.device, at(0))), format!(r#"{{"devices":[{expected}]}}"#));
    let expected = [entry(phone.device, false, 0, 1), entry(other.device, true, 1, 700)].join(",");
    assert_eq!(list(&both(&book), (other.device, at(9))), format!(r#"{{"devices":[{expected}]}}"#));

    book.take(&unlink(&phone.next(), &other.device), at(3)).unwrap();
    let damaged = Sightings { unreadable: 2, ..both(&book) };
    let expected = entry(phone.device, true, 0, 3);
    let answer = format!(r#"{{"devices":[{expected}],"unreadable":2}}"#);
    assert_eq!(list(&damaged, (phone.device, at(0))), answer);
}
