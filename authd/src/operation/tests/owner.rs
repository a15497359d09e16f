//! What an account's owner asks, on rows in memory.

use std::time::Duration;

use keychain::token::{Attributes, Claims};
use keychain::{Code, Digest, Refusal, Timestamp};

use super::book::{Book, at, ban, hash, public, unlink};
use super::couple;
use crate::operation::Listed;
use crate::operation::owner::{
    Decision, Ending, Margins, Named, Operation, OwnerView, Request, Sighting, Sightings, Write, answer,
    decide, list,
};
use crate::operation::session::SessionView;
use crate::record::{AccountState, Remains, Version};

const MARGINS: Margins = Margins { late: Duration::from_secs(20), denial: Duration::from_mins(16) };

/// What the phone of a couple asks by, at second 9.
struct Asking {
    claims: Claims,
    view: OwnerView,
    phone: Digest,
    other: Digest,
}

impl Asking {
    fn new() -> Self {
        let (book, phone, other) = couple();
        let (account, device) = (book.account(&phone.identity).cloned(), book.device(&phone).cloned());
        let session = SessionView { account, device, ..SessionView::default() };
        let other_record = book.device(&other).cloned();
        let view = OwnerView { session, other: other_record, ..OwnerView::default() };
        let claims = Claims {
            server_identity: public(1),
            device: phone.device,
            identity: phone.identity,
            public_key: public(2),
            rotation_hash: hash(3),
            issued_at: at(5),
            expiry: at(905),
            refresh_expiry: at(43_205),
            attributes: Attributes::default(),
        };
        Self { claims, view, phone: phone.device, other: other.device }
    }

    fn decide(&self, request: &Request) -> Result<Decision, Refusal> {
        decide(request, &self.claims, &self.view, &MARGINS, at(9))
    }

    fn ending(&self) -> Ending {
        Ending {
            issued_up_to: at(29),
            by: self.phone,
            at: at(9),
            until: at(29 + 960),
            forgotten_at: at(29 + 13 * 3_600),
        }
    }
}

#[test]
fn who_is_not_denied_is_admitted_once() {
    type Change<'a> = &'a dyn Fn(&mut OwnerView);
    let (mut book, phone, other) = couple();
    book.take(&unlink(&phone.next(), &other.device), at(3)).unwrap();
    let revoked = book.device(&other).cloned();
    let delete = |view: &mut OwnerView| {
        if let Some(account) = &mut view.session.account {
            account.state = AccountState::Deleted;
        }
    };
    let table: [(Change<'_>, Option<Code>); 12] = [
        (&|_| {}, None),
        (&|view| view.is_spent = true, Some(Code::Replay)),
        (&|view| view.is_denied = true, Some(Code::Revoked)),
        (&|view| view.session.ban = Some(ban(phone.identity)), Some(Code::Revoked)),
        (&|view| view.session.device = revoked.clone(), Some(Code::Revoked)),
        (&|view| view.session.device = None, Some(Code::Revoked)),
        (&|view| view.session.account = None, Some(Code::Revoked)),
        (&delete, Some(Code::Revoked)),
        (&|view| view.session.ended = Some(at(4)), None),
        (&|view| view.session.ended = Some(at(5)), Some(Code::ExpiredToken)),
        // What is denied is told before what was ended, and that before what was spent.
        (&|view| (view.is_denied, view.session.ended) = (true, Some(at(5))), Some(Code::Revoked)),
        (&|view| (view.is_spent, view.session.ended) = (true, Some(at(5))), Some(Code::ExpiredToken)),
    ];
    for (number, (change, code)) in table.into_iter().enumerate() {
        let mut asking = Asking::new();
        change(&mut asking.view);
        for request in [Request::List, Request::Name(asking.other, None), Request::End(asking.other)] {
            let refused = asking.decide(&request).err().map(|refusal| refusal.code());
            assert_eq!(refused, code, "case {number}, {request:?}");
        }
        // Nothing more is read for who may not ask.
        let others = asking.decide(&Request::EndOthers).map_err(|refusal| refusal.code());
        assert_eq!(others, code.map_or(Ok(Decision::Incomplete), Err), "case {number}");
    }
}

#[test]
fn a_request_names_its_operation_and_nothing_that_it_does_not_have() {
    let device = Digest::of("device");
    let about = |path: &str, more: &str| format!(r#"{{"device":"{device}","operation":"{path}"{more}}}"#);
    let named = |name: &str| about("/owner/devices/name", &format!(r#","name":"{name}""#));
    let (long, longer) = ("x".repeat(64), "x".repeat(65));
    let simple = |path: &str| format!(r#"{{"operation":"{path}"}}"#);
    for (operation, text, expected) in [
        (Operation::DevicesList, simple("/owner/devices/list"), Request::List),
        (Operation::DevicesName, named("it is 1"), Request::Name(device, Some("it is 1".to_owned()))),
        (Operation::DevicesName, named(&long), Request::Name(device, Some(long.clone()))),
        (Operation::DevicesName, about("/owner/devices/name", ""), Request::Name(device, None)),
        (Operation::SessionsEnd, about("/owner/sessions/end", ""), Request::End(device)),
        (Operation::SessionsEndOthers, simple("/owner/sessions/end-others"), Request::EndOthers),
    ] {
        assert_eq!(Request::parse(operation, &text), Ok(expected.clone()), "{text}");
        assert_eq!(expected.other().is_some(), text.contains("device\""), "{text}");
        // At every other operation's place it is refused.
        for other in Operation::ALL.into_iter().filter(|other| *other != operation) {
            let code = Request::parse(other, &text).map_err(|refusal| refusal.code());
            assert_eq!(code, Err(Code::InvalidMessage), "{text}");
        }
    }
    for (operation, bad) in [
        (Operation::DevicesList, "{}".to_owned()),
        (Operation::DevicesList, "null".to_owned()),
        (Operation::DevicesList, simple("/device/rotate")),
        (Operation::DevicesList, r#"{"operation":1}"#.to_owned()),
        (Operation::DevicesList, about("/owner/devices/list", "")),
        (Operation::DevicesList, r#"{"authentication":{}}"#.to_owned()),
        (Operation::DevicesName, simple("/owner/devices/name")),
        (Operation::DevicesName, named("")),
        (Operation::DevicesName, named(&longer)),
        (Operation::DevicesName, named("sch\u{f6}n")),
        (Operation::DevicesName, named("a<b")),
        (Operation::DevicesName, named("a\\u0041")),
        (Operation::DevicesName, named("a\u{7f}")),
        (Operation::DevicesName, about("/owner/devices/name", r#","name":null"#)),
        (Operation::SessionsEnd, simple("/owner/sessions/end")),
        (Operation::SessionsEnd, about("/owner/sessions/end", r#","name":"a""#)),
        (Operation::SessionsEndOthers, about("/owner/sessions/end-others", "")),
    ] {
        let code = Request::parse(operation, &bad).map_err(|refusal| refusal.code());
        assert_eq!(code, Err(Code::InvalidMessage), "{bad}");
    }
}

#[test]
fn only_an_active_device_of_the_account_is_named_or_has_its_sessions_ended() {
    let mut asking = Asking::new();
    let name = Request::Name(asking.other, Some("tablet".to_owned()));
    let named = Named { name: "tablet".to_owned(), by: asking.phone, at: at(9) };
    let expected = Write::Name(asking.other, Some(named));
    assert_eq!(asking.decide(&name), Ok(Decision::Write(expected.clone())));
    assert_eq!(answer(&expected), "{}");
    let nameless = Write::Name(asking.other, None);
    assert_eq!(asking.decide(&Request::Name(asking.other, None)), Ok(Decision::Write(nameless)));
    let end = Request::End(asking.other);
    let expected = Write::End(vec![asking.other], asking.ending());
    assert_eq!(asking.decide(&end), Ok(Decision::Write(expected.clone())));
    assert_eq!(answer(&expected), format!(r#"{{"devices":1,"signInFrom":"{}"}}"#, at(29)));

    let (mut book, phone, other) = couple();
    book.take(&unlink(&phone.next(), &other.device), at(3)).unwrap();
    let revoked = book.device(&other).cloned();
    let mut refusals = Vec::new();
    for other in [None, revoked] {
        asking.view.other = other;
        refusals.extend([asking.decide(&name).unwrap_err(), asking.decide(&end).unwrap_err()]);
    }
    refusals.dedup();
    assert_eq!(refusals.len(), 1, "unknown and revoked are told apart");
    assert_eq!(refusals[0].code(), Code::UnknownDevice);
}

#[test]
fn the_others_sessions_end_and_not_ones_own() {
    let mut asking = Asking::new();
    assert_eq!(asking.decide(&Request::EndOthers), Ok(Decision::Incomplete));
    let (mut book, phone, other) = couple();
    let newest = |book: &Book, of| book.device(of).unwrap().clone();
    let damaged = Remains {
        identity: phone.identity,
        device: Digest::of("damaged"),
        public_key: None,
        rotation_hash: hash(9),
        version: Version { previous: None, ..newest(&book, &phone).version },
    };
    let intact = vec![newest(&book, &phone), newest(&book, &other)];
    asking.view.devices = Some(Listed { intact, damaged: vec![damaged.clone()] });
    let expected = Write::End(vec![asking.other, damaged.device], asking.ending());
    assert_eq!(asking.decide(&Request::EndOthers), Ok(Decision::Write(expected)));
    book.take(&unlink(&phone.next(), &other.device), at(3)).unwrap();
    let intact = vec![newest(&book, &phone), newest(&book, &other)];
    asking.view.devices = Some(Listed { intact, damaged: Vec::new() });
    let nobody = Write::End(Vec::new(), asking.ending());
    assert_eq!(asking.decide(&Request::EndOthers), Ok(Decision::Write(nobody)));
}

#[test]
fn active_devices_are_listed_with_the_last_that_is_known_of_them() {
    let (mut book, phone, other) = couple();
    let sighting = |book: &Book, phone, first, refreshed, name: Option<&str>| Sighting {
        newest: book.device(phone).unwrap().clone(),
        first: at(first),
        refreshed,
        name: name.map(str::to_owned),
    };
    // The phone's newest record is of the link at 1.
    let both = |book: &Book| Sightings {
        devices: vec![
            sighting(book, &other, 1, Some(at(700)), Some("tablet")),
            sighting(book, &phone, 0, None, None),
        ],
        unreadable: 0,
    };
    let entry = |device: Digest, is_current, first, last, more: &str| {
        format!(
            r#"{{"current":{is_current},"device":"{device}","firstSeen":"{}","lastSeen":"{}"{more}}}"#,
            at(first),
            at(last)
        )
    };
    let tablet = r#","name":"tablet""#;
    for (asks, issued, current, seen) in
        [(phone.device, 5, true, 5), (phone.device, 0, true, 1), (other.device, 9, false, 1)]
    {
        let expected =
            [entry(phone.device, current, 0, seen, ""), entry(other.device, !current, 1, 700, tablet)];
        let expected = format!(r#"{{"devices":[{}]}}"#, expected.join(","));
        assert_eq!(list(&both(&book), (asks, at(issued))), expected);
    }
    book.take(&unlink(&phone.next(), &other.device), at(3)).unwrap();
    let damaged = Sightings { unreadable: 2, ..both(&book) };
    let expected = entry(phone.device, true, 0, 3, "");
    let answer = format!(r#"{{"devices":[{expected}],"unreadable":2}}"#);
    assert_eq!(list(&damaged, (phone.device, Timestamp::from_unix_millis(0))), answer);
}
